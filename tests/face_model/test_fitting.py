"""Fits to 68 points: exact where a model made them, in both cameras."""

import numpy as np
import pytest
import torch
from toy_fits import drawn, faces
from toy_model import with_ibug

from mlanet_lib.face_model.fitting import FitSettings, fit_landmarks, frame_differences
from mlanet_lib.geometry.alignment import mean_rotation
from mlanet_lib.geometry.camera import DEFAULT_FOCAL, euler_to_matrix, matrix_to_euler
from mlanet_lib.metrics import sparse_nme


def test_perspective_points_are_fitted_and_come_back_as_parameters(toy_model):
    truth = faces(toy_model, 20)
    points = drawn(toy_model, truth)
    fit = fit_landmarks(toy_model, points, settings=FitSettings(ridge=1e-9, iterations=30, focal=DEFAULT_FOCAL))
    assert sparse_nme(fit.points, points).max() < 0.01
    found = fit.parameters(toy_model)
    assert np.abs(drawn(toy_model, found) - fit.points).max() < 1e-4
    assert (found.rotation - truth.rotation).abs().max() < 0.02
    assert ((found.translation - truth.translation).norm(dim=1) / truth.translation[:, 2]).max() < 0.02


def test_orthographic_points_are_fitted_in_pixels(toy_model):
    truth = faces(toy_model, 12, seed=1)
    shape = toy_model.landmarks(toy_model.vertices(truth.identity, truth.expression)) @ truth.rotation.mT
    points = shape[..., :2].double().numpy() * [1.7, -1.7] + [200, 300]
    fit = fit_landmarks(toy_model, points, settings=FitSettings(ridge=1e-9, iterations=30))
    assert sparse_nme(fit.points, points).max() < 0.01
    assert np.allclose(fit.pose.scale, 1.7, rtol=0.02)
    perspective = fit_landmarks(toy_model, drawn(toy_model, truth), settings=FitSettings(ridge=1e-9))
    assert sparse_nme(perspective.points, drawn(toy_model, truth)).max() > 0.02  # another camera leaves something


def test_where_the_shape_is_known_the_pose_is_fitted(toy_model):
    truth = faces(toy_model, 10, seed=4)
    points = drawn(toy_model, truth)
    known = torch.cat([truth.identity, truth.expression], 1).double().numpy()
    fit = fit_landmarks(toy_model, points, settings=FitSettings(iterations=30, focal=DEFAULT_FOCAL), coefficients=known)
    assert sparse_nme(fit.points, points).max() < 1e-3
    found = fit.parameters(toy_model)
    assert (found.rotation - truth.rotation).abs().max() < 1e-3
    assert torch.allclose(found.translation, truth.translation, rtol=1e-3, atol=0.1)
    assert torch.equal(found.identity, truth.identity)


def test_a_larger_ridge_stays_nearer_to_the_mean_and_weights_count(toy_model):
    points = drawn(toy_model, faces(toy_model, 8, seed=2))
    rng = np.random.default_rng(0)
    noisy = points + rng.normal(0, 0.01, points.shape)
    spread = [
        float(
            (
                fit_landmarks(toy_model, noisy, settings=FitSettings(ridge=ridge, focal=DEFAULT_FOCAL)).identity ** 2
            ).mean()
        )
        for ridge in (1e-6, 1e-4, 1e-2, 1)
    ]
    assert spread == sorted(spread, reverse=True) and spread[-1] < 0.1 * spread[0]
    broken = points.copy()
    broken[:, :17] += 0.2
    weights = np.ones((8, 68))
    weights[:, :17] = 0
    fit = fit_landmarks(
        toy_model, broken, weights, settings=FitSettings(ridge=1e-7, iterations=30, focal=DEFAULT_FOCAL)
    )
    assert np.linalg.norm(fit.points - points, axis=2)[:, 17:].max() < 2e-3


def test_what_points_tell_is_the_share_of_a_coefficient_that_a_fit_finds(toy_model):
    """Of faces drawn from the priors, with the noise that the ridge stands for."""
    noise, count = 0.15, 1500
    truth = faces(toy_model, count, seed=8)
    generator = torch.Generator().manual_seed(9)
    truth = truth.replace(
        identity=torch.randn(count, 5, generator=generator),
        expression=torch.randn(count, 4, generator=generator) * 0.1**0.5,
        rotation=torch.eye(3).expand(count, 3, 3),
    )
    points = drawn(toy_model, truth)
    size = np.sqrt(np.ptp(points, axis=1).prod(1))
    points += np.random.default_rng(0).normal(size=points.shape) * noise * size[:, None, None]
    settings = FitSettings(ridge=noise**2, iterations=8, focal=DEFAULT_FOCAL)
    fit = fit_landmarks(toy_model, points, settings=settings)
    assert fit.known.shape == (count, 9) and fit.known.min() >= 0 and fit.known.max() <= 1
    true = torch.cat([truth.identity, truth.expression], 1).double().numpy()
    found = np.concatenate([fit.identity, fit.expression], 1)
    share = (found * true).mean(0) / (true**2).mean(0)
    known = fit.known.mean(0)
    assert known.min() < 0.5 and np.ptp(known) > 0.1  # some are told better than others
    assert np.abs(share - known).max() < 0.12


