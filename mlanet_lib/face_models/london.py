"""The Face Research Lab London Set as the face model's skin is learned from it (DeBruine and Jones 2017, CC BY 4.0).

A folder holds `NNN_neutral.jpg` of each person, 675 x 675 px, and `labels.npz` with `people` (P,) their numbers and
`points189` (P, 189, 2), the neutral photo's points as the set's authors placed them, in pixels, x right, y down. Only the
photos of the people whose `use` in london.csv is "skin" are read. The set itself: doi.org/10.6084/m9.figshare.5047666
"""

import csv
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib.arrays import read_npz
from mlanet_lib.errors import UserError
from mlanet_lib.pictures import read_image

POINTS = 189
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
    lines = (files(__package__) / "london.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def read(folder: str | Path) -> Photos:
    """The photos of the people that the skin is learned from.

    A file that is missing, unreadable or not the one that the shipped face model was made from is a UserError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder of the London Set")
    wanted = {row["person"]: row for row in people() if row["use"] == "skin"}
    arrays = read_npz(folder / "labels.npz", "labels of the London Set (.npz)")
    numbers, points = arrays.get("people"), arrays.get("points189")
    if numbers is None or points is None or points.shape != (len(numbers), POINTS, 2):
        raise UserError(f"{folder / 'labels.npz'}: no fields people (P,) and points189 (P, {POINTS}, 2)")
    at = {str(number): k for k, number in enumerate(numbers.tolist())}
    if missing := sorted(set(wanted) - set(at)):
        raise UserError(f"{folder / 'labels.npz'}: no points of person {', '.join(missing)}")
    found = points[[at[name] for name in wanted]].astype(np.float64)
    if not np.isfinite(found).all():
        raise UserError(f"{folder / 'labels.npz'}: points that are not finite")
    pictures = [_picture(folder / f"{name}_neutral.jpg", row["sha256"]) for name, row in wanted.items()]
    return Photos(list(wanted), np.array([row["ethnicity"] for row in wanted.values()]), found, pictures)


def _picture(path: Path, digest: str) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"photo not found: {path}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise UserError(f"{path}: not the photo that the face model's skin is made from (its sha256 differs)")
    return read_image(path)
