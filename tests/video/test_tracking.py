"""Following faces through a clip, with a detector and a network that know where they are."""

from types import SimpleNamespace

import numpy as np
import pytest
from oracle import write_clip

from mlanet_lib.geometry.crops import Box
from mlanet_lib.predictor.detector import YUNET_CROP, Detection
from mlanet_lib.video import tracking
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.tracking import Tracker, confirmed, matches, overlap, upright

SIZE = (300, 400)
POINTS = np.stack([np.tile([0.0, 1.0], 34), np.linspace(0, 1, 68)], 1) - 0.5


@pytest.fixture(autouse=True)
def every_tenth(monkeypatch):
    monkeypatch.setattr(tracking, "DETECT_EVERY", 10)


def frame(number):
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[0, 0] = number // 256, number % 256, 0
    return picture


class World:
    """Faces at `paths`: functions of the frame number that give a crop's (x, y, side), or None where there is none.

    The detector sees all that are not `hidden`; the network finds the face that its crop holds, and where it holds
    none it makes one up in the crop's middle, as networks do.
    """

    def __init__(self, *paths, hidden=()):
        self.paths, self.hidden, self.looks = paths, hidden, []
        self.detector = SimpleNamespace(detect=self._detect, kind="yunet")

    def _number(self, picture):
        return 256 * int(picture[0, 0, 0]) + int(picture[0, 0, 1])

    def _crops(self, number):
        return [Box(*crop[:2], crop[2], crop[2]) for path in self.paths if (crop := path(number))]

    def _detect(self, picture, thorough):
        assert thorough is False
        number = self._number(picture)
        self.looks.append(number)
        return [] if number in self.hidden else [detection_of(crop) for crop in self._crops(number)]

    def faces(self, picture, boxes):
        crops = self._crops(self._number(picture))
        found = []
        for box in boxes:
            near = [crop for crop in crops if overlap(crop, box) > 0.3]
            crop = max(near, key=lambda crop: overlap(crop, box)) if near else box
            centre = np.array([crop.x + crop.w / 2, crop.y + crop.h / 2])
            found.append(SimpleNamespace(landmarks68=centre + POINTS * crop.w / np.sqrt(2), crop=box, made_up=not near))
        return found


def detection_of(crop):
    side = crop.w / YUNET_CROP["side"]
    centre = np.array([crop.x + crop.w / 2, crop.y + crop.h / 2 - YUNET_CROP["down"] * side])
    return Detection(np.array([*(centre - side / 2), side, side]), 0.95, np.full((5, 2), np.nan))


def follow(world, count, fps=25):
    tracker = Tracker(world, fps)
    steps = []
    for number in range(count):
        looked, faces = tracker.step(frame(number))
        steps.append(
            (looked, [SimpleNamespace(id=track.id, box=track.box, made_up=face.made_up) for track, face in faces])
        )
    return steps, tracker


def ids(steps):
    return [[row.id for row in rows] for _, rows in steps]


def test_detection_of_gives_back_its_crop():
    assert np.allclose(detection_of(Box(50, 40, 80, 80)).crop(), [50, 40, 80, 80])


def test_a_moving_face_is_followed_between_looks():
    world = World(lambda n: (20 + 5 * n, 100 + n, 100))
    steps, _ = follow(world, 40)
    assert ids(steps) == [[0]] * 40
    assert world.looks == list(range(0, 40, 10))
    assert [looked for looked, _ in steps] == [n % 10 == 0 for n in range(40)]
    for n, (_, (row,)) in enumerate(steps):  # the crop for the next frame lies where the face is in this one
        assert np.allclose(row.box, (20 + 5 * n, 100 + n, 100, 100), atol=1e-4)


