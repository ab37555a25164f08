"""Portraits with points placed by hand: the Face Research Lab London Set (DeBruine and Jones 2017, CC BY 4.0).

A folder holds `NNN_neutral.jpg` and `NNN_smiling.jpg` of every person and `labels.npz`: `people` (P,), the NNN;
`points189` (P, 189, 2) of the neutral photos, in their pixels; `age` (P,), `gender`, `ethnicity` (P,) as the people
described themselves; optional `crops` (P, 2, 4), x, y, width and height of the neutral and the smiling photo's crop in
the training convention. Points count from the picture's corner, as this project does: the irises' edges lie
0.04 +- 0.03 px (62 people, photos of 675 px) from where they are if the first pixel's centre is at 0.5.

The face model's skin is learned from the neutral photos, 675 x 675 px, of those people whose `use` in london.csv is
"skin"; the study is judged on those with "portrait".
"""

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import check_name
from mlanet_lib.files.npz import read_npz
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import Box

MOODS = ("neutral", "smiling")
N_POINTS = 189
LARGEST = 1e6
"""Pixels that a place in a photo has less than."""
FEWEST = 3
"""People that a line over people needs."""

# The set's points by what they lie on; the right side of the face first.
OUTLINE = (*range(134, 145), 112, 113, 114, *range(133, 124, -1), 111, 110, 109)
"""Points around the face, hairline and jaw, in order."""
HAIR_SIDE = (111, 110, 109, *range(134, 145), 112, 113, 114)
"""The part of it that hair may cover, from ear to ear."""
IRIS = {"right eye": tuple(range(2, 10)), "left eye": tuple(range(10, 18))}
LIDS = {"right eye": (18, 19, 20, 21, 22, 30, 29, 28), "left eye": (23, 24, 25, 26, 27, 33, 32, 31)}
EYES, BROWS, LIPS = tuple(range(18, 34)), tuple(range(71, 87)), tuple(range(87, 109))
NOSTRILS = (*range(63, 71), *range(179, 183))
CHEEKS = (165, 166, 168, 169)


@dataclass(frozen=True, eq=False)
class Portraits:
    """P people. points189: (P, 189, 2) pixels of the neutral photos; crops: by mood a Box a person, None: not known."""

    folder: Path
    people: list[str]
    points189: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    ethnicity: np.ndarray
    crops: dict[str, list[Box]] | None

    def path(self, person: str, mood: str) -> Path:
        """Where the photo of a person (one of `people`) in a mood (one of `MOODS`) lies."""
        return self.folder / f"{person}_{mood}.jpg"

    def photo(self, person: str, mood: str) -> np.ndarray:
        """(H, W, 3) uint8, as it is stored."""
        return read_image(self.path(person, mood), upright=False)


def read_folder(folder: str | Path) -> Portraits:
    """The people of a folder, by the order of its labels. The photos themselves are read by `Portraits.photo`.

    A folder or labels that are not there, a field that is missing or of a wrong shape, numbers that are not finite,
    fewer than three people, one named twice, and a photo that is missing are UserErrors.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    path = folder / "labels.npz"
    fields = read_npz(path, "file of labels (.npz)")
    if missing := [name for name in ("people", "points189", "age", "gender", "ethnicity") if name not in fields]:
        raise UserError(f"{path}: no field {', '.join(missing)}")
    people = [check_name(name, f"{path}: person") for name in _texts(path, fields, "people", None)]
    count = len(people)
    if count < FEWEST or len(set(people)) < count:
        raise UserError(f"{path}: {count} people, {len(set(people))} of them different; {FEWEST} or more are needed")
    crops = _numbers(path, fields, "crops", (count, 2, 4)) if "crops" in fields else None
    if crops is not None and crops[..., 2:].min() <= 0:
        raise UserError(f"{path}: field 'crops' holds boxes without area")
    found = Portraits(
        folder,
        people,
        _numbers(path, fields, "points189", (count, N_POINTS, 2)),
        _numbers(path, fields, "age", (count,)),
        np.array(_texts(path, fields, "gender", count)),
        np.array(_texts(path, fields, "ethnicity", count)),
        None if crops is None else {mood: [Box(*map(float, row[k])) for row in crops] for k, mood in enumerate(MOODS)},
    )
    absent = [file.name for person in people for mood in MOODS if not (file := found.path(person, mood)).is_file()]
    if absent:
        raise UserError(f"{folder}: {len(absent)} photos are missing ({', '.join(absent[:3])}, ...)")
    return found


class Photos(NamedTuple):
    """Neutral photos of P people. names: their numbers; groups: (P,) ethnicity as they reported it; points: (P, 189, 2)
    pixels; pictures: P arrays (H, W, 3) uint8 RGB."""

    names: list[str]
    groups: np.ndarray
    points: np.ndarray
    pictures: list[np.ndarray]


@cache
def people() -> list[dict[str, str]]:
    """The people of london.csv: person, use ("skin" or "portrait"), gender, ethnicity, age, sha256 of the photo."""
    lines = (files("mlanet_lib.face_sources.ict") / "london.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def read_skin(folder: str | Path) -> Photos:
    """The photos of the people that the skin is learned from.

    A file that is missing, unreadable or not the one that the shipped face model was made from is a UserError.
    """
    found = read_folder(folder)
    wanted = {row["person"]: row for row in people() if row["use"] == "skin"}
    if missing := sorted(set(wanted) - set(found.people)):
        raise UserError(f"{found.folder}: no person {', '.join(missing)} in labels.npz")
    for name, row in wanted.items():
        path = found.path(name, "neutral")
        if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            raise UserError(f"{path}: not the photo that the face model's skin is made from (its sha256 differs)")
    points = found.points189[[found.people.index(name) for name in wanted]]
    groups = np.array([row["ethnicity"] for row in wanted.values()])
    return Photos(list(wanted), groups, points, [found.photo(name, "neutral") for name in wanted])


def _texts(path: Path, fields: Mapping[str, np.ndarray], name: str, count: int | None) -> list[str]:
    value = fields[name]
    if value.dtype.kind != "U" or value.ndim != 1 or len(value) != (len(value) if count is None else count):
        raise UserError(f"{path}: field '{name}' is {value.dtype} {value.shape}, not a text for each person")
    return [str(text) for text in value]


def _numbers(path: Path, fields: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    value = fields[name]
    if value.dtype.kind not in "iuf" or value.shape != shape:
        raise UserError(f"{path}: field '{name}' is {value.dtype} {value.shape}, not numbers {shape}")
    if not (np.abs(value) < LARGEST).all() and name != "age":  # which not everybody said
        raise UserError(f"{path}: field '{name}' holds numbers that are not finite or no pixels")
    return value.astype(np.float64)
