"""The mesh of the anthropometric model: where its vertices sit on the chart, and the triangles between them.

The skin is a Delaunay triangulation of the sphere (its convex hull), refined until every edge is as short in mm as its
place asks for: finest at eyes, lips and nose. Holes are left at eyes, mouth and neck. It is symmetric exactly.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, cKDTree

from mlanet_lib.face_models.chart import MIRROR
from mlanet_lib.face_models.semilandmarks import Semilandmarks

PASSES, RELAXATIONS = 16, 6
NECK_AXIS, NECK_ANGLE = np.array([0.0, -0.97, 0.2431]), 0.42  # the neck ends on this circle of the chart (radians)


@dataclass(frozen=True)
class Skin:
    """`chart (N,3)`, `faces (F,3)` counter-clockwise from outside, `twin (N,)` mirror image of each vertex, `rings`:
    boundary of eyes ("left", "right") and "mouth" as closed chains of vertices, `labels`: name -> vertex (left)."""

    chart: np.ndarray
    faces: np.ndarray
    twin: np.ndarray
    rings: dict[str, np.ndarray]
    labels: dict[str, int]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis, scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def inside(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """(N,) whether points of the sphere lie within a small closed chain (K,3) on it (crossing number)."""
    centre = unit(ring.mean(0))
    across = unit(np.cross([0.0, 1.0, 0.0], centre))
    axes = np.stack([across, np.cross(centre, across)], 1)
    ahead = points @ centre > 0.2
    p = (points @ axes) / np.where(ahead, points @ centre, 1.0)[:, None]
    a = (ring @ axes) / (ring @ centre)[:, None]
    b = np.roll(a, -1, 0)
    crosses = (a[:, 1] > p[:, None, 1]) != (b[:, 1] > p[:, None, 1])
    rise = np.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
    x = a[:, 0] + (p[:, None, 1] - a[:, 1]) / rise * (b[:, 0] - a[:, 0])
    return ahead & ((crosses & (p[:, None, 0] < x)).sum(1) % 2 == 1)


def hull(half: np.ndarray) -> np.ndarray:
    """(F,3) outward triangles over the half sphere x >= 0; indices into `half`."""
    side = np.flatnonzero(half[:, 0] > 0)
    points = np.concatenate([half, half[side] * MIRROR])
    triangles = ConvexHull(points).simplices
    triangles = triangles[(triangles < len(half)).all(1)]
    a, b, c = points[triangles].transpose(1, 0, 2)
    outward = (np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0
    triangles = np.where(outward[:, None], triangles, triangles[:, ::-1])
    start = triangles.argmin(1)[:, None]
    return np.unique(np.take_along_axis(triangles, (start + np.arange(3)) % 3, 1), axis=0)


def edge_list(triangles: np.ndarray) -> np.ndarray:
    """(E,2) each edge once."""
    return np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1), axis=0
    )


class _SizeField:
    """Wanted edge length in mm at a place (N,3) mm of the mean head."""

    def __init__(self, table: Semilandmarks):
        at = table.mean
        named = {name: at[row] for name, row in table.labels.items()}

        def group(*numbers):
            return np.array([named[f"lm{k}"] for k in numbers])

        brow = group(22, 23, 24, 25, 26)
        self.sources = [
            (cKDTree(np.concatenate([at[table.chain("lid")], group(42, 43, 44, 45, 46, 47)])), 1.1, 0.11),
            (cKDTree(group(51, 52, 53, 54, 55, 56, 57, 62, 63, 64, 65, 66)), 1.5, 0.11),
            (cKDTree(np.concatenate([group(30, 33, 34, 35), [named["al"]]])), 1.8, 0.09),
            (cKDTree(np.concatenate([brow, brow - [0.0, 3.0, 0.0]])), 1.8, 0.12),
            (cKDTree([named["ear_t"], named["ear_o"], named["ear_b"], [82.0, 30.0, 20.0]]), 3.4, 0.1),
        ]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        folded = np.abs(points * [1, 0, 0]) + points * [0, 1, 1]
        front = np.clip((points[:, 2] - 10) / 65, 0, 1)
        cap = 10.5 - 6.7 * front + np.clip((-95 - points[:, 1]) / 8, 0, 3)
        lengths = [start + slope * tree.query(folded)[0] for tree, start, slope in self.sources]
        return np.minimum(np.min(lengths, axis=0), cap)


def build_skin(table: Semilandmarks) -> Skin:
    """The skin's mesh, the same for the same table."""
    lid = table.chart[table.chain("lid")]
    mouth = table.chart[table.chain("mouth")]
    size_field = _SizeField(table)
    names = [name for name in table.labels if not name.startswith(("lid", "mouth"))]
    bearing = unit(NECK_AXIS)
    east = np.array([1.0, 0.0, 0.0])
    angle = np.linspace(0, np.pi, 31)[:, None]
    forward = np.cross(east, bearing)
    neck = np.cos(NECK_ANGLE) * bearing + np.sin(NECK_ANGLE) * (np.sin(angle) * east + np.cos(angle) * forward)
    neck[[0, -1], 0] = 0
    named = table.chart[[table.labels[name] for name in names]]
    fixed = [lid, mouth, neck, named]
    points, first = np.unique(np.concatenate(fixed).round(9), axis=0, return_index=True)
    points = np.concatenate(fixed)[np.sort(first)]
    position = {tuple(p): i for i, p in enumerate(points.round(9))}
    where = [np.array([position[tuple(p)] for p in part.round(9)]) for part in fixed]
    n_fixed = len(points)

    golden = np.pi * (3 - np.sqrt(5))
    k = np.arange(300)
    height = 1 - 2 * (k + 0.5) / len(k)
    radius = np.sqrt(1 - height**2)
    seeds = np.stack([radius * np.cos(golden * k), height, radius * np.sin(golden * k)], 1)
    arc = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    midline = np.stack([0 * arc, np.cos(arc), np.sin(arc)], 1)
    seeds = np.concatenate([seeds[seeds[:, 0] > 0.06], midline])
    mouth_ring = np.concatenate([mouth, mouth[-2:0:-1] * MIRROR])

    def allowed(candidates):
        return ~(inside(candidates, lid) | inside(candidates, mouth_ring) | (candidates @ bearing > np.cos(NECK_ANGLE)))

    rims = [np.concatenate([where[0], where[0][:1]]), where[1], where[2]]
    rim_edges = np.concatenate([np.stack([r[:-1], r[1:]], 1) for r in rims])
    middle = unit(points[rim_edges].mean(1))
    reach = np.linalg.norm(points[rim_edges[:, 0]] - points[rim_edges[:, 1]], axis=1)
    rim_tree = cKDTree(middle)

    def clear_of_rims(candidates):
        distance, nearest = rim_tree.query(candidates)
        return distance > 0.62 * reach[nearest]

    seeds = seeds[allowed(seeds) & clear_of_rims(seeds)]
    seeds = seeds[cKDTree(points).query(seeds)[0] > 0.03]
    points = np.concatenate([points, seeds])
    is_rim = np.zeros(len(points), bool)
    is_rim[np.concatenate(where[:3])] = True

    for _ in range(PASSES):
        place = table.mean_surface(points)
        edges = np.unique(np.concatenate([edge_list(hull(points)), _midline(points)]), axis=0)
        edges = edges[~(is_rim[edges].all(1))]
        wanted = size_field(place)
        a, b = edges.T
        ratio = np.linalg.norm(place[a] - place[b], axis=1) / np.minimum(wanted[a], wanted[b])
        order = np.argsort(-ratio.round(6), kind="stable")  # no tie may hang on the last bit
        order = order[ratio[order] > 1.38]
        fresh = unit(points[a[order]] + points[b[order]])
        span = np.linalg.norm(points[a[order]] - points[b[order]], axis=1)
        fresh[(points[a[order], 0] == 0) & (points[b[order], 0] == 0), 0] = 0
        good = allowed(fresh) & clear_of_rims(fresh) & ((fresh[:, 0] == 0) | (fresh[:, 0] > 0.32 * span))
        fresh, span = fresh[good], span[good]
        keep = _thin(fresh, 0.62 * span)
        keep &= cKDTree(points).query(fresh)[0] > 0.33 * span
        if not keep.any():
            break
        points = np.concatenate([points, fresh[keep]])
        is_rim = np.concatenate([is_rim, np.zeros(keep.sum(), bool)])
    for _ in range(RELAXATIONS):
        points = _relax(points, n_fixed, table, size_field, allowed, clear_of_rims)

    for _ in range(PASSES):
        edges = _midline(points)
        present = set(map(tuple, edge_list(hull(points)).tolist()))
        gaps = [edge for edge in edges.tolist() if tuple(edge) not in present and not is_rim[edge].all()]
        if not gaps:
            break
        fresh = unit(points[np.array(gaps)].mean(1))
        points = np.concatenate([points, fresh])
        is_rim = np.concatenate([is_rim, np.zeros(len(fresh), bool)])
    triangles = hull(points)
    centre = unit(points[triangles].mean(1))
    triangles = triangles[allowed(centre) | ~is_rim[triangles].all(1)]
    labels = {name: int(i) for name, i in zip(names, where[3], strict=True)}
    return _join_halves(points, triangles, labels, where)


