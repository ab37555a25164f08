"""Albedo of the anthropometric model: a painted mean and its modes, per vertex, display-encoded RGB."""

import numpy as np
from scipy.spatial import cKDTree

from mlanet_lib.face_models import parts
from mlanet_lib.face_models.chart import MIRROR
from mlanet_lib.face_models.topology import Skin, inside

SKIN = np.array([0.74, 0.56, 0.47])
LIPS = np.array([0.66, 0.38, 0.36])
HAIR = np.array([0.24, 0.175, 0.13])
IRIS = np.array([0.33, 0.25, 0.18])
SCLERA = np.array([0.86, 0.84, 0.82])
TEETH = np.array([0.86, 0.83, 0.76])
MOUTH = np.array([0.36, 0.13, 0.13])
# places (mm) near the hairline of the left half, from the forehead over and behind the ear to the nape
HAIRLINE = (
    (0, 104, 97),
    (18, 104, 94),
    (36, 101, 85),
    (49, 92, 74),
    (58, 78, 63),
    (63, 62, 53),
    (70, 50, 40),
    (73, 30, 32),
    (76, 28, 26),
    (76, 50, 24),
    (79, 66, 12),
    (79, 60, -6),
    (77, 35, -12),
    (73, 10, -14),
    (66, -15, -22),
    (50, -38, -42),
    (25, -52, -58),
    (0, -56, -64),
)
MODES = (
    "skin_tone",
    "skin_hue",
    "cheek_blush",
    "nose_redness",
    "lip_redness",
    "lip_darkness",
    "brow_darkness",
    "brow_width",
    "iris_blue",
    "iris_lightness",
    "beard_shadow",
    "moustache",
    "dark_circles",
    "hair_lightness",
    "hair_red",
    "hairline",
    "mottle",
)


def _soft(value: np.ndarray, width: float) -> np.ndarray:
    """0 below -width, 1 above +width, smooth between."""
    t = np.clip(0.5 + value / (2 * width), 0, 1)
    return t * t * (3 - 2 * t)


def _noise(points: np.ndarray, length: float, seed: int) -> np.ndarray:
    """Smooth symmetric noise of unit variance: a sum of waves of about this length (mm)."""
    rng = np.random.default_rng(seed)
    folded = points * [0, 1, 1] + np.abs(points * [1, 0, 0])
    waves = rng.normal(size=(3, 24)) * 2 * np.pi / length / 1.7
    return np.sin(folded @ waves + rng.uniform(0, 2 * np.pi, 24)).sum(1) / np.sqrt(12)


def _curve(knots: np.ndarray, per_segment: int = 12, closed: bool = False) -> np.ndarray:
    """Catmull-Rom curve through knots (K,3)."""
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = (np.arange(per_segment) / per_segment)[:, None]
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    if not closed:
        pieces.append(knots[-1:])
    return np.concatenate(pieces)


def _blob(points: np.ndarray, place, radii) -> np.ndarray:
    """Gaussian spots at `place` (mm) and its mirror image."""
    place, radii = np.array(place, float), np.array(radii, float)
    return sum(np.exp(-0.5 * (((points - p) / radii) ** 2).sum(1)) for p in (place, place * MIRROR)).clip(0, 1)