def test_two_faces_keep_their_ids_whatever_the_detector_s_order():
    left, right = (lambda n: (10 + n, 50, 90)), (lambda n: (280 - n, 60, 90))
    steps, _ = follow(World(left, right), 60)
    for n, (_, rows) in enumerate(steps):
        assert {row.id: round(row.box.x) for row in rows} == {0: 10 + n, 1: 280 - n}
    world = World(left, right)
    order = iter(range(100))
    seen = world.detector.detect
    world.detector.detect = lambda *a, **k: seen(*a, **k)[:: 1 if next(order) % 2 else -1]
    for n, (_, rows) in enumerate(follow(world, 60)[0]):
        assert {row.id: round(row.box.x) for row in rows} == {1: 10 + n, 0: 280 - n}


def test_a_face_that_comes_later_is_found_at_the_next_look():
    late = lambda n: (250, 100, 90) if n >= 13 else None  # noqa: E731
    steps, _ = follow(World(lambda n: (30, 100, 90), late), 30)
    assert ids(steps) == [[0]] * 20 + [[0, 1]] * 10


def test_without_a_face_every_frame_is_looked_at():
    world = World(lambda n: (100, 100, 90) if n == 7 else None)
    steps, _ = follow(world, 8)
    assert world.looks == list(range(8)) and ids(steps) == [[]] * 7 + [[0]]


def test_a_face_that_goes_is_dropped_back_to_the_last_look():
    """It leaves at frame 14; until the look at 20 the network goes on making it up, and that is not kept."""
    steps, tracker = follow(World(lambda n: (100, 100, 90) if n < 14 else None), 60)
    assert ids(steps) == [[0]] * 20 + [[]] * 40 and steps[17][1][0].made_up
    kept = list(confirmed(steps))
    assert [number for number, _ in kept] == list(range(11))
    assert tracker.tracks == []


@pytest.mark.parametrize(("gap", "id"), [(15, 0), (50, 1)])
def test_a_face_that_comes_back_within_a_second_is_the_same(gap, id):
    hidden = range(20, 20 + gap)
    world = World(lambda n: None if n in hidden else (100 + (n > 20) * 30, 100, 90))
    steps, _ = follow(world, 100)
    kept = sorted((number, row.id) for number, row in confirmed(steps))
    assert kept[:11] == [(n, 0) for n in range(11)]
    assert kept[11:] == [(n, id) for n in range(20 + gap, 100)]
    assert set(world.looks) >= set(range(20, 21 + gap))  # looked for in every frame while it was lost


@pytest.mark.parametrize(("missed", "lost"), [([20], [20]), ([20, 21], [20, 21]), (range(20, 24), range(11, 24))])
def test_a_detector_that_blinks_costs_the_frames_it_blinks_at(missed, lost):
    """A look fails; the face is found again soon, as the same, or not so soon: then nobody knows since when it was
    not there."""
    steps, _ = follow(World(lambda n: (100, 100, 90), hidden=missed), 40)
    assert sorted(number for number, _ in confirmed(steps)) == [n for n in range(40) if n not in lost]
    assert {row.id for _, row in confirmed(steps)} == {0}


def test_what_waits_at_the_end_is_kept_unless_it_was_missed():
    steps, _ = follow(World(lambda n: (100, 100, 90) if n < 27 else None), 29)
    assert sorted(number for number, _ in confirmed(steps)) == list(range(29))
    steps, _ = follow(World(lambda n: (100, 100, 90) if n < 27 else None), 31)
    assert sorted(number for number, _ in confirmed(steps)) == list(range(21))


def test_a_jump_is_looked_at_again_in_the_next_frame():
    class Jumping(World):
        def faces(self, picture, boxes):
            faces = super().faces(picture, boxes)
            if self._number(picture) == 5:
                for face in faces:
                    face.landmarks68 = face.landmarks68 + 80
            if self._number(picture) == 8:
                for face in faces:
                    face.landmarks68 = np.full((68, 2), np.nan)
            return faces

    world = Jumping(lambda n: (100, 100, 90))
    steps, _ = follow(world, 12)
    assert ids(steps) == [[0]] * 5 + [[]] + [[0]] * 2 + [[]] + [[0]] * 3
    assert world.looks == [0, 6, 9, 10]
    assert [number for number, _ in sorted(confirmed(steps), key=lambda pair: pair[0])] == [
        0,
        1,
        2,
        3,
        4,
        6,
        7,
        9,
        10,
        11,
    ]


