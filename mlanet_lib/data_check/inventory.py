"""The samples of a data set one by one for `check`, so that a broken one does not hide the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib.data import arrays
from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000, crops, florence, w300lp
from mlanet_lib.data_check.layouts import Found
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009 import convert
from mlanet_lib.face_sources.ict import facekit
from mlanet_lib.files import folders, obj
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import Box
from mlanet_lib.network import checkpoint
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import yunet

UNRELIABLE = 9.0
"""Disagreement of estimated and annotated points, %, above which training leaves a crop out."""


@dataclass(frozen=True)
class Trouble:
    """A problem of a sample. kind: the same words for all samples with this trouble; detail: of this sample."""

    kind: str
    detail: str = ""

    def of(self, name: str) -> str:
        """The sample's name with the detail."""
        return f"{name} ({self.detail})" if self.detail else name

    @classmethod
    def parsed(cls, text: str) -> "Trouble":
        """A problem from a reader's message that names no file: "kind: detail", or "kind (detail)"."""
        if text.endswith(")") and " (" in text:
            text = text[:-1].replace(" (", ": ", 1)
        return cls(*text.split(": ", 1))


def said(error: UserError, name: str) -> str:
    """The error's text without the file that it begins with, and a star for the name's stem, so that the same trouble
    of many files reads the same."""
    text = str(error)
    place, _, rest = text.partition(": ")
    file, _, line = place.partition(", line ")
    if rest and (" " not in file or Path(file).exists()):
        text = f"line {line}: {rest}" if line else rest
    return text.removeprefix(f"'{name}': ").replace(Path(name).stem, "*")


class Loaded(NamedTuple):
    """A sample, None for something else (a scan, a stray label) that can be broken; the content of its picture's file;
    and troubles that are known without the picture."""

    sample: Sample | None = None
    content: bytes | None = None
    troubles: Sequence[Trouble] = ()


class Entry(NamedTuple):
    """A sample's name, and how to get it."""

    name: str
    load: Callable[[], Loaded]


def entries(found: Found) -> tuple[list[Entry], list[str]]:
    """Every sample of a data set, and notes on the whole. UserError if the set as such cannot be read."""
    return READERS[found.layout](found.path)


def describe(found: Found) -> list[str]:
    """What a face model, a scan or weights hold, the detector's too, in lines; UserError if they cannot be used."""
    path = found.path
    if found.layout == "face_model":
        model = MorphableModel.load(path)
        counts = f"{model.n_identity} identity, {model.n_expression} expression and {model.n_albedo} albedo modes"
        return [f"{model.name}, {model.n_vertices:,} vertices, {counts}"]
    if found.layout == "weights":
        metadata = checkpoint.read(path)[1]
        return [f"for face model {metadata['face_model']['name']}, step {metadata['step']:,}"]
    if found.layout == "detector":
        yunet.checked(path)
        return ["YuNet, as it was published"]
    if found.layout == "scan":
        vertices, faces = obj.read_obj(path)
        size = " x ".join(f"{side:.4g}" for side in np.ptp(vertices, axis=0))
        return [f"{len(vertices):,} vertices, {len(faces):,} triangles, {size} in its own unit (reported, not judged)"]
    described = (facekit if found.layout == "ict_facekit" else convert).identify(path) or "not what its name says"
    if "whole" not in described and ": complete" not in described:
        raise UserError(f"{path}: {described}")
    return described.splitlines()


def _aflw2000(folder: Path) -> tuple[list[Entry], list[str]]:
    return _labelled(folder, [folder], aflw2000.read_sample), []


def _w300lp(folder: Path) -> tuple[list[Entry], list[str]]:
    parts = [folder] if folder.name in w300lp.PARTS else [folder / part for part in w300lp.PARTS]
    return _labelled(folder, [part for part in parts if part.is_dir()], w300lp.read_sample), []


def _labelled(root: Path, parts: list[Path], read: Callable[[Path], Sample]) -> list[Entry]:
    """Photos with a `.mat` beside each, and labels without a photo."""
    found = []
    for folder in parts:
        photos = folders.listed(folder)
        found += _files(photos, root, read)
        stems = {photo.stem for photo in photos}
        stray = [mat for mat in sorted(folder.glob("[!.]*.mat")) if mat.stem not in stems]
        found += [_broken(_name(mat, root), Trouble("label without a photo")) for mat in stray]
    return found


def _photos(folder: Path) -> tuple[list[Entry], list[str]]:
    found = _files(folders.listed(folder), folder, lambda photo: Sample(photo.name, partial(read_image, photo)))
    return found, ["no labels say where the faces are: compared by file only"]


def _files(photos: list[Path], root: Path, read: Callable[[Path], Sample]) -> list[Entry]:
    """Photos that `read` makes samples of; of two that differ in their ending the second would be counted twice."""
    first: dict[str, Path] = {}
    found = []
    for photo in photos:
        if (twin := first.setdefault(photo.stem, photo)) is photo:
            found.append(Entry(_name(photo, root), partial(_from_file, photo, partial(read, photo))))
        else:
            found.append(_broken(_name(photo, root), Trouble("one photo twice", twin.name)))
    return found


