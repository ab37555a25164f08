"""Exact closest points on a triangle mesh.

A tree of axis-aligned boxes over the triangles (numba) gives every query its true nearest point on the surface, not the
nearest vertex, and not the nearest plane: interior of a triangle, edge or corner.
"""

from typing import NamedTuple

import numpy as np

from mlanet_lib.geometry.compiled import compiled
from mlanet_lib.geometry.mesh import face_normals

_LEAF = 4
Point = tuple[float, float, float]


class Closest(NamedTuple):
    """Nearest points of a surface, one for each of N queries.

    points: (N, 3); distances: (N,), in the mesh's unit; face_index: (N,) int64; barycentric: (N, 3), exact zeros on
    edges and corners.
    """

    points: np.ndarray
    distances: np.ndarray
    face_index: np.ndarray
    barycentric: np.ndarray


class Surface:
    """A triangle mesh that answers closest-point queries. vertices: (V, 3); faces: (F, 3) indices.

    A mesh without faces, with indices out of range or with vertices that are not finite is a ValueError. Degenerate
    triangles count as the segments or points they are.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices = np.ascontiguousarray(vertices, np.float64)
        self.faces = np.ascontiguousarray(faces, np.int64)
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3 or not np.isfinite(self.vertices).all():
            raise ValueError("vertices are (V, 3) and finite")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or len(self.faces) == 0:
            raise ValueError("faces are (F, 3), at least one")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise ValueError("a face names a vertex that does not exist")
        boxes, children, order = _build(self.vertices[self.faces])
        # triangles in the tree's order: neighbours in space are neighbours in memory
        self._tree = (self.vertices[self.faces[order]], boxes, children, order)
        self._border: tuple[np.ndarray, np.ndarray] | None = None

    def closest(self, points: np.ndarray) -> Closest:
        """The nearest point of the surface for each of (N, 3) points. Points that are not finite are a ValueError."""
        points = np.ascontiguousarray(points, np.float64)
        if not np.isfinite(points).all():
            raise ValueError("query points must be finite")
        return Closest(*_query(points, *self._tree))

    def normals(self, face_index: np.ndarray) -> np.ndarray:
        """(N, 3) unit normals of faces, zero where a face has no area."""
        return face_normals(self.vertices, self.faces[face_index])

    def on_border(self, closest: Closest) -> np.ndarray:
        """(N,) bool: the nearest point lies on the rim of an open mesh, so that the query may have no partner there.

        Vertices at the same place count as one (an OBJ's texture seam is not a rim).
        """
        if self._border is None:
            self._border = _border(self.vertices, self.faces)
        edge, vertex = self._border
        zero = closest.barycentric == 0
        opposite = zero & edge[closest.face_index]
        corner = (~zero) & vertex[closest.face_index]
        count = zero.sum(1)
        return ((count == 1) & opposite.any(1)) | ((count == 2) & corner.any(1))


def _border(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F, 3) bool twice: the edge opposite to this corner, and the corner itself, lie on the rim."""
    order = np.lexsort(vertices.T)
    new = np.ones(len(order), np.int64)
    new[1:] = (vertices[order[1:]] != vertices[order[:-1]]).any(1)
    welded = np.empty(len(order), np.int64)
    welded[order] = np.cumsum(new) - 1
    corners = welded[faces]
    edges = np.sort(np.stack([corners[:, [1, 2]], corners[:, [2, 0]], corners[:, [0, 1]]], 1), -1)
    _, index, count = np.unique(edges[..., 0] * len(order) + edges[..., 1], return_inverse=True, return_counts=True)
    edge = count[index.reshape(-1, 3)] == 1
    on_rim = np.zeros(len(order), bool)
    on_rim[edges[edge].reshape(-1)] = True
    return edge, on_rim[corners]


@compiled
def _build(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median-split tree: boxes (2F, 6), children (2F, 2) (leaf: -first - 1, count), order (F,)."""
    count = len(triangles)
    centres = (triangles[:, 0] + triangles[:, 1] + triangles[:, 2]) / 3
    order = np.arange(count)
    boxes = np.empty((2 * count, 6))
    children = np.empty((2 * count, 2), np.int64)
    stack = [(0, 0, count)]
    nodes = 1
    while len(stack) > 0:
        node, first, last = stack.pop()
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        centre_low, centre_high = np.full(3, np.inf), np.full(3, -np.inf)
        for i in order[first:last]:
            for axis in range(3):
                for corner in range(3):
                    low[axis] = min(low[axis], triangles[i, corner, axis])
                    high[axis] = max(high[axis], triangles[i, corner, axis])
                centre_low[axis] = min(centre_low[axis], centres[i, axis])
                centre_high[axis] = max(centre_high[axis], centres[i, axis])
        boxes[node, :3], boxes[node, 3:] = low, high
        if last - first <= _LEAF:
            children[node] = (-first - 1, last - first)
            continue
        widest = np.argmax(centre_high - centre_low)
        part = order[first:last]
        order[first:last] = part[np.argsort(centres[part, widest], kind="mergesort")]
        middle = (first + last) // 2
        children[node] = (nodes, nodes + 1)
        stack.append((nodes, first, middle))
        stack.append((nodes + 1, middle, last))
        nodes += 2
    return boxes[:nodes], children[:nodes], order


@compiled
def _box_distance(point: np.ndarray, box: np.ndarray) -> float:
    """Squared distance of a point to a box, zero inside."""
    total = 0.0
    for axis in range(3):
        outside = max(box[axis] - point[axis], point[axis] - box[axis + 3], 0.0)
        total += outside * outside
    return total


@compiled
def _segment(p: Point, a: Point, b: Point) -> tuple[float, float]:
    """Parameter in [0, 1] of the point of the segment a-b nearest to p, and the squared distance."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    wx, wy, wz = p[0] - a[0], p[1] - a[1], p[2] - a[2]
    length = ux * ux + uy * uy + uz * uz
    along = min(max((wx * ux + wy * uy + wz * uz) / length, 0.0), 1.0) if length > 0 else 0.0
    gx, gy, gz = wx - along * ux, wy - along * uy, wz - along * uz
    return along, gx * gx + gy * gy + gz * gz


@compiled
def _on_triangle(point: np.ndarray, triangle: np.ndarray) -> tuple[float, float, float, float]:
    """Squared distance and barycentrics of the point of `triangle` nearest to `point`; scalars, for speed."""
    p = (point[0], point[1], point[2])
    a = (triangle[0, 0], triangle[0, 1], triangle[0, 2])
    b = (triangle[1, 0], triangle[1, 1], triangle[1, 2])
    c = (triangle[2, 0], triangle[2, 1], triangle[2, 2])
    ux, uy, uz, vx, vy, vz = b[0] - a[0], b[1] - a[1], b[2] - a[2], c[0] - a[0], c[1] - a[1], c[2] - a[2]
    wx, wy, wz = p[0] - a[0], p[1] - a[1], p[2] - a[2]
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    determinant = uu * vv - uv * uv
    if determinant > 1e-14 * uu * vv:
        wu, wv = wx * ux + wy * uy + wz * uz, wx * vx + wy * vy + wz * vz
        s, t = (vv * wu - uv * wv) / determinant, (uu * wv - uv * wu) / determinant
        if s > 0 and t > 0 and s + t < 1:
            gx, gy, gz = wx - s * ux - t * vx, wy - s * uy - t * vy, wz - s * uz - t * vz
            return gx * gx + gy * gy + gz * gz, 1 - s - t, s, t
    along, best = _segment(p, a, b)
    i, j, k = 1 - along, along, 0.0
    along, distance = _segment(p, b, c)
    if distance < best:
        best, i, j, k = distance, 0.0, 1 - along, along
    along, distance = _segment(p, c, a)
    if distance < best:
        best, i, j, k = distance, along, 0.0, 1 - along
    return best, i, j, k


@compiled
def _query(
    points: np.ndarray, triangles: np.ndarray, boxes: np.ndarray, children: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Branch and bound, nearer child first."""
    count = len(points)
    nearest, distances = np.empty((count, 3)), np.empty(count)
    face_index, barycentric = np.empty(count, np.int64), np.empty((count, 3))
    stack_node, stack_bound = np.empty(128, np.int64), np.empty(128)
    for q in range(count):
        p, best, top, found = points[q], np.inf, 1, 0
        stack_node[0], stack_bound[0] = 0, 0.0
        while top > 0:
            top -= 1
            if stack_bound[top] >= best:
                continue
            node = stack_node[top]
            left, right = children[node, 0], children[node, 1]
            if left < 0:
                for k in range(-left - 1, -left - 1 + right):
                    distance, a, b, c = _on_triangle(p, triangles[k])
                    if distance < best:
                        best, found = distance, k
                        barycentric[q, 0], barycentric[q, 1], barycentric[q, 2] = a, b, c
                continue
            near, far = _box_distance(p, boxes[left]), _box_distance(p, boxes[right])
            if near > far:
                left, right, near, far = right, left, far, near
            stack_node[top], stack_bound[top] = right, far
            stack_node[top + 1], stack_bound[top + 1] = left, near
            top += 2
        distances[q] = np.sqrt(best)
        face_index[q], triangle = order[found], triangles[found]
        for axis in range(3):
            nearest[q, axis] = (
                barycentric[q, 0] * triangle[0, axis]
                + barycentric[q, 1] * triangle[1, axis]
                + barycentric[q, 2] * triangle[2, axis]
            )
    return nearest, distances, face_index, barycentric
