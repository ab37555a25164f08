"""Meshes to turn: the shape is kept, the figure is light."""

import numpy as np

from mlanet_lib import viewer


def test_viewer_is_light_and_keeps_the_shape(toy_model):
    vertices, faces = toy_model.mean.numpy(), toy_model.faces.numpy()
    figure = viewer.mesh_figure(vertices, faces, toy_model.albedo_mean.numpy())
    trace = figure.data[0]
    assert np.allclose(np.stack([trace.x, trace.z, -np.asarray(trace.y)], 1), vertices, atol=1e-4)
    assert len(trace.i) == len(faces) and trace.vertexcolor[0] == "#999999"
    assert len(figure.to_json()) < 100_000
    pair = viewer.compare_figure({"a": (vertices, None), "b": (vertices, None)}, faces)
    assert len(pair.data) == 2


def test_decimation_stays_near_the_surface(toy_model):
    vertices, faces = toy_model.mean.numpy().astype(float), toy_model.faces.numpy()
    fewer, triangles, colours = viewer.decimate(vertices, faces, vertices, 200)
    assert 60 < len(triangles) <= 200 and triangles.max() < len(fewer) == len(colours)
    assert np.allclose(fewer, colours)
    distance = np.linalg.norm(fewer[:, None] - vertices[None], axis=-1).min(1)
    assert distance.max() < 15 and np.abs(np.ptp(fewer, axis=0) / np.ptp(vertices, axis=0) - 1).max() < 0.2
    assert viewer.decimate(vertices, faces, vertices, 10_000)[1] is faces
