"""What `check` goes through: the samples of a data set one by one, so that a broken one does not hide the others."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000, crops, florence, w300lp
from mlanet_lib.data_check.layouts import PARTS_OF_300W_LP, PICTURES, Found
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009 import convert
from mlanet_lib.face_sources.ict import facekit
from mlanet_lib.files import obj
from mlanet_lib.files.npz import read_npz
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import Box
from mlanet_lib.network import checkpoint
from mlanet_lib.parameters import FaceParameters

Entry = tuple[str, Callable[[], tuple[Sample | None, bytes | None, list[str]]]]
"""A sample's name, and how to get it with the bytes of its picture's file and troubles known without the picture. None
for the sample: something else (a scan, a stray label) that can be broken."""
UNRELIABLE = 9.0
"""Disagreement of estimated and annotated points, %, above which training leaves a crop out."""


def entries(found: Found) -> tuple[list[Entry], list[str]]:
    """Every sample of a data set, and notes on the whole. UserError where the set as such cannot be read."""
    return _ENTRIES[found.layout](found.path)


def describe(found: Found) -> list[str]:
    """What a face model, a scan or a file of weights holds, in lines; UserError where it cannot be used."""
    path = found.path
    if found.layout == "face_model":
        model = MorphableModel.load(path)
        counts = f"{model.n_identity} identity, {model.n_expression} expression and {model.n_albedo} albedo modes"
        return [f"{model.name}, {model.n_vertices:,} vertices, {counts}"]
    if found.layout == "weights":
        metadata = checkpoint.read(path)[1]
        return [f"for face model {metadata['face_model']['name']}, step {metadata['step']:,}"]
    if found.layout == "scan":
        vertices, faces = obj.read_obj(path)
        size = " x ".join(f"{side:.4g}" for side in np.ptp(vertices, axis=0))
        return [f"{len(vertices):,} vertices, {len(faces):,} triangles, {size} in its own unit (reported, not judged)"]
    said = (facekit if found.layout == "ict_facekit" else convert).identify(path) or "not what its name says"
    if "whole" not in said and ": complete" not in said:
        raise UserError(f"{path}: {said}")
    return said.splitlines()


def _aflw2000(folder: Path) -> tuple[list[Entry], list[str]]:
    return _labelled(folder, [folder], aflw2000.read_sample, False), []


def _w300lp(folder: Path) -> tuple[list[Entry], list[str]]:
    parts = [folder] if folder.name in PARTS_OF_300W_LP else [folder / part for part in PARTS_OF_300W_LP]
    return _labelled(folder, parts, w300lp.read_sample, True), []


def _labelled(root: Path, folders: list[Path], read: Callable, deep: bool) -> list[Entry]:
    """Photos with a `.mat` beside each, and labels without a photo."""
    found: list[Entry] = []
    for folder in (folder for folder in folders if folder.is_dir()):
        photos = _pictures(folder.iterdir())
        found += [(_name(photo, root), load) for photo, load in _once(photos, lambda photo: partial(read, photo))]
        stems = {photo.stem for photo in photos}
        stray = [mat for mat in sorted(folder.glob("[!.]*.mat")) if mat.stem not in stems]
        found += [(_name(mat, root), partial(_nothing, "label without a photo")) for mat in stray]
    return found


def _photos(folder: Path) -> tuple[list[Entry], list[str]]:
    found = _once(_pictures(folder.iterdir()), lambda photo: partial(Sample, photo.name, partial(read_image, photo)))
    found = [(photo.name, load) for photo, load in found]
    return found, ["no labels say where the faces are: compared by file only"]


def _crops(folder: Path) -> tuple[list[Entry], list[str]]:
    samples = crops.read_archive(folder)
    archive = zipfile.ZipFile(folder / "images.zip")  # lives as long as the entries; its reads are locked
    unreliable = sum(sample.agreement is not None and not sample.agreement <= UNRELIABLE for sample in samples)
    notes = [f"{unreliable:,} whose points differ from the annotated ones by more than {UNRELIABLE:g} %"]
    notes = notes if unreliable else []
    listed = {sample.name for sample in samples}
    if unlisted := [name for name in archive.namelist() if name not in listed]:
        notes.append(f"{len(unlisted):,} pictures without labels ({', '.join(unlisted[:3])})")
    return [(s.name, partial(_from_zip, archive, s)) for s in samples], notes


def _arrays(folder: Path) -> tuple[list[Entry], list[str]]:
    """Rows of `images.npy` and `labels.npz`, as `mlanet_lib.training.data` reads them."""
    labels = read_npz(folder / "labels.npz")
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder / 'images.npy'}: not a readable array ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise UserError(f"{folder / 'images.npy'}: not uint8 (N, S, S, 3) but {images.dtype} {images.shape}")
    for name in ("kind", "landmarks", "visible"):
        if name not in labels:
            raise UserError(f"{folder / 'labels.npz'}: field '{name}' is missing")
    shapes = {"kind": (), "landmarks": (68, 2), "visible": (68,)}
    for name, value in labels.items():
        if value.dtype.kind not in "biuf" or value.shape[:1] != images.shape[:1]:
            raise UserError(f"{folder / 'labels.npz'}: field '{name}' is not one number, or some, for each picture")
        if name in shapes and value.shape[1:] != shapes[name]:
            raise UserError(f"{folder / 'labels.npz'}: field '{name}' has shape {value.shape}")
    return [(f"row {row}", partial(_from_row, images, labels, row)) for row in range(len(images))], []


def _florence(folder: Path) -> tuple[list[Entry], list[str]]:
    found: list[Entry] = []
    subjects = sorted(path for path in folder.glob("subject_*") if path.is_dir())
    for path in subjects:
        try:
            subject = florence.read_subject(path)
        except UserError as error:
            found.append((path.name, partial(_nothing, str(error).replace(f"{path}/", "").replace(f"{path}: ", ""))))
            continue
        found.append((f"{path.name} scan", partial(_scan, subject)))
        for picture in subject.pictures:
            sample = partial(Sample, picture.path.name, partial(read_image, picture.path, False), box=picture.box)
            found.append((_name(picture.path, folder), partial(_from_file, picture.path, sample)))
    return found, [f"{len(subjects)} subjects; samples are their scans and pictures"]


_ENTRIES = {
    "aflw2000": _aflw2000,
    "300w_lp": _w300lp,
    "photos": _photos,
    "crops": _crops,
    "arrays": _arrays,
    "florence": _florence,
}


def _pictures(files) -> list[Path]:
    return sorted(p for p in files if p.suffix.lower() in PICTURES and not p.name.startswith(".") and p.is_file())


def _once(photos: list[Path], sample: Callable[[Path], Callable[[], Sample]]) -> list[tuple[Path, Callable]]:
    """Photos and how to get their samples: of two that differ in their ending the second would be counted twice."""
    first, found = {}, []
    for photo in photos:
        twin = first.setdefault(photo.stem, photo)
        double = partial(_nothing, f"one photo twice: {twin.name}")
        found.append((photo, partial(_from_file, photo, sample(photo)) if twin is photo else double))
    return found


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _from_file(photo: Path, sample: Callable[[], Sample]):
    try:
        return sample(), photo.read_bytes(), []
    except OSError as error:
        raise UserError(f"{photo}: cannot be read ({error.strerror})") from error


def _from_zip(archive: zipfile.ZipFile, sample: Sample):
    try:
        return sample, archive.read(sample.name), []
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive.filename}: not readable ({error})") from error


def _from_row(images: np.ndarray, labels: dict[str, np.ndarray], row: int):
    """Kind 0 is labelled, 1 landmarked, 2 not labelled. A group of parameters that is NaN all through is not known."""
    image, kind = np.array(images[row]), int(labels["kind"][row])
    side = len(image)
    troubles = [] if kind in (0, 1, 2) else [f"kind of sample unknown: {kind}"]
    for name in FaceParameters.names() if kind == 0 else ():
        if name in labels and not np.isfinite(labels[name][row]).all() and not np.isnan(labels[name][row]).all():
            troubles.append(f"{name} not finite")
    known = {"box": Box(0, 0, side, side)}
    if kind <= 1:
        known["landmarks"] = labels["landmarks"][row].astype(np.float64) * side
        known["confidence"] = labels["visible"][row].astype(np.float64)
    return Sample(f"row {row}", lambda: image, **known), image.tobytes(), troubles


def _scan(subject: florence.Subject):
    subject.scan()
    return None, None, []


def _nothing(trouble: str):
    return None, None, [trouble]
