"""The training arrays of a folder, `images.npy` and `labels.npz`: the one format, read, checked and written here.

`images.npy` is uint8 (N, S, S, 3). `labels.npz` has a row for each of its crops:

- `kind` (N,): 0 labelled, 1 landmarked, 2 unlabelled;
- `landmarks` (N, 68, 2) in crop sides, and `visible` (N, 68) in [0, 1];
- `confidence` (N, 68) in [0, 1], the weight of a landmark (without the field: 1);
- `points_set` (N,), by whose definition the landmarks are, an index into `LABEL_SETS` (without the field: 3DDFA's);
- `person` (N,), a number for each person of this folder, -1: nobody's (without the field: -1);
- the fields of `FaceParameters`. Labelled rows know pose and shape; albedo and lighting may be NaN (a fit to landmarks
  says nothing of them). Where no row is labelled, the parameters may be left out;
- `known` (N, Ki + Ke) in [0, 1], the share of each identity and expression coefficient that the labels tell (a fit to
  landmarks shrinks what they do not tell to the mean; without the field: 1).

Further fields: `names` and `occluded` are for people to look at, `rotation_bfm` (N, 3, 3) is for fits (NaN: unknown).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.points import LABEL_SETS
from mlanet_lib.files.atomic import atomic_path, together
from mlanet_lib.files.npz import Mapped, map_npy, map_npz, read_npz
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.parameters import FaceParameters


class Kind(IntEnum):
    """What is known of a sample; the numbers are those of the files."""

    LABELLED = 0
    LANDMARKED = 1
    UNLABELLED = 2


LABELLED, LANDMARKED, UNLABELLED = Kind
KINDS = tuple(kind.name.lower() for kind in Kind)
IMAGES, LABELS = "images.npy", "labels.npz"
PIECE = 4096
"""Rows that are looked at together where all of them are."""
_WHAT = "file of training labels"
_LANDMARKS: dict[str, tuple[int, ...]] = {"landmarks": (68, 2), "visible": (68,), "confidence": (68,)}
_SHAPES = _LANDMARKS | {"kind": (), "points_set": (), "person": (), "focal": ()}
_SHAPES |= {"rotation_bfm": (3, 3), "rotation": (3, 3), "translation": (3,), "lighting": (9, 3)}


def read(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The crops (N, S, S, 3), mapped from the disk, and the labels by name, confidence and points_set put in.

    What is missing, unreadable or of another shape or type is a UserError; single numbers are not judged.
    """
    images = _pictures(folder).arrays[""]
    labels = read_npz(folder / LABELS, _WHAT)
    return images, _with_defaults(folder, labels, len(images))


class Arrays(NamedTuple):
    """`read_for`'s result: `images` (N, S, S, 3) uint8 and `labels` by name, both mapped from the disk, read-only; and
    `release`, which takes the rows that were looked at out of this process's memory."""

    images: np.ndarray
    labels: dict[str, np.ndarray]
    release: Callable[[], None]


def read_for(folder: Path, model: MorphableModel) -> Arrays:
    """The arrays with all `FaceParameters`: missing ones, which no row needs, are NaN and the usual focal length.

    Parameters that do not fit the face model, and labels that their rows need and that are not finite, are UserErrors.
    Memory does not grow with the number of rows, but for fields that are packed in the file.
    """
    pictures, fields = _pictures(folder), map_npz(folder / LABELS, _WHAT)
    images = pictures.arrays[""]
    labels = _with_defaults(folder, fields.arrays, len(images))
    sizes = {"identity": (model.n_identity,), "expression": (model.n_expression,), "albedo": (model.n_albedo,)}
    path, kind = folder / LABELS, labels["kind"]
    for name in FaceParameters.names():
        shape = (len(images), *(sizes | _SHAPES)[name])
        if name not in labels and kind.all():
            value = np.float32(DEFAULT_FOCAL if name == "focal" else np.nan)
            labels[name] = np.broadcast_to(value, shape)
        if name not in labels:
            raise UserError(f"{path}: no field '{name}'")
        if labels[name].shape != shape:
            fits = f"{len(images)} crops and the face model '{model.name}' need {shape}"
            raise UserError(f"{path}: field '{name}' has shape {labels[name].shape}, but {fits}")

    told = (model.n_identity + model.n_expression,)
    labels.setdefault("known", np.broadcast_to(np.float32(1), (len(images), *told)))
    check_rows(path, labels, len(images), {"known": told})

    def release() -> None:
        pictures.release()
        fields.release()

    for start in range(0, len(images), PIECE):
        _check_finite(path, {name: value[start : start + PIECE] for name, value in labels.items()})
        release()
    return Arrays(images, labels, release)


