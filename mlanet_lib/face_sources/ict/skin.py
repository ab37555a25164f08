"""Albedo learned from photographs: its mean and modes per vertex, display-encoded RGB, as the renderer multiplies them.

Studio photos of people, each with a fitted mesh, share one light. With I_p(v) the colour that photo p shows at vertex
v, n_p(v) its normal and Y the nine spherical harmonics,

    I_p(v) = a_p(v) E(n_p(v)),   E(n) = sum_k l_k Y_k(n)

The light l is fitted to the bare skin (cheeks, forehead, nose) of all photos at once. Whatever changes with the normal
in the same way in all faces counts as light, the rest as skin. This is the usual assumption of shape from shading: an
albedo that follows the normal cannot be told apart from light. l is grey, so all colour belongs to the skin.

Colours are read where the surface faces the camera between hairline and jaw, except in hair and highlights. Left and
right are averaged. Parts that no photo shows continue the face as smoothly as possible (harmonic on the mesh) towards
the person's own tone. Modes are principal components over the people, in standard deviations."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse import coo_matrix, csc_matrix, diags
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from mlanet_lib.face_sources import london
from mlanet_lib.geometry.lighting import sh_basis
from mlanet_lib.geometry.mesh import edges, vertex_normals
from mlanet_lib.rasterizer import rasterize

MODES = 36
"""Of the skin; the eyes add two of the iris."""
TONES, WITHIN = 2, 2.0
"""The first TONES modes (tone and hue) are scaled until all people lie within WITHIN standard deviations. Tones are not
normally distributed, and without this a prior would pull very dark or very light skin towards the middle."""
LUMA = np.array([0.299, 0.587, 0.114])
BLUR = 0.9
"""Standard deviation, px, of the blur before colours are read: a vertex stands for about 3 x 3 px of the photo."""
HAIR_MARGIN = (8.0, 26.0)
"""px from the hairline and the sides of the face: nothing is read below the first, everything beyond the second."""
HAIR, HIGHLIGHT = -0.35, 0.12
"""Log of luma relative to the person's tone and to what is usual at that place: below the first is hair, above the
second a highlight."""
LIGHT_ROUNDS = 6
"""How often the light and the tones are estimated in turn."""
SMOOTH, PULL = 0.02, 2e-4
"""Cost of differences along edges, and from the person's tone, where an observation at full weight has 1."""


class Fitted(NamedTuple):
    """P photos and the head fitted to each. photos: `london.Photos`; camera: (P, V, 3) px, the head in the photo's
    pixels, x right, y up, z towards the camera; marks: (P, K, 2) px, y down, where the fit has the points numbered
    `used` (K,); places: (189, 3) mm, all points on the mean head (NaN where not `used`); mean: (V, 3) mm; faces: (F,
    3)."""

    photos: london.Photos
    camera: np.ndarray
    marks: np.ndarray
    used: np.ndarray
    places: np.ndarray
    mean: np.ndarray
    faces: np.ndarray


class Observed(NamedTuple):
    """What the photos show at the first S vertices: colour (P, S, 3), normal (P, S, 3), weight (P, S) in [0, 1]."""

    colour: np.ndarray
    normal: np.ndarray
    weight: np.ndarray


