"""What lids, lips and teeth must obey whoever the face is and whatever it does: corrections to the spline's fields."""

import numpy as np
from scipy.spatial import cKDTree

from mlanet_lib.face_models import parts
from mlanet_lib.face_models.chart import MIRROR
from mlanet_lib.face_models.topology import Skin

LEFT_OUT = ("mouthClose",)  # meaningful only together with jawOpen: alone it pushes the lips through each other
JAW_SHIFTS = ("jawForward", "jawLeft", "jawRight")
LID_THICKNESS = 0.8  # mm


def _smooth_step(value: np.ndarray) -> np.ndarray:
    t = np.clip(value, 0, 1)
    return t * t * (3 - 2 * t)


def settle(expression: np.ndarray) -> np.ndarray:
    """(N,3,K) mm without the spline's faint ripples where an expression does not reach."""
    size = np.linalg.norm(expression, axis=1, keepdims=True)
    return expression * np.clip((size - 0.08) / 0.25, 0, 1)


def close_lips(mean: np.ndarray, skin: Skin) -> np.ndarray:
    """(N,3) mm: the mean shape with the last tenths of a mm between the lips closed, so that no teeth show."""
    upper = np.array([mean[skin.labels[f"lm{k}"]] for k in (62, 63, 64)])
    lower = np.array([mean[skin.labels[f"lm{k}"]] for k in (66, 65, 64)])
    gap = upper[:, 1] - lower[:, 1]
    across = np.abs(mean[:, 0])
    width = upper[-1, 0]
    here = np.interp(across, upper[:, 0], gap) + 0.25
    slit = np.stack([np.interp(across, upper[:, 0], (upper + lower)[:, k] / 2) for k in (1, 2)], 1)
    near = np.exp(-0.5 * ((mean[:, 1:] - slit) ** 2).sum(1) / 3.0**2) * _smooth_step((width + 1 - across) / 6)
    ring = skin.chart[skin.rings["mouth"]]
    above = np.where(skin.chart[:, 1] > ring[:, 1].mean(), 1.0, -1.0)
    closed = mean.copy()
    closed[:, 1] -= above * near * here / 2
    return closed


def close_lids(blink: np.ndarray, mean: np.ndarray, ring: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(N,3) mm, the displacement of one eye's full blink, corrected: the upper lid comes down all the way to the lower
    and both lie on the eyeball around `centre` (3,), not in it. `ring (K,)`: vertices of that eye's rim."""
    rim = mean[ring]
    order = np.argsort(rim[:, 0], kind="stable")
    ends = rim[order[[0, -1]]]
    chord = ends[0, 1] + (rim[:, 0] - ends[0, 0]) / (ends[1, 0] - ends[0, 0]) * (ends[1, 1] - ends[0, 1])
    upper, lower = ring[rim[:, 1] > chord + 0.2], ring[rim[:, 1] < chord - 0.2]
    moved = mean + blink

    def height(vertices):
        line = moved[vertices]
        line = line[np.argsort(line[:, 0], kind="stable")]
        return np.interp(moved[:, 0], line[:, 0], line[:, 1])

    gap = height(upper) - height(lower) + 1.4
    gap *= _smooth_step((moved[:, 0] - ends[0, 0]) / 2 + 0.5) * _smooth_step((ends[1, 0] - moved[:, 0]) / 2 + 0.5)
    to_upper, to_lower = (cKDTree(mean[vertices]).query(mean)[0] for vertices in (upper, lower))
    share = _smooth_step((to_lower - to_upper) / 3 + 0.5)  # 1 on the upper lid, 0 on the lower
    moved[:, 1] -= gap.clip(0) * share * np.exp(-((to_upper / 4.5) ** 2))

    away = moved - centre
    distance = np.linalg.norm(away, axis=1)
    to_rim = np.minimum(to_upper, to_lower)
    wanted = parts.EYE_RADIUS + LID_THICKNESS * _smooth_step(to_rim / 1.6 + 0.15) - 0.25 * (1 - share)
    drape = share * _smooth_step((9 - to_upper) / 7) * _smooth_step((5 - np.abs(distance - parts.EYE_RADIUS)) / 3.5)
    drape = np.maximum(drape, (distance < wanted) * _smooth_step((7 - to_rim) / 4))
    moved += drape[:, None] * (away / distance[:, None]) * (wanted - distance)[:, None]
    return moved - mean


def rest_on_eyeball(identity: np.ndarray, mean: np.ndarray, centre: np.ndarray, shift: np.ndarray) -> None:
    """Lids glide over the eyeball: near it, what differs from its own `shift` (3,K) keeps no radial part. Changes
    `identity (N,3,K)` in place."""
    away = mean - centre
    distance = np.linalg.norm(away, axis=1)
    near = np.flatnonzero(distance < parts.EYE_RADIUS + 9)
    radial = away[near] / distance[near, None]
    weight = _smooth_step(1 - (distance[near] - parts.EYE_RADIUS - 1.0) / 8)
    along = np.einsum("vc,vck->vk", radial, identity[near] - shift)
    identity[near] -= weight[:, None, None] * radial[:, :, None] * along[:, None]


def lower_teeth_motion(points: np.ndarray, names: list[str], chin: np.ndarray) -> np.ndarray:
    """(N,3,K) mm: the lower teeth follow the jaw. `chin (3,K)` is the displacement of the skin over them; the opening
    jaw turns about its joint (to first order in z; ICT-FaceKit's incisors and molars)."""
    motion = np.zeros((len(points), 3, len(names)))
    for name in JAW_SHIFTS:
        motion[:, :, names.index(name)] = chin[:, names.index(name)]
    opening = names.index("jawOpen")
    motion[:, 1, opening] = -31.2 + 0.41 * (100 - points[:, 2])
    motion[:, 2, opening] = -24.7 + 0.16 * (100 - points[:, 2])
    return motion


def eye_centre(ring: str) -> np.ndarray:
    """(3,) mm, the mean eyeball's centre behind the rim called "left" or "right"."""
    return parts.EYE_CENTRE if ring == "left" else parts.EYE_CENTRE * MIRROR
