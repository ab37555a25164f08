"""The one-euro filter against its formula, and jitter and lag on signals whose answers are known."""

import numpy as np
import pytest
import torch
from video import jitter, lag

from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.video.smoothing import (
    OneEuro,
    both_ways,
    nearest_rotations,
    one_euro,
    robust_mean,
    smooth_rotations,
)

FPS = 30.0
TIMES = np.arange(240) / FPS
EURO = OneEuro(1.0, 2.0)


def sway(noise=0.0, delay=0.0, frequency=0.5):
    """(240, 2): a sine and a cosine of amplitude 1, `delay` seconds late, with noise."""
    phase = 2 * np.pi * frequency * (TIMES - delay)
    return np.stack([np.sin(phase), np.cos(phase)], 1) + np.random.default_rng(0).normal(0, noise, (240, 2))


def test_the_filter_is_the_paper_s_algorithm():
    """Three values by hand, with the published steps: rate, alpha, low pass of the derivative, cutoff, low pass."""

    def alpha(cutoff, rate):
        tau = 1 / (2 * np.pi * cutoff)
        return 1 / (1 + tau * rate)

    times, signal = np.array([0.0, 0.1, 0.3]), np.array([1.0, 1.5, 0.2])
    previous, derivative, expected = 1.0, 0.0, [1.0]
    for i in (1, 2):
        rate = 1 / (times[i] - times[i - 1])
        a = alpha(1.0, rate)
        derivative = a * (signal[i] - previous) * rate + (1 - a) * derivative
        a = alpha(0.7 + 0.4 * abs(derivative), rate)
        previous = a * signal[i] + (1 - a) * previous
        expected.append(previous)
    assert np.allclose(one_euro(times, signal[:, None], OneEuro(0.7, 0.4))[:, 0], expected)


def test_without_beta_it_is_a_low_pass_of_that_cutoff():
    """At its cutoff a first-order low pass halves the power: amplitude 0.707, phase 45 degrees late."""
    rate, cutoff = 1000.0, 2.0
    times = np.arange(4000) / rate
    out = one_euro(times, np.sin(2 * np.pi * cutoff * times)[:, None], OneEuro(cutoff, 0.0))[1000:, 0]
    assert out.max() == pytest.approx(np.sqrt(0.5), abs=0.01)
    assert np.allclose(out, np.sqrt(0.5) * np.sin(2 * np.pi * cutoff * times[1000:] - np.pi / 4), atol=0.01)


def test_causal_and_both_ways():
    values = sway(0.05)
    changed = values.copy()
    changed[100:] += 1
    assert np.array_equal(one_euro(TIMES, values, EURO)[:100], one_euro(TIMES, changed, EURO)[:100])
    turned = both_ways(-TIMES[::-1], values[::-1], EURO)[::-1]  # time reversed: the same curve
    assert np.allclose(turned, both_ways(TIMES, values, EURO))
    constant = np.full((240, 1), 3.0)
    assert np.allclose(both_ways(TIMES, constant, EURO), 3.0)


def test_smoothing_takes_jitter_and_both_ways_take_the_lag():
    truth, noisy = sway(), sway(0.05)
    slow = OneEuro(1.0, 0.3)
    forward, both = one_euro(TIMES, noisy, slow), both_ways(TIMES, noisy, slow)
    assert np.allclose(jitter(noisy), 0.05, rtol=0.15)
    assert (jitter(forward) < 0.4 * jitter(noisy)).all() and (jitter(both) < jitter(forward)).all()
    assert (lag(forward, truth, FPS) > 0.05).all() and (np.abs(lag(both, truth, FPS)) < 0.01).all()
    quick = one_euro(TIMES, noisy, OneEuro(1.0, 3.0))  # more beta: less lag, more jitter
    assert (lag(quick, truth, FPS) < lag(forward, truth, FPS)).all() and (jitter(quick) > jitter(forward)).all()


