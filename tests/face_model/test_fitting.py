"""Fits to 68 points: exact where a model made them, in both cameras."""

import numpy as np
import pytest
import torch
from toy_fits import drawn, faces
from toy_model import with_ibug

from mlanet_lib.face_model.fitting import FitSettings, fit_landmarks, frame_differences
from mlanet_lib.geometry.alignment import mean_rotation
from mlanet_lib.geometry.camera import euler_to_matrix, matrix_to_euler
from mlanet_lib.metrics import sparse_nme


def test_perspective_points_are_fitted_and_come_back_as_parameters(toy_model):
    truth = faces(toy_model, 20)
    points = drawn(toy_model, truth)
    fit = fit_landmarks(toy_model, points, settings=FitSettings(ridge=1e-9, iterations=30, focal=4.5))
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
    fit = fit_landmarks(toy_model, points, settings=FitSettings(iterations=30, focal=4.5), coefficients=known)
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
        float((fit_landmarks(toy_model, noisy, settings=FitSettings(ridge=ridge, focal=4.5)).identity ** 2).mean())
        for ridge in (1e-6, 1e-4, 1e-2, 1)
    ]
    assert spread == sorted(spread, reverse=True) and spread[-1] < 0.1 * spread[0]
    broken = points.copy()
    broken[:, :17] += 0.2
    weights = np.ones((8, 68))
    weights[:, :17] = 0
    fit = fit_landmarks(toy_model, broken, weights, settings=FitSettings(ridge=1e-7, iterations=30, focal=4.5))
    assert np.linalg.norm(fit.points - points, axis=2)[:, 17:].max() < 2e-3


def test_wrong_points_are_refused(toy_model):
    for points in (np.zeros((2, 68, 2)), np.full((1, 68, 2), np.nan), np.zeros((1, 67, 2))):
        with pytest.raises(ValueError, match="68, 2"):
            fit_landmarks(toy_model, points)


def test_points_are_fitted_by_the_definition_that_they_follow(toy_model):
    model = with_ibug(toy_model)
    truth = faces(model, 12, seed=6)
    points = drawn(model, truth, "ibug")
    fit = fit_landmarks(model, points, settings=FitSettings(ridge=1e-9, iterations=30, focal=4.5, labels="ibug"))
    assert sparse_nme(fit.points, points).max() < 0.02
    assert np.abs(fit.pose.rotation - truth.rotation.numpy()).max() < 0.03
    wrong = fit_landmarks(model, points, settings=FitSettings(ridge=1e-3, focal=4.5))
    right = fit_landmarks(model, points, settings=FitSettings(ridge=1e-3, focal=4.5, labels="ibug"))
    assert sparse_nme(wrong.points, points).mean() > 2 * sparse_nme(right.points, points).mean()


def test_the_rotation_to_bfms_frame_comes_back(toy_model):
    truth, turn = faces(toy_model, 60, seed=7), euler_to_matrix(torch.tensor([4.5, 1.0, -2.0], dtype=torch.float64))
    poses = truth.rotation.double().numpy() @ turn.numpy()
    found = mean_rotation(frame_differences(toy_model, drawn(toy_model, truth), poses, ridge=1e-4))  # exact points
    assert matrix_to_euler(torch.from_numpy(found)).numpy() == pytest.approx([4.5, 1.0, -2.0], abs=0.5)
    apart = frame_differences(toy_model, drawn(toy_model, truth), poses)
    assert apart.shape == (60, 3, 3) and np.abs(apart - turn.numpy()).mean() < 0.05
