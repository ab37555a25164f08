"""Results and other records as JSON files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path


def write_json(path: str | Path, result: object) -> None:
    """Write a result's summary (or any nest of dicts, lists, numbers) as JSON, atomically; NaN becomes null."""
    value = getattr(result, "summary", result)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict:
    """A file that holds one JSON object; anything else, or a key that is there twice, is a UserError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it holds a key twice")
    return found
