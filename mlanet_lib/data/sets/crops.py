"""Landmarked crops: `images.zip` of pictures beside `labels.npz`, read where they lie, never extracted.

Fields of `labels.npz`, one row a picture: `names` (N,), the members of the zip; `landmarks68` (N, 68, 3), third column
relative depth, larger is nearer, or (N, 68, 2): points 0-16 then follow the contour of the face in the picture;
where it has them `landmarks21` (N, 21, 2) with `visible21` (N, 21), `yaw_degrees` (N,) and `agreement` (N,).

A file may say itself what else is assumed: `definition`, whose definition the 68 points follow (one of `LABEL_SETS`);
`first_pixel`, the first pixel's centre; `confidence` (N, 68), the weights of the points, those of the jaw among them.
`data.annotate` writes such files.

From where the pixels are counted is mostly not written down. Half a pixel of 120 is 0.6 % of a face, so it was
measured, in x, where many faces must be symmetric on average. The table shows by how much a label exceeds the true
place (first centre at 0.5): (a) against YuNet's points averaged with those of the mirrored picture, over 3,596 crops of
AFLW and 2,500 YouTube Faces frames; (b) against the axis of symmetry of the mean of 5,000 and 2,133 near-frontal
pictures laid upon each other.

| field | (a) px | (b) px | taken as | expected |
|---|---|---|---|---|
| AFLW `landmarks68` | -0.66 +- 0.03 | -0.52 +- 0.05 | `ZERO_BASED` (3DDFA_V2's code) | -0.5 |
| AFLW `landmarks21` | +0.08 +- 0.04 | +0.03 +- 0.05 | this project's own, 0.5 | 0 |
| YouTube `landmarks68` | +0.76 +- 0.04 | +0.73 +- 0.08 | `ONE_BASED` (whole numbers), sure to 0.4 px | +0.5 |

y is assumed to be counted as x is; faces have no symmetry in y that could show it.

`labels_ibug68.npz` may lie beside them: for some of the same pictures the 68 points as iBUG's labels define them, found
by another predictor than those of `labels.npz`. `names` as there, `landmarks68` (N, 68, 2) counted as there, NaN where
there are none; `spread` (N, 68) px, how far the points of several starts lie from their median; `disagreement` (N,), %
of the face, how far they are from those of `labels.npz`.
`pose_3ddfa_v2.npz` may lie beside them, too: `names` as there, `rotation` (N, 3, 3), 3DDFA_V2's poses in BFM's frame,
y up.
"""

import math
import os
import struct
import zipfile
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from mlanet_lib.data.arrays import check_rows
from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.points import JAW, LABEL_SETS
from mlanet_lib.files.atomic import check_name
from mlanet_lib.files.folders import once
from mlanet_lib.files.npz import read_npz
from mlanet_lib.files.pictures import decode_image
from mlanet_lib.geometry.crops import ONE_BASED, ZERO_BASED, from_index

HALF_BASED = 0.5
IBUG_LABELS = "labels_ibug68.npz"
POSES = "pose_3ddfa_v2.npz"
DISAGREEMENT = 6.0
"""% of the face: iBUG's estimates that lie further from 3DDFA's are left out. Looked at: below it they are nearly
always right up to a yaw of 25 degrees, and usually up to 40."""
SPREAD = 0.0125
"""Share of the face's size: an estimated point whose spread it is counts half."""
TURNED, CONTOUR_JAW = 12.0, 0.1
"""Degrees of yaw beyond which a jaw on the picture's contour is no longer the model's, and what it counts then."""
FEATURES = slice(36, 68)
"""Eyes and lips."""
ALONE, BESIDE = 0.6, 0.15
"""What 3DDFA's estimates of these count where no other labels have them, and of all points but the jaw where iBUG's do.
"""
LARGEST_PICTURE, LARGEST_LABELS = 2**26, 2**28
"""Bytes that a member of `images.zip`, and all of `labels.npz`, may claim to unpack to."""
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)
_IBUG_SHAPES = {"landmarks68": (68, 2), "spread": (68,), "disagreement": ()}
_SHAPES = {"landmarks21": (21, 2), "yaw_degrees": (), "agreement": ()}