def test_a_drifting_crop_is_set_right_by_the_detector():
    class Drifting(World):
        def faces(self, picture, boxes):
            faces = super().faces(picture, boxes)
            for face, box in zip(faces, boxes, strict=True):  # ten per cent smaller from frame to frame
                middle = np.array([box.x, box.y]) + box.w / 2
                face.landmarks68 = middle + POINTS * 0.9 * box.w / np.sqrt(2)
            return faces

    steps, _ = follow(Drifting(lambda n: (100, 100, 90)), 21)
    sides = [rows[0].box.w for _, rows in steps]
    assert sides[9] < 40
    assert sides[10] == pytest.approx(81, abs=0.1) and sides[20] == pytest.approx(81, abs=0.1)


def test_agreeing_detections_do_not_move_the_crop():
    """The detector's crops are a little off; a crop that follows the landmarks must not jump to them."""

    class Off(World):
        def _detect(self, picture, thorough=True):
            return [detection_of(Box(crop.x + 8, crop.y, crop.w, crop.h)) for crop in self._crops(0)]

        def faces(self, picture, boxes):
            given.append(boxes[0].x)
            return super().faces(picture, boxes)

    given = []
    follow(Off(lambda n: (100, 100, 90)), 30)
    assert given[0] == pytest.approx(108) and np.allclose(given[1:], 100, atol=1e-4)


def test_nearest_pairs_first_and_none_from_afar():
    known = [Box(0, 0, 100, 100), Box(60, 0, 100, 100)]
    found = [Box(50, 0, 100, 100), Box(400, 0, 100, 100)]
    assert matches(known, found) == {1: 0}
    assert matches(known, [*found, Box(5, 5, 90, 90)]) == {1: 0, 0: 2}
    assert matches([], found) == matches(known, []) == {}


def test_overlap():
    assert overlap(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1
    assert overlap(Box(0, 0, 10, 10), Box(5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert overlap(Box(0, 0, 10, 10), Box(20, 20, 5, 5)) == 0


class Turning:
    """A detector that sees one face, which stands upright after so many turns; surer of itself when it is."""

    def __init__(self, turns):
        self.turns = turns

    def detect(self, picture, thorough=True):
        box, none = np.array([100.0, 80.0, 60.0, 60.0]), np.full((5, 2), np.nan)
        return [Detection(box, 0.94, none, self.turns) if thorough else Detection(box, 0.85, none)]


@pytest.mark.parametrize("turns", range(4))
def test_a_clip_is_turned_as_its_faces_stand(turns, tmp_path):
    clip = Clip.open(write_clip(tmp_path / "clip.mp4", 12))
    turned = upright(clip, Turning(turns))
    assert turned == clip.turned(turns)


def test_a_clip_without_faces_stays(tmp_path):
    clip = Clip.open(write_clip(tmp_path / "clip.mp4", 12))
    assert upright(clip, SimpleNamespace(detect=lambda frame: [])) == clip


@pytest.mark.parametrize("turns", [0, 2])
def test_a_face_that_stands_otherwise_than_the_clip_is_not_drawn_upright(turns):
    world = World(lambda n: (60, 60, 120))
    picture = np.zeros((240, 240, 3), np.uint8)  # square, and the face in its middle: it is there in every turn
    world.detector.detect = lambda frame, thorough=True: [
        Detection(np.array([90.0, 90.0, 60.0, 60.0]), 0.94 if thorough else 0.85, np.full((5, 2), np.nan), t)
        for t in ([turns] if thorough else [0])
    ]
    _, faces = Tracker(world, 25).step(picture)
    assert len(faces) == (turns == 0)
