"""Albedo from one face model to another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlanet_lib.alignment import rotation_vector
from mlanet_lib.face_models import transfer


def own_points(model):
    return model.landmarks(model.mean[None])[0].numpy()


@settings(max_examples=20, deadline=None)
@given(
    scale=st.floats(0.01, 100),
    vector=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_a_model_gets_its_own_colours_back_in_any_frame_and_unit(toy_model, scale, vector, shift):
    def moved(points):
        return scale * points.astype(float) @ rotation_vector(np.array(vector)).T + shift

    colour, modes = transfer.albedo(toy_model, moved(toy_model.mean.numpy()), moved(own_points(toy_model)))
    assert np.abs(colour - toy_model.albedo_mean.numpy()).max() < 1e-4
    assert np.abs(modes - toy_model.albedo_basis.numpy()).max() < 1e-4


def test_between_vertices_the_colour_is_interpolated(toy_model):
    corners = toy_model.faces[100].numpy()
    weights = np.array([0.2, 0.5, 0.3])
    place = weights @ toy_model.mean.numpy()[corners]
    _, modes = transfer.albedo(toy_model, place[None], own_points(toy_model))
    assert np.allclose(modes[0], np.einsum("k,kcm->cm", weights, toy_model.albedo_basis.numpy()[corners]), atol=1e-5)


def test_only_the_given_faces_give_colours(toy_model):
    left = toy_model.faces[(toy_model.mean[toy_model.faces][..., 0] > 0).all(1)]
    red = (toy_model.mean[:, :1] > 0).float() * torch.tensor([1.0, 0, 0])
    model = toy_model.replace(albedo_mean=red)
    colour, _ = transfer.albedo(model, model.mean.numpy(), own_points(model), left.numpy())
    assert np.allclose(colour, [1, 0, 0], atol=1e-6)


def test_parts_are_the_connected_ones_the_skin_first(face_model):
    skin, *others = transfer.parts(face_model)
    assert sum(map(len, [skin, *others])) == len(face_model.faces) and len(others) == 4
    assert all(len(skin) > len(part) for part in others)
    assert np.isin(face_model.landmark_index.numpy(), skin).all()
    used = [set(part.ravel().tolist()) for part in (skin, *others)]
    assert sum(map(len, used)) == len(set().union(*used))


def test_points_on_a_line_are_refused(toy_model):
    with pytest.raises(ValueError, match="line"):
        transfer.albedo(toy_model, toy_model.mean.numpy(), np.linspace([0, 0, 0], [1, 1, 1], 68))
