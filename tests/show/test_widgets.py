"""The explorer: a moved slider moves the picture, and the parameters say what the sliders do."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.lighting import ambient
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.show.widgets import Explorer, directional_light


@pytest.fixture
def explorer(toy_model):
    return Explorer(toy_model, FaceParameters.neutral(toy_model, 1), 48)


def shown(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.image.value))).astype(int)


@pytest.mark.parametrize("group", ["identity", "albedo", "expression", "pose", "light"])
def test_every_group_of_sliders_moves_the_picture(explorer, group):
    before = shown(explorer)
    slider = next(iter(getattr(explorer, group).values()))
    slider.value = slider.max
    assert np.abs(shown(explorer) - before).max() > 20


def test_parameters_follow_the_sliders(explorer, toy_model):
    explorer.identity[1].value = 1.5
    explorer.expression[2].value = 0.5
    explorer.pose["yaw"].value, explorer.pose["roll"].value = 30.0, -10.0
    parameters = explorer.parameters
    assert parameters.identity[0].tolist() == [0, 1.5, 0, 0, 0]
    assert parameters.expression[0].tolist() == [0, 0, 0.5, 0]
    assert torch.allclose(parameters.rotation, euler_to_matrix(torch.tensor([[0.0, 30.0, -10.0]])), atol=1e-6)


def test_expressions_have_their_names(explorer, toy_model):
    assert {slider.description for slider in explorer.expression.values()} == set(toy_model.expression_names)
    assert next(iter(explorer.expression.values())).description == "jawOpen"


def test_starts_from_a_reconstruction_and_returns_to_it(toy_model):
    start = FaceParameters.neutral(toy_model, 1)
    start = start.replace(
        identity=torch.tensor([[0.5, -1.0, 0, 2.0, 0]]), rotation=euler_to_matrix(torch.tensor([[0.0, 20.0, 0.0]]))
    )
    explorer = Explorer(toy_model, start, 32)
    first = shown(explorer)
    assert torch.allclose(explorer.parameters.identity, start.identity)
    explorer.randomize(seed=3)
    assert not torch.allclose(explorer.parameters.identity, start.identity)
    explorer.reset()
    assert torch.allclose(explorer.parameters.identity, start.identity)
    assert np.abs(shown(explorer) - first).max() <= 2
    assert start.identity[0, 0] == 0.5


def test_one_random_person_draws_one_picture(explorer, monkeypatch):
    drawn = []
    picture = explorer.picture
    monkeypatch.setattr(explorer, "picture", lambda: drawn.append(1) or picture())
    explorer.randomize(seed=0)
    assert len(drawn) <= 2  # people, then expression


def test_clay_is_grey(explorer):
    explorer.clay.value = True
    picture = shown(explorer)
    assert np.ptp(picture[24, 24]) < 25


def test_light_comes_from_where_it_is_set(explorer):
    assert torch.allclose(directional_light(10, 10, 0.0), ambient(1))
    explorer.light["strength"].value, explorer.light["elevation"].value = 1.0, 0.0
    sides = []
    for azimuth in (-80.0, 80.0):
        explorer.light["azimuth"].value = azimuth
        picture = shown(explorer).sum(-1)
        sides.append(picture[24, 32] - picture[24, 16])
    assert sides[0] < 0 < sides[1]


def test_widget_holds_the_picture_and_all_sliders(explorer):
    left, tabs = explorer.widget.children
    assert len(tabs.children) == 3 and left.children[0].format == "jpeg"
    assert sum(len(tab.children) for tab in tabs.children) == 5 + 3 + 4 + 3 + 3