def _masks(mean: np.ndarray, skin: Skin) -> dict[str, np.ndarray]:
    """Where on the skin what is: each (N,) in [0,1]."""
    at = {name: mean[i] for name, i in skin.labels.items()}
    chart = {name: skin.chart[i] for name, i in skin.labels.items()}
    masks = {}
    half = [f"lm{k}" for k in (51, 52, 53, 54, 55, 56, 57)]
    for store, source in (("mm", at), ("chart", chart)):
        knots = np.array([source[name] for name in half])
        masks[store] = _curve(np.concatenate([knots, knots[-2:0:-1] * MIRROR]), closed=True)
    outline, ring = masks.pop("mm"), masks.pop("chart")
    distance = cKDTree(outline).query(mean)[0]
    masks["lips"] = _soft(np.where(inside(skin.chart, ring), distance, -distance) - 0.2, 1.1)

    folded = mean * [0, 1, 1] + np.abs(mean * [1, 0, 0])
    brow = _curve(
        np.array([at[f"lm{k}"] for k in (22, 23, 24, 25, 26)])
        - [[0, 1.2, 0], [0, 1.6, 0], [0, 1.6, 0], [0, 1.2, 0], [0, 0.4, 0]]
    )
    distance, nearest = cKDTree(brow[:, :2]).query(folded[:, :2])
    along = nearest / (len(brow) - 1)
    width = 4.3 * np.clip(1.15 - 0.75 * along, 0.3, 1) * np.clip(0.65 + along * 4, 0, 1)
    front = _soft(mean[:, 2] - 60, 5)
    streak = 1 + 0.12 * _noise(mean, 4.0, 1)
    masks["brow"] = _soft(width - distance, 1.5) * front * streak
    masks["brow_edge"] = 0.16 * np.exp(-(((distance - width) / 1.6) ** 2)) * front

    lids = mean[np.concatenate([skin.rings["left"], skin.rings["right"]])]
    distance, nearest = cKDTree(lids).query(mean)
    upper = lids[nearest, 1] > 35.0
    masks["lash"] = _soft(np.where(upper, 2.9, 2.0) - distance, 0.9) * np.where(upper, 1.0, 0.5)
    masks["lid"] = _blob(mean, (32, 37, 92), (16, 10, 12))
    masks["circles"] = _blob(mean, (29, 23, 92), (11, 5, 10))

    tree = cKDTree(mean)
    rim = skin.chart[tree.query(np.array(HAIRLINE, float))[1]]
    rim[[0, -1], 0] = 0
    whole = np.concatenate([rim, rim[-2:0:-1] * MIRROR])
    places = mean[tree.query(np.array(HAIRLINE, float))[1]]
    edge = np.concatenate([_dense(places), _dense(places) * MIRROR])
    distance = cKDTree(edge).query(mean)[0] * np.where(_within(skin.chart, whole), -1, 1)
    distance = distance + 1.2 * _noise(mean, 14.0, 2)
    masks["hair"] = _soft(distance, 3.5)
    masks["hair_edge"] = 0.18 * np.exp(-((distance / 4.5) ** 2))

    x, y, z = folded.T
    jaw = _soft(-22 - y, 12) * _soft(y + 98, 8) * _soft(z - 25, 15)
    masks["beard"] = jaw * (1 - masks["lips"]) * (1 - masks["hair"])
    masks["moustache"] = _blob(mean, (11, -20, 112), (13, 5, 12)) * (1 - masks["lips"])
    masks["cheek"] = _blob(mean, (43, 6, 88), (17, 14, 25))
    masks["nose"] = _blob(mean, (0, 3, 128), (14, 12, 18))
    masks["ear"] = _soft(x - 80, 6) * _soft(40 - z, 8) * _soft(y + 20, 8)
    neighbours = cKDTree(mean).query(mean, 40)[1]
    normals = _normals(mean, skin.faces)
    hollow = ((mean[neighbours].mean(1) - mean) * normals).sum(1) / np.linalg.norm(
        mean[neighbours] - mean[:, None], axis=2
    ).mean(1)
    masks["hollow"] = np.clip(hollow * 1.6, -0.3, 1)
    masks["nostril"] = _nostrils(mean)
    distance = cKDTree(mean[skin.rings["mouth"]]).query(mean)[0]
    masks["inner_lip"] = _soft(6.0 - distance, 3.0) * np.maximum(masks["lips"], _soft(2.5 - distance, 1.0))
    return masks


def _dense(knots: np.ndarray) -> np.ndarray:
    return _curve(knots, 10)


def _within(chart: np.ndarray, loop: np.ndarray) -> np.ndarray:
    """Whether points lie in the loop's side with the face, in the azimuthal projection about it (the loop is large)."""

    def flat(p):
        q = p[:, :2] / (1 + p[:, 2:]).clip(1e-6)
        return np.concatenate([0.2 * q, np.ones((len(q), 1))], 1)

    return inside(flat(chart), flat(loop))


def _nostrils(mean: np.ndarray) -> np.ndarray:
    """Skin under the nose that has other skin in front of it."""
    box = np.flatnonzero((np.abs(mean[:, 0]) < 13) & (mean[:, 1] > -11.5) & (mean[:, 1] < 6) & (mean[:, 2] > 90))
    near = cKDTree(mean[box, :2]).query_ball_point(mean[box, :2], 1.3)
    covered = np.array([mean[box[others], 2].max() for others in near]) - mean[box, 2]
    mask = np.zeros(len(mean))
    mask[box] = _soft(covered - 4.0, 2.0)
    return mask


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = points[faces].transpose(1, 0, 2)
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(b - a, c - a))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)


def _paint(colour: np.ndarray, mask: np.ndarray, target) -> np.ndarray:
    return colour + mask[:, None] * (np.asarray(target) - colour)


