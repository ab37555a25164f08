"""The trainings of a study: their plan, and what is kept of them."""

from pathlib import Path

import pytest
import torch
from paths import ROOT

from mlanet_lib.errors import UserError
from mlanet_lib.files.project import read_yaml
from mlanet_lib.network import checkpoint
from mlanet_lib.study.params import load_params, parse_params
from mlanet_lib.study.profiles import merge, nested
from mlanet_lib.study.runs import Run, plan, shrink, trained_networks


def test_plan_of_the_main_run_and_of_a_variant():
    values = read_yaml(ROOT / "params.yaml")
    changes = {"seed": 4, "ablation.seeds": [7, 8], "ablation.variants.mine": {"network": {"levels": [1]}}}
    params = parse_params(merge(values, nested(changes)))
    (main,) = plan(params, "train")
    assert (main.seed, main.network, main.train) == (4, params.network, params.train)
    assert main.folder == Path("outputs/train")
    runs = plan(params, "ablation/mine")
    assert [run.seed for run in runs] == [7, 8]
    assert all(run.network.levels == (1,) for run in runs)
    assert [run.folder.as_posix() for run in runs] == ["outputs/ablation/mine/seed_7", "outputs/ablation/mine/seed_8"]


def test_plan_refuses_other_names():
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(UserError, match="neither 'train' nor ablation/VARIANT"):
        plan(params, "trian")
    with pytest.raises(UserError, match=r"ablation.variants.no_atention is unknown, did you mean no_attention"):
        plan(params, "ablation/no_atention")


def test_finished_trainings_keep_their_best_weights_in_half_precision(tmp_path):
    params = load_params(ROOT / "params.yaml")
    run = Run("ablation/full", 0, params.network, params.train, tmp_path)
    for name in ("best", "last"):
        checkpoint.save(tmp_path / f"{name}.safetensors", {"network.w": torch.tensor([1.5])}, {"step": 3})
    (tmp_path / "history.csv").write_text("step\n3\n")
    shrink([run])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "history.csv"]
    tensors, metadata = checkpoint.read(tmp_path / "best.safetensors")
    assert tensors["network.w"].dtype == torch.float16 and metadata["step"] == 3


def test_a_variant_that_was_not_trained_is_named(toy_model, tmp_path):
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(UserError, match=r"best.safetensors"):
        trained_networks([Run("ablation/full", 0, params.network, params.train, tmp_path)], toy_model)
