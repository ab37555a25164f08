"""The head of the default face model, cut of ICT-FaceKit's published mesh: skin, eyeballs, teeth, gums, sockets.

Skin, ears and neck keep all of their published vertices; parts that are hardly seen (sockets, gums, teeth, the
eyeballs' backs) are thinned to a tenth or a third. Shells that a film renderer draws transparent, and the eyelashes,
are left out.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from mlanet_lib.face_model.coarse import cells, joined
from mlanet_lib.face_model.points import farthest_points
from mlanet_lib.face_sources.ict import unwrapping
from mlanet_lib.geometry import mesh

# First published vertex of each part, left before right.
PARTS = {
    "face": 0,
    "head and neck": 9409,
    "mouth socket": 11248,
    "eye sockets": 13294,
    "gums and tongue": 14062,
    "teeth": 17039,
    "left eye": 21451,
    "left iris": 22221,
    "right eye": 23021,
    "right iris": 23791,
    "transparent": 24591,
}
SKIN = 11248
"""Vertices of the skin, the first ones."""
THINNED = {
    "mouth socket": 400,
    "eye sockets": 240,
    "gums and tongue": 600,
    "teeth": 2000,
    "left eye": 560,
    "right eye": 560,
}
"""Vertices that are kept of each part beside the skin, the rims of the sockets not counted."""
EYE_CENTRE = np.array([31.06, 36.05, 78.92])
"""Of the left eyeball, mm (a sphere through its back, of 15.4 mm); the right one is its mirror image."""
GAZE = np.array([0.116, -0.006, 0.993])
"""Direction of the left eye's bulge, the middle of its cornea, from `EYE_CENTRE`."""
# Where the parts lie in the texture: lower left corner and size.
_HEIGHT = 0.93  # of the skin's part
_FACE, _NECK = (0.05, 0.03, 0.9, 0.84), ((0.0, 0.2, 1.0), (0.0, 1 / 9, 1.0))  # the face's square; its v: neck squeezed
_ISLANDS = {
    "left eye": ((0.0, 0.93), (0.07, 0.07)),
    "right eye": ((0.07, 0.93), (0.07, 0.07)),
    "teeth": ((0.14, 0.93), (0.28, 0.07)),
    "gums and tongue": ((0.42, 0.93), (0.2, 0.07)),
    "mouth socket": ((0.62, 0.93), (0.2, 0.07)),
    "eye sockets": ((0.82, 0.93), (0.11, 0.07)),
    "end of the neck": ((0.93, 0.93), (0.07, 0.07)),
}


class Head(NamedTuple):
    """source: (V,) the published vertex that each vertex is (those on the rims of the sockets are there twice, those
    at the end of the neck too, which is closed); faces: (F, 3); uv: (V, 2); part: (V,) names of `PARTS` and "end of
    the neck"."""

    source: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    part: np.ndarray


def part_of(vertices: np.ndarray) -> np.ndarray:
    """Name of the part (`PARTS`) of each published vertex index."""
    return np.array(list(PARTS))[np.searchsorted(list(PARTS.values()), vertices, side="right") - 1]


def cut(points: np.ndarray, triangles: np.ndarray, uv: np.ndarray) -> Head:
    """The head of the published mesh: points (26719, 3) mm, triangles (F, 3), uv (26719, 2)."""
    owner = part_of(np.arange(len(points)))
    pieces = [(np.arange(SKIN), triangles[(triangles < SKIN).all(1)], "skin")]
    for name, count in THINNED.items():
        pieces.append((*_thinned(points, triangles, owner, name, count), name))
    pieces.append((*_neck_end(points, pieces[0][1]), "end of the neck"))
    first = np.cumsum([0, *(len(vertices) for vertices, _, _ in pieces)])
    faces = [corners + start for (_, corners, _), start in zip(pieces, first, strict=False)]
    part = [np.full(len(vertices), name, "<U16") for vertices, _, name in pieces]
    part[0] = owner[:SKIN]
    placed = [_flat(points[vertices], name) for vertices, _, name in pieces[1:]]
    placed.insert(0, _skin_uv(points, pieces[0][1], uv))
    return Head(np.concatenate([vertices for vertices, _, _ in pieces]), *map(np.concatenate, (faces, placed, part)))


def _thinned(
    points: np.ndarray, triangles: np.ndarray, owner: np.ndarray, name: str, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Published vertices of a part that are kept, with the skin's vertices on its rim, and triangles between them."""
    own = triangles[(owner[triangles] == name).any(1)]
    used = np.unique(own)
    rim = used[used < SKIN]
    inner = used[used >= SKIN]
    if name.endswith("eye"):
        angle = eye_angle(points[inner], name)
        front, back = inner[angle < 60], inner[angle >= 60]
        inner = np.concatenate([front, back[farthest_points(points[back], count - len(front))]])
    else:  # one side, and its mirror image
        half = inner[points[inner, 0] > -1e-3]
        chosen = half[farthest_points(points[half], count // 2)]
        inner = np.union1d(chosen, inner[cKDTree(points[inner]).query(points[chosen] * [-1, 1, 1])[1]])
    kept = np.sort(np.concatenate([rim, inner]))
    return kept, joined(own, cells(points, own, kept))


def eye_angle(points: np.ndarray, name: str) -> np.ndarray:
    """(N,) degrees from the gaze, seen from the eyeball's centre, of points (N, 3) mm of the "left eye" or "right"."""
    side = np.array([1.0 if name == "left eye" else -1.0, 1, 1])
    ray = points * side - EYE_CENTRE
    return np.degrees(np.arccos(ray @ GAZE / np.linalg.norm(GAZE) / np.linalg.norm(ray, axis=1)))


def _neck_end(points: np.ndarray, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The end of the neck closed: its rim once more, and triangles from side to side."""
    rim = min(mesh.borders(skin), key=lambda border: points[border, 1].mean())
    rim = np.roll(rim, -points[rim, 2].argmax())[::-1]  # seen from below, the other way around
    first, last, triangles = 0, len(rim) - 1, []
    while last - first > 1:
        if (last - first) % 2:
            triangles.append((first, first + 1, last))
            first += 1
        else:
            triangles.append((first, last - 1, last))
            last -= 1
    return rim, np.array(triangles)


def _skin_uv(points: np.ndarray, skin: np.ndarray, uv: np.ndarray) -> np.ndarray:
    x, y, width, height = _FACE
    placed = np.stack([x + width * uv[:, 0], y + height * np.interp(uv[:, 1], *_NECK)], 1)
    band = skin[(skin >= PARTS["head and neck"]).any(1)]
    return unwrapping.around(points[:SKIN], band, placed[:SKIN], _HEIGHT)


def _flat(points: np.ndarray, name: str) -> np.ndarray:
    """An island: eyeballs as one looks into them (the angle from the gaze, what lies beyond 35 degrees squeezed, so
    that the iris takes nearly half), teeth, gums and sockets from the front, the end of the neck from below."""
    if name.endswith("eye"):
        middle = EYE_CENTRE * [1 if name == "left eye" else -1, 1, 1]
        direction = (points - middle)[:, :2] / np.linalg.norm((points - middle)[:, :2], axis=1).clip(1e-9)[:, None]
        angle = eye_angle(points, name)
        plane = direction * np.where(angle < 35, angle, 35 + 0.08 * (angle - 35))[:, None]
    elif name == "end of the neck":
        plane = points[:, [0, 2]]
    else:
        plane = points[:, :2]
    return unwrapping.island(plane, *_ISLANDS[name])
