"""The files of the Basel Face Model 2009 that are read here: what is in a folder, what is missing, what is wrong.

The model itself (Paysan et al. 2009) has no expressions and comes under a licence form. 3DDFA (Zhu et al. 2016) added
them, on a mesh of 53,215 vertices; the labels of 300W-LP and AFLW2000-3D refer to that model. Its files come in two
shapes:

- `3ddfa`: `Model_Shape.mat` and `Model_Exp.mat` (or `Model_Expression.mat`)
- `original_3ddfa`: the same before its MATLAB script ran: `01_MorphableModel.mat`, `model_info.mat`, `Model_Exp.mat`

All indices in them count from 1.
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.files.mat import load_mat, mat_fields

_LARGEST = 1 << 31  # bytes that a file may unpack to: the original holds two bases of 160,470 x 199


class Part(NamedTuple):
    """A file: the names it goes by, the fields it must have ("a|b": either), and where it comes from."""

    names: tuple[str, ...]
    fields: tuple[str, ...]
    origin: str


PARTS = {
    "original": Part(
        ("01_MorphableModel.mat",),
        ("shapeMU", "shapePC", "shapeEV", "texMU", "texPC", "texEV", "tl"),
        "the Basel Face Model 2009 itself, from Basel's licence form",
    ),
    "shape": Part(
        ("Model_Shape.mat",),
        ("mu_shape", "w|w_shape", "sigma|sigma_shape"),
        "written by 3DDFA's ModelGenerate.m from 01_MorphableModel.mat",
    ),
    "expression": Part(
        ("Model_Exp.mat", "Model_Expression.mat"),
        ("mu_exp", "w_exp", "sigma_exp"),
        "in the folder Code/ModelGeneration of 300W-LP and AFLW2000-3D",
    ),
    "info": Part(
        ("model_info.mat",),
        ("trimIndex", "tri", "keypoints"),
        "in the folder Code/ModelGeneration of 300W-LP and AFLW2000-3D",
    ),
}
SHAPES = {"3ddfa": ("shape", "expression"), "original_3ddfa": ("original", "info", "expression")}
TITLES = {"3ddfa": "3DDFA's shape model", "original_3ddfa": "original with 3DDFA's index and expressions"}
OF_DEEP3D = ("BFM_model_front.mat", "BFM_front_idx.mat", "BFM_exp_idx.mat", "facemodel_info.mat", "Exp_Pca.bin")
"""Files of BFM 2009 as Deep3D has it (Deng et al. 2019), which is not read here."""


def parts_of(source: str | Path) -> dict[str, Path]:
    """The known files of a folder and of the folders in it, by part (`PARTS`), whatever the case of their names.

    source: such a folder, or one of the files, which stands for the folder that it lies in. A source that is not there
    is a UserError.
    """
    by_name = {name.lower(): part for part, entry in PARTS.items() for name in entry.names}
    parts: dict[str, Path] = {}
    for path in _files(Path(source)):
        if part := by_name.get(path.name.lower()):
            parts.setdefault(part, path)
    return parts


def deep3d_in(source: str | Path) -> str | None:
    """The name of a file of Deep3D's that lies in a folder, or that `source` itself is."""
    source = Path(source)
    names = [source.name] if source.is_file() else [path.name for path in _files(source)]
    return next((name for name in names if name.lower() in map(str.lower, OF_DEEP3D)), None)


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    folder = source if source.is_dir() else source.parent
    inside = sorted(folder.iterdir())
    below = [path for one in inside if one.is_dir() and source.is_dir() for path in sorted(one.iterdir())]
    return [path for path in (*inside, *below) if path.is_file()]


def shape_of(parts: dict[str, Path]) -> str | None:
    """The key of `SHAPES` whose files are all there, else the one that lacks fewest; None without any."""
    absent = {name: sum(part not in parts for part in needed) for name, needed in SHAPES.items()}
    started = [name for name in SHAPES if absent[name] < len(SHAPES[name])]
    return min(started, key=absent.__getitem__, default=None)


def missing(shape: str, parts: dict[str, Path]) -> list[str]:
    """What a shape lacks, a text a file: its name and where it comes from."""
    absent = [PARTS[part] for part in SHAPES[shape] if part not in parts]
    return [f"{' or '.join(entry.names)} ({entry.origin})" for entry in absent]


def wrong(part: str, path: Path) -> str | None:
    """The problem of a file as a given part, found without loading it; None if there is none."""
    try:
        present = mat_fields(path)
    except (OSError, ValueError, struct.error, zlib.error) as error:
        return f"is not a readable .mat file ({error or type(error).__name__})"
    absent = [field for field in PARTS[part].fields if not present.keys() & set(field.split("|"))]
    return f"has no field {', '.join(field.replace('|', ' or ') for field in absent)}" if absent else None


def read(path: Path, part: str, *more: str) -> dict[str, np.ndarray]:
    """The fields of a part (a choice "a|b" under its first name) as float or integer arrays; `more`: those that may
    be missing. A file that is not what it should be, or holds numbers that are not finite, is a UserError."""
    if said := wrong(part, path):
        raise UserError(f"{path} {said}")
    present, names = mat_fields(path), {}
    for field in (*PARTS[part].fields, *more):
        choices = field.split("|")
        if found := next((name for name in choices if name in present), None):
            names[choices[0]] = found
    mat = load_mat(path, names.values(), _LARGEST)
    for stored in names.values():
        value = mat.get(stored, np.empty(0))
        if value.dtype.kind not in "iuf" or value.size == 0 or not np.isfinite(value).all():
            raise UserError(f"{path}: field '{stored}' does not hold finite numbers")
    return {name: mat[stored] for name, stored in names.items()}
