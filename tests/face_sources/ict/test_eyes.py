"""Eyes: what colour they have in a photo, and how they are painted."""

import numpy as np
import pytest

from mlanet_lib.face_sources import london
from mlanet_lib.face_sources.ict import eyes
from mlanet_lib.face_sources.ict.head import EYE_CENTRE, GAZE, eye_angle

IRIS, SCLERA = np.array([0.3, 0.4, 0.5]), np.array([0.8, 0.75, 0.7])
ANGLES = np.linspace(0.5, 120, 400)


def meridian(name: str) -> np.ndarray:
    """Points (400, 3) mm of an eyeball, ANGLES away from its gaze."""
    gaze = GAZE / np.linalg.norm(GAZE)
    side = np.cross(gaze, [0, 1, 0]) / np.linalg.norm(np.cross(gaze, [0, 1, 0]))
    turn = np.radians(ANGLES)[:, None]
    points = EYE_CENTRE + 15.4 * (np.cos(turn) * gaze + np.sin(turn) * side)
    return points * [1 if name == "left eye" else -1, 1, 1]


@pytest.mark.parametrize("name", ["left eye", "right eye"])
def test_an_eye_has_a_dark_pupil_an_iris_and_a_white(name):
    assert np.allclose(eye_angle(meridian(name), name), ANGLES)
    colour, share = eyes.painted(meridian(name), name, IRIS, SCLERA)
    pupil, white = ANGLES < eyes.PUPIL - 1, ANGLES > eyes.LIMBUS + 1
    ring = (ANGLES > eyes.PUPIL + 1) & (ANGLES < eyes.LIMBUS - 1)
    assert np.allclose(colour[pupil], eyes.PUPIL_COLOUR) and np.allclose(colour[white], SCLERA)
    assert (share[pupil | white] == 0).all() and np.allclose(colour[ring], share[ring, None] * IRIS)
    assert 0.9 < share[ring].mean() < 1.1 and share.min() >= 0


def test_the_iris_is_lightest_around_the_pupil_and_darkest_at_its_rim():
    _, share = eyes.painted(meridian("left eye"), "left eye", IRIS, SCLERA)
    place = share.argmax()
    assert eyes.PUPIL < ANGLES[place] < eyes.PUPIL + 5 and share[place] > 1.2
    assert share[ANGLES < eyes.LIMBUS - 1][-1] < 0.7
    assert (np.diff(share[place:]) <= 0).all() and (np.diff(share[: place + 1]) >= 0).all()


def test_what_is_added_to_the_iris_changes_it_by_its_share():
    points, more = meridian("right eye"), np.array([0.1, 0.0, -0.1])
    before, share = eyes.painted(points, "right eye", IRIS, SCLERA)
    after, _ = eyes.painted(points, "right eye", IRIS + more, SCLERA)
    assert np.allclose(after - before, np.outer(share, more))


def portrait(iris, sclera, lids: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """A picture of two eyes on skin, and points by hand: irises of 20 px, a pupil, a darker rim, a white reflection."""
    picture = np.full((120, 300, 3), (200, 150, 130), np.uint8)
    rows, columns = np.mgrid[:120, :300] + 0.5
    points = np.zeros((189, 2))
    for name, column in (("right eye", 80), ("left eye", 220)):
        x, y = columns - column, rows - 60
        picture[(x / 50) ** 2 + (y / (50 * lids)) ** 2 < 1] = sclera
        away = np.hypot(x, y)
        for radius, colour in ((20, (20, 20, 20)), (18, iris), (9, (0, 0, 0))):
            picture[(away < radius) & ((x / 50) ** 2 + (y / (50 * lids)) ** 2 < 1)] = colour
        picture[np.hypot(x - 9, y + 8) < 4] = 255
        turn = np.linspace(0, 2 * np.pi, 9)[:8]
        points[list(london.IRIS[name])] = [column, 60] + 20 * np.stack([np.cos(turn), np.sin(turn)], 1)
        around = np.stack([-50 * np.cos(turn), -50 * lids * np.sin(turn)], 1)
        points[list(london.LIDS[name])] = around + np.array([column, 60])
    return picture, points


def photos(*portraits) -> london.Photos:
    pictures, points = zip(*portraits, strict=True)
    names = [str(number) for number in range(len(pictures))]
    return london.Photos(names, np.array(names), np.stack(points), list(pictures))


def test_the_colour_of_the_iris_in_a_photo_is_found():
    brown, blue, white = (90, 60, 40), (80, 110, 150), (220, 210, 200)
    irises, sclera = eyes.photographed(photos(portrait(brown, white), portrait(blue, (200, 190, 180))))
    assert np.allclose(irises * 255, [brown, blue]) and np.allclose(sclera * 255, [210, 200, 190])


def test_the_two_eyes_of_a_person_are_averaged():
    (left, points), (right, _) = portrait((90, 60, 40), (220, 210, 200)), portrait((110, 80, 60), (220, 210, 200))
    irises, _ = eyes.photographed(photos((np.concatenate([left[:, :150], right[:, 150:]], 1), points)))
    assert np.allclose(irises * 255, [[100, 70, 50]])


def test_eyes_that_show_no_white_say_nothing_about_it():
    shy, open_eyes = portrait((90, 60, 40), (220, 210, 200)), portrait((80, 110, 150), (200, 190, 180))
    for name in london.LIDS:  # of the first, only the iris lies between the lids
        shy[1][list(london.LIDS[name])] = shy[1][list(london.IRIS[name])]
    irises, sclera = eyes.photographed(photos(shy, open_eyes))
    assert np.allclose(irises * 255, [[90, 60, 40], [80, 110, 150]]) and np.allclose(sclera * 255, [200, 190, 180])