def read_archive(folder: str | Path, points: str | None = None, disagreement: float = DISAGREEMENT) -> list[Sample]:
    """The samples of a folder, in the order of `names`. `Sample.image` reads a picture, from any thread or process.

    points: the definition of the points that is asked for, "3ddfa" or "ibug"; None: whatever `labels.npz` holds. The
    second are those of `labels_ibug68.npz`, where it is there: see `_with_ibug`; without it those of `labels.npz`,
    which must then be 2D points, since points with depth are 3DDFA's. A file that says another definition than is asked
    for is a UserError.

    A file that is missing or damaged; a field that is missing, pickled, too large, of a wrong shape or type, or of
    another number of rows; a name that is there twice, also with two endings (a.jpg and a.png), or not in the zip; a
    member that has no file's name, is there twice, encrypted, packed in a way other than deflate or larger than 64 MB:
    UserErrors that name file and field or member. Numbers that make no sense in single rows (NaN, ...) are left to the
    check of the data.
    """
    folder = Path(folder)
    labels = _read_labels(folder / "labels.npz")
    pictures = Pictures(folder / "images.zip")
    names, count = labels["names"].tolist(), len(labels["names"])
    for name in names:
        if name not in pictures.members:
            raise UserError(f"{pictures.path}: no picture '{name}', which field 'names' of labels.npz lists")
    once(map(PurePosixPath, names), f"{folder / 'labels.npz'}: field 'names'")  # names of members: none is empty
    depth = labels["landmarks68"].shape[2] == 3
    landmarks = labels["landmarks68"][..., :2].astype(np.float64)
    first = float(labels["first_pixel"]) if "first_pixel" in labels else ZERO_BASED if depth else ONE_BASED
    columns = {"landmarks": from_index(landmarks, first)}
    if depth:
        columns["nearness"] = -labels["landmarks68"][..., 2].astype(np.float64)
    if "confidence" in labels:
        columns["confidence"] = labels["confidence"].astype(np.float64)
    elif depth:
        columns["confidence"] = _of_modes(folder, names, disagreement)
    else:
        columns["confidence"] = np.tile(np.where(np.arange(68) < JAW, 0.0, 1.0), (count, 1))
    if "landmarks21" in labels:
        points21 = from_index(labels["landmarks21"].astype(np.float64), HALF_BASED)
        columns["points21"] = np.where(labels["visible21"][..., None], points21, np.nan)
    if "yaw_degrees" in labels:
        yaw = labels["yaw_degrees"].astype(np.float64)
        columns["pose_degrees"] = np.stack([np.full(count, np.nan), yaw, np.full(count, np.nan)], -1)
    if "agreement" in labels:
        columns["agreement"] = labels["agreement"].astype(np.float64)
    if (folder / POSES).is_file():
        columns["rotation"] = _read_poses(folder / POSES, names)
    samples = [
        Sample(name, partial(pictures.image, name), **dict(zip(columns, row, strict=True)))
        for name, *row in zip(names, *columns.values(), strict=True)
    ]
    if points == "ibug" and (folder / IBUG_LABELS).is_file():
        return _with_ibug(samples, folder / IBUG_LABELS, disagreement)
    said = str(labels["definition"]) if "definition" in labels else points
    if points is not None and said != points:
        raise UserError(f"{folder / 'labels.npz'}: its points follow {said}'s definition: set points: {said}")
    if points == "ibug" and depth:
        raise UserError(f"{folder}: no {IBUG_LABELS}, and labels.npz holds 3DDFA's points (points with depth)")
    return samples


def _of_modes(folder: Path, names: list[str], disagreement: float) -> np.ndarray:
    """(N, 68) weights of 3DDFA's estimates. They come from few modes: all eyes are nearly equally open, and closed
    mouths count as some mm open, so that points of eyes and lips count less. Where iBUG's labels have a photo, too,
    all count little but those of the jaw, which iBUG's do not have on the head: few modes hold nobody's proportions,
    and a network that is told both learns the mean of the two."""
    weights = np.ones((len(names), 68))
    weights[:, FEATURES] = ALONE
    if (folder / IBUG_LABELS).is_file():
        points, _, differ = read_ibug(folder / IBUG_LABELS, names)
        weights[np.ix_(np.isfinite(points).all((1, 2)) & (differ <= disagreement), range(JAW, 68))] = BESIDE
    return weights


