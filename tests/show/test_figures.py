"""Figures made of pictures: every picture is in its place."""

import numpy as np
import pytest

from mlanet_lib.parameters import FaceParameters
from mlanet_lib.show import figures


@pytest.fixture
def face(toy_model):
    return FaceParameters.neutral(toy_model, 1)


def test_grid_and_sheet_place_every_picture():
    red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    grid = figures.image_grid([[red, blue], [blue]], ["left", "right"], ["one", "two"])
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
    axis = figures.landmarks_overlay(image, points).axes[0]
    assert np.allclose(axis.collections[0].get_offsets(), points)


def test_error_colours_and_map(toy_model, face):
    colours = figures.colour_of(np.array([0.0, 2.0, 4.0, 9.0]), 4.0)
    assert (colours[2] == colours[3]).all() and colours[0].sum() < colours[1].sum() < colours[2].sum()
    errors = np.linspace(0, 5, toy_model.n_vertices)
    assert len([axis for axis in figures.error_map(toy_model, face, errors, 4.0).axes if axis.images]) == 3
