"""Albedo from photographs: on made-up people whose skin and light are known."""

import numpy as np
import pytest
import torch

from mlanet_lib.face_sources import london
from mlanet_lib.face_sources.ict import skin
from mlanet_lib.face_sources.ict.skin import Observed
from mlanet_lib.geometry.lighting import sh_basis

PEOPLE, COUNT = 12, 1500
GREY = np.array([1.0, 0.25, 0.1, 0.15, 0.05, -0.05, 0.1, 0.02, 0.05])
"""Light, the same for all channels."""


@pytest.fixture(scope="module")
def made_up():
    """People whose colour is tone * pattern * E(n): what is observed, the albedo, the cheek (bare skin like the rest)
    and the tones. The pattern, a blotch in red a person, does not follow the normal; on the cheeks there is none."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(COUNT, 3)) * [0.5, 0.5, 0.2] + [0, 0, 1] + 0.1 * rng.normal(size=(PEOPLE, COUNT, 3))
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    tone = np.array([0.85, 0.65, 0.55]) * np.linspace(0.35, 1, PEOPLE)[:, None]
    cheek = np.arange(COUNT) < 200
    pattern = np.ones((PEOPLE, COUNT, 3))
    pattern[..., 0] += 0.1 * rng.normal(size=(PEOPLE, COUNT)) * ~cheek
    light = sh_basis(torch.from_numpy(normal)).numpy() @ GREY
    light /= light[:, cheek].mean()
    albedo = tone[:, None] * pattern
    return Observed(albedo * light[..., None], normal, np.ones((PEOPLE, COUNT))), albedo, cheek, tone


def hill(size: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """A curved square of size x size vertices, symmetric in x, and its triangles."""
    x, y = np.meshgrid(np.linspace(-50, 50, size), np.linspace(-50, 50, size))
    points = np.stack([x, y, 60 - (x**2 + y**2) / 100], -1).reshape(-1, 3)
    index = np.arange(size * size).reshape(size, size)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return points, np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def test_light_that_all_photos_share_is_taken_out(made_up):
    observed, albedo, cheek, tone = made_up
    bare = np.ones(COUNT, bool)
    found, level = skin.unlit(observed, bare, cheek)
    lit = np.abs(observed.colour / albedo - 1).mean()
    assert lit > 0.1 and np.abs(found / albedo - 1).mean() < 0.1 * lit
    assert np.abs(found / albedo - 1).max() < 0.05
    assert np.abs(level / tone - 1).max() < 0.02


def test_the_light_is_one_in_the_mean_over_the_cheeks(made_up):
    observed, _, cheek, _ = made_up
    brighter = observed._replace(colour=1.3 * observed.colour)
    albedo, tone = skin.unlit(brighter, np.ones(COUNT, bool), cheek)
    light = brighter.colour[..., 1] / albedo[..., 1]
    assert light[:, cheek].mean() == pytest.approx(1, abs=1e-6)
    assert tone.mean() == pytest.approx(1.3 * made_up[3].mean(), rel=0.02)


def test_what_is_not_bare_skin_says_nothing_about_the_light(made_up):
    observed, albedo, cheek, _ = made_up
    beard = ~cheek & (observed.normal[..., 1].mean(0) < -0.2)  # where the face looks down
    colour = np.where(beard[:, None], 0.85 * observed.colour, observed.colour)
    found, _ = skin.unlit(observed._replace(colour=colour), ~beard, cheek)
    assert np.abs(found[:, ~beard] / albedo[:, ~beard] - 1).max() < 0.05
    assert np.allclose(found[:, beard] / albedo[:, beard], 0.85, atol=0.03)  # its own colour stays


def test_hair_and_highlights_are_not_trusted():
    """Where hair is not over bare skin (a brow) it is the face's own colour, and so is what is usual at a place."""
    tone = np.array([0.8, 0.6, 0.5]) * np.linspace(0.4, 1, PEOPLE)[:, None]
    albedo = np.tile(tone[:, None], (1, 6, 1))
    albedo[:, 5] *= 0.6  # everybody's lips are darker
    albedo[3, 1] *= 0.5  # a lock of hair
    albedo[4, 2] *= 1.4  # a highlight
    albedo[5, 3] *= 0.5  # a brow
    albedo[6, 4] *= 1.05  # a lighter freckle
    trust = skin._trusted(albedo, tone, np.ones((PEOPLE, 6)), np.array([1, 1, 1, 0, 1, 1], bool))
    assert trust[3, 1] == 0 and trust[4, 2] == pytest.approx(0.02)
    trust[3, 1] = trust[4, 2] = 1
    assert trust.min() == 1


