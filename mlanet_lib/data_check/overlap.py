"""Is a face in two data sets? Pictures are compared by grey portraits, which survive another file, size and crop.

`portrait`: the face's crop and a margin. `compare` looks in two steps, with mirror images on either side:

1. Thumbnails of 16 x 16 pixels, mean 0 and length 1, whose product is their normalised correlation. `ALIKE` is where
   `aflw_crops` was cut off against the 2,000 faces of AFLW2000-3D. Most pairs above it are two similar faces, and
   copies whose crops differ by a twentieth lie below it: it is a hint, not a verdict.
2. The likeliest pairs are registered: the middle of one portrait is sought in the other over shifts and sizes. Above
   `SAME` it is the same picture. Chosen on 6.9 million pairs of different people (YouTube's frames against crops of
   AFLW: the highest value is 0.926) and on 400 crops of AFLW saved anew with a box that is off by 1 to 6 % of its side:
   93 % of these are found.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.crops import Box, crop_image

ALIKE, SAME = 0.88, 0.95
PORTRAIT, MARGIN = 48, 1.4
"""Side of a portrait, pixels, and of what it shows, in sides of the face's crop."""
_THUMBNAIL, _TEMPLATE, _REACH = 16, 24, 6  # sides, pixels; how far a template is shifted each way
_CANDIDATES = 8  # pictures of a training set that are registered with each of a benchmark
_SIZES = np.geomspace(0.8, 1.25, 9)
_OFFSETS: list[tuple[float, float, float]] = [
    (0, 0, 1)
]  # of the thumbnails that are compared: the crop's own first, then moved and resized ones
_OFFSETS += [(x, y, s) for s in (0.85, 1.0, 1.18) for x, y in ((0, 0), (0.08, 0), (-0.08, 0), (0, 0.08), (0, -0.08))]


class Pair(NamedTuple):
    """Two pictures, by their rows in the training set and in the benchmark, and their correlation in [-1, 1]."""

    correlation: float
    training: int
    benchmark: int


class Comparison(NamedTuple):
    """registered: the likeliest pairs by step 2, alike: the most alike picture of the benchmark for every one of the
    training set by step 1; both with the highest correlation first."""

    registered: list[Pair]
    alike: list[Pair]

    def doubles(self) -> list[Pair]:
        """The pairs that are the same picture."""
        return [pair for pair in self.registered if pair.correlation > SAME]


def portrait(image: np.ndarray, box: Box | None) -> np.ndarray | None:
    """(H, W, 3) uint8 and the crop around the face -> (48, 48) uint8 grey, the crop and a margin of a fifth.

    None if nothing can be compared: no box, a box that no crop can be cut from, a face of one colour.
    """
    if box is None:
        return None
    x, y = box.x + box.w * (1 - MARGIN) / 2, box.y + box.h * (1 - MARGIN) / 2
    try:
        crop = crop_image(image, Box(x, y, box.w * MARGIN, box.h * MARGIN), PORTRAIT, padding="edge")
    except UserError:
        return None
    grey = np.asarray(Image.fromarray(crop).convert("L"))
    return grey if grey[12:36, 12:36].std() > 1 else None


def compare(training: Sequence[np.ndarray], benchmark: Sequence[np.ndarray], progress: bool = False) -> Comparison:
    """Portraits (N, 48, 48) and (M, 48, 48) uint8 -> which are doubles. 32 N M products of 256 pixels each."""
    if not len(training) or not len(benchmark):
        return Comparison([], [])
    thumbnails = np.concatenate([_thumbnails(picture, _OFFSETS[:1]) for picture in training])
    highest, where = np.full(len(training), -2.0), np.zeros(len(training), int)
    registered = []
    for column, picture in enumerate(tqdm(benchmark, "overlap", unit="face", disable=not progress)):
        variants = _thumbnails(picture, _OFFSETS)
        products = thumbnails @ np.concatenate([variants, _mirrored(variants, _THUMBNAIL)]).T
        plain = products[:, [0, len(variants)]].max(1)
        where[plain > highest] = column
        highest = np.maximum(highest, plain)
        best = products.max(1)
        few = min(_CANDIDATES, len(best))
        templates = _templates(picture)
        for row in np.argpartition(-best, few - 1)[:few]:
            registered.append(Pair(_registered(training[row], templates), int(row), column))
    alike = [Pair(*row) for row in zip(highest.tolist(), range(len(training)), where.tolist(), strict=True)]
    return Comparison(sorted(registered, reverse=True), sorted(alike, reverse=True))


def _thumbnails(picture: np.ndarray, offsets: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """A portrait -> (offsets, 256): its crop, moved and resized, in units of the crop's side."""
    return _unit(np.stack([_part(picture, x, y, size, _THUMBNAIL) for x, y, size in offsets]))


def _templates(picture: np.ndarray) -> np.ndarray:
    """A portrait -> (18, 576): its middle in several sizes, as it is and mirrored."""
    share = _TEMPLATE * MARGIN / PORTRAIT
    parts = _unit(np.stack([_part(picture, 0, 0, share * size, _TEMPLATE) for size in _SIZES]))
    return np.concatenate([parts, _mirrored(parts, _TEMPLATE)])


def _registered(picture: np.ndarray, templates: np.ndarray) -> float:
    """The highest correlation of the templates with a part of the portrait."""
    first = (PORTRAIT - _TEMPLATE) // 2 - _REACH
    searched = picture[first : PORTRAIT - first, first : PORTRAIT - first].astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(searched, (_TEMPLATE, _TEMPLATE))
    return float((_unit(windows.reshape(-1, _TEMPLATE**2)) @ templates.T).max())


def _part(picture: np.ndarray, x: float, y: float, size: float, side: int) -> np.ndarray:
    half, centre = PORTRAIT / MARGIN * size / 2, np.array([x, y]) * PORTRAIT / MARGIN + PORTRAIT / 2
    box = np.clip([*(centre - half), *(centre + half)], 0, PORTRAIT)
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR, box=tuple(box.tolist()))
    return np.asarray(small, np.float32).ravel()


def _mirrored(rows: np.ndarray, side: int) -> np.ndarray:
    return rows.reshape(-1, side, side)[:, :, ::-1].reshape(len(rows), -1)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Mean 0 and length 1; a picture with less contrast than one grey level stays shorter, and so resembles no
    other."""
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), rows.shape[1] ** 0.5)
