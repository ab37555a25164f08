"""Closes the neutral mouth of all faces, and makes blinks shut the lids: lips and lids of the mean face and the
modes."""

import numpy as np
import torch
from scipy.spatial import cKDTree

from mlanet_lib.rasterizer import rasterize

CONTACT = 1.0
"""Vertices of one lip so near to one of the other, mm, are where the lips meet."""
ACROSS, REACH, ROUNDS = 1.5, 6.0, 4
"""Over how far along the mouth the lips' distance is averaged, and how far from it they give way, mm; how often."""
OVERLAP = 0.2
"""How far the closed lips reach into each other, mm: no view passes between them."""


def closed(mean: np.ndarray, identity: np.ndarray, jaw_open: np.ndarray, skin: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V, 3) mm and identity modes (V, 3, K) with the lips together.

    jaw_open: (V, 3) mm, the mode that opens the jaw: vertices that it moves by more than half of its maximum belong to
    the lower lip. skin: the number of skin vertices, which come first. Each lip moves by half the distance, and
    vertices farther from where the lips meet move less.
    """
    drop = -jaw_open[:skin, 1]
    lower = drop > 0.5 * drop.max()
    upper_lip, lower_lip = (np.flatnonzero(side & (mean[:skin, 2] > 90)) for side in (~lower, lower))
    upper_lip = upper_lip[np.abs(mean[upper_lip, 1] - mean[lower_lip, 1].max()) < 15]
    near, partner = cKDTree(mean[upper_lip]).query(mean[lower_lip])
    pairs = np.stack([upper_lip[partner], lower_lip], 1)[near < CONTACT]
    for _ in range(ROUNDS):
        mean, identity = _nearer(mean, identity, pairs, lower, skin)
    return mean, identity


def _nearer(
    mean: np.ndarray, identity: np.ndarray, pairs: np.ndarray, lower: np.ndarray, skin: int
) -> tuple[np.ndarray, np.ndarray]:
    """One round: removes the distance of the lips at the pairs (N, 2) of upper and lower vertices, half on each
    side."""
    middle = mean[pairs].mean(1)
    fields = np.concatenate([mean[:, 1, None], identity[:, 1]], 1)
    apart = fields[pairs[:, 0]] - fields[pairs[:, 1]]
    apart[:, 0] += OVERLAP
    away, _ = cKDTree(middle).query(mean[:skin])
    moved = np.flatnonzero(away < 3 * REACH)
    weight = np.exp(-0.5 * ((mean[moved, None, 0] - middle[None, :, 0]) / ACROSS) ** 2) + 1e-12
    gap = weight @ apart / weight.sum(1, keepdims=True)
    give = 0.5 * np.exp(-0.5 * (away[moved] / REACH) ** 2) * np.where(lower[moved], 1, -1)
    mean, identity = mean.copy(), identity.copy()
    mean[moved, 1] += give * gap[:, 0]
    identity[moved, 1] += give[:, None] * gap[:, 1:]
    return mean, identity


def shut(mean: np.ndarray, blinks: np.ndarray, faces: np.ndarray, eyeballs: np.ndarray) -> float:
    """The least factor, in steps of 0.05, with which the blinks' modes hide the eyeballs of the mean face from the
    front.

    mean: (V, 3) mm; blinks: (V, 3), the sum of both eyes' modes; faces: (F, 3); eyeballs: (V,) bool. ValueError if
    twice the published blink is not enough.
    """
    for factor in np.arange(1.0, 2.01, 0.05):
        x, y, z = (mean + factor * blinks).T
        screen = np.column_stack([(x - x.min()) * 3, (y.min() - y) * 3, z.max() - z])
        size = (int(np.ptp(screen[:, 1])) + 1, int(np.ptp(screen[:, 0])) + 1)
        screen[:, 1] -= screen[:, 1].min()
        drawn = rasterize(torch.from_numpy(screen[None]).float(), torch.from_numpy(faces), *size).face_index.numpy()
        if not eyeballs[faces[drawn[drawn >= 0], 0]].any():
            return float(factor)
    raise ValueError("the lids do not shut")