def _check_finite(path: Path, labels: Mapping[str, np.ndarray]) -> None:
    """UserError unless the labels that their rows need are finite."""
    for name in (*_LANDMARKS, *(name for name in FaceParameters.names() if name not in ("albedo", "lighting"))):
        needed = labels["kind"] <= (LANDMARKED if name in _LANDMARKS else LABELLED)
        if not np.isfinite(labels[name][needed]).all():
            raise UserError(f"{path}: field '{name}' holds numbers that are not finite")


def _pictures(folder: Path) -> Mapped:
    path = folder / IMAGES
    try:
        mapped = map_npy(path)
    except FileNotFoundError as error:
        raise UserError(f"training data not found: {path}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable array ({error})") from error
    images = mapped.arrays[""]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise UserError(f"{path}: not uint8 (N, S, S, 3) but {images.dtype} {images.shape}")
    return mapped


def _with_defaults(folder: Path, labels: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The labels with confidence and points_set put in; a UserError where a field is wrong."""
    path = folder / LABELS
    labels.setdefault("confidence", np.broadcast_to(np.float32(1), (count, 68)))
    labels.setdefault("points_set", np.zeros(count, np.int64))
    labels.setdefault("person", np.full(count, -1))
    for name in ("kind", "landmarks", "visible"):
        if name not in labels:
            raise UserError(f"{path}: no field '{name}'")
    of_any_size = {name: labels[name].shape[1:] for name in ("identity", "expression", "albedo") if name in labels}
    check_rows(path, labels, count, _SHAPES | of_any_size)
    if not np.isin(labels["points_set"], range(len(LABEL_SETS))).all():
        known = ", ".join(f"{number} ({name})" for number, name in enumerate(LABEL_SETS))
        raise UserError(f"{path}: field 'points_set' holds other numbers than {known}")
    return labels


@dataclass(frozen=True)
class Writer:
    """The two files while they are written. Any process may put in crops; one finishes."""

    folder: Path
    side: int
    begin: int  # byte at which the first crop begins

    def put(self, row: int, images: np.ndarray) -> None:
        """Write crops (n, S, S, 3) uint8 into the rows from `row` on."""
        with (self.folder / IMAGES).open("r+b") as file:
            file.seek(self.begin + row * self.side**2 * 3)
            file.write(images.tobytes())

    def finish(self, labels: Mapping[str, np.ndarray]) -> None:
        """Write the labels; as many rows as they have are there."""
        with (self.folder / IMAGES).open("r+b") as file:
            _write_header(file, len(labels["kind"]), self.side)
        np.savez(self.folder / LABELS, **labels)  # type: ignore[arg-type]


@contextmanager
def writing(folder: Path, side: int) -> Iterator[Writer]:
    """Yield a `Writer` of crops of `side` px. Both files appear in `folder` together, if the block succeeds; a failure
    leaves older ones as they were."""
    with together(folder) as scratch:
        with (scratch / IMAGES).open("wb") as file:
            _write_header(file, 0, side)
            begin = file.tell()
        yield Writer(scratch, side, begin)


def check_rows(
    path: Path, fields: Mapping[str, np.ndarray], count: int, shapes: Mapping[str, tuple[int, ...]], kinds: str = "biuf"
) -> None:
    """UserError unless those of the fields that are there have `count` rows of these shapes, and a type of `kinds`."""
    for name, shape in shapes.items():
        if name not in fields:
            continue
        if fields[name].shape != (count, *shape):
            raise UserError(f"{path}: field '{name}' has shape {fields[name].shape}, not {(count, *shape)}")
        if fields[name].dtype.kind not in kinds:
            raise UserError(f"{path}: field '{name}' has the wrong type, {fields[name].dtype}")


def write_labels(folder: Path, labels: Mapping[str, np.ndarray]) -> None:
    """Replace the labels of arrays that are there."""
    with atomic_path(folder / LABELS) as path:
        np.savez(path, **labels)  # type: ignore[arg-type]


def repeat(folder: Path, times: int) -> None:
    """Have every row of the arrays so many times."""
    images, labels = read(folder)
    with writing(folder, images.shape[1]) as writer:
        for start in range(times):
            writer.put(start * len(images), images)
        writer.finish({name: np.concatenate([value] * times) for name, value in labels.items()})


def _write_header(file: BinaryIO, count: int, side: int) -> None:
    """NumPy leaves room for a first axis of any length, so that a later count fits into the same bytes."""
    description = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
    np.lib.format.write_array_header_1_0(file, description)