def test_observed_colours_stay_and_the_rest_continues_them_smoothly():
    points, faces = hill()
    tone = np.array([[0.6, 0.5, 0.4], [0.3, 0.2, 0.2]])
    ramp = 0.1 * np.abs(points[:, :1]) / 50 + 0.1 * points[:, 1:2] / 50
    albedo = tone[:, None] + ramp
    unseen = (np.abs(points[:, 0]) > 22) & (np.abs(points[:, 0]) < 38)
    weight = np.where(unseen, 0.0, 1.0) * np.ones((2, 1))
    garbage = np.where(unseen[None, :, None], 9.0, albedo)
    found = skin.completed(garbage, weight, tone, points, faces)
    seen = np.abs(found - albedo)[:, ~unseen]
    assert seen.max() < 0.02 and seen.mean() < 0.003
    assert np.abs(found - albedo)[:, unseen].max() < 0.03
    step = np.abs(found[:, faces[:, 0]] - found[:, faces[:, 1]])
    assert step.max() < 1.5 * np.abs(albedo[:, faces[:, 0]] - albedo[:, faces[:, 1]]).max()


def test_a_side_that_is_not_seen_is_the_other_ones():
    points, faces = hill()
    rng = np.random.default_rng(0)
    left = points[:, 0] >= 0
    spots = np.where(points[:, :1] ** 2 + (points[:, 1:2] - 20) ** 2 < 900, 0.5, 0.7) * np.ones(3)
    albedo = np.where(left[:, None], spots, rng.uniform(size=(len(points), 3)))[None]
    tone = np.full((1, 3), 0.7)
    found = skin.completed(albedo, left[None].astype(float), tone, points, faces)[0]
    twin = np.linalg.norm(points[:, None] - points[None] * [-1, 1, 1], axis=2).argmin(1)
    assert np.array_equal(found, found[twin])
    assert np.abs(found - spots).max() < 0.07 and np.abs(found - spots).mean() < 0.005


def test_both_sides_count_by_their_weights():
    points, faces = hill()
    right = points[:, 0] < 0
    albedo = np.where(right[:, None], 0.2, 0.6)[None] * np.ones(3)
    weight = np.where(right, 1.0, 3.0)[None]
    found = skin.completed(albedo, weight, np.full((1, 3), 0.5), points, faces)[0]
    assert np.allclose(found[np.abs(points[:, 0]) > 10], 0.5, atol=2e-3)


def test_where_nothing_is_seen_the_tone_is_taken():
    points, faces = hill()
    tone = np.array([[0.6, 0.5, 0.4]])
    found = skin.completed(np.zeros((1, len(points), 3)), np.zeros((1, len(points))), tone, points, faces)
    assert np.allclose(found, tone)


def test_groups_count_alike_however_many_they_are():
    weights = skin.group_weights(np.array(["a"] * 9 + ["b"] + ["c"] * 2))
    assert weights.mean() == pytest.approx(1) and np.ptp(weights[:9]) == 0
    assert weights[:9].sum() == pytest.approx(weights[9]) == pytest.approx(weights[10:].sum())


def test_who_names_two_groups_belongs_half_to_each():
    weights = skin.group_weights(np.array(["a", "a", "a/b"]))
    expected = np.array([1 / 2.5, 1 / 2.5, (1 / 2.5 + 1 / 0.5) / 2])
    assert np.allclose(weights, expected / expected.mean())


def test_modes_are_principal_components_in_standard_deviations():
    rng = np.random.default_rng(0)
    weights = skin.group_weights(np.array(["a"] * 9 + ["b"] * 3))
    samples = 0.5 + 0.1 * rng.normal(size=(PEOPLE, 40, 3)) * np.linspace(3, 0.2, 40)[:, None]
    mean, modes, scores = skin.modes(samples, weights, PEOPLE - 1)
    assert np.allclose(mean, (weights[:, None, None] * samples).mean(0))
    gram = np.einsum("sck,scl->kl", modes, modes)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-9 and modes.sum((0, 1)).min() >= 0
    assert np.allclose(mean + np.einsum("sck,pk->psc", modes, scores), samples)
    spread = scores.T @ (weights[:, None] * scores) / PEOPLE
    assert np.allclose(spread[skin.TONES :, skin.TONES :], np.eye(PEOPLE - 1 - skin.TONES))  # uncorrelated, sd 1
    assert (np.diff(np.diag(gram)[skin.TONES :]) <= 0).all()