def test_smaller_noise_and_more_points_tell_more(toy_model):
    points = drawn(toy_model, faces(toy_model, 5, seed=3))

    def known(ridge, weights=None, **options):
        settings = FitSettings(ridge=ridge, focal=DEFAULT_FOCAL)
        return fit_landmarks(toy_model, points, weights, settings, **options).known

    steps = [known(ridge).mean() for ridge in (1e-9, 1e-4, 1e-2, 1e3)]
    assert steps == sorted(steps, reverse=True) and steps[0] > 0.99 and steps[-1] < 0.01
    assert (known(1e-3, np.repeat([[1.0, 0.0]], 34, 1).reshape(1, 68)) < known(1e-3)).mean() > 0.9
    assert (known(1e-3, coefficients=np.zeros((5, 9))) == 1).all()


def test_a_known_rotation_holds_the_pose_as_far_as_it_is_certain(toy_model):
    truth = faces(toy_model, 12, seed=5)
    points = drawn(toy_model, truth) + np.random.default_rng(0).normal(0, 0.02, (12, 68, 2))
    told = (euler_to_matrix(torch.tensor([0.0, 8.0, 0.0])) @ truth.rotation).double().numpy()

    def fitted(turn, rotations=told):
        settings = FitSettings(ridge=4e-4, focal=DEFAULT_FOCAL, turn=turn, iterations=40)
        return fit_landmarks(toy_model, points, settings=settings, rotations=rotations).pose.rotation

    def apart(one, other):
        return np.degrees(np.linalg.norm(one - other, axis=(1, 2)) / 2**0.5)

    alone = fitted(3.0, None)
    assert apart(fitted(0.01), told).max() < 0.1
    assert apart(fitted(1e4), alone).max() < 0.1
    between = fitted(3.0)
    assert (apart(between, told) < apart(alone, told)).all() and apart(between, told).min() > 0.2
    by_block = fit_landmarks(toy_model, np.tile(points, (30, 1, 1)), rotations=np.tile(told, (30, 1, 1))).pose.rotation
    assert np.allclose(by_block[:12], by_block[-12:], atol=1e-6)  # several blocks


def test_wrong_points_are_refused(toy_model):
    for points in (np.zeros((2, 68, 2)), np.full((1, 68, 2), np.nan), np.zeros((1, 67, 2))):
        with pytest.raises(ValueError, match="68, 2"):
            fit_landmarks(toy_model, points)


def test_points_are_fitted_by_the_definition_that_they_follow(toy_model):
    model = with_ibug(toy_model)
    truth = faces(model, 12, seed=6)
    points = drawn(model, truth, "ibug")
    fit = fit_landmarks(
        model, points, settings=FitSettings(ridge=1e-9, iterations=30, focal=DEFAULT_FOCAL, labels="ibug")
    )
    assert sparse_nme(fit.points, points).max() < 0.02
    assert np.abs(fit.pose.rotation - truth.rotation.numpy()).max() < 0.03
    wrong = fit_landmarks(model, points, settings=FitSettings(ridge=1e-3, focal=DEFAULT_FOCAL))
    right = fit_landmarks(model, points, settings=FitSettings(ridge=1e-3, focal=DEFAULT_FOCAL, labels="ibug"))
    assert sparse_nme(wrong.points, points).mean() > 2 * sparse_nme(right.points, points).mean()


def test_the_rotation_to_bfms_frame_comes_back(toy_model):
    truth, turn = faces(toy_model, 60, seed=7), euler_to_matrix(torch.tensor([4.5, 1.0, -2.0], dtype=torch.float64))
    poses = truth.rotation.double().numpy() @ turn.numpy()
    found = mean_rotation(frame_differences(toy_model, drawn(toy_model, truth), poses, ridge=1e-4))  # exact points
    assert matrix_to_euler(torch.from_numpy(found)).numpy() == pytest.approx([4.5, 1.0, -2.0], abs=0.5)
    apart = frame_differences(toy_model, drawn(toy_model, truth), poses)
    assert apart.shape == (60, 3, 3) and np.abs(apart - turn.numpy()).mean() < 0.05