def test_joint_channels_do_not_depend_on_the_axes():
    values = sway(0.05)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert np.allclose(one_euro(TIMES, values @ turn, EURO, True), one_euro(TIMES, values, EURO, True) @ turn)
    assert not np.allclose(one_euro(TIMES, values @ turn, EURO), one_euro(TIMES, values, EURO) @ turn, atol=1e-3)


def test_a_long_gap_forgets():
    times = np.array([0.0, 0.04, 0.08, 60.0])
    out = one_euro(times, np.array([[0.0], [0.0], [0.0], [5.0]]), EURO)
    assert out[-1, 0] == pytest.approx(5, abs=0.05)


def test_rotations_stay_rotations():
    degrees = np.concatenate([30 * sway(0.03), np.linspace(0, 300, 240)[:, None]], 1)  # a roll that goes round
    rotations = euler_to_matrix(torch.tensor(degrees)).numpy()
    smooth = smooth_rotations(TIMES, rotations, EURO)
    assert np.allclose(smooth @ smooth.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(smooth), 1)
    clean = euler_to_matrix(torch.tensor(np.concatenate([30 * sway(), degrees[:, 2:]], 1))).numpy()
    assert (jitter(smooth.reshape(-1, 9)) < jitter(rotations.reshape(-1, 9))).all()
    assert np.abs(smooth - clean).mean() < np.abs(rotations - clean).mean()
    scaled = 3 * rotations[:5]
    assert np.allclose(nearest_rotations(scaled), rotations[:5])
    assert np.linalg.det(nearest_rotations(np.diag([1.0, 1.0, -0.1])[None]))[0] == pytest.approx(1)


def test_rotations_are_filtered_as_their_angle_in_radians():
    """Small turns about one axis: what the filter makes of the angle itself, speed and beta included."""
    angle = 0.05 * sway(0.1)[:, :1]
    rotations = euler_to_matrix(torch.tensor(np.rad2deg(np.pad(angle, ((0, 0), (2, 0)))))).numpy()
    euro = OneEuro(0.5, 20.0)
    smooth = smooth_rotations(TIMES, rotations, euro, one_euro)
    assert np.allclose(np.arctan2(smooth[:, 0, 1], smooth[:, 0, 0]), one_euro(TIMES, angle, euro)[:, 0], atol=2e-4)
    unlike = one_euro(TIMES, angle, OneEuro(0.5, 20.0 * np.sqrt(2)))[:, 0]
    assert np.abs(unlike - one_euro(TIMES, angle, euro)[:, 0]).max() > 1e-3


def test_robust_mean_shrugs_off_bad_frames():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=8)
    rows = truth + rng.normal(0, 0.3, (100, 8))
    assert np.allclose(robust_mean(rows), rows.mean(0), atol=0.03)
    rows[:15] += 8  # frames on another face
    assert np.linalg.norm(robust_mean(rows) - truth) < 0.2 * np.linalg.norm(rows.mean(0) - truth)
    assert np.array_equal(robust_mean(rows[:1]), rows[0])
    assert np.allclose(robust_mean(np.vstack([np.ones((5, 2)), [[9, 9]]])), 1)


def test_jitter_is_the_noise_s_deviation_and_no_motion():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, [0.2, 3.0], (5000, 2))
    assert np.allclose(jitter(noise), [0.2, 3.0], rtol=0.03)
    assert np.allclose(jitter(np.stack([TIMES * 7, np.ones(240)], 1)), 0, atol=1e-12)


@pytest.mark.parametrize("delay", [-0.11, 0.0, 0.05, 0.2])
def test_lag_is_the_delay(delay):
    assert np.allclose(lag(3 * sway(0.02, delay) + 1, sway(), FPS), delay, atol=0.006)


def test_lag_of_nothing_is_nan():
    found = lag(np.stack([np.ones(240), sway()[:, 0]], 1), sway(), FPS)
    assert np.isnan(found[0]) and np.isfinite(found[1])
