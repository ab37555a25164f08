"""The figures of likeness: known answers for a perfect system, for one face for everybody, and in between."""

import cv2
import numpy as np
import pytest
from toy_portraits import by_hand

from mlanet_lib.evaluation import likeness_metrics as metrics
from mlanet_lib.evaluation.likeness_metrics import (
    DISTANCES,
    closed_mouths,
    distances,
    line,
    patch_colour,
    proportions,
    skin,
)

RNG = np.random.default_rng(0)
FACE = RNG.uniform(0, 100, (68, 2))
PEOPLE = FACE + RNG.normal(0, 3, (30, 68, 2))


def test_distances_are_those_of_the_protocol():
    """Fourteen, over the outer eye corners, whatever the size, place and turn of the face in the picture."""
    assert len(DISTANCES) == 14
    points = np.zeros((1, 68, 2))
    points[0, 45] = [50, 0]  # 36 lies at the origin
    points[0, [48, 54]] = [[0, 10], [0, 35]]
    points[0, [37, 38]], points[0, [40, 41]] = [[0, 2], [0, 4]], [[0, -1], [0, -1]]  # this eye is 4 open, the other 0
    points[0, 8], points[0, [39, 42]] = [0, 80], [[5, 20], [-5, 20]]
    found = dict(zip(DISTANCES, distances(points)[0], strict=True))
    assert found["mouth width"] == pytest.approx(25 / 50) and found["eye opening"] == pytest.approx((4 + 0) / 2 / 50)
    assert found["face height"] == pytest.approx(60 / 50) and found["between the eyes"] == pytest.approx(10 / 50)
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    np.testing.assert_allclose(distances(3 * PEOPLE @ turn + [7, -100]), distances(PEOPLE), atol=1e-9)
    np.testing.assert_allclose(distances(by_hand(PEOPLE)), distances(PEOPLE), atol=1e-12)


def test_a_perfect_system_has_slope_and_r_of_1_and_one_face_for_everybody_has_0():
    one = np.broadcast_to(FACE, PEOPLE.shape)
    found = proportions(by_hand(PEOPLE), PEOPLE, one)
    assert found["r"] == pytest.approx(1) and found["slope"] == pytest.approx(1) and found["people"] == 30
    assert found["intervals"]["slope"] == pytest.approx((1, 1)) and set(found["by_distance"]) == set(DISTANCES)
    for row in found["by_distance"].values():
        assert row["r"] == pytest.approx(1) and row["truth"] == pytest.approx(row["drawn"])
    assert found["difference"]["slope"] == pytest.approx({"difference": 1, "low": 1, "high": 1})
    same = proportions(by_hand(PEOPLE), one)
    assert same["r"] == same["slope"] == 0 and same["intervals"]["r"] == (0, 0) and "difference" not in same
    other = proportions(by_hand(PEOPLE), PEOPLE[::-1], seed=1)  # somebody else's face
    low, high = other["intervals"]["r"]
    assert abs(other["r"]) < 0.2 and low < other["r"] < high and high - low > 0.05
    assert other == proportions(by_hand(PEOPLE), PEOPLE[::-1], seed=1)


def test_line():
    truth = RNG.normal(size=(50, 2))
    drawn = 0.25 * truth + [3, -1]
    r, slope = line(truth, drawn)
    assert r == pytest.approx(1) and slope == pytest.approx(0.25)
    noisy = drawn + RNG.normal(size=(50, 2))
    r, slope = line(truth, noisy)
    for k in range(2):
        assert r[k] == pytest.approx(np.corrcoef(truth[:, k], noisy[:, k])[0, 1])
        assert slope[k] == pytest.approx(np.polyfit(truth[:, k], noisy[:, k], 1)[0])
    for nothing in (line(truth, truth * 0 + 0.1), line(truth * 0 + 0.1, truth)):
        assert np.array_equal(nothing, np.zeros((2, 2)))


def mouths(*gaps):
    """Points of faces whose outer eye corners are 90 px apart and whose inner lips are so many px."""
    points = np.zeros((len(gaps), 68, 2))
    points[:, 45, 0] = 90
    points[:, 66, 1] = gaps
    return points


def test_closed_mouths():
    """By hand three of five are closed (0, 0.5, 0.99 mm); drawn of these are two more than 2 mm open."""
    hand = by_hand(mouths(0, 0.5, 0.99, 1.01, 9))
    found = closed_mouths(hand * 2, mouths(0, 2.5, 5.99, 9, 0))  # whatever the photo's size
    assert found["closed"] == 3 and found["drawn_open"] == 2 and found["share"] == pytest.approx(2 / 3)
    assert found["error_mm"] == pytest.approx((0 + 2 + 5) / 3)
    assert found["intervals"]["share"] == (0, 1) and found["intervals"]["error_mm"] == pytest.approx((0, 5))
    none = closed_mouths(by_hand(mouths(5, 6, 7)), mouths(0, 0, 0))
    assert none["closed"] == none["drawn_open"] == 0 and np.isnan(none["error_mm"]) and np.isnan(none["share"])


