"""Finds data sets, face models and weights below a folder by the files' names; nothing is checked here."""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

from mlanet_lib.data.sets.w300lp import PARTS
from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import PICTURES
from mlanet_lib.predictor.yunet import YUNET_FILE

TRAINING, BENCHMARK, OTHER = "training", "benchmark", "-"
LAYOUTS = {
    "crops": ("landmarked crops", TRAINING),
    "arrays": ("training arrays", TRAINING),
    "300w_lp": ("300W-LP", TRAINING),
    "photos": ("photos", TRAINING),
    "aflw2000": ("AFLW2000-3D", BENCHMARK),
    "florence": ("MICC Florence", BENCHMARK),
    "face_model": ("face model", OTHER),
    "ict_facekit": ("ICT-FaceKit", OTHER),
    "bfm2009": ("BFM", OTHER),
    "scan": ("single scan", OTHER),
    "weights": ("weights", OTHER),
    "detector": ("face detector", OTHER),
}
"""Layout -> (its title, what it is for unless the parameters say otherwise)."""
_WHOLE = ("crops", "arrays", "300w_lp", "florence", "ict_facekit")  # nothing else is looked for below these
_BFM = {"01_morphablemodel.mat", "publicmm1.mat", "bfm_model_front.mat", "model_shape.mat", "model_exp.mat"}
_BFM |= {"model_expression.mat", "exp_pca.bin", "std_exp.txt", "bfm_exp_idx.mat", "bfm_front_idx.mat"}


class Found(NamedTuple):
    """A data set of layout `layout` (a key of `LAYOUTS`) at `path`, for training, as a benchmark, or neither."""

    layout: str
    path: Path
    role: str


def find_sets(root: str | Path, role: str | None = None) -> list[Found]:
    """Everything at and below `root`, a folder or a file, by path; hidden folders and what is of no known layout are
    passed over, links are not followed. role: of all data sets found, where the parameters say it.

    A path that does not exist, and one below which nothing is known, are UserErrors.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    found = [(_file_layout(root), root)] if root.is_file() else []
    for place, folders, files in os.walk(root):
        folder, names = Path(place), [name for name in sorted(files) if not name.startswith(".")]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        layout = _folder_layout(folder, folders, names)
        found.append((layout, folder))
        if layout in _WHOLE:
            folders.clear()
        elif layout != "bfm2009":
            found += [(_file_layout(folder / name), folder / name) for name in names]
    sets = []
    for layout, path in found:
        if layout is not None:
            usual = LAYOUTS[layout][1]
            sets.append(Found(layout, path, usual if role is None or usual == OTHER else role))
    if not sets:
        known = ", ".join(title for title, _ in LAYOUTS.values())
        raise UserError(f"{root}: nothing that is known lies here or below ({known})")
    return sets


def _folder_layout(folder: Path, folders: list[str], names: list[str]) -> str | None:
    if "images.zip" in names:
        return "crops"
    if "images.npy" in names:
        return "arrays"
    if any(part in folders and any((folder / part).glob("*.mat")) for part in PARTS):
        return "300w_lp"
    if any(name.startswith("subject_") and (folder / name / "Model").is_dir() for name in folders):
        return "florence"
    if "generic_neutral_mesh.obj" in names:
        return "ict_facekit"
    if any(name.lower() in _BFM for name in names):
        return "bfm2009"
    pictures = {Path(name).stem for name in names if Path(name).suffix.lower() in PICTURES}
    if pictures & {Path(name).stem for name in names if name.endswith(".mat")}:
        return "300w_lp" if folder.name in PARTS else "aflw2000"
    beside_obj = any(name.lower().endswith(".obj") for name in names)  # whose textures they are
    return "photos" if pictures and not beside_obj else None


def _file_layout(path: Path) -> str | None:
    name, suffix = path.name.lower(), path.suffix.lower()
    if suffix == ".obj":
        return "scan"
    if suffix == ".safetensors":
        return "weights"
    if name == YUNET_FILE:
        return "detector"
    if name.startswith("facexmodel") and name.endswith((".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")):
        return "ict_facekit"
    if name in _BFM:
        return "bfm2009"
    return "face_model" if suffix == ".npz" and _is_face_model(path) else None


def _is_face_model(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"format.npy", "identity_basis.npy"} <= set(archive.namelist())
    except Exception:  # zipfile raises whatever the broken bytes lead it to: not known as a face model
        return "face_models" in path.parts
