"""FaceParameters as a container, and how the neutral face is framed."""

import pytest
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.parameters import LANDMARK_BOX_SHARE, FaceParameters
from mlanet_lib.renderer import decode, render_face


def some(model, count: int = 4) -> FaceParameters:
    parameters = FaceParameters.neutral(model, count)
    generator = torch.Generator().manual_seed(0)
    return parameters.map(lambda tensor: tensor + torch.randn(tensor.shape, generator=generator))


def test_neutral_face_fills_its_share_of_the_crop(toy_model):
    parameters = FaceParameters.neutral(toy_model, 2)
    points = decode(toy_model, parameters).landmarks2d(100)
    low, high = points.amin(1), points.amax(1)
    assert torch.allclose((high - low).amax(1), torch.full((2,), 100 * LANDMARK_BOX_SHARE), atol=0.01)
    assert torch.allclose((low + high) / 2, torch.full((2, 2), 50.0), atol=0.01)
    assert torch.equal(parameters.pose_degrees(), torch.zeros(2, 3))
    assert 400 < parameters.translation[0, 2] < 3000


def test_neutral_face_shows_the_mean_albedo(toy_model):
    drawing = render_face(toy_model, FaceParameters.neutral(toy_model), 32)
    inside = drawing.image[drawing.mask.expand_as(drawing.image) > 0]
    assert torch.allclose(inside, torch.full_like(inside, 0.6), atol=1e-5)


def test_indexing_keeps_a_batch(toy_model):
    parameters = some(toy_model)
    assert len(parameters) == 4 and len(parameters[1]) == 1 and len(parameters[-1]) == 1
    assert torch.equal(parameters[-1].identity[0], parameters.identity[3])
    mask = torch.tensor([True, False, True, False])
    for index in (mask, [0, 2], slice(0, 4, 2), torch.tensor([0, 2])):
        assert torch.equal(parameters[index].lighting, parameters.lighting[::2])


def test_cat_is_the_inverse_of_indexing(toy_model):
    parameters = some(toy_model)
    joined = FaceParameters.cat([parameters[:1], parameters[1:]])
    assert all(torch.equal(joined.as_tensors()[name], value) for name, value in parameters.as_tensors().items())


def test_tensors_round_trip_and_missing_ones_are_named(toy_model):
    parameters = some(toy_model)
    tensors = {**parameters.as_tensors(), "landmarks": torch.zeros(4, 68, 2)}
    assert torch.equal(FaceParameters.from_tensors(tensors).focal, parameters.focal)
    del tensors["lighting"]
    with pytest.raises(UserError, match="lighting"):
        FaceParameters.from_tensors(tensors)


def test_copies(toy_model):
    parameters = some(toy_model)
    assert parameters.to(torch.float64).albedo.dtype == torch.float64
    copy = parameters.clone()
    copy.identity += 1
    assert not torch.equal(copy.identity, parameters.identity)
    assert not parameters.replace(albedo=parameters.albedo.requires_grad_()).detach().albedo.requires_grad
    with pytest.raises(TypeError):
        parameters.replace(shape=parameters.identity)


def test_pose_degrees(toy_model):
    degrees = torch.tensor([[10.0, -40.0, 5.0]])
    parameters = FaceParameters.neutral(toy_model).replace(rotation=euler_to_matrix(degrees))
    assert torch.allclose(parameters.pose_degrees(), degrees, atol=1e-4)


def test_pose_degrees_of_another_frame(toy_model):
    parameters = FaceParameters.neutral(toy_model, 2).replace(
        rotation=euler_to_matrix(torch.tensor([[10.0, 0, 0]] * 2))
    )
    turn = euler_to_matrix(torch.tensor([4.5, 0.0, 0.0], dtype=torch.float64))
    assert torch.allclose(parameters.pose_degrees(turn), torch.tensor([[14.5, 0.0, 0.0]] * 2), atol=1e-4)
    assert torch.equal(parameters.pose_degrees(toy_model.bfm_rotation), parameters.pose_degrees())