def test_patch_colour():
    image = np.zeros((20, 30, 3))
    image[5:10, 10:14] = [1, 0.5, 0]
    assert patch_colour(image, np.array([[12.0, 7.5]]), 4) == pytest.approx([1, 0.5, 0])
    assert patch_colour(image, np.array([[12.0, 7.5], [25, 15]]), 4) == pytest.approx([0.5, 0.25, 0])
    assert patch_colour(image, np.array([[10.4, 5.4]]), 0.1) == pytest.approx([1, 0.5, 0])  # one pixel at the least
    mask = image[..., 0] > 0
    assert patch_colour(image, np.array([[10.0, 7.5], [25, 15]]), 4, mask) == pytest.approx([1, 0.5, 0])
    for outside in ([-50.0, 7], [12, 900], [-0.9, -3]):
        assert np.isnan(patch_colour(image, np.array([outside]), 4)).all()


def test_skin_values_are_those_of_cie_lab():
    """Black, white, and against OpenCV's."""
    skins = RNG.uniform(0, 1, (50, 3)).astype(np.float32)
    found = metrics.skin_values(np.concatenate([[[0, 0, 0], [1, 1, 1]], skins]))
    assert found["lightness"][:2] == pytest.approx([0, 100], abs=1e-9)
    lightness, a, b = cv2.cvtColor(skins[None], cv2.COLOR_RGB2Lab)[0].T
    np.testing.assert_allclose(found["lightness"][2:], lightness, atol=0.2)
    bright = np.hypot(lightness - 50, b) > 10
    np.testing.assert_allclose(found["ita"][2:][bright], np.degrees(np.arctan2(lightness - 50, b))[bright], atol=2)
    coloured = np.hypot(a, b) > 10
    turn = (found["hue"][2:] - np.degrees(np.arctan2(b, a)) + 180) % 360 - 180
    assert np.abs(turn[coloured]).max() < 2


def test_skin_of_a_known_albedo():
    skins = RNG.uniform(0.25, 0.9, 20)[:, None] * [1.0, 0.8, 0.68]
    groups = np.array(["one", "other"] * 10)
    found = skin(skins, skins, groups)
    for name in ("lightness", "ita", "hue"):
        assert found[name] == pytest.approx({"r": 1, "slope": 1, "mean_difference": 0}, abs=1e-4)
    assert found["ita_error"] == pytest.approx(0, abs=1e-4) and found["people"] == 20 and found["unseen"] == 0
    assert set(found["by_group"]) == {"one", "other"} and found["by_group"]["one"]["people"] == 10
    one = found["by_group"]["one"]
    assert one["photo_ita"] == pytest.approx(one["albedo_ita"]) and one["photo_lightness"] > 20
    plain = skin(skins, np.broadcast_to([0.6, 0.5, 0.4], skins.shape), groups)
    assert plain["lightness"]["slope"] == plain["ita"]["r"] == 0
    spread = metrics.skin_values(skins)["ita"]
    assert plain["ita_error"] == pytest.approx(np.abs(spread - spread.mean()).mean(), rel=1e-3)
    assert plain["intervals"]["lightness_slope"] == (0, 0)


def test_people_without_a_drawn_cheek_are_counted_and_left_out():
    skins = RNG.uniform(0.3, 0.9, (6, 3))
    drawn, groups = skins.copy(), np.array(list("aabbcc"))
    drawn[:2] = np.nan
    found = skin(skins, drawn, groups)
    assert found["people"] == 4 and found["unseen"] == 2 and set(found["by_group"]) == {"b", "c"}
    assert skin(skins, np.full_like(skins, np.nan), groups) == {"people": 0, "unseen": 6}


def test_rank_1():
    distance = np.array([[0.0, 1, 1], [1, 2, 3], [5, 5, 5]])  # found, not found, one of three
    found = metrics.rank_1(distance)
    assert found["rank_1"] == pytest.approx((1 + 0 + 1 / 3) / 3) and found["chance"] == pytest.approx(1 / 3)
    assert found["interval"] == pytest.approx((0, 1), abs=0.12)
    assert metrics.rank_1(1 - np.eye(9)) == {"rank_1": 1, "interval": (1, 1), "chance": 1 / 9}
