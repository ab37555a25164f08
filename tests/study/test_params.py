"""Typed parameters: what is wrong in params.yaml is refused with a line that names it."""

import dataclasses
import json
import math

import pytest
from paths import ROOT

from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.ablation import FULL
from mlanet_lib.files.project import read_yaml
from mlanet_lib.study.params import load_params, notebook_params, parse_params, variant_params
from mlanet_lib.study.profiles import merge, nested, profile_names, profile_text, walk


@pytest.fixture(scope="module")
def values():
    return read_yaml(ROOT / "params.yaml")


def changed(values, **dotted):
    """The values with some keys changed: __ stands for a dot."""
    return merge(values, nested({key.replace("__", "."): value for key, value in dotted.items()}))


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_every_profile_is_a_whole_valid_configuration(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(profile_text(name, ROOT))
    params = load_params(path)
    assert params.profile == name
    assert set(params.ablation.variants) >= {FULL, "no_attention", "last_level_only"}
    if name != "embedded":  # which has a quarter of an hour for the whole study
        assert set(params.ablation.variants) >= {"channel_only", "no_fusion", "supervised_only"}
    assert len(params.ablation.seeds) >= 3


def test_the_typed_values_are_those_that_dvc_sees(values):
    from dvc.api import params_show

    assert params_show(str(ROOT / "params.yaml"), repo=str(ROOT)) == values
    # tuples and lists apart, nothing is converted, defaulted or dropped on the way
    assert json.loads(json.dumps(dataclasses.asdict(parse_params(values)))) == values


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train__lrr": 1e-3}, r"params.yaml: train.lrr is unknown, did you mean lr\?"),
        ({"trian": {}}, r"params.yaml: trian is unknown, did you mean train\?"),
        ({"train__weights__landmark": 1.0}, r"train.weights.landmark is unknown, did you mean landmarks\?"),
        ({"train__lr": "1e-3"}, r"params.yaml: train.lr = '1e-3': input should be a valid number"),
        ({"train__steps": 1.5}, r"params.yaml: train.steps = 1.5: input should be a valid integer"),
        ({"seed": True}, r"params.yaml: seed = True: input should be a valid integer"),
        ({"network__levels": "4"}, r"network.levels = '4': input should be a valid (tuple|array)"),
        ({"network__levels": [5]}, r"network.levels = 5: must be at least 1 and at most 4"),
        ({"network__attention": "chanel"}, r"unknown attention 'chanel'; choose one of"),
        ({"network__backbone": "resnet10x"}, r"no backbone 'resnet10x'"),
        ({"paths": {"portaits": "x"}}, r"paths.portaits is unknown, did you mean portraits\?"),
        (
            {"data__sources": {"mine": {"layout": "crops", "path": "x", "limmit": 3}}},
            r"data.sources.mine.limmit is unknown, did you mean limit\?",
        ),
        ({"train": 3}, r"params.yaml: train must hold steps, batch_size"),
        ({"ablation__base": {"train": {"lrr": 1}}}, r"ablation.base.train.lrr is unknown, did you mean lr\?"),
        ({"ablation__base": {"train": 3}}, r"ablation.base.train does not have the form of train"),
        (
            {"ablation__variants__no_attention": {"netwrok": {}}},
            r"ablation.variants.no_attention.netwrok is unknown, did you mean network\?",
        ),
        (
            {"ablation__variants__no_attention": {"network": {"attention": 3}}},
            r"ablation.variants.no_attention: network.attention = 3: input should be a valid string",
        ),
        ({"ablation__seeds": []}, r"ablation.seeds must be one or more different whole numbers"),
        ({"ablation__seeds": [1, 1]}, r"ablation.seeds must be one or more different whole numbers"),
    ],
)
def test_what_is_wrong_is_named(values, change, line):
    with pytest.raises(UserError, match=line) as caught:
        parse_params(changed(values, **change))
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named_everywhere(values):
    for section in ("seed", "train", "benchmark"):
        with pytest.raises(UserError, match=f"params.yaml: {section} is missing"):
            parse_params({key: value for key, value in values.items() if key != section})
    fewer = {**values, "train": {key: value for key, value in values["train"].items() if key != "lr"}}
    with pytest.raises(UserError, match=r"params.yaml: train.lr is missing"):
        parse_params(fewer)
    without_full = {key: value for key, value in values["ablation"]["variants"].items() if key != FULL}
    with pytest.raises(UserError, match=r"ablation.variants needs full"):
        parse_params({**values, "ablation": {**values["ablation"], "variants": without_full}})


