"""Ranges of numbers, and what is refused because this machine cannot hold it."""

import dataclasses
import math
import typing

import pytest

from mlanet_lib import limits
from mlanet_lib.data.sources import DataConfig, Source
from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.errors import UserError
from mlanet_lib.limits import Range, check_fields, check_memory, check_processes
from mlanet_lib.network import NetworkConfig
from mlanet_lib.study.params import AblationParams, BenchmarkParams, Params
from mlanet_lib.training.augmentation import AugmentConfig
from mlanet_lib.training.config import TrainConfig
from mlanet_lib.training.losses import LossWeights

CONFIGS = {
    TrainConfig: {},
    LossWeights: {},
    AugmentConfig: {},
    NetworkConfig: {"backbone": "lcnet_050"},
    SyntheticConfig: {},
    DataConfig: {},
    Source: {"layout": "crops", "path": "x"},
    AblationParams: {"base": {}, "seeds": (0,), "variants": {}},
    BenchmarkParams: {"limit": None, "batch_size": 1, "bootstrap": 1, "examples": 2, "others": {}},
}


def number_fields(kind):
    """(name, range, is a tuple) of the fields of a dataclass that hold numbers."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        found = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is typing.Annotated]
        if found:
            yield name, typing.get_args(found[0])[1], typing.get_origin(hint) is tuple


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_number_has_a_range_and_what_lies_outside_is_refused_by_name(kind):
    kind(**CONFIGS[kind])
    for name, allowed, several in number_fields(kind):
        for value in (math.nan, math.inf, -math.inf, allowed.low - 1, allowed.high * 2, True, "1", 10**20):
            with pytest.raises(UserError, match=f"^{name} = .+: must be ") as caught:
                kind(**CONFIGS[kind] | {name: (value,) if several else value})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [*CONFIGS, Params], ids=lambda kind: kind.__name__)
def test_no_number_is_without_a_range(kind):
    plain = {name: str(hint) for name, hint in typing.get_type_hints(kind).items()}
    ranged = {name for name, *_ in number_fields(kind)}
    numbers = {name for name, hint in plain.items() if "float" in hint or "int" in hint.replace("hint", "")}
    assert numbers - ranged == set()


@dataclasses.dataclass
class Example:
    """One of each."""

    open: typing.Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    whole: typing.Annotated[int, Range(1, 5)] | None = None

    def __post_init__(self):
        check_fields(self)


def test_bounds_are_in_the_range_or_not_as_it_says():
    assert Example(1e-9, 1).whole == 1 and Example(0.5, 5) and Example(0.5, None)
    for wrong, line in (
        ({"open": 0.0}, "open = 0.0: must be above 0 and below 1"),
        ({"open": 1}, "open = 1: must be above 0 and below 1"),
        ({"whole": 6}, "whole = 6: must be at least 1 and at most 5"),
        ({"whole": 2.0}, "whole = 2.0: must be a whole number"),
    ):
        with pytest.raises(UserError) as caught:
            Example(**wrong)
        assert str(caught.value) == line


def test_what_does_not_fit_is_refused_with_the_estimate():
    check_memory(7e9, "train.batch_size 8", 8e9)
    with pytest.raises(UserError, match=r"^data.train 9 needs about 300 GB of memory, and there are 8.0 GB$"):
        check_memory(3e11, "data.train 9", 8e9)
    assert limits.memory() > 2**28 and limits.cores() >= 1


def test_more_processes_than_cores_are_asked_for_twice(monkeypatch):
    monkeypatch.delenv("MLANET_PROCESSES", raising=False)
    check_processes(4, 4, "train.processes", "cores")
    line = "train.processes 9999 is more than the 4 cores here; if it is meant, set MLANET_PROCESSES=9999 as well"
    for told in (None, "9998", "yes", ""):
        if told is not None:
            monkeypatch.setenv("MLANET_PROCESSES", told)
        with pytest.raises(UserError, match=line):
            check_processes(9999, 4, "train.processes", "cores")
    monkeypatch.setenv("MLANET_PROCESSES", "9999")
    check_processes(9999, 4, "train.processes", "cores")
