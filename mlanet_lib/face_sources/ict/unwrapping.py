"""The head's texture map: the face as ICT-FaceKit's artists laid it flat, the rest of the head around it, parts beside
it.

The published map has the face in one square without a fold, and scalp, nape and the rest elsewhere, which would put a
seam around the face. Here scalp and nape fill a frame around that square. They are a band, closed around the head, from
the face's border to the end of the neck: it is unrolled into a straight strip, harmonically (mean value coordinates,
Floater 2003), the strip is bent around the square, and folds that the bending leaves are opened. So the skin has no
seam at all; only the back of the head is squeezed."""

from typing import TypeVar

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import spsolve

from mlanet_lib.geometry import mesh

Values = TypeVar("Values", np.ndarray, torch.Tensor)
MARGIN = 0.004
"""What islands keep free around them, in sides of the texture."""
LEAST = 0.25
"""Least area of a triangle of the band in the map, of the share that its area in mm would give it."""


def around(points: np.ndarray, faces: np.ndarray, uv: np.ndarray, height: float) -> np.ndarray:
    """(V, 2): the map `uv` (V, 2) with a band added around it, out to the rectangle [0, 1] x [0, height].

    points: (V, 3) mm, symmetric in x; faces: (F, 3), the band's triangles. The band's border of more vertices is where
    `uv` says; the other goes around the rectangle. A band without two borders, or one whose folds cannot be opened, is
    a ValueError.
    """
    borders = sorted(mesh.borders(faces), key=len)
    if len(borders) != 2:
        raise ValueError(f"a band has two borders, this surface {len(borders)}")
    outside, inside = borders
    turn, depth = _unrolled(points, faces, uv, inside, outside, height)
    order = np.argsort(turn[inside])
    near = np.stack([np.interp(turn % 1, turn[inside][order], uv[inside][order, k], period=1) for k in (0, 1)], 1)
    corners = np.array([[0.5, height], [0, height], [0, 0], [1, 0], [1, height], [0.5, height]])
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(corners, axis=0)).sum(1))]) / (2 + 2 * height)
    far = np.stack([np.interp(turn % 1, along, corners[:, k]) for k in (0, 1)], 1)
    placed, band = uv.copy(), np.setdiff1d(np.unique(faces), inside)
    if len(band) == len(outside):
        raise ValueError("a band without vertices between its borders cannot be laid out")
    placed[band] = (near + depth[:, None] * (far - near))[band]
    return _unfolded(placed, points, faces, np.setdiff1d(band, outside))


def island(points: np.ndarray, corner: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    """(V, 2): points (V, 2) of any plane, stretched into the rectangle `size` whose lower left is `corner`."""
    low, high = points.min(0), points.max(0)
    return np.array(corner) + MARGIN + (np.array(size) - 2 * MARGIN) * (points - low) / (high - low).clip(1e-9)


def areas(uv: Values, faces: Values) -> Values:
    """(F,) signed areas of triangles (F, 3) between points (V, 2), positive where they are counter-clockwise."""
    a, b, c = uv[faces[:, 0]], uv[faces[:, 1]], uv[faces[:, 2]]
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def _unrolled(
    points: np.ndarray, faces: np.ndarray, uv: np.ndarray, inside: np.ndarray, outside: np.ndarray, height: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each vertex of the band on a straight strip: its turn around the head, from the middle of the back over the side
    of smaller x, in turns, and its depth between the borders, 0 to 1, spread evenly over the band's area."""
    count = len(points)
    turn, depth = np.zeros(count), np.zeros(count)
    turn[inside] = _from_the_top(uv[inside], height)
    depth[outside] = 1.0
    weights = _mean_value_weights(points, faces)
    rows, columns = weights.nonzero()
    left = points[:, 0] > 1e-3  # behind the head the turn goes from 1 on the left to 0
    front = (points[:, 2] > points[outside, 2].mean()) & (points[:, 1] < points[inside, 1].mean())
    step = (left[columns].astype(float) - left[rows]) * ~(front[rows] & front[columns])
    wound = np.asarray(weights.multiply(coo_matrix((step, (rows, columns)), weights.shape)).sum(1)).ravel()
    band = np.setdiff1d(np.unique(faces), inside)
    turn[band] = _harmonic(weights, band, weights[band][:, inside] @ turn[inside] - wound[band])
    free = np.setdiff1d(band, outside)
    depth[free] = _harmonic(weights, free, np.asarray(weights[free][:, outside].sum(1)).ravel())
    middle, size = depth[faces].mean(1), mesh.areas(points, faces)
    order = np.argsort(middle)
    share = np.cumsum(size[order]) / size.sum()
    return turn, np.interp(depth, np.concatenate([[0], middle[order], [1]]), np.concatenate([[0], share, [1]]))


def _harmonic(weights: csr_matrix, free: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values at the free vertices that are the weighted means of their neighbours'; known: what the others add."""
    return spsolve(diags(np.ones(len(free))).tocsc() - weights[free][:, free].tocsc(), known)


def _from_the_top(path: np.ndarray, height: float) -> np.ndarray:
    """(N,) in [0, 1): how far along a closed path (N, 2) its points lie, by arc length, from the one nearest to the
    middle of the rectangle's top on, to the side of smaller x first."""
    order = np.roll(np.arange(len(path)), -np.abs(path - [0.5, height]).sum(1).argmin())
    if path[order[len(path) // 4], 0] > path[order[-(len(path) // 4)], 0]:
        order = np.roll(order[::-1], 1)
    length = np.linalg.norm(path[np.roll(order, -1)] - path[order], axis=1)
    share = np.empty(len(path))
    share[order] = np.concatenate([[0], np.cumsum(length)[:-1]]) / length.sum()
    return share


def _unfolded(uv: np.ndarray, points: np.ndarray, faces: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The map with its free vertices moved until each triangle has at least `LEAST` of its share of the band's area."""
    size, corners, moved = mesh.areas(points, faces), torch.from_numpy(faces), torch.from_numpy(free)
    goal = torch.from_numpy(size / size.sum() * areas(uv, faces).sum())
    start = torch.from_numpy(uv)
    place = start[moved].clone().requires_grad_()
    optimizer = torch.optim.LBFGS([place], max_iter=2000, history_size=30, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = (LEAST - areas(start.index_put((moved,), place), corners) / goal).relu().square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    found = start.index_put((moved,), place.detach()).numpy()
    if (folded := int((areas(found, faces) <= 0).sum())) > 0:
        raise ValueError(f"{folded} triangles of the texture map stay folded")
    return found


def _mean_value_weights(points: np.ndarray, faces: np.ndarray) -> csr_matrix:
    """(V, V), rows summing to 1: w_ij = (tan(a/2) + tan(b/2)) / |e_ij|, a and b the angles beside the edge."""
    rows, columns, values = [], [], []
    for corner in range(3):
        i, j, k = faces[:, corner], faces[:, (corner + 1) % 3], faces[:, (corner + 2) % 3]
        e, f = points[j] - points[i], points[k] - points[i]
        le, lf = np.linalg.norm(e, axis=1), np.linalg.norm(f, axis=1)
        cosine = ((e * f).sum(1) / (le * lf)).clip(-1 + 1e-9, 1 - 1e-9)
        half = np.sqrt((1 - cosine) / (1 + cosine))
        rows += [i, i]
        columns += [j, k]
        values += [half / le, half / lf]
    size = (len(points), len(points))
    weights = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), size).tocsr()
    return diags(1 / np.maximum(np.asarray(weights.sum(1)).ravel(), 1e-12)) @ weights
