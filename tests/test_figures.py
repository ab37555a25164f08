"""Figures and pictures: they show what they are given, in the right place, and stay light."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mlanet_lib import charts, figures, viewer, views
from mlanet_lib.camera import euler_to_matrix
from mlanet_lib.datasets.sample import Box
from mlanet_lib.parameters import FaceParameters


@pytest.fixture
def face(toy_model):
    return FaceParameters.neutral(toy_model, 1)


def size(figure, kind="png"):
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return len(stream.getvalue())


def test_every_chart_draws_and_is_closed():
    bins = {"bin_0_30": 3.0, "bin_30_60": 4.0, "bin_60_90": 6.0, "balanced_mean": 13 / 3, "image_mean": 3.5}
    curves = {"step": [10, 20, 30], "total": [3.0, 2.0, 1.0], "vertices": [2.0, 1.0, 0.5], "lr": [1, 1, 1]}
    curves["val_nme"] = [9.0, 5.0, 6.0]
    made = [
        charts.yaw_bars({"a": bins, "b": bins}, {"a": {key: (v - 0.1, v + 0.2) for key, v in bins.items()}}),
        charts.cumulative_error({"a": np.array([1.0, 2.0, 30.0])}),
        charts.training_curves(curves),
        charts.forest([{"name": "x", "difference": 1.0, "low": 0.5, "high": 1.5}]),
        charts.level_weights({"identity": [0.25] * 4, "pose": [0.1, 0.2, 0.3, 0.4]}),
    ]
    for figure in made:
        assert size(figure) > 3000 and size(figure, "svg") < 300_000
    assert plt.get_fignums() == []


def test_yaw_bars_have_the_heights_and_whiskers_they_are_given():
    values = {"bin_0_30": 3.0, "bin_30_60": 4.0, "bin_60_90": 6.5, "balanced_mean": 4.5}
    axis = charts.yaw_bars({"a": values}, {"a": {"bin_0_30": (2.5, 3.75)}}).axes[0]
    assert [bar.get_height() for bar in axis.patches[:4]] == [3.0, 4.0, 6.5, 4.5]
    segment = axis.collections[0].get_segments()[0]
    assert segment[:, 1].tolist() == [2.5, 3.75]
    assert {"3.00", "6.50"} <= {text.get_text() for text in axis.texts}


def test_training_curves_mark_the_lowest_validation_and_join_what_comes_apart():
    curves = {"step": [1, 2, 3], "total": [3.0, 2.0, 1.0]}
    for figure in (
        charts.training_curves(curves | {"val_nme": [9.0, 5.25, 6.0]}),
        charts.training_curves(curves, validation={"step": [1, 2, 3], "val_nme": [9.0, 5.25, 6.0]}),
    ):
        assert len(figure.axes) == 2
        assert [text.get_text() for text in figure.axes[1].texts] == ["5.25"]


def test_forest_says_not_distinguishable_where_the_interval_holds_zero():
    rows = [
        {"name": "worse", "difference": 1.0, "low": 0.5, "high": 1.5},
        {"name": "unclear", "difference": 0.1, "low": -0.5, "high": 0.7},
    ]
    texts = [text.get_text() for text in charts.forest(rows).axes[0].texts]
    assert texts == ["+1.00 [+0.50, +1.50]", "not distinguishable"]


def test_cumulative_error_counts_images():
    axis = charts.cumulative_error({"a": np.array([1.0, 2.0, 3.0, 20.0])}, limit=10).axes[0]
    x, y = axis.lines[0].get_data()
    assert y[np.searchsorted(x, 2.5) - 1] == 50
    assert axis.lines[0].get_label() == "a: 75 % within 10"


def test_grid_and_sheet_place_every_picture():
    red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    grid = figures.image_grid([[red, blue], [blue]], ["left", "right"], ["one", "two"], "title")
    shown = [axis.images[0].get_array()[0, 0].tolist() for axis in grid.axes if axis.images]
    assert shown == [[255, 0, 0], [0, 0, 255], [0, 0, 255]]
    assert grid.axes[0].get_title(loc="center") == "left" and grid.axes[2].get_ylabel() == "two"
    assert sum(bool(axis.images) for axis in figures.sample_sheet([red] * 11, 4).axes) == 11


def test_attention_and_landmarks_figures():
    image = np.full((32, 32, 3), 120, np.uint8)
    figure = figures.attention_levels([image], [[np.eye(8), np.eye(4)]], [1, 4])
    assert [axis.get_title(loc="center") for axis in figure.axes[:3]] == [
        "photo",
        "level 1 (stride 4)",
        "level 4 (stride 32)",
    ]
    points = np.random.default_rng(0).uniform(0, 32, (68, 2))
    axis = figures.landmarks_overlay(image, points, points + 1).axes[0]
    assert np.allclose(axis.collections[0].get_offsets(), points)
    assert np.allclose(axis.collections[1].get_offsets(), points + 1)


def test_error_colours_and_map(toy_model, face):
    colours = figures.colour_of(np.array([0.0, 2.0, 4.0, 9.0]), 4.0)
    assert (colours[2] == colours[3]).all() and colours[0].sum() < colours[1].sum() < colours[2].sum()
    errors = np.linspace(0, 5, toy_model.n_vertices)
    assert len([axis for axis in figures.error_map(toy_model, face, errors).axes if axis.images]) == 3


def test_modes_sheet_has_a_picture_a_mode(toy_model):
    sheets = figures.modes_sheet(toy_model, 24, 5)
    counts = {name: sum(bool(axis.images) for axis in sheet.axes) for name, sheet in sheets.items()}
    assert counts == {"identity": 10, "expression": 4, "albedo": 6}


def test_panels_show_the_face_where_it_is(toy_model, face):
    crop = np.full((64, 64, 3), 200, np.uint8)
    panels = views.panels(toy_model, face, crop, 48)
    assert list(panels) == ["photo", "overlay", "mesh", "side view", "albedo"]
    assert all(picture.shape == (48, 48, 3) and picture.dtype == np.uint8 for picture in panels.values())
    assert (panels["photo"] == 200).all()
    assert (panels["overlay"][24, 24] != 200).any() and (panels["overlay"][0, 0] == 200).all()
    albedo = toy_model.albedo(face.albedo)[0].mean(0)
    assert np.abs(panels["albedo"][24, 24] / 255 - albedo.numpy()).max() < 0.08


def test_framed_keeps_the_face_in_the_picture_from_every_side(toy_model, face):
    for yaw in (-90, -45, 0, 45, 90):
        seen = views.framed(toy_model, face, yaw)
        assert float(seen.pose_degrees()[0, 1]) == pytest.approx(yaw, abs=0.1)
        points = views.landmarks(toy_model, seen)[0]
        assert points.min() > 0 and points.max() < 1
        assert np.abs(points.mean(0) - 0.5).max() < 0.2


def test_clay_light_comes_from_the_upper_right(toy_model, face):
    picture = views.coloured(toy_model, face, 64).astype(float)
    assert picture[26, 40].sum() > picture[40, 24].sum()


def test_overlay_lies_on_the_same_pixels_as_the_crop_s_rendering(toy_model, face):
    """The wider window of the overlay is the crop's camera: the mask agrees inside the crop."""
    box = Box(50.0, 30.0, 100.0, 100.0)
    turned = face.replace(rotation=euler_to_matrix(torch.tensor([[10.0, 30.0, 5.0]])))
    photo = np.full((180, 220, 3), 255, np.uint8)
    middle = np.full((68, 2), [100.0, 80.0])  # within the face, so that the points hide no border
    drawn = views.overlay_in_photo(toy_model, turned, photo, box, middle, opacity=1.0)
    _, mask = views.rendered(toy_model, turned, 100)
    inside = (drawn[30:130, 50:150] != 255).any(-1)
    assert (inside != mask).mean() < 0.02


def test_drawn_landmarks_stand_at_their_points():
    photo = np.zeros((100, 100, 3), np.uint8)
    points = np.full((68, 2), 20.0)
    points[30] = [70.5, 60.5]
    drawn = views.draw_landmarks(photo, points, width=2)
    assert drawn[60, 70].sum() > 300 and drawn[90, 90].sum() == 0


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
