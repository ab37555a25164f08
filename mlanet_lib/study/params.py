"""The typed parameters of the study: params.yaml, every key known, every value of its type.

The sections of the network, the training, the losses and the synthetic faces are the dataclasses of the modules that
use them, so a parameter is named once. Wrong input is a `UserError` that names the key as the user wrote it.
"""

import dataclasses
import json
import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mlanet_lib.data.sources import DataConfig
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.ablation import FULL
from mlanet_lib.files.atomic import check_name
from mlanet_lib.files.project import PARAMS_FILE, check_plain, find_root, read_yaml
from mlanet_lib.limits import COUNT, SEED, FieldError, Range, check_fields
from mlanet_lib.network import NetworkConfig
from mlanet_lib.study.profiles import merge, nested, parameter_keys, unknown_key, walk
from mlanet_lib.training.config import TrainConfig

T = typing.TypeVar("T")
UNKNOWN = "unexpected_keyword_argument"
"""What pydantic calls a key that is no field's."""


@dataclass(frozen=True)
class Paths:
    """Folders, relative to the project's root or absolute.

    bfm: folder of 3DDFA's Model_Shape.mat and Model_Exp.mat, or None; manifest: what photos there are, as `mlanet data
    check` wrote it; training: the arrays of the training splits; aflw2000, florence: benchmark sets in their published
    layouts; portraits: people with points placed by hand (`face_sources.london`).
    """

    bfm: str | None
    manifest: str
    training: str
    aflw2000: str
    florence: str
    portraits: str


@dataclass(frozen=True)
class FaceModelParams:
    """path: the `.npz` of the face model."""

    path: str


@dataclass(frozen=True)
class AblationParams:
    """base: what all variants change of the main `network` and `train` (a smaller study); seeds: each variant is
    trained once for each; variants: name -> what it changes on top of base. `full` is the one compared with."""

    base: dict[str, typing.Any]
    seeds: tuple[Annotated[int, SEED], ...]
    variants: dict[str, dict[str, typing.Any]]

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.variants:
            check_name(name, "ablation.variants:")  # they become folders


@dataclass(frozen=True)
class BenchmarkParams:
    """limit: faces judged (null: all); batch_size: pictures in one forward; bootstrap: resamples behind an interval;
    examples: faces shown in figures; others: landmarks of other systems by name (`evaluation.labels.read_points`)."""

    limit: Annotated[int, COUNT] | None
    batch_size: Annotated[int, COUNT]
    bootstrap: Annotated[int, Range(1, 10**6)]
    examples: Annotated[int, Range(2, 1000)]
    others: dict[str, str]

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.others:
            check_name(name, "benchmark.others:")


@dataclass(frozen=True)
class Params:
    """The whole of params.yaml, by section. A key that is none of a section's is refused."""

    __pydantic_config__: typing.ClassVar = ConfigDict(extra="forbid")
    profile: str
    seed: Annotated[int, SEED]
    paths: Paths
    face_model: FaceModelParams
    data: DataConfig
    network: NetworkConfig
    train: TrainConfig
    ablation: AblationParams
    benchmark: BenchmarkParams

    def __post_init__(self) -> None:
        check_fields(self)


def load_params(path: str | Path | None = None, changes: dict[str, object] | None = None) -> Params:
    """params.yaml as `Params`; `changes` ({"train.lr": 1e-3}) are laid over it first.

    path: a file, or None for the project's own. UserError for a key that is unknown or missing, a value of the wrong
    type or out of range, a variant that changes what is not there.
    """
    path = Path(path) if path else find_root() / PARAMS_FILE
    return parse_params(merge(read_yaml(path), nested(changes or {})), path.name)


def notebook_params(names: dict[str, object]) -> Params:
    """The parameters of a notebook: params.yaml, overridden by the values of its parameters cell.

    names: the notebook's `globals()`. A global called as a key with its dots as underscores (`train_lr`) is that key's
    value, unless it is None or no plain value (a module that is called as a section). The working directory becomes
    the project's root, so that the paths in params.yaml hold.
    """
    os.chdir(find_root())
    keys = parameter_keys(read_yaml(PARAMS_FILE))
    plain = {name: value for name, value in names.items() if isinstance(value, bool | int | float | str | list | dict)}
    return load_params(PARAMS_FILE, {keys[name]: value for name, value in plain.items() if name in keys})