def test_everybodys_tone_is_within_two_standard_deviations():
    tones = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1])[:, None, None]
    samples = np.random.default_rng(0).normal(tones, 0.01, (10, 30, 3))
    mean, modes, scores = skin.modes(samples, np.ones(10), 5)
    assert np.abs(scores[:, 0]).max() == pytest.approx(skin.WITHIN) and scores[:, 0].argmin() == 9
    assert np.abs((mean - skin.WITHIN * modes[..., 0]) - samples[9]).mean() < 0.02
    assert np.abs(scores[:, : skin.TONES]).max() <= skin.WITHIN + 1e-9
    assert np.allclose(np.square(scores[:, skin.TONES :]).mean(0), 1)


def test_few_modes_keep_most_of_what_people_differ_in(made_up):
    albedo = made_up[1]
    mean, modes, scores = skin.modes(albedo, np.ones(PEOPLE), 1)
    missed = ((mean + np.einsum("sck,pk->psc", modes, scores) - albedo) ** 2).sum()
    assert modes.shape == (COUNT, 3, 1) and missed < 0.1 * ((albedo - mean) ** 2).sum()
    assert np.corrcoef(scores[:, 0], made_up[3][:, 0])[0, 1] > 0.99  # the first of them is the tone


@pytest.fixture
def photographed():
    """One person, a hill, in a photo 120 px wide whose red grows to the right; a second hill, to the right, lies behind
    it by half. The hand-placed outline is a circle of 48 px, its upper half the hairline; other points lie inside."""
    points, faces = hill()
    camera = np.concatenate([points + np.array([60, -60, 0]), 0.5 * points * [1, 1, 0.1] + [95, -60, -60]])
    angle = np.linspace(np.pi, 0, 17), np.linspace(0, -np.pi, 11)[1:-1]
    marks = np.zeros((189, 2))
    for index, turn in ((london.HAIR_SIDE, angle[0]), (range(133, 124, -1), angle[1])):
        marks[list(index)] = [60, 60] + 48 * np.stack([np.cos(turn), -np.sin(turn)], 1)
    used = np.arange(4)
    marks[used] = [[40, 40], [80, 40], [40, 80], [80, 80]]
    picture = np.zeros((120, 120, 3), np.uint8)
    picture[..., 0] = 2 * np.arange(120)
    photos = london.Photos(["1"], np.array(["x"]), marks[None], [picture])
    both = np.concatenate([faces, faces + len(points)])
    return skin.Fitted(photos, camera[None], marks[None, used], used, np.zeros((189, 3)), points, both)


def test_colours_are_read_where_the_vertices_are_seen(photographed):
    found, (camera,) = skin.observe(photographed, 882), photographed.camera
    first = np.arange(882) < 441
    sure = found.weight[0] == 1
    expected = 2 * (camera[:, 0] - 0.5) / 255
    assert sure[first].sum() > 50 and np.abs(found.colour[0, sure, 0] - expected[sure]).max() < 0.001
    away = np.linalg.norm(camera[:, :2] - [60, -60], axis=1)
    assert (found.weight[0, away > 48] == 0).all()
    hair = (camera[:, 1] > -60) & (away > 48 - skin.HAIR_MARGIN[0])
    chin = first & (camera[:, 1] < -90) & (away < 46)
    assert (found.weight[0, hair] == 0).all() and found.weight[0, chin].min() > 0.5
    hidden = ~first & (camera[:, 0] < 108)
    assert hidden.sum() > 100 and (found.weight[0, hidden] == 0).all()
    assert np.allclose(found.normal[0, 220], [0, 0, 1], atol=1e-6)


def test_colours_are_read_where_the_hand_placed_points_say(photographed):
    moved = photographed._replace(marks=photographed.marks - [5, 0])
    before, after = (skin.observe(fitted, 441) for fitted in (photographed, moved))
    sure = (before.weight[0] == 1) & (after.weight[0] == 1)
    assert sure.sum() > 50
    assert np.allclose((after.colour - before.colour)[0, sure, 0], 10 / 255, atol=1e-3)
