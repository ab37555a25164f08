"""Activations within [0, 1], and the mesh nearest to what was predicted."""

import numpy as np
import pytest
import torch

from mlanet_lib.face_model.activations import activations


def distance(model, one, other):
    basis = model.expression_basis.double().numpy()
    return np.linalg.norm(basis @ (np.asarray(one) - np.asarray(other)))


def test_what_lies_within_stays(toy_model):
    inside = torch.rand(5, toy_model.n_expression)
    assert np.array_equal(activations(toy_model, inside), inside.double().numpy())


def test_nothing_within_is_nearer(toy_model):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    for row in torch.randn(6, toy_model.n_expression):
        (found,) = activations(toy_model, row[None])
        assert found.min() >= 0 and found.max() <= 1
        nearest = distance(toy_model, found, row)
        assert nearest <= distance(toy_model, row.clamp(0, 1), row) + 1e-9
        for other in rng.uniform(0, 1, (500, toy_model.n_expression)):
            assert nearest <= distance(toy_model, other, row) + 1e-9


def test_a_smile_below_zero_is_another_expression_s_activation(face_model):
    """Clamped to zero, lowered corners of the mouth would be lost; half of their movement is another name's."""
    names = list(face_model.expression_names)
    row = torch.zeros(1, len(names))
    row[0, [names.index("mouthSmileLeft"), names.index("mouthSmileRight")]] = -0.4
    (found,) = activations(face_model, row)
    assert found.min() >= 0 and found[names.index("mouthFrownLeft")] > 0.1
    assert distance(face_model, found, row[0]) < 0.9 * distance(face_model, row[0] * 0, row[0])


def test_none_is_none(toy_model):
    assert activations(toy_model, torch.zeros(0, toy_model.n_expression)).shape == (0, toy_model.n_expression)


@pytest.mark.parametrize("value", [-5.0, 5.0])
def test_far_out(toy_model, value):
    found = activations(toy_model, torch.full((1, toy_model.n_expression), value))
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
