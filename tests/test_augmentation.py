"""Augmentation: labels follow the picture, what spoils only the input leaves the target, all of it repeatable."""

import dataclasses

import torch

from mlanet_lib.augmentation import AugmentConfig, Batch, augment, move
from mlanet_lib.camera import project, to_camera
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face

OFF = AugmentConfig(**{field.name: 0.0 for field in dataclasses.fields(AugmentConfig)})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_batch(model, count: int = 6, size: int = 64) -> Batch:
    parameters = FaceParameters.neutral(model, count)
    parameters = parameters.replace(
        identity=torch.randn(count, model.n_identity, generator=generator()),
        albedo=torch.randn(count, model.n_albedo, generator=generator(1)),
    )
    drawing = render_face(model, parameters, size)
    images = drawing.image * drawing.mask + 0.2 * (1 - drawing.mask)
    return Batch(
        images,
        images,
        points(model, parameters),
        torch.ones(count, 68),
        torch.ones(count, 68),
        parameters,
        torch.zeros(count).long(),
        torch.ones(count, dtype=torch.bool),
    )


def points(model, parameters: FaceParameters) -> torch.Tensor:
    vertices = model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(model.landmarks(vertices), parameters.rotation, parameters.translation)
    return project(camera, parameters.focal, 1, 1)[..., :2]


def test_switched_off_it_changes_nothing(toy_model):
    batch = drawn_batch(toy_model)
    same = augment(batch, OFF, generator())
    assert torch.allclose(same.images, batch.images, atol=1e-5) and torch.allclose(same.target, batch.target, atol=1e-5)
    assert torch.allclose(same.landmarks, batch.landmarks, atol=1e-6)
    for name, value in same.parameters.as_tensors().items():
        assert torch.allclose(value, getattr(batch.parameters, name), rtol=1e-5), name


def test_it_is_a_function_of_the_generator(toy_model):
    batch = drawn_batch(toy_model)
    one, same, other = (augment(batch, AugmentConfig(), generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.images, same.images) and torch.equal(one.landmarks, same.landmarks)
    assert not torch.equal(one.images, other.images)
    assert one.images.min() >= 0 and one.images.max() <= 1


def test_moved_labels_fit_the_moved_picture(toy_model):
    batch = drawn_batch(toy_model)
    shift = torch.tensor([[0.05, -0.04]]).repeat(6, 1)
    images, landmarks, parameters = move(
        batch.target, batch.landmarks, batch.parameters, shift, torch.full((6, 1), 1.08)
    )
    centre = batch.landmarks * 0 + 0.5
    assert torch.allclose(landmarks, (batch.landmarks - centre) * 1.08 + centre + shift[:, None], atol=1e-6)
    # the parameters, projected, follow to half a percent of the crop: the first order of perspective
    assert (points(toy_model, parameters) - landmarks).norm(dim=2).max() < 0.008
    assert (points(toy_model, batch.parameters) - landmarks).norm(dim=2).mean() > 0.05
    # and so does a new drawing: inside of the face it is the moved picture
    drawing = render_face(toy_model, parameters, 64)
    inside = torch.nn.functional.avg_pool2d(drawing.mask, 5, 1, 2) > 0.99
    difference = ((drawing.image - images).abs() * inside).sum() / (3 * inside.sum())
    unmoved = ((render_face(toy_model, batch.parameters, 64).image - images).abs() * inside).sum() / (3 * inside.sum())
    assert difference < 0.01 and difference < 0.3 * unmoved


def test_gain_changes_the_light_as_it_changes_the_picture(toy_model):
    batch = drawn_batch(toy_model)
    brighter = augment(batch, dataclasses.replace(OFF, gain=0.1, tint=0.05), generator())
    drawing = render_face(toy_model, brighter.parameters, 64)
    inside = drawing.mask.bool().expand_as(drawing.image) & (drawing.image < 1)
    assert torch.allclose(drawing.image[inside], brighter.target[inside], atol=1e-3)
    assert not torch.allclose(batch.target, brighter.target, atol=0.02)


def test_what_spoils_the_input_leaves_the_target(toy_model):
    batch = drawn_batch(toy_model)
    for name, value in {"contrast": 0.5, "blur": 1.0, "noise": 0.1, "erase": 1.0}.items():
        spoiled = augment(batch, dataclasses.replace(OFF, **{name: value}), generator())
        assert torch.allclose(spoiled.target, batch.target, atol=1e-5), name
        changed = (spoiled.images - batch.images).abs().amax(1) > 1e-4
        assert changed.any(), name
        if name == "erase":
            share = changed.float().mean((1, 2))
            assert (share < 0.27).all() and (share > 0).any()