def test_a_variant_is_main_values_then_base_then_its_own(values):
    params = parse_params(
        changed(
            values,
            train__lr=0.5,
            ablation__base={"train": {"steps": 7, "weights": {"landmarks": 3.0}}},
            ablation__variants__mine={"train": {"weights": {"landmarks": 4.0}}, "network": {"levels": [2]}},
        )
    )
    network, train = variant_params(params, "mine")
    assert (train.lr, train.steps, train.weights.landmarks, network.levels) == (0.5, 7, 4.0, (2,))
    assert train.weights.vertices == params.train.weights.vertices
    network, train = variant_params(params, FULL)
    assert train.weights.landmarks == 3.0
    assert network == dataclasses.replace(params.network, **values["ablation"]["base"]["network"])
    with pytest.raises(UserError, match=r"ablation.variants.mien is unknown, did you mean mine\?"):
        variant_params(params, "mien")


def test_a_notebook_gets_the_values_of_its_parameters_cell_over_the_file(monkeypatch):
    monkeypatch.setenv("MLANET_ROOT", str(ROOT))
    monkeypatch.chdir(ROOT / "notebooks")
    params = notebook_params({"train_lr": 0.25, "seed": 9, "train_steps": None, "ablation": dataclasses, "other": 3})
    assert (params.train.lr, params.seed) == (0.25, 9)
    assert params.train.steps == load_params(ROOT / "params.yaml").train.steps


def numbers(values):
    """Dotted key -> value of every number in params.yaml."""
    return {key: value for key, value in walk(values) if isinstance(value, int | float) and not isinstance(value, bool)}


def test_no_number_of_the_file_may_be_silly(values):
    """Not finite or far below zero, each refused by its own name; and too large what is no count of anything."""
    known = numbers(values)
    assert len(known) > 60
    for key, value in known.items():
        wrong = [math.nan, math.inf] if isinstance(value, float) else []
        for silly in (*wrong, type(value)(-5), type(value)(10**20)):
            if key.startswith("ablation.base"):
                continue  # judged below, as part of every variant
            with pytest.raises(UserError, match=f"^params.yaml: {key} = .+: must be "):
                parse_params(merge(values, nested({key: silly})))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train__clip": -5.0}, r"train.clip = -5.0: must be above 0 and at most 1,000,000,000$"),
        ({"seed": -1}, r"seed = -1: must be at least 0 and at most 4,294,967,295$"),
        ({"train__lr": math.nan}, r"train.lr = nan: must be a finite number$"),
        ({"ablation__seeds": [0, -1]}, r"ablation.seeds = -1: must be at least 0"),
        ({"ablation__base": {"train": {"lr": math.inf}}}, r"ablation.base.train.lr = inf: must be a finite number$"),
        ({"ablation__variants__mine": {"train": {"clip": -1.0}}}, r"variants.mine: train.clip = -1.0: must be above 0"),
        ({"data__sources": {"mine": {"layout": "crops", "path": "x", "limit": -1}}}, r"data.sources.mine.limit = -1: "),
        ({"data__labelled": 0.9}, r"data.labelled = 0.9: must be at most 1 with landmarked, 0.25$"),
        ({"train__kinds": ["labeled"]}, r"train.kinds = \['labeled'\]: must be one or more of labelled, landmarked"),
        ({"ablation__variants": {"../../evil": {}, "full": {}}}, r"ablation.variants: '../../evil' cannot be a file's"),
        ({"data__sources": {"..": {"layout": "crops", "path": "x"}}}, r"data.sources: '..' cannot be a file's name"),
        ({"benchmark__others": {"a/b": "x.npz"}}, r"benchmark.others: 'a/b' cannot be a file's name"),
        ({"paths__training": "out\0puts"}, r"paths.training = 'out\\x00puts' holds a control character$"),
        ({"seed": {1: 2}}, r"seed: the key 1 is no text$"),
    ],
)
def test_what_would_ruin_a_run_is_named(values, change, line):
    with pytest.raises(UserError, match=f"^params.yaml: .*{line}") as caught:
        parse_params(changed(values, **change))
    assert "\n" not in str(caught.value)


def test_files_that_users_had(shared_data, tmp_path):
    """Of a time before there were portraits, when outputs had a key: what was wrong with them then is found."""
    for name, line in (
        ("bell", "is not YAML: special characters are not allowed"),
        ("clip_negative", "train.clip = -5.0: must be above 0"),
        ("seed_negative", "seed = -1: must be at least 0"),
        ("self_anchor", "q never ends"),
        ("variant_path", "ablation.variants: '../../evil' cannot be a file's name"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            text = (shared_data / "faults" / f"params_{name}.yaml").read_bytes()
            path = tmp_path / f"params_{name}.yaml"
            path.write_bytes(text.replace(b"\n  outputs: ", b"\n  portraits: ", 1))
            load_params(path)
        assert "\n" not in str(caught.value)


def test_points_of_other_systems_may_be_named(values):
    assert parse_params(changed(values, benchmark__others={"3DDFA_V2": "x.npz"})).benchmark.others


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_variants_differ_and_freeze_only_what_was_trained_before(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(profile_text(name, ROOT))
    params = load_params(path)
    made = {variant: variant_params(params, variant) for variant in params.ablation.variants}
    assert len(set(map(repr, made.values()))) == len(made) > 2
    assert [variant for variant, (network, train) in made.items() if train.frozen and not network.pretrained] == []