def is_frontal_beside_ibug(sample: Sample) -> bool:
    """Whether these are 3DDFA's points of a photo that iBUG's labels have, too, and that is turned by at most 12
    degrees: the latter then say all that the former do, the jaw with the rest."""
    worth = sample.confidence
    return worth is not None and bool((worth[JAW:] == BESIDE).all()) and _yaw(sample) <= TURNED


def _with_ibug(samples: list[Sample], path: Path, disagreement: float) -> list[Sample]:
    """The samples that have iBUG's points, with these in place of their own.

    Rows that hold a NaN or differ from 3DDFA's points by more than `disagreement` % are left out. The weight of a point
    is

        1 / (1 + (spread / (SPREAD size))^2),    size = sqrt(w h) of the box around the row's points,

    and at most 0.1 for a point of the jaw (0-16) if the head is turned by more than 12 degrees (`_yaw`) or by an
    unknown angle. Such a point follows the contour of the face in the photo, not a line on the head. `nearness`, of
    3DDFA's points, is dropped.
    """
    points, spread, differ = read_ibug(path, [sample.name for sample in samples])
    known = np.isfinite(points).all((1, 2)) & np.isfinite(spread).all(1) & (differ <= disagreement)
    straight = np.array([_yaw(sample) <= TURNED for sample in samples])
    worth = confidence(points, spread, straight)
    rows = np.flatnonzero(known).tolist()
    return [replace(samples[k], landmarks=points[k], nearness=None, confidence=worth[k]) for k in rows]


def confidence(points: np.ndarray, spread: np.ndarray, straight: np.ndarray) -> np.ndarray:
    """(N, 68) weights of estimated points (N, 68, 2) and their spread (N, 68), both px: the formula of `_with_ibug`.

    straight: (N,) bool, heads whose jaw is believed as far as the other points.
    """
    size = np.sqrt(np.ptp(points, axis=1).prod(1))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # of rows without points
        worth = 1 / (1 + (spread / (SPREAD * size)) ** 2)
    worth[:, :JAW] = np.minimum(worth[:, :JAW], np.where(straight, 1.0, CONTOUR_JAW)[:, None])
    return worth