def _crops(folder: Path) -> tuple[list[Entry], list[str]]:
    samples = crops.read_archive(folder)
    pictures, listed = crops.Pictures(folder / "images.zip"), {sample.name: None for sample in samples}
    broken = _ibug_troubles(folder / crops.IBUG_LABELS, list(listed))
    notes = []
    if unreliable := sum(s.agreement is not None and not s.agreement <= UNRELIABLE for s in samples):
        notes.append(f"{unreliable:,} whose points differ from the annotated ones by more than {UNRELIABLE:g} %")
    if unlisted := [name for name in pictures.members if name not in listed]:
        notes.append(f"{len(unlisted):,} pictures without labels ({', '.join(unlisted[:3])})")
    return [Entry(s.name, partial(_from_zip, pictures, s, broken.get(s.name, []))) for s in samples], notes


def _ibug_troubles(path: Path, names: list[str]) -> dict[str, list[Trouble]]:
    """What is wrong with rows of `labels_ibug68.npz`, by name: some of their numbers are known, and others are not."""
    if not path.is_file():
        return {}
    points, spread, differ = crops.read_ibug(path, names)
    numbers = np.column_stack([points.reshape(len(names), -1), spread, differ])
    found: dict[str, list[Trouble]] = {}
    for kind, rows in (
        ("iBUG's labels not finite", np.isfinite(numbers).any(1) & ~np.isfinite(numbers).all(1)),
        ("iBUG's spread or disagreement negative", (numbers[:, points[0].size :] < 0).any(1)),
    ):
        for row in np.flatnonzero(rows):
            found.setdefault(names[row], []).append(Trouble(kind))
    return found


def _arrays(folder: Path) -> tuple[list[Entry], list[str]]:
    images, labels = arrays.read(folder)
    return [Entry(f"row {row}", partial(_from_row, images, labels, row)) for row in range(len(images))], []


def _florence(folder: Path) -> tuple[list[Entry], list[str]]:
    found: list[Entry] = []
    subjects = sorted(path for path in folder.glob("subject_*") if path.is_dir())
    for path in subjects:
        try:
            subject = florence.read_subject(path)
        except UserError as error:
            text = str(error).replace(f"{path}/", "").replace(f"{path}: ", "")
            found.append(_broken(path.name, Trouble.parsed(text)))
            continue
        found.append(Entry(f"{path.name} scan", partial(_from_scan, subject)))
        for picture in subject.pictures:
            read = partial(Sample, picture.path.name, partial(read_image, picture.path, False), box=picture.box)
            found.append(Entry(_name(picture.path, folder), partial(_from_file, picture.path, read)))
    return found, [f"{len(subjects)} subjects; samples are their scans and pictures"]


READERS = {
    "aflw2000": _aflw2000,
    "300w_lp": _w300lp,
    "photos": _photos,
    "crops": _crops,
    "arrays": _arrays,
    "florence": _florence,
}
"""Layout of a data set -> what gives its samples one by one. Sets of a layout that is not here are not looked into."""


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _broken(name: str, trouble: Trouble) -> Entry:
    return Entry(name, partial(Loaded, troubles=[trouble]))


def _from_file(photo: Path, read: Callable[[], Sample]) -> Loaded:
    try:
        return Loaded(read(), photo.read_bytes())
    except OSError as error:
        raise UserError(f"{photo}: cannot be read ({error.strerror})") from error


def _from_zip(pictures: crops.Pictures, sample: Sample, troubles: Sequence[Trouble]) -> Loaded:
    return Loaded(sample, pictures.content(sample.name), troubles)


def _from_row(images: np.ndarray, labels: dict[str, np.ndarray], row: int) -> Loaded:
    """A row of training arrays. A group of parameters that is NaN all through is not known."""
    image, kind = np.array(images[row]), int(labels["kind"][row])
    troubles = [] if kind in range(len(arrays.KINDS)) else [Trouble("kind of sample unknown", str(kind))]
    for name in FaceParameters.names() if kind == arrays.LABELLED else ():
        if name in labels and not np.isfinite(labels[name][row]).all() and not np.isnan(labels[name][row]).all():
            troubles.append(Trouble(f"{name} not finite"))
    sample = Sample(f"row {row}", lambda: image, box=Box(0, 0, len(image), len(image)))
    if kind <= arrays.LANDMARKED:
        landmarks = labels["landmarks"][row].astype(np.float64) * len(image)
        sample = replace(sample, landmarks=landmarks, confidence=labels["visible"][row].astype(np.float64))
    return Loaded(sample, image.tobytes(), troubles)


def _from_scan(subject: florence.Subject) -> Loaded:
    subject.scan()
    return Loaded()
