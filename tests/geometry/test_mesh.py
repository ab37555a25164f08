"""Normals, areas, edges and borders of meshes that one can check by hand."""

import numpy as np

from mlanet_lib.geometry import mesh

SQUARE = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], float)
HALVES = np.array([[0, 1, 2], [0, 2, 3]])


def test_normals_and_areas_of_a_square():
    assert mesh.crossed(SQUARE, HALVES).tolist() == [[0, 0, 4]] * 2 and mesh.areas(SQUARE, HALVES).tolist() == [2, 2]
    assert mesh.face_normals(SQUARE, HALVES[:, ::-1]).tolist() == [[0, 0, -1]] * 2
    assert mesh.vertex_normals(SQUARE, HALVES).tolist() == [[0, 0, 1]] * 4
    assert mesh.face_normals(SQUARE, np.array([[0, 1, 1]])).tolist() == [[0, 0, 0]]  # no area


def test_normals_of_vertices_are_weighted_by_area():
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 3, 0], [0, 0, 1]], float)
    normals = mesh.vertex_normals(points, np.array([[0, 1, 2], [0, 3, 1]]))
    assert np.allclose(normals[0], np.array([0, 1, 3]) / np.sqrt(10))


def test_edges_once_and_in_order():
    assert mesh.edges(HALVES).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]]