def read_ibug(path: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`labels_ibug68.npz` of the crops `names`: points (N, 68, 2) in pixels, first centre at 0.5, spread (N, 68) px and
    disagreement (N,) %, as they stand there."""
    fields = _fields(path, ("names", *_IBUG_SHAPES))
    if fields["names"].tolist() != names:
        raise UserError(f"{path}: field 'names' lists other pictures than labels.npz")
    check_rows(path, fields, len(names), _IBUG_SHAPES, "fiu")
    points, spread, differ = (fields[name].astype(np.float64) for name in _IBUG_SHAPES)
    return from_index(points, ZERO_BASED), spread, differ


def _read_poses(path: Path, names: list[str]) -> np.ndarray:
    """(N, 3, 3) rotations of the crops `names`."""
    fields = _fields(path, ("names", "rotation"))
    if fields["names"].tolist() != names:
        raise UserError(f"{path}: field 'names' lists other pictures than labels.npz")
    check_rows(path, fields, len(names), {"rotation": (3, 3)}, "f")
    rotation = fields["rotation"].astype(np.float64)
    square = np.allclose(rotation @ np.swapaxes(rotation, 1, 2), np.eye(3), atol=1e-3)
    if not (square and (np.linalg.det(rotation) > 0).all()):  # mirrors are square, too
        raise UserError(f"{path}: field 'rotation' holds matrices that are no rotations")
    return rotation


def _yaw(sample: Sample) -> float:
    """How far a head is turned to either side, degrees, NaN if unknown.

    By the two ends of the jaw where the points have depth, else by `yaw_degrees`. On 13,865 of AFLW's crops the first
    is within 1.0 degree of 3DDFA_V2's pose (median), `yaw_degrees`, which came with AFLW, within 4.7.
    """
    if sample.nearness is not None and sample.landmarks is not None:
        across = np.linalg.norm(sample.landmarks[16] - sample.landmarks[0])
        return float(np.degrees(np.arctan2(abs(sample.nearness[16] - sample.nearness[0]), across)))
    return math.nan if sample.pose_degrees is None else float(abs(sample.pose_degrees[1]))


def _fields(path: Path, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    fields = read_npz(path, "labels file", LARGEST_LABELS)
    for name in needed:
        if name not in fields:
            raise UserError(f"{path}: field '{name}' is missing")
    return fields


def _read_labels(path: Path) -> dict[str, np.ndarray]:
    fields = _fields(path, ("names", "landmarks68"))
    if "landmarks21" in fields and "visible21" not in fields:
        raise UserError(f"{path}: field 'visible21' is missing")
    names, count = fields["names"], fields["names"].size
    if names.ndim != 1 or names.dtype.kind != "U" or not count:
        raise UserError(f"{path}: field 'names' is not a list of names but {names.dtype} {names.shape}")
    if len(set(names.tolist())) < count:
        values, times = np.unique(names, return_counts=True)
        raise UserError(f"{path}: field 'names' holds '{values[times.argmax()]}' more than once")
    depth = fields["landmarks68"].shape[2:] == (3,)
    check_rows(path, fields, count, {"landmarks68": (68, 3 if depth else 2), **_SHAPES}, "fiu")
    check_rows(path, fields, count, {"visible21": (21,)}, "b")
    check_rows(path, fields, count, {"confidence": (68,)}, "fiu")
    _check_said(path, fields)
    return fields


def _check_said(path: Path, fields: dict[str, np.ndarray]) -> None:
    """UserError unless what the file says of its points, where it does, is one known word and one number."""
    if (said := fields.get("definition")) is not None and (
        said.ndim or said.dtype.kind != "U" or said not in LABEL_SETS
    ):
        raise UserError(f"{path}: field 'definition' is not one of {', '.join(LABEL_SETS)}")
    first = fields.get("first_pixel")
    if first is not None and (first.ndim or first.dtype.kind not in "fiu" or not 0 <= first <= 1):
        raise UserError(f"{path}: field 'first_pixel' is not one number from 0 to 1")


class Pictures:
    """The pictures of an `images.zip`. Threads share the open file, whose reads `zipfile` locks; a process that was
    forked, or that unpickles this, opens its own."""

    def __init__(self, path: Path):
        self.path = path
        self._open()

    def __reduce__(self) -> tuple[type["Pictures"], tuple[Path]]:
        return Pictures, (self.path,)

    def _open(self) -> None:
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file")
        try:
            self._zip, self._process = zipfile.ZipFile(self.path), os.getpid()
        except _BROKEN as error:
            raise UserError(f"{self.path}: not a readable zip file ({error})") from error
        self.members: dict[str, zipfile.ZipInfo] = {}
        end = self.path.stat().st_size
        for info in self._zip.infolist():
            self._check(info, end)
            self.members[info.filename] = info

    def _check(self, info: zipfile.ZipInfo, end: int) -> None:
        """UserError unless the zip's directory entry of a member is plausible; the member itself is not read."""
        name = info.orig_filename  # `filename` is cut at a NUL
        for part in PurePosixPath(name).parts or ("",):
            check_name(part, f"{self.path}: member {name[:80]!r}: its part")
        size = max(info.file_size, info.compress_size)
        troubles = {
            "is there more than once": name in self.members,
            "is encrypted": info.flag_bits & 1,
            "is packed in an unknown way": info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            f"claims {size:,} bytes": size > LARGEST_PICTURE,
            "lies outside the file": not 0 <= info.header_offset <= end - info.compress_size,
        }
        for trouble in (text for text, found in troubles.items() if found):
            raise UserError(f"{self.path}: member '{name}' {trouble}")

    def content(self, name: str) -> bytes:
        """The file of one picture. What the zip cannot give is a UserError that names both."""
        if os.getpid() != self._process:
            self._open()
        try:
            return self._zip.read(name)
        except _BROKEN as error:
            raise UserError(f"{self.path}: '{name}': damaged ({error})") from error

    def image(self, name: str) -> np.ndarray:
        """One picture, (H, W, 3) uint8, as it is stored."""
        return decode_image(self.content(name), f"{self.path}: '{name}'", upright=False)