def learn(fitted: Fitted, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (S, 3) and modes (S, 3, MODES) of the first S = count vertices, the skin, and the people's scores (P,
    MODES)."""
    observed = observe(fitted, count)
    bare, cheek = _areas(fitted, count)
    albedo, tone = unlit(observed, bare, cheek)
    weight = observed.weight * _trusted(albedo, tone, observed.weight, bare)
    whole = completed(albedo, weight, tone, fitted.mean[:count], fitted.faces[(fitted.faces < count).all(1)])
    return modes(whole, group_weights(fitted.photos.groups))


def observe(fitted: Fitted, count: int) -> Observed:
    """Colours, normals and weights of the first `count` vertices in each photo."""
    rows = [_observe(fitted, number, count) for number in range(len(fitted.camera))]
    return Observed(*(np.stack(column) for column in zip(*rows, strict=True)))


def _observe(fitted: Fitted, number: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    camera, points = fitted.camera[number], fitted.photos.points[number]
    picture = fitted.photos.pictures[number].astype(np.float64) / 255
    normal = vertex_normals(camera, fitted.faces)[:count]
    flat = camera[:count, :2] * [1, -1]
    seen = np.flatnonzero((normal[:, 2] > 0) & _visible(camera, fitted.faces, picture.shape[:2])[:count])
    shift = RBFInterpolator(fitted.marks[number], points[fitted.used] - fitted.marks[number], smoothing=5.0)(flat[seen])
    at = flat[seen] + shift
    blurred = [gaussian_filter(picture[..., channel], BLUR) for channel in range(3)]
    colour, weight = np.zeros((count, 3)), np.zeros(count)
    colour[seen] = np.stack([map_coordinates(c, (at[:, ::-1] - 0.5).T, order=1, mode="nearest") for c in blurred], 1)
    steps = np.linspace(0, 1, 20)[:, None]
    line = points[list(london.HAIR_SIDE)]
    edge = np.concatenate([a + steps * (b - a) for a, b in pairwise(line)])
    low, high = HAIR_MARGIN
    free = np.clip((cKDTree(edge).query(at)[0] - low) / (high - low), 0, 1)
    within = inside(at, points[list(london.OUTLINE)])
    weight[seen] = free * within * np.clip((normal[seen, 2] - 0.25) / 0.4, 0, 1)
    return colour, normal, weight


def _visible(camera: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(V,) bool: whether a vertex lies in the picture and no part of the head covers it."""
    depth = camera[:, 2].max() - camera[:, 2] + 1
    screen = np.column_stack([camera[:, 0], -camera[:, 1], depth])
    drawn = rasterize(torch.from_numpy(screen[None]).float(), torch.from_numpy(faces), *size).depth[0].numpy()
    column, row = np.floor(screen[:, :2]).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < size[1]) & (row < size[0])
    nearest = drawn[np.clip(row, 0, size[0] - 1), np.clip(column, 0, size[1] - 1)]
    slack = 0.01 * np.ptp(camera[:, 1])
    return inside & (depth < nearest + slack)