def _midline(points: np.ndarray) -> np.ndarray:
    """(E,2) edges between neighbours on the circle x = 0."""
    middle = np.flatnonzero(points[:, 0] == 0)
    chain = middle[np.argsort(np.arctan2(points[middle, 1], points[middle, 2]), kind="stable")]
    return np.sort(np.stack([chain, np.roll(chain, -1)], 1), 1)


def _thin(points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """(N,) which of the points to keep, taken in order, so that none lies within another's radius."""
    keep = np.ones(len(points), bool)
    if len(points):
        neighbours = cKDTree(points).query_ball_point(points, radius)
        for i, near in enumerate(neighbours):
            if keep[i]:
                keep[[j for j in near if j > i]] = False
    return keep


def _relax(points, n_fixed, table, size_field, allowed, clear_of_rims):
    """One step of spring relaxation; fixed points and the midline's plane stay."""
    place = table.mean_surface(points)
    wanted = size_field(place)
    side = np.flatnonzero(points[:, 0] > 0)
    whole = np.concatenate([points, points[side] * MIRROR])
    source = np.concatenate([np.arange(len(points)), side])
    edges = edge_list(ConvexHull(whole).simplices)
    edges = edges[(edges < len(points)).any(1)]
    a, b = np.concatenate([edges, edges[:, ::-1]]).T
    whole_place = np.concatenate([place, place[side] * MIRROR])
    length = np.linalg.norm(whole_place[a] - whole_place[b], axis=1)
    weight = (length / (wanted[source[a]] + wanted[source[b]])) ** 2 + 0.05
    own = a < len(points)
    total = np.bincount(a[own], weight[own], len(points))
    target = np.stack([np.bincount(a[own], weight[own] * whole[b[own], k], len(points)) for k in range(3)], 1)
    target = target / total[:, None]
    target[points[:, 0] == 0, 0] = 0
    moved = unit(points + 0.5 * (target - points))
    bad = ~(allowed(moved) & clear_of_rims(moved))
    bad |= (points[:, 0] > 0) & (moved[:, 0] < 0.8 * points[:, 0])
    bad[:n_fixed] = True
    return np.where(bad[:, None], points, moved)


def _join_halves(points, triangles, labels, where) -> Skin:
    """Left half and its mirror image as one mesh, unused points dropped."""
    used = np.unique(triangles)
    renumber = np.full(len(points), -1)
    renumber[used] = np.arange(len(used))
    points, triangles = points[used], renumber[triangles]
    n = len(points)
    twin = np.arange(n)
    side = np.flatnonzero(points[:, 0] > 0)
    twin[side] = n + np.arange(len(side))
    twin = np.concatenate([twin, side])
    faces = np.concatenate([triangles, twin[triangles][:, ::-1]])
    lid, mouth = renumber[where[0]], renumber[where[1]]
    rings = {"left": lid, "right": twin[lid][::-1], "mouth": np.concatenate([mouth, twin[mouth[-2:0:-1]]])}
    labels = {name: int(renumber[i]) for name, i in labels.items()}
    return Skin(np.concatenate([points, points[side] * MIRROR]), faces, twin, rings, labels)