def parse_params(values: dict, where: str = PARAMS_FILE) -> Params:
    """Nested mappings as `Params`; errors begin with `where`."""
    check_plain(values, where)
    params = _typed(Params, values, where)
    given = dict(walk(values))
    for key, _ in walk(dataclasses.asdict(params)):
        if key not in given and not key.startswith("data.sources."):  # a source's keys may be left out, no others
            raise UserError(f"{where}: {key} is missing")
    if FULL not in params.ablation.variants:
        raise UserError(f"{where}: ablation.variants needs {FULL}, the variant that the others are compared with")
    if not params.ablation.seeds or len(set(params.ablation.seeds)) < len(params.ablation.seeds):
        raise UserError(f"{where}: ablation.seeds must be one or more different whole numbers")
    for name in params.ablation.variants:
        variant_params(params, name, where)
    return params


def variant_params(params: Params, name: str, where: str = PARAMS_FILE) -> tuple[NetworkConfig, TrainConfig]:
    """What ablation variant `name` trains: the main network and train sections, base over them, the variant last."""
    if name not in params.ablation.variants:
        raise unknown_key(where, f"ablation.variants.{name}", params.ablation.variants)
    network = dataclasses.asdict(params.network) | {"start": None}  # variants are other networks: they start afresh
    sections = {"network": network, "train": dataclasses.asdict(params.train)}
    for origin, changes in (("base", params.ablation.base), (f"variants.{name}", params.ablation.variants[name])):
        known = dict(walk(sections))
        for key, value in walk(changes):
            if key not in known:
                raise unknown_key(where, f"ablation.{origin}.{key}", _siblings(sections, key))
            if isinstance(known[key], dict) != isinstance(value, dict):
                raise UserError(f"{where}: ablation.{origin}.{key} does not have the form of {key}")
        sections = merge(sections, changes)
    place = f"{where}: ablation.variants.{name}"
    trained = _typed(TrainConfig, sections["train"], place, "train")
    return _typed(NetworkConfig, sections["network"], place, "network"), trained


def _siblings(values: dict, key: str) -> list[str]:
    """The keys that exist beside a dotted key that does not."""
    for name in key.split(".")[:-1]:
        values = values[name]
    return list(values)


def _typed(kind: type[T], values: dict, where: str, prefix: str = "") -> T:
    """`values` as the dataclass `kind`, no value converted to another type (1 for 1.0 apart)."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda one: one["type"] != UNKNOWN)  # what is misspelt before all else
        place = [str(part) for part in found[0]["loc"]]
        key = ".".join(part for part in (prefix, *place) if part)
        if found[0]["type"] == UNKNOWN:
            raise unknown_key(where, key, _fields(kind, place[:-1])) from error
        if found[0]["type"] == "dataclass_type":
            raise UserError(f"{where}: {key} must hold {', '.join(_fields(kind, place))}") from error
        if found[0]["type"] == "missing":
            raise UserError(f"{where}: {key} is missing") from error
        if isinstance(out := found[0].get("ctx", {}).get("error"), FieldError):
            raise UserError(f"{where}: {key}{'.' if key else ''}{out}") from error
        raise UserError(f"{where}: {key} = {repr(found[0]['input'])[:80]}: {found[0]['msg'].lower()}") from error
    except UserError as error:  # a dataclass judged its own values
        raise UserError(f"{where}: {error}") from error


def _fields(kind: type, place: Sequence[str]) -> list[str]:
    """The fields of the section at `place` within a dataclass; a mapping is passed by what it holds."""
    for name in place:
        kind = typing.get_type_hints(kind)[name] if dataclasses.is_dataclass(kind) else typing.get_args(kind)[1]
    return [name for name in typing.get_type_hints(kind) if not name.startswith("_")]
