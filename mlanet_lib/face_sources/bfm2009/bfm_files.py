"""The files in which the Basel Face Model 2009 circulates: what is in a folder, what is missing, what is wrong.

The model itself (Paysan et al. 2009) has no expressions and comes under a licence form. What people hold is one of

- `deep3d`: `BFM_model_front.mat`, the cut of Deng et al. 2019 (35,709 vertices), made from the next
- `original`: `01_MorphableModel.mat`, expressions of Guo et al. 2018 and Deep3D's index files
- `3ddfa`: `Model_Shape.mat` and `Model_Exp.mat` (or `Model_Expression.mat`), Zhu et al. 2016 (53,215 vertices)
- `original_3ddfa`: the same before its MATLAB script ran: `01_MorphableModel.mat`, `model_info.mat`, `Model_Exp.mat`

All indices in them count from 1. Nothing is unpickled, and sizes are looked at before anything is loaded.
"""

import math
import struct
import zlib
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat

from mlanet_lib.errors import UserError
from mlanet_lib.files.npz import mat_fields

_LARGEST = 100_000_000  # numbers in one array: the shape basis has 160,470 x 199


class Part(NamedTuple):
    """A file: the names it goes by, the fields it must have ("a|b": either), and where it comes from."""

    names: tuple[str, ...]
    fields: tuple[str, ...]
    origin: str


PARTS = {
    "front": Part(
        ("BFM_model_front.mat",),
        ("meanshape", "idBase", "exBase", "meantex", "texBase", "tri", "keypoints"),
        "written by Deep3D's first run from the original files",
    ),
    "original": Part(
        ("01_MorphableModel.mat",),
        ("shapeMU", "shapePC", "shapeEV", "texMU", "texPC", "texEV", "tl"),
        "the Basel Face Model 2009 itself, from Basel's licence form",
    ),
    "expression_bin": Part(("Exp_Pca.bin",), (), "expression basis of Guo et al. 2018, repository Juyong/3DFace"),
    "expression_sd": Part(("std_exp.txt",), (), "in the BFM folder of Deep3DFaceRecon_pytorch"),
    "trim": Part(("BFM_exp_idx.mat",), ("trimIndex",), "in the BFM folder of Deep3DFaceRecon_pytorch"),
    "cut": Part(("BFM_front_idx.mat",), ("idx",), "in the BFM folder of Deep3DFaceRecon_pytorch"),
    "cut_info": Part(("facemodel_info.mat",), ("tri", "keypoints"), "in the BFM folder of Deep3DFaceRecon_pytorch"),
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
SHAPES = {
    "deep3d": ("front",),
    "3ddfa": ("shape", "expression"),
    "original_3ddfa": ("original", "info", "expression"),
    "original": ("original", "expression_bin", "expression_sd", "trim", "cut", "cut_info"),
}
TITLES = {
    "deep3d": "Deep3D's cut",
    "3ddfa": "3DDFA's shape model",
    "original_3ddfa": "original with 3DDFA's index and expressions",
    "original": "original with Deep3D's expressions and indices",
}
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: run 'git lfs pull' where it comes from"),
    (b"MATLAB 7.3", "a MATLAB 7.3 file (HDF5), which cannot be read here: save it again in MATLAB with '-v7'"),
    (b"PK\x03\x04", "a packed archive: unpack it first"),
    (b"\x1f\x8b", "a packed archive: unpack it first"),
    (b"\xfd7zXZ", "a packed archive: unpack it first"),
    (b"Rar!", "a packed archive: unpack it first"),
    (b"\x80", "a Python pickle (3DDFA_V2's bfm_noneck_v3, FLAME), which is never opened here"),
)
_STRANGERS = (
    ("*2017*.h5", "BFM 2017: another mesh (53,149 vertices), whose coefficients and points mean other things"),
    ("*2019*.h5", "BFM 2019: another mesh, whose coefficients and points mean other things"),
    ("model2009-publicmm1*.h5", "BFM 2009 as HDF5, without expressions: 01_MorphableModel.mat is needed"),
    ("*.bs", "FaceWarehouse's blendshapes: another mesh; Guo et al.'s Exp_Pca.bin is needed"),
    ("bfm_noneck*.pkl", "3DDFA_V2's pickle, BFM without the neck: never opened here"),
    ("generic_model.pkl", "FLAME: another model"),
    ("baselfacemodel.*", "Basel's download, packed: unpack it, 01_MorphableModel.mat is inside"),
    ("model_shape_sim.mat", "triangles and points of 3DDFA only, no basis: Model_Shape.mat is needed"),
)