def _areas(fitted: Fitted, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(S,) bool each: bare skin (no brow, eye, lip, nostril or beard may be there), and the cheeks."""
    mean = fitted.mean[:count]

    def near(points: Sequence[int], reach: float) -> np.ndarray:
        return cKDTree(fitted.places[list(points)]).query(mean)[0] < reach

    covered = near(london.BROWS, 9) | near(london.EYES, 7) | near(london.LIPS, 7) | near(london.NOSTRILS, 4)
    chin = mean[:, 1] < fitted.places[list(london.NOSTRILS), 1].mean()
    return ~covered & ~chin, near(london.CHEEKS, 12)


def unlit(observed: Observed, bare: np.ndarray, cheek: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (P, S, 3), without the light that all photos share, and each person's tone (P, 3), read on the cheeks.

    E is 1 in the mean over the cheeks: albedo has the level that photos have there.
    """
    basis = sh_basis(torch.from_numpy(observed.normal)).numpy()
    luma, weight = observed.colour @ LUMA, observed.weight
    light = np.ones_like(luma)
    for _ in range(LIGHT_ROUNDS):
        tone = np.stack(
            [
                np.median((colour / shade[:, None])[cheek & (sure > 0.3)], axis=0)
                for colour, shade, sure in zip(observed.colour, light, weight, strict=True)
            ]
        )
        relative = luma / (tone @ LUMA)[:, None]
        off = np.log((relative / light).clip(1e-3))
        trust = weight * bare * np.exp(-0.5 * (off / 0.15) ** 2)
        gram = np.einsum("ps,psi,psj->ij", trust, basis, basis)
        gram += 1e-5 * np.trace(gram) * np.diag([0.0] + 8 * [1.0])
        light = basis @ np.linalg.solve(gram, np.einsum("ps,psi,ps->i", trust, basis, relative))
        level = (light * (weight > 0.5) * cheek).sum() / ((weight > 0.5) * cheek).sum()
        light = (light / level).clip(0.3)
    return observed.colour / light[..., None], tone


def _trusted(albedo: np.ndarray, tone: np.ndarray, weight: np.ndarray, bare: np.ndarray) -> np.ndarray:
    """(P, S): 0 where hair lies over bare skin, little where skin shines, else 1."""
    relative = np.log((albedo @ LUMA).clip(1e-3) / (tone @ LUMA)[:, None])
    usual = np.zeros(len(bare))
    shown = (weight > 0.3).sum(0) > 5
    usual[shown] = np.nanmedian(np.where(weight[:, shown] > 0.3, relative[:, shown], np.nan), axis=0)
    off = relative - usual
    return np.where(bare & (off < HAIR), 0.0, 1.0) * np.exp(-((np.maximum(off - HIGHLIGHT, 0) / 0.06) ** 2)).clip(0.02)


def completed(
    albedo: np.ndarray, weight: np.ndarray, tone: np.ndarray, mean: np.ndarray, faces: np.ndarray
) -> np.ndarray:
    """(P, S, 3): albedo (P, S, 3) with both sides of the face joined by their weights (P, S), and continued where no
    photo shows it. tone: (P, 3); mean: (S, 3) mm, symmetric in x; faces: (F, 3)."""
    twin = cKDTree(mean).query(mean * [-1, 1, 1])[1]
    both = weight + weight[:, twin]
    product = weight[..., None] * albedo
    product = product + product[:, twin]
    a, b = edges(faces).T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(mean),) * 2).tocsr()
    graph = graph + graph.T
    laplacian = diags(np.asarray(graph.sum(1)).ravel()) - graph
    found = np.empty_like(albedo)
    for number in range(len(albedo)):
        system = csc_matrix(diags(both[number] + PULL) + SMOOTH * laplacian)
        found[number] = splu(system).solve(product[number] + PULL * tone[number])
    return 0.5 * (found + found[:, twin])


def group_weights(groups: np.ndarray) -> np.ndarray:
    """(P,) with mean 1: each person's weight, such that all groups have the same weight however many people they
    have. A person of two groups ("east_asian/white") belongs half to each."""
    names = [str(group).split("/") for group in groups]
    size = {name: sum((name in own) / len(own) for own in names) for own in names for name in own}
    weights = np.array([np.mean([1 / size[name] for name in own]) for own in names])
    return weights / weights.mean()


def modes(samples: np.ndarray, weights: np.ndarray, count: int = MODES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted principal components of samples (P, S, 3): mean (S, 3), modes (S, 3, count) in standard deviations (but
    see `TONES`), and the samples' scores (P, count) in the same. weights: (P,) with mean 1."""
    mean = np.average(samples, axis=0, weights=weights)
    centred = (samples - mean).reshape(len(samples), -1)
    root = np.sqrt(weights / len(samples))[:, None]
    values, vectors = np.linalg.eigh((root * centred) @ (root * centred).T)
    order = np.argsort(values)[::-1][:count]
    deviation = np.sqrt(values[order].clip(1e-12))
    axes = (root * centred).T @ vectors[:, order] / deviation
    axes *= np.where(axes.sum(0) < 0, -1, 1)  # a mode's sign is free: its sum is positive
    scores = centred @ axes / deviation
    wider = np.where(np.arange(len(order)) < TONES, np.maximum(1, np.abs(scores).max(0) / WITHIN), 1.0)
    deviation, scores = deviation * wider, scores / wider
    return mean, (axes * deviation).reshape(*mean.shape, -1), scores


def inside(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """(N,) bool: which of points (N, 2) lie within a closed line (K, 2), by the even-odd rule."""
    found = np.zeros(len(points), bool)
    for (x, y), (u, v) in zip(outline, np.roll(outline, -1, 0), strict=True):
        level = (points[:, 1] < y) != (points[:, 1] < v)
        with np.errstate(divide="ignore", invalid="ignore"):
            found ^= level & (points[:, 0] < x + (points[:, 1] - y) / (v - y) * (u - x))
    return found
