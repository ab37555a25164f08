"""The project's folder and its YAML files."""

import math
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlanet_lib.errors import UserError

PARAMS_FILE = "params.yaml"
DEEPEST, MOST_VALUES = 20, 100_000
"""How deep values may be nested, and how many there may be: an alias that holds itself has no end, and a few lines of
aliases to aliases hold more than any memory."""


def find_root(start: str | Path | None = None) -> Path:
    """The project's folder: the one with params.yaml and dvc.yaml, at or above `start` (default: where we are).

    The environment variable MLANET_ROOT, if set, overrides this. One rule for a shell, JupyterLab (which works in the
    notebook's folder), papermill (in the root) and nbval (in the folder of a copy). UserError if there is none.
    """
    told = os.environ.get("MLANET_ROOT")
    here = Path(start or Path.cwd()).resolve()
    candidates = [Path(told).resolve()] if told and start is None else [here, *here.parents]
    for folder in candidates:
        if (folder / PARAMS_FILE).is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"no mlanet project at or above {candidates[0]} (no {PARAMS_FILE} beside a dvc.yaml)")


def library_root() -> Path:
    """`find_root` where we are in a project, else the project that the library's source lies in."""
    try:
        return find_root()
    except UserError:
        return find_root(Path(__file__).parent)


def read_yaml(path: str | Path, keep_comments: bool = False) -> dict:
    """The mapping in a YAML 1.2 file (1e-4 is a number), of plain values. UserError, with the line, if it is none."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found = parse_yaml(text, path.name, keep_comments)
    if not isinstance(found, dict):
        raise UserError(f"{path.name} must hold names and values")
    return found


def parse_yaml(text: str, where: str, keep_comments: bool = False) -> object:
    """The value of a YAML 1.2 text; UserErrors, which begin with `where`, for other text and for values that are not
    plain."""
    try:
        found = YAML(typ="safe").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UserError(f"{where}{line} is not YAML: {' '.join(str(problem).split())}") from error
    except RecursionError as error:
        raise UserError(f"{where} is not YAML that can be read: it is nested too deeply") from error
    except ValueError as error:  # the 31st of February, a number of 5,000 digits
        raise UserError(f"{where} is not YAML that can be read: {error}") from error
    check_plain(found, where)
    return YAML(typ="rt").load(text) if keep_comments else found  # which by itself lets tags and endless aliases pass


def check_plain(values: object, where: str) -> None:
    """UserError unless `values` are mappings by names, lists, text, whole and finite numbers, true, false and null."""
    waiting: list[tuple[str, object, int]] = [("", values, 0)]
    for number, (key, value, depth) in enumerate(_taken(waiting)):
        place = f"{where}: {key}" if key else where
        if depth > DEEPEST or number > MOST_VALUES:
            raise UserError(
                f"{where}: {key.split('.')[0]} never ends: it is nested too deeply, or holds aliases of aliases"
            )
        if isinstance(value, dict):
            for name, inner in value.items():
                if not isinstance(name, str) or _unprintable(name):
                    raise UserError(f"{place}: the key {name!r} is no text")
                waiting.append((f"{key}.{name}" if key else name, inner, depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [(key, inner, depth + 1) for inner in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{place} = {value}: must be a finite number")
        elif isinstance(value, str) and _unprintable(value):
            raise UserError(f"{place} = {value[:40]!r} holds a control character")
        elif value is not None and not isinstance(value, str | int | float):
            raise UserError(f"{place} is no plain value but a {type(value).__name__} (text is written in quotes)")


def _taken(waiting: list) -> Iterator:
    while waiting:
        yield waiting.pop()


def _unprintable(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
