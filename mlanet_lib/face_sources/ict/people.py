"""The photographs that the face model's skin is learned from, of the London Set (`mlanet_lib.face_sources.london`).

Only the neutral photos, 675 x 675 px, of the people whose `use` in london.csv is "skin" are taken.
"""

import csv
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.london import read_folder

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
    found = read_folder(folder)
    wanted = {row["person"]: row for row in people() if row["use"] == "skin"}
    if missing := sorted(set(wanted) - set(found.people)):
        raise UserError(f"{found.folder}: no person {', '.join(missing)} in labels.npz")
    for name, row in wanted.items():
        path = found.path(name, "neutral")
        if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            raise UserError(f"{path}: not the photo that the face model's skin is made from (its sha256 differs)")
    points = found.points189[[found.people.index(name) for name in wanted]].astype(np.float64)
    groups = np.array([row["ethnicity"] for row in wanted.values()])
    return Photos(list(wanted), groups, points, [found.photo(name, "neutral") for name in wanted])


def inside(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """(N,) bool: which of points (N, 2) lie within a closed line (K, 2), by the even-odd rule."""
    found = np.zeros(len(points), bool)
    for (x, y), (u, v) in zip(outline, np.roll(outline, -1, 0), strict=True):
        level = (points[:, 1] < y) != (points[:, 1] < v)
        with np.errstate(divide="ignore", invalid="ignore"):
            found ^= level & (points[:, 0] < x + (points[:, 1] - y) / (v - y) * (u - x))
    return found
