"""Augmentation: labels follow the picture, what spoils only the input leaves the target, all of it repeatable."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import normalize

from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.lighting import ambient, directional
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face
from mlanet_lib.training.augmentation import AugmentConfig, augment, move, random_numbers
from mlanet_lib.training.data import Batch

OFF = AugmentConfig(**{field.name: 0.0 for field in dataclasses.fields(AugmentConfig)})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(seed: int = 0, count: int = 6) -> torch.Tensor:
    return random_numbers(count, generator(seed))


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
        torch.ones(count, model.n_identity + model.n_expression),
        torch.zeros(count).long(),
        torch.ones(count, dtype=torch.bool),
        torch.ones(count, dtype=torch.bool),
        torch.arange(count) % 2,
        torch.arange(count) // 2,
    )


def points(model, parameters: FaceParameters) -> torch.Tensor:
    vertices = model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(model.landmarks(vertices), parameters.rotation, parameters.translation)
    return project(camera, parameters.focal, 1, 1)[..., :2]


def test_switched_off_it_changes_nothing(toy_model):
    batch = drawn_batch(toy_model)
    same = augment(batch, OFF, numbers())
    assert torch.allclose(same.images, batch.images, atol=1e-5) and torch.allclose(same.target, batch.target, atol=1e-5)
    assert torch.allclose(same.landmarks, batch.landmarks, atol=1e-6)
    for name, value in same.parameters.as_tensors().items():
        assert torch.allclose(value, getattr(batch.parameters, name), rtol=1e-5), name


def test_it_is_a_function_of_the_numbers(toy_model):
    batch = drawn_batch(toy_model)
    one, same, other = (augment(batch, AugmentConfig(turn=20), numbers(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.images, same.images) and torch.equal(one.landmarks, same.landmarks)
    assert not torch.equal(one.images, other.images)
    assert one.images.min() >= 0 and one.images.max() <= 1


def test_every_sample_is_augmented_by_its_own_numbers(toy_model):
    """A process that holds the rows 1, 3, 5 of a batch sees them as one that holds all."""
    batch = drawn_batch(toy_model)
    config = AugmentConfig(turn=20, occlude=0.6)
    whole = augment(batch, config, numbers())
    part = {name: value[1::2] for name, value in vars(batch).items()}
    part = augment(Batch(**part), config, numbers()[1::2])
    assert torch.allclose(part.images, whole.images[1::2], atol=1e-6)
    assert torch.allclose(part.parameters.rotation, whole.parameters.rotation[1::2], atol=1e-6)


def test_strengths_are_what_the_config_says(toy_model):
    """Over many samples: the largest shift, zoom and turn, the spread of the gain, shares of images."""
    many = random_numbers(4000, generator())
    batch = drawn_batch(toy_model, 1, 8)
    batch = Batch(**{name: value[torch.zeros(4000).long()] for name, value in vars(batch).items()})
    config = dataclasses.replace(OFF, shift=0.1, zoom=0.2, turn=30.0)
    moved = augment(batch, config, many)
    zoom = (moved.parameters.translation[:, 2] / batch.parameters.translation[:, 2]).log().abs()
    assert 0.195 < zoom.max() <= 0.2 + 1e-5
    roll = moved.parameters.pose_degrees()[:, 2]
    assert 29.8 < roll.max() <= 30.01 and -30.01 <= roll.min() < -29.8 and abs(roll.mean()) < 1
    roll = augment(batch, dataclasses.replace(config, lying=0.2), many).parameters.pose_degrees()[:, 2]
    assert 117 < roll.max() <= 120.01 and -120.01 <= roll.min() < -117 and abs(roll.mean()) < 2
    assert 0.13 < (roll.abs() > 30.01).float().mean() < 0.17  # 0.2 x 90 / 120
    light = augment(batch, dataclasses.replace(OFF, gain=0.2), many).parameters.lighting
    gain = (light[:, 0] / batch.parameters.lighting[:, 0]).log()
    assert torch.allclose(gain[:, 0], gain[:, 1], atol=1e-5) and 0.19 < gain[:, 0].std() < 0.21
    noise = augment(batch, dataclasses.replace(OFF, noise=0.05), many)
    differ = (noise.images - batch.images)[(batch.images > 0.3) & (batch.images < 0.7)]
    assert abs(differ.mean()) < 1e-3 and 0.025 < differ.std() < 0.033  # 0.05 / sqrt(3)
    for name in ("blur", "erase", "occlude"):
        spoiled = augment(batch, dataclasses.replace(OFF, **{name: 0.3}), many)
        share = ((spoiled.images - batch.images).abs().amax((1, 2, 3)) > 1e-4).float().mean()
        assert 0.22 < share < 0.33, name


def test_moved_labels_fit_the_moved_picture(toy_model):
    batch = drawn_batch(toy_model)
    shift = torch.tensor([[0.05, -0.04]]).repeat(6, 1)
    images, landmarks, parameters = move(
        batch.target, batch.landmarks, batch.parameters, shift, torch.full((6, 1), 1.08), torch.zeros(6)
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


@pytest.mark.parametrize("degrees", [-70.0, 25.0, 90.0])
def test_turned_labels_fit_the_turned_picture(toy_model, degrees):
    """Landmarks and parameters turn exactly; a face drawn from them, light and all, is the turned picture."""
    batch = drawn_batch(toy_model)
    lamp = directional(normalize(torch.tensor([[0.7, 0.5, 0.5]]), dim=-1).repeat(6, 1), torch.full((6, 3), 0.6))
    parameters = batch.parameters.replace(
        lighting=ambient(6, 0.4) + lamp,
        rotation=euler_to_matrix(torch.tensor([[10.0, 25.0, -5.0]]).repeat(6, 1)),
        translation=batch.parameters.translation + torch.tensor([4.0, -6.0, 0.0]),
    )
    drawing = render_face(toy_model, parameters, 64)
    angle = torch.full((6,), math.radians(degrees))
    still = torch.zeros(6, 2), torch.ones(6, 1)
    images, landmarks, found = move(drawing.image, points(toy_model, parameters), parameters, *still, angle)
    assert (points(toy_model, found) - landmarks).abs().max() < 1e-5
    again = render_face(toy_model, found, 64)
    inside = torch.nn.functional.avg_pool2d(again.mask, 5, 1, 2) > 0.99
    assert ((again.image - images).abs() * inside).sum() / (3 * inside.sum()) < 0.01
    assert ((again.image - drawing.image).abs() * inside).sum() / (3 * inside.sum()) > 0.05
    if degrees == 90.0:  # pixels go onto pixels: clockwise by a quarter is numpy's rot90 by -1
        assert torch.allclose(images, torch.rot90(drawing.image, -1, (2, 3)), atol=1e-3)


def test_gain_changes_the_light_as_it_changes_the_picture(toy_model):
    batch = drawn_batch(toy_model)
    brighter = augment(batch, dataclasses.replace(OFF, gain=0.1, tint=0.05), numbers())
    drawing = render_face(toy_model, brighter.parameters, 64)
    inside = drawing.mask.bool().expand_as(drawing.image) & (drawing.image < 1)
    assert torch.allclose(drawing.image[inside], brighter.target[inside], atol=1e-3)
    assert not torch.allclose(batch.target, brighter.target, atol=0.02)


def test_what_spoils_the_input_leaves_the_target(toy_model):
    batch = drawn_batch(toy_model)
    for name, value in {"contrast": 0.5, "blur": 1.0, "noise": 0.1, "erase": 1.0, "occlude": 1.0}.items():
        spoiled = augment(batch, dataclasses.replace(OFF, **{name: value}), numbers())
        assert torch.allclose(spoiled.target, batch.target, atol=1e-5), name
        changed = (spoiled.images - batch.images).abs().amax(1) > 1e-4
        assert changed.any(), name
        if name == "erase":
            share = changed.float().mean((1, 2))
            assert (share < 0.27).all() and (share > 0).any()


def test_a_newer_use_of_chance_leaves_the_older_numbers():
    assert torch.equal(numbers(3, 5)[:, :23], torch.rand(5, 23, generator=generator(3)))


def test_occluders_are_of_all_sizes_and_hold_texture(toy_model):
    """They cover up to about half of the picture, hard- or soft-edged, and what they show is no plain colour."""
    count, size = 400, 48
    batch = drawn_batch(toy_model, 1, size)
    batch = Batch(**{name: value[torch.zeros(count).long()] for name, value in vars(batch).items()})
    grain = torch.rand(count, 3, size, size, generator=generator())
    batch.target = batch.images = 0.25 + 0.5 * grain
    config = dataclasses.replace(OFF, occlude=1.0)
    laid = augment(batch, config, numbers(0, count)).images
    changed = (laid - batch.images).abs().amax(1) > 1e-3
    share = changed.float().mean((1, 2))
    assert 0.5 < share.max() < 0.65 and share.min() < 0.03 and 0.15 < share.mean() < 0.35
    inside = torch.nn.functional.avg_pool2d(changed.float()[:, None], 9, 1, 4)[:, 0] > 0.999
    spread = torch.stack([laid[i][:, inside[i]].std(1) for i in range(count) if inside[i].sum() > 50])
    assert len(spread) > count / 2 and (spread > 0.02).all()
    across = changed.any(1).float().mean(1)
    assert 0.1 < (across == 1).float().mean() < 0.5  # bands, and ellipses as long, reach from side to side


def test_weak_augmentation_spoils_less_and_moves_as_much():
    strong = AugmentConfig(**{field.name: 0.3 for field in dataclasses.fields(AugmentConfig)})
    weak = dataclasses.asdict(strong.weak())
    assert weak.pop("contrast") == weak.pop("erase") == 0
    assert [weak.pop(name) for name in ("blur", "noise", "occlude")] == pytest.approx([0.1] * 3)
    assert set(weak.values()) == {0.3}


def test_the_definition_of_the_points_stays(toy_model):
    batch = drawn_batch(toy_model)
    found = augment(batch, AugmentConfig(turn=20, lying=0.5, occlude=0.5), numbers())
    assert torch.equal(found.points_set, batch.points_set) and found.points_set.tolist() == [0, 1] * 3
