"""Meshes to turn: the shape is kept, the figure is light."""

import numpy as np

from mlanet_lib.show import viewer


def test_viewer_is_light_and_keeps_the_shape(toy_model):
    vertices, faces = toy_model.mean.numpy(), toy_model.faces.numpy()
    figure = viewer.mesh_figure(vertices, faces, toy_model.albedo_mean.numpy())
    trace = figure.data[0]
    assert np.allclose(np.stack([trace.x, trace.z, -np.asarray(trace.y)], 1), vertices, atol=1e-4)
    assert len(trace.i) == len(faces) and trace.vertexcolor[0] == "#999999"
    assert len(figure.to_json()) < 100_000


def test_names_are_plain_text(toy_model):
    """Plotly takes tags and entities in a label for its own: those of a name are not."""
    vertices, faces = toy_model.mean.numpy(), toy_model.faces.numpy()
    name, shown = "<a href='x'>me</a> &amp; $y$", "&lt;a href='x'&gt;me&lt;/a&gt; &amp;amp; $y$"
    chosen = viewer.choose_figure({name: (vertices, vertices * 0)}, faces)
    assert chosen.layout.updatemenus[0].buttons[0].label == shown


def test_decimation_stays_near_the_surface(toy_model):
    vertices, faces = toy_model.mean.numpy().astype(float), toy_model.faces.numpy()
    fewer, triangles, colours = viewer.decimate(vertices, faces, vertices, 200)
    assert 60 < len(triangles) <= 200 and triangles.max() < len(fewer) == len(colours)
    assert np.allclose(fewer, colours)
    distance = np.linalg.norm(fewer[:, None] - vertices[None], axis=-1).min(1)
    assert distance.max() < 15 and np.abs(np.ptp(fewer, axis=0) / np.ptp(vertices, axis=0) - 1).max() < 0.2
    assert viewer.decimate(vertices, faces, vertices, 10_000)[1] is faces


def test_one_face_of_many_by_a_menu(toy_model, monkeypatch):
    vertices, faces = toy_model.mean.numpy(), toy_model.faces.numpy()
    colours = np.full_like(vertices, 0.5)
    meshes = {"a": (vertices, colours), "b": (2 * vertices, colours * 0)}
    figure = viewer.choose_figure(meshes, faces)
    (trace,), (a, b) = figure.data, figure.layout.updatemenus[0].buttons
    assert (a.label, b.label) == ("a", "b") and len(trace.i) == len(faces)
    assert np.allclose(trace.x, vertices[:, 0], atol=0.051) and trace.vertexcolor[0] == "#808080"
    assert np.allclose(b.args[0]["z"][0], 2 * vertices[:, 1], atol=0.11)
    assert np.allclose(a.args[0]["y"][0], trace.y, atol=1e-3) and set(b.args[0]["vertexcolor"][0]) == {"#000000"}
    monkeypatch.setattr(viewer, "MOST_TOGETHER", 400)
    fewer = viewer.choose_figure(meshes, faces)
    chosen = fewer.layout.updatemenus[0].buttons[1].args[0]
    assert len(fewer.data[0].i) <= 200 and np.allclose(chosen["x"][0], 2 * np.asarray(fewer.data[0].x), atol=0.11)
