"""The neutral mouth closed: on two made-up lips, and on the published head where it is."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mlanet_lib.face_sources.ict import closing, head

ROWS, COLUMNS = 25, 51
LIP = ROWS * COLUMNS
"""Vertices of one lip; the skin is both."""


@pytest.fixture
def lips():
    """Mean (V, 3), six identity modes and the mode that opens the jaw, of two lips 0.5 mm apart, and a tooth behind."""
    x, y = np.meshgrid(np.linspace(-30, 30, COLUMNS), np.linspace(0, 50, ROWS))
    upper = np.stack([x, y + 0.25, 100 - x**2 / 100], -1).reshape(-1, 3)
    mean = np.concatenate([upper, upper * [1, -1, 1], [[0, 0, 95], [5, 0, 95]]])
    phase = mean[:, 0, None] / 30 * np.array([0.0, 0.5, 1, 0, 0.5, 1])
    identity = np.cos(phase)[:, None] * np.array([0.5, 1.5, 0.3])[:, None]
    identity[LIP : 2 * LIP, :, :3] *= -1  # three of them part the lips
    jaw = np.zeros_like(mean)
    jaw[LIP : 2 * LIP, 1] = -20 + 0.1 * mean[LIP : 2 * LIP, 1]
    return mean, identity, jaw


def gaps(mean, identity, upper, lower, count=50) -> np.ndarray:
    """(count, N) mm between the lips of random people, the first of whom is the mean."""
    people = np.random.default_rng(0).normal(size=(count, identity.shape[2]))
    people[0] = 0
    height = mean[:, 1] + people @ identity[:, 1].T
    return height[:, upper] - height[:, lower]


def test_the_lips_of_everybody_meet_and_overlap(lips):
    mean, identity, jaw = lips
    rim = np.arange(COLUMNS)  # of the upper lip; the lower lip's is as far on
    assert np.abs(gaps(mean, identity, rim, LIP + rim)).max() > 3
    found = gaps(*closing.closed(mean, identity, jaw, 2 * LIP), rim, LIP + rim)
    assert np.abs(found[0] + closing.OVERLAP).max() < 0.01 and (found + closing.OVERLAP).std() < 0.05


def test_both_lips_give_way_alike_and_less_the_farther_they_are(lips):
    mean, identity, jaw = lips
    closed, modes = closing.closed(mean, identity, jaw, 2 * LIP)
    way = (closed - mean)[: 2 * LIP].reshape(2, ROWS, COLUMNS, 3)
    assert np.allclose(way[0], way[1] * [1, -1, 1]) and (way[0, ..., 1] <= 0).all() and way[0, 0, 25, 1] < -0.3
    assert (np.diff(np.abs(way[0, :9, 25, 1])) < 0).all()
    far = np.abs(mean[: 2 * LIP, 1]) > 3 * closing.REACH + 0.5
    assert (
        far.any()
        and not way.reshape(-1, 3)[far].any()
        and np.array_equal(modes[: 2 * LIP][far], identity[: 2 * LIP][far])
    )


def test_only_heights_on_the_skin_change(lips):
    mean, identity, jaw = lips
    before = mean.copy(), identity.copy(), jaw.copy()
    closed, modes = closing.closed(mean, identity, jaw, 2 * LIP)
    assert np.array_equal(closed[:, ::2], mean[:, ::2]) and np.array_equal(modes[:, ::2], identity[:, ::2])
    assert np.array_equal(closed[2 * LIP :], mean[2 * LIP :])
    assert all(map(np.array_equal, before, (mean, identity, jaw)))  # what was given stays: expressions are untouched


def test_modes_that_move_both_lips_alike_stay(lips):
    mean, identity, jaw = lips
    _, modes = closing.closed(mean, identity, jaw, 2 * LIP)
    assert np.abs(modes[..., 3:] - identity[..., 3:]).max() < 1e-9 < np.abs(modes[..., :3] - identity[..., :3]).max()


@pytest.mark.slow  # the published archive has 400 MB
def test_the_published_head_closes_its_mouth(published_head):
    mean, identity = published_head.mean, published_head.identity
    jaw = published_head.expression[..., published_head.expression_names.index("jawOpen")]
    closed, modes = closing.closed(mean, identity, jaw, head.SKIN)
    lower = jaw[: head.SKIN, 1] < 0.5 * jaw[: head.SKIN, 1].min()
    upper, lower = (np.flatnonzero(side & (mean[: head.SKIN, 2] > 90)) for side in (~lower, lower))
    near, partner = cKDTree(mean[upper]).query(mean[lower])
    upper, lower = upper[partner[near < closing.CONTACT]], lower[near < closing.CONTACT]
    before, after = gaps(mean, identity, upper, lower), gaps(closed, modes, upper, lower)
    assert np.quantile(before, 0.95) > 1.2 > 0.4 > np.quantile(after, 0.95) and after.max() < 1.3  # mm
    assert after.mean() == pytest.approx(-closing.OVERLAP, abs=0.05) and after[0].max() < 0.4
    moved = (closed != mean).any(1) | (modes != identity).any((1, 2))
    away, _ = cKDTree(mean[np.concatenate([upper, lower])]).query(mean[moved])
    assert away.max() < 3 * closing.REACH and np.flatnonzero(moved).max() < head.SKIN
    assert np.linalg.norm(closed - mean, axis=1).max() < 0.6
