"""What lids, lips and teeth must obey whoever the face is and whatever it does: corrections to the spline's fields."""

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from mlanet_lib.face_models import parts
from mlanet_lib.face_models.chart import MIRROR
from mlanet_lib.face_models.topology import Skin

LEFT_OUT = ("mouthClose",)  # meaningful only together with jawOpen: alone it pushes the lips through each other
JAW_SHIFTS = ("jawForward", "jawLeft", "jawRight")
LID_THICKNESS = 0.8  # mm
OVERLAP = 1.9  # mm, of one closed lid over the other
SMOOTHING = 5


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
    here = np.interp(across, upper[:, 0], gap) - 0.04
    slit = np.stack([np.interp(across, upper[:, 0], (upper + lower)[:, k] / 2) for k in (1, 2)], 1)
    near = np.exp(-0.5 * ((mean[:, 1:] - slit) ** 2).sum(1) / 3.0**2) * _smooth_step((width + 1 - across) / 6)
    ring = skin.chart[skin.rings["mouth"]]
    above = np.where(skin.chart[:, 1] > ring[:, 1].mean(), 1.0, -1.0)
    closed = mean.copy()
    closed[:, 1] -= above * near * here / 2
    return closed


def close_lids(blink: np.ndarray, mean: np.ndarray, skin: Skin) -> np.ndarray:
    """(N,3) mm: the measured displacement of the left eye's full `blink (N,3)`, smoothed along the skin, the upper lid
    brought all the way down to the lower one, and both kept out of the eyeball."""
    ring = skin.rings["left"]
    rim = mean[ring].round(3)  # ties must not hang on the last bit
    first, last = rim[:, 0].argmin(), rim[:, 0].argmax()
    across, height = (rim[[first, last], k] for k in (0, 1))
    chord = np.interp(rim[:, 0], across, height)
    upper, lower = ring[rim[:, 1] > chord + 0.05], ring[rim[:, 1] < chord - 0.05]

    neighbours = _neighbour_mean(skin.faces, len(mean))
    smooth = blink
    for _ in range(SMOOTHING):
        smooth = neighbours @ smooth
    to_upper, to_lower = (cKDTree(mean[vertices]).query(mean)[0] for vertices in (upper, lower))
    near = _smooth_step((14 - to_upper) / 6)[:, None]
    moved = mean + blink + near * (smooth - blink)

    corners = [skin.labels["lm42"], skin.labels["lm45"]]
    u = 2 * (moved[:, 0] - moved[corners, 0].mean()) / np.diff(moved[corners, 0])
    corner = np.interp(u, (-1, 1), moved[corners, 1])

    def edge(*landmarks):
        """Height of a closed lid's edge at every x: the arc through its two landmarks and the corners of the eye."""
        vertices = [skin.labels[name] for name in landmarks]
        arc = (1 - u**2)[:, None] * np.stack([np.ones_like(u), u], 1)
        return corner + np.where(
            np.abs(u) < 1, arc @ np.linalg.solve(arc[vertices], (moved[:, 1] - corner)[vertices]), 0
        )

    gap = (edge("lm43", "lm44") - edge("lm47", "lm46") + OVERLAP).clip(0)
    share = _smooth_step((to_lower - to_upper) / 2 + 0.5)  # 1 on the upper lid, 0 on the lower
    inside = _smooth_step((moved[:, 0] - across[0]) / 3 + 0.5) * _smooth_step((across[1] - moved[:, 0]) / 3 + 0.5)
    moved[:, 1] -= gap * inside * share * np.exp(-((to_upper / 6) ** 2))

    away = moved - parts.EYE_CENTRE
    distance = np.linalg.norm(away, axis=1)
    wanted = parts.EYE_RADIUS + LID_THICKNESS * (0.3 + 0.7 * share) * _smooth_step((6 - to_upper) / 3)
    push = (wanted - distance).clip(0) * _smooth_step((9 - to_upper) / 3) * (mean[:, 2] > parts.EYE_CENTRE[2])
    moved += (push / distance)[:, None] * away
    return moved - mean


def _neighbour_mean(faces: np.ndarray, size: int) -> sparse.csr_matrix:
    """(N,N): mean over each vertex and its neighbours on the mesh."""
    i, j = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).T
    adjacency = sparse.coo_matrix((np.ones(len(i)), (i, j)), shape=(size, size)).tocsr()
    adjacency = ((adjacency + adjacency.T) > 0).astype(float) + sparse.eye(size)
    return sparse.diags(1 / np.asarray(adjacency.sum(1)).ravel()) @ adjacency


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