def albedo(mean: np.ndarray, skin: Skin, pocket_depth: np.ndarray, patches: list) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V,3) and basis (V,3,K) in the order skin, pocket, left eye, right eye, upper teeth, lower teeth."""
    m = _masks(mean, skin)
    bare = (1 - m["hair"]) * (1 - 0.8 * m["brow"].clip(0, 1)) * (1 - m["nostril"])
    colour = np.tile(SKIN, (len(mean), 1)) * (1 + 0.012 * _noise(mean, 16, 3)[:, None])
    colour += np.outer(m["cheek"], [0.02, -0.035, -0.03]) + np.outer(m["nose"], [0.01, -0.03, -0.03])
    colour += np.outer(m["ear"], [0.02, -0.05, -0.05]) + np.outer(m["lid"], [-0.03, -0.05, -0.04])
    colour += np.outer(m["circles"], [-0.03, -0.035, -0.025]) + np.outer(m["beard"], [-0.02, -0.015, -0.005])
    colour = _paint(colour, m["lips"], LIPS)
    colour = _paint(colour, m["inner_lip"], 0.75 * LIPS + 0.25 * MOUTH)
    colour *= 1 - 0.35 * m["hollow"][:, None]
    colour = _paint(colour, 0.85 * m["brow"].clip(0, 1), HAIR * 1.15)
    colour = _paint(colour, 0.75 * m["lash"], HAIR * 0.7)
    colour = _paint(colour, m["nostril"], [0.16, 0.07, 0.06])
    colour = _paint(colour, m["hair"], HAIR * (1 + 0.1 * _noise(mean, 9, 4)[:, None]))

    hair, brow = m["hair"], 0.85 * m["brow"].clip(0, 1)
    modes = {
        "skin_tone": np.outer(bare * (1 - 0.25 * m["lips"]), [-0.115, -0.12, -0.12]) * (colour / SKIN),
        "skin_hue": np.outer(bare, [0.006, -0.003, -0.018]),
        "cheek_blush": np.outer(m["cheek"] * bare, [0.012, -0.022, -0.017]),
        "nose_redness": np.outer((m["nose"] + 0.6 * m["ear"]) * bare, [0.01, -0.018, -0.018]),
        "lip_redness": np.outer(m["lips"], [0.03, -0.03, -0.018]),
        "lip_darkness": np.outer(m["lips"], [-0.045, -0.035, -0.035]),
        "brow_darkness": 0.35 * m["brow"].clip(0, 1)[:, None] * (HAIR - SKIN) * 0.8,
        "brow_width": m["brow_edge"][:, None] * (HAIR - SKIN),
        "beard_shadow": np.outer(m["beard"] + 0.8 * m["moustache"], [-0.05, -0.04, -0.028]),
        "moustache": np.outer(m["moustache"], [-0.09, -0.075, -0.06]),
        "dark_circles": np.outer(m["circles"], [-0.05, -0.05, -0.035]),
        "hair_lightness": np.outer(hair + brow * 0.7, [0.085, 0.064, 0.041]),
        "hair_red": np.outer(hair + brow * 0.5, [0.014, 0.0, -0.006]),
        "hairline": m["hair_edge"][:, None] * (HAIR - SKIN),
        "mottle": np.outer(_noise(mean, 22, 5) * bare, [0.012, 0.014, 0.014]),
    }
    pocket = MOUTH * (1 - 0.85 * pocket_depth[:, None])
    rest = [pocket, *(_eye(patch) for patch in patches[:2]), *(_gum(patch) for patch in patches[2:])]
    sizes = [len(part) for part in rest]
    basis = np.zeros((len(mean) + sum(sizes), 3, len(MODES)))
    for name, field in modes.items():
        basis[: len(mean), :, MODES.index(name)] = field
    start = len(mean) + sizes[0]
    for patch, size in zip(patches[:2], sizes[1:3], strict=True):
        iris = _iris_mask(patch)
        basis[start : start + size, :, MODES.index("iris_blue")] = np.outer(iris, [-0.05, 0.03, 0.11])
        basis[start : start + size, :, MODES.index("iris_lightness")] = np.outer(iris, [0.06, 0.06, 0.05])
        start += size
    return np.concatenate([colour, *rest]).clip(0.02, 0.98), basis


def _iris_mask(patch: parts.Patch) -> np.ndarray:
    angle = patch.grid[:, 0] * 90
    return ((angle > parts.PUPIL) & (angle < parts.LIMBUS)).astype(float)


def _eye(patch: parts.Patch) -> np.ndarray:
    angle, turn = patch.grid[:, 0] * 90, patch.grid[:, 1] * 2 * np.pi
    veins = 1 - 0.35 * np.clip((angle - 30) / 60, 0, 1)[:, None] * [0.6, 1.0, 1.0]
    under_lid = np.sin(patch.grid[:, 0] * np.pi / 2) * np.sin(turn)
    colour = SCLERA * veins * (1 - 0.4 * _soft(under_lid - 0.36, 0.2))[:, None]
    fibres = 1 + 0.12 * np.cos(7 * turn) - 0.35 * _soft(angle - 21.5, 2.0)
    iris = _iris_mask(patch)[:, None]
    colour = colour * (1 - iris) + iris * IRIS * fibres[:, None]
    return np.where((angle <= parts.PUPIL)[:, None], [0.03, 0.03, 0.03], colour)


def _gum(patch: parts.Patch) -> np.ndarray:
    """Teeth with their gaps, darker towards the back."""
    row, column = patch.grid.T
    upper = patch.points[:, 1].mean() > -34
    gum = (row < 0.1) if upper else (row > 0.9)
    edge = (row > 0.7) if upper else (row < 0.3)
    back = 1 - 0.55 * np.abs(2 * column - 1) ** 1.5
    colour = TEETH * back[:, None] * np.where(edge, 0.45, 1.0)[:, None]
    return np.where(gum[:, None], [0.55, 0.28, 0.27] * back[:, None], colour)
