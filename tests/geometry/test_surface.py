"""Closest points on meshes, against brute force by another method."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from mlanet_lib.evaluation.scan_metrics import surface_distances
from mlanet_lib.geometry.alignment import Similarity
from mlanet_lib.geometry.surface import Surface


def grid_mesh(n=9, warp=0.3):
    """An open, bent sheet of n x n vertices over [-1, 1]^2."""
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n))
    vertices = np.stack([x, y, warp * (x**2 - y**3)], -1).reshape(-1, 3)
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = (part.reshape(-1) for part in (i[:-1, :-1], i[:-1, 1:], i[1:, :-1], i[1:, 1:]))
    return vertices, np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def brute_force(points, vertices, faces):
    """Distance to the nearest triangle: plane projection where it falls inside, else the nearest edge point."""
    best = np.full(len(points), np.inf)
    for a, b, c in vertices[faces]:
        candidates = []
        for p, q in ((a, b), (b, c), (c, a)):
            length = ((q - p) ** 2).sum()
            along = np.clip((points - p) @ (q - p) / length, 0, 1) if length else np.zeros(len(points))
            candidates.append(np.linalg.norm(points - p - along[:, None] * (q - p), axis=1))
        normal = np.cross(b - a, c - a)
        if np.linalg.norm(normal) > 1e-12:
            normal = normal / np.linalg.norm(normal)
            height = (points - a) @ normal
            foot = points - height[:, None] * normal
            inside = np.ones(len(points), bool)
            for p, q in ((a, b), (b, c), (c, a)):
                inside &= np.cross(q - p, foot - p) @ normal >= 0
            candidates.append(np.where(inside, np.abs(height), np.inf))
        best = np.minimum(best, np.min(candidates, 0))
    return best


@pytest.mark.parametrize("kind", ["sheet", "soup", "slivers"])
def test_against_brute_force(kind):
    rng = np.random.default_rng(0)
    if kind == "sheet":
        vertices, faces = grid_mesh()
    elif kind == "soup":
        vertices, faces = rng.normal(size=(60, 3)), rng.integers(0, 60, (80, 3))
    else:
        vertices = rng.normal(size=(90, 3)) * [100, 1, 1e-3]
        faces = np.arange(90).reshape(-1, 3)
        faces[:3] = [[0, 0, 0], [1, 1, 2], [3, 4, 3]]
    points = np.concatenate([rng.normal(size=(300, 3)) * 1.5, vertices, vertices[faces].mean(1)])
    closest = Surface(vertices, faces).closest(points)
    assert np.abs(closest.distances - brute_force(points, vertices, faces)).max() < 1e-8
    assert np.allclose(np.linalg.norm(points - closest.points, axis=1), closest.distances, atol=1e-8)
    rebuilt = (closest.barycentric[..., None] * vertices[faces[closest.face_index]]).sum(1)
    assert np.allclose(rebuilt, closest.points, atol=1e-12)
    assert closest.barycentric.min() >= 0 and np.allclose(closest.barycentric.sum(1), 1)


def test_against_a_minimiser():
    """One triangle, by constrained optimisation: nothing shared with the code."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        triangle, point = rng.normal(size=(3, 3)), rng.normal(size=3) * 2

        def distance(w, triangle=triangle, point=point):
            return ((w @ triangle - point) ** 2).sum()

        constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
        options = {"ftol": 1e-14, "maxiter": 300}
        best = minimize(distance, np.full(3, 1 / 3), bounds=[(0, 1)] * 3, constraints=constraint, options=options)
        closest = Surface(triangle, [[0, 1, 2]]).closest(point[None])
        assert abs(closest.distances[0] - np.sqrt(best.fun)) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_point_to_plane_distances_of_a_moved_mesh_against_brute_force(seed):
    """What the Florence metrics measure: scan points to the mesh under a similarity, all pairs, in the scan's unit."""
    rng = np.random.default_rng(seed)
    vertices, faces = grid_mesh(13)
    move = Similarity(np.asarray(rng.uniform(20, 90)), Rotation.random(rng=rng).as_matrix(), rng.normal(size=3) * 50)
    moved = move.apply(vertices)
    points = moved[rng.integers(0, len(moved), 500)] + rng.normal(size=(500, 3)) * 15
    distances, border = surface_distances(Surface(vertices, faces), move, points)
    assert np.abs(distances - brute_force(points, moved, faces)).max() < 1e-9
    assert 0 < border.sum() < len(points)
    # inside a face the distance is the one to its plane
    closest = Surface(moved, faces).closest(points)
    inside = (closest.barycentric > 1e-9).all(1)
    normals = Surface(moved, faces).normals(closest.face_index)
    height = np.abs(((points - moved[faces[closest.face_index, 0]]) * normals).sum(1))
    assert inside.sum() > 50 and np.allclose(distances[inside], height[inside], atol=1e-9)
    assert (distances >= height - 1e-9).all()


def test_border_of_an_open_sheet():
    vertices, faces = grid_mesh(warp=0.0)
    surface = Surface(vertices, faces)
    inside = np.array([[0.1, 0.2, 0.5], [0.0, 0.0, 1.0], [-0.9, 0.9, -0.3]])
    beyond = np.array([[1.5, 0.3, 0.0], [-1.1, -1.2, 0.4], [0.0, 1.01, 2.0]])
    assert not surface.on_border(surface.closest(inside)).any()
    assert surface.on_border(surface.closest(beyond)).all()


def test_a_seam_is_not_a_border():
    vertices, faces = grid_mesh(warp=0.0)
    split = vertices[faces].reshape(-1, 3)
    surface = Surface(split, np.arange(len(split)).reshape(-1, 3))
    assert not surface.on_border(surface.closest(np.array([[0.0, 0.0, 1.0], [0.13, 0.13, 0.1]]))).any()
    assert surface.on_border(surface.closest(np.array([[2.0, 0.0, 0.0]]))).all()


def test_bad_meshes():
    vertices, faces = grid_mesh()
    for bad_vertices, bad_faces in ((vertices * np.nan, faces), (vertices, faces[:0]), (vertices, faces + 1)):
        with pytest.raises(ValueError):
            Surface(bad_vertices, bad_faces)
    with pytest.raises(ValueError, match="finite"):
        Surface(vertices, faces).closest(np.array([[np.nan, 0, 0]]))
