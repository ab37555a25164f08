"""What the skin leaves open: eyeballs, teeth and the inside of the mouth."""

from dataclasses import dataclass

import numpy as np

from mlanet_lib.face_models.chart import MIRROR

# Left eyeball in mm, after the mean eyelids of the semi-landmark table, which rest on it.
EYE_CENTRE, EYE_RADIUS = np.array([31.2, 36.0, 79.9]), 15.0
LIMBUS, PUPIL = 23.6, 8.0  # degrees from the gaze axis
EYE_RINGS = (0.0, 4.0, 7.4, 8.6, 12.0, 16.0, 20.0, 22.6, 24.8, 29.0, 35.0, 42.0, 50.0, 60.0, 72.0)
EYE_SECTORS = 28
POCKET_DEPTHS = (0.12, 0.3, 0.55, 0.8)
POCKET_END = np.array([0.0, -32.0, 52.0])
# Arch of the upper front teeth: x, z in mm; rows from gum to edge: y, and how far behind the arch.
ARCH = np.array([[0.0, 104.6], [8.0, 103.6], [15.5, 98.5], [20.5, 92.0], [24.0, 82.0], [26.5, 72.0]])
UPPER_ROWS = ((-18.0, 1.5), (-22.0, 0.4), (-26.5, 0.0), (-31.0, 0.0), (-34.0, 0.8), (-34.0, 3.5))
LOWER_ROWS = ((-33.6, 6.5), (-33.6, 3.8), (-36.0, 3.0), (-40.0, 3.0), (-44.0, 3.6), (-48.0, 5.0))


@dataclass(frozen=True)
class Patch:
    """`points (N,3)` mm, `faces (F,3)` counter-clockwise from outside, `grid (N,2)` in [0,1], rows first."""

    points: np.ndarray
    faces: np.ndarray
    grid: np.ndarray


def _strip(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles of a grid whose rows go down and whose columns go to the subject's left, seen from the front."""
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, 1) if closed else index[:, 1:]
    left = index if closed else index[:, :-1]
    a, b, c, d = left[:-1], right[:-1], left[1:], right[1:]
    return np.concatenate([np.stack([a, c, d], -1).reshape(-1, 3), np.stack([a, d, b], -1).reshape(-1, 3)])


def eyeball(side: int) -> Patch:
    """A cap around the gaze axis; side +1 left, -1 right. Its grid is (angle from the axis / 90 degrees, turn)."""
    turn = np.arange(EYE_SECTORS) / EYE_SECTORS
    polar = np.array([(angle / 90, t) for angle in EYE_RINGS[1:] for t in turn])
    polar = np.concatenate([[[0.0, 0.0]], polar])
    tilt, around = polar[:, 0] * np.pi / 2, polar[:, 1] * 2 * np.pi
    direction = np.stack([np.sin(tilt) * np.cos(around), np.sin(tilt) * np.sin(around), np.cos(tilt)], 1)
    fan = np.stack([np.zeros(EYE_SECTORS, int), 1 + np.arange(EYE_SECTORS), 1 + np.roll(np.arange(EYE_SECTORS), -1)], 1)
    faces = np.concatenate([fan, 1 + _strip(len(EYE_RINGS) - 1, EYE_SECTORS, closed=True)])
    points = EYE_CENTRE + EYE_RADIUS * direction
    if side < 0:
        return Patch(points * MIRROR, faces[:, ::-1], polar)
    return Patch(points, faces, polar)


def teeth(rows) -> Patch:
    """A band along the dental arch, 33 columns wide; its grid is (row, column)."""
    knots = np.concatenate([ARCH[:0:-1] * [-1, 1], ARCH])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    where = np.linspace(0, along[-1], 33)
    arch = np.stack([np.interp(where, along, knots[:, k]) for k in (0, 1)], 1)
    arch = (arch + arch[::-1] * [-1, 1]) / 2
    inward = arch * [1, 0.6] - [0, 30.0]
    inward /= np.linalg.norm(inward, axis=1, keepdims=True)
    points = []
    for y, behind in rows:
        flat = arch - behind * inward
        points.append(np.stack([flat[:, 0], np.full(len(flat), y), flat[:, 1]], 1))
    grid = np.stack(np.meshgrid(np.linspace(0, 1, len(rows)), np.linspace(0, 1, 33), indexing="ij"), -1)
    return Patch(np.concatenate(points), _strip(len(rows), 33, closed=False), grid.reshape(-1, 2))


def pocket(ring: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inside of the mouth behind its boundary `ring (K,)` of skin vertices. `first` is the index its own vertices
    start at. Returns the ring vertex of each (N,), its depth in [0,1] (N,), and the faces."""
    size = len(ring)
    source = np.concatenate([np.tile(ring, len(POCKET_DEPTHS)), ring[:1]])
    depth = np.concatenate([np.repeat(POCKET_DEPTHS, size), [1.0]])
    levels = np.concatenate([ring[None], first + np.arange(size * len(POCKET_DEPTHS)).reshape(-1, size)])
    following = np.roll(levels, -1, 1)
    outer, inner = levels[:-1], levels[1:]
    outer_next, inner_next = following[:-1], following[1:]
    faces = [np.stack([outer, outer_next, inner_next], -1), np.stack([outer, inner_next, inner], -1)]
    end = np.full(size, first + size * len(POCKET_DEPTHS))
    last = np.stack([levels[-1], following[-1], end], -1)
    return source, depth, np.concatenate([*(f.reshape(-1, 3) for f in faces), last])[:, ::-1]
