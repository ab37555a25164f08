"""The estimate of a training's memory: what it is made of, and that it refuses only what cannot fit."""

import pytest
import timm
import torch
from paths import ROOT
from toy_data import write_toy_split

from mlanet_lib.errors import UserError
from mlanet_lib.files.project import parse_yaml
from mlanet_lib.network import NetworkConfig
from mlanet_lib.study.params import parse_params
from mlanet_lib.study.profiles import profile_names, profile_text
from mlanet_lib.training import memory
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.loop import fit
from mlanet_lib.training.memory import check_training, picture_bytes

CPU = torch.device("cpu")


def test_the_estimate_is_what_autograd_keeps():
    network = timm.create_model("lcnet_050", features_only=True).train()
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(2, 3, 64, 64))
    real = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
    assert picture_bytes(NetworkConfig(backbone="lcnet_050", image_size=64)) == pytest.approx(real / 2, rel=0.02)


def test_fewer_levels_and_smaller_pictures_take_less():
    def of(**options):
        return picture_bytes(NetworkConfig(backbone="lcnet_050", **options))

    assert of(levels=(1,), image_size=64) < of(image_size=64) < of(image_size=96)


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_every_profile_fits_into_8_gb(name, toy_model, monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 8e9)
    params = parse_params(parse_yaml(profile_text(name, ROOT), name))
    check_training(params.train, params.network, toy_model, params.train.batch_size, CPU)


@pytest.mark.parametrize(
    ("train", "network", "line"),
    [
        ({"batch_size": 10**6}, {}, r"train.batch_size 1000000 at network.image_size 96 needs about .* GB of memory"),
        ({}, {"image_size": 20_000}, r"train.batch_size 64 at network.image_size 20000 needs about"),
        ({"photometric_size": 50_000}, {}, r"train.photometric_batch 8 at train.photometric_size 50000 needs about"),
        ({}, {"width": 10**5, "pool": 10**4}, r"network.width 100000 with network.pool 10000 needs about"),
    ],
)
def test_what_cannot_fit_is_refused_by_its_keys(train, network, line, toy_model, monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 8e9)
    config = TrainConfig(**train)
    with pytest.raises(UserError, match=line):
        check_training(config, NetworkConfig(**{"backbone": "lcnet_050"} | network), toy_model, config.batch_size, CPU)


def test_a_training_is_refused_before_it_writes_anything(toy_model, tmp_path, monkeypatch):
    train, validation = (write_toy_split(toy_model, tmp_path / name, 8) for name in ("train", "validation"))
    network = NetworkConfig(backbone="lcnet_050", image_size=32, width=16, pool=2)
    config = TrainConfig(steps=1, batch_size=100_000, photometric_batch=0)
    monkeypatch.setattr(memory, "memory", lambda: 5e5)
    with pytest.raises(UserError, match=r"train.batch_size 100000 \(8 here\) at network.image_size 32 needs about"):
        fit(Job(config, network, toy_model, train, validation, tmp_path / "out"), progress=False)
    assert not (tmp_path / "out").exists()