def parts_of(source: str | Path) -> dict[str, Path]:
    """The known files of a folder and of the folders in it, by part (`PARTS`), whatever the case of their names.

    source: such a folder, or one file of it; a file's part is told by its fields, so that it may have any name, and it
    comes first. A source that is not there is a UserError.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    folder = source if source.is_dir() else source.parent
    files = _listed(folder)
    if source.is_dir():
        files += _below(folder)
    by_name = {name.lower(): part for part, entry in PARTS.items() for name in entry.names}
    parts = {}
    for path in files:
        if part := by_name.get(path.name.lower()):
            parts.setdefault(part, path)
    if source.is_file():
        known = by_name.get(source.name.lower()) or _part_by_fields(source)
        if known is None:
            return {}
        parts = {part: path for part, path in parts.items() if path != source} | {known: source}
    return parts


def shape_of(parts: dict[str, Path], first: Path | None = None) -> str | None:
    """The key of `SHAPES` whose files are all there, else the one that is nearest to it; None without any.

    first: a file that has to be among them.
    """
    wanted = next((part for part, path in parts.items() if path == first), None)
    shapes = [name for name, needed in SHAPES.items() if wanted is None or wanted in needed]
    missing = {name: [part for part in SHAPES[name] if part not in parts] for name in shapes}
    started = [name for name in shapes if len(missing[name]) < len(SHAPES[name])]
    return min(started, key=lambda name: len(missing[name]), default=None)


def missing(shape: str, parts: dict[str, Path]) -> list[str]:
    """What a shape lacks, a text a file: its name and where it comes from."""
    absent = [PARTS[part] for part in SHAPES[shape] if part not in parts]
    return [f"{' or '.join(entry.names)} ({entry.origin})" for entry in absent]


def wrong(part: str, path: Path) -> str | None:
    """What is wrong with a file in the role of a part, without loading it; None where nothing shows."""
    if said := instead(path):
        return f"is {said}"
    if part == "expression_bin":
        return _wrong_length(path)
    if part == "expression_sd":
        return None
    try:
        present = _variables(path)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    absent = [field for field in PARTS[part].fields if not present.keys() & set(field.split("|"))]
    if not absent:
        chosen = (name for field in PARTS[part].fields for name in field.split("|") if name in present)
        odd = next((name for name in chosen if present[name] is None), None)
        return odd and f"has a field {odd} that does not hold numbers"
    other = _part_by_fields(path)
    hint = f"; its fields are those of {PARTS[other].names[0]}" if other else ""
    return f"has no field {', '.join(field.replace('|', ' or ') for field in absent)}{hint}"


def strangers(source: Path) -> list[tuple[Path, str]]:
    """Files of another model, or packed ones, that people take for BFM 2009, each with what it is."""
    files = [source] if source.is_file() else [*_listed(source), *_below(source)]
    named = ((path, text) for path in files for name, text in _STRANGERS if fnmatch(path.name.lower(), name))
    return sorted(dict(reversed(list(named))).items())


def read(path: Path, part: str, *more: str) -> dict[str, np.ndarray]:
    """The fields of a part (a choice "a|b" under its first name) as float or integer arrays; `more`: those that may
    be missing. A file that is not what it should be, or holds numbers that are not finite, is a UserError."""
    if said := wrong(part, path):
        raise UserError(f"{path} {said}")
    present = _variables(path)
    names = {}
    for field in (*PARTS[part].fields, *more):
        choices = field.split("|")
        if found := next((name for name in choices if name in present), None):
            names[choices[0]] = found
    for name in names.values():
        if present[name] is None:
            raise UserError(f"{path}: field '{name}' does not hold finite numbers")
        if math.prod(present[name]) > _LARGEST:
            raise UserError(f"{path}: field '{name}' claims to be {present[name]}, too large for BFM 2009")
    try:
        mat = loadmat(path, variable_names=list(names.values()))
    except Exception as error:  # scipy's reader raises whatever the broken bytes lead it to
        raise UserError(f"{path}: not a readable .mat file ({error or type(error).__name__})") from error
    values = {name: np.asarray(mat[stored]) for name, stored in names.items()}
    for name, value in values.items():
        if value.dtype.kind not in "iuf" or value.size == 0 or not np.isfinite(value).all():
            raise UserError(f"{path}: field '{name}' does not hold finite numbers")
    return values


def read_expression_bin(path: Path, vertices: int) -> np.ndarray:
    """Guo et al.'s `Exp_Pca.bin`: (K, vertices, 3), without its mean, which Deep3D leaves out too.

    int32 K, then float32: mean (3V) and basis (K, 3V).
    """
    if said := wrong("expression_bin", path):
        raise UserError(f"{path} {said}")
    modes = int(np.fromfile(path, "<i4", 1)[0])
    values = np.fromfile(path, "<f4", offset=4)
    held = len(values) // (3 * (modes + 1))
    if held != vertices:
        raise UserError(f"{path} is of a mesh of {held:,} vertices, the other files have {vertices:,}")
    if not np.isfinite(values).all():
        raise UserError(f"{path} holds numbers that are not finite: the file is damaged")
    return values.reshape(modes + 1, vertices, 3)[1:]


def counts(part: str, path: Path) -> str:
    """Vertices and modes of a file, read off its header; nothing for the index files."""
    if part == "expression_bin":
        return f"{int(np.fromfile(path, '<i4', 1)[0])} expression modes"
    sizes = {"front": ("meanshape", "idBase"), "original": ("shapeMU", "shapePC"), "shape": ("mu_shape", "w|w_shape")}
    if part == "expression":
        return f"{_variables(path)['w_exp'][-1]} expression modes"
    if part not in sizes:
        return ""
    present = _variables(path)
    mean, basis = (next(name for name in field.split("|") if name in present) for field in sizes[part])
    return f"{math.prod(present[mean]) // 3:,} vertices, {present[basis][-1]} identity modes"


def _listed(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()]


def _below(folder: Path) -> list[Path]:
    return [path for below in sorted(folder.iterdir()) if below.is_dir() for path in _listed(below)]


def instead(path: Path) -> str | None:
    """What the first bytes of a file say that it is, in place of what its name promises; None where nothing shows."""
    with path.open("rb") as file:
        head = file.read(600)
    if not head:
        return "empty"
    if b"<html" in head.lower() or head.lstrip().lower().startswith(b"<!doctype"):
        return "an HTML page (a download or log-in page was saved): fetch the raw file"
    for start, text in _SIGNATURES:
        if head.startswith(start) and not (start == b"\x80" and path.suffix == ".bin"):
            return text
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5, as BFM 2017 and 2019 come: other meshes, whose coefficients and points mean other things"
    return None


def _wrong_length(path: Path) -> str | None:
    size = path.stat().st_size
    modes = int(np.fromfile(path, "<i4", 1)[0]) if size >= 4 else 0
    if not 1 <= modes <= 1000:
        return f"does not begin with a number of modes ({modes}): it is not Guo et al.'s Exp_Pca.bin"
    if (size - 4) % (12 * (modes + 1)):
        whole = 4 + 12 * 53215 * (modes + 1)
        return (
            f"has {size:,} bytes, which fits no number of vertices with its {modes} modes (53,215 vertices need "
            f"{whole:,}): the download broke off, or it is another file"
        )
    return None


def _variables(path: Path) -> dict[str, tuple[int, ...] | None]:
    """Names and shapes in a MATLAB 5 file; None: neither real numbers nor text."""
    try:
        return mat_fields(path)
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path}: not a readable .mat file ({error or type(error).__name__})") from error


def _part_by_fields(path: Path) -> str | None:
    """The part whose fields a .mat file has: the one with most of them."""
    if path.suffix.lower() != ".mat" or instead(path):
        return None
    try:
        present = _variables(path).keys()
    except UserError:
        return None
    fits = [p for p, e in PARTS.items() if e.fields and all(present & set(field.split("|")) for field in e.fields)]
    return max(fits, key=lambda part: len(PARTS[part].fields), default=None)
