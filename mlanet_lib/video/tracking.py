"""Follows faces through a clip: which face is which, and the crop for the next frame.

A face's crop is 3DDFA's square about its landmarks of the frame before, as in training. The detector finds new faces,
confirms the followed ones every DETECT_EVERY frames, and looks at every frame while one is lost. Between two
detections a face might be gone: `confirmed` drops the rows in between if the next detection does not find it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor.detector import SURELY_UPRIGHT, Detection, Detector, same_place
from mlanet_lib.predictor.predictor import Face, Predictor
from mlanet_lib.video.clip import Clip

DETECT_EVERY = 5
LOOKS, SEARCHED = 5, 50
"""How many frames with a face say how a clip stands, and how many are looked at for them."""
BLINK = 3
"""Frames for which a detector may miss a face that is there."""
HOLD = 1.0
"""Seconds after which a lost face is forgotten: whoever comes then is new."""
NEAR = 0.75
"""A detection belongs to a face when their crops' centres are nearer than this, in sides of the larger crop."""
AGREE = 0.4
"""Crops that overlap this much (intersection over union) say the same, and the landmarks' is kept: nothing jumps."""


@dataclass
class Track:
    """One face. box: the next frame's crop; score: of its last detection; lost: for how many frames, 0: followed."""

    id: int
    box: Box
    score: float
    lost: int = 0


class Row(NamedTuple):
    """A followed face in one frame: whose (`Track.id`), the score of its last detection, its crop and, in that, its
    parameters (batch of 1)."""

    id: int
    score: float
    box: Box
    parameters: FaceParameters


class Tracker:
    """Follows the faces of a clip frame by frame: `Tracker(predictor, fps).step(frame)`."""

    def __init__(self, predictor: Predictor, fps: float):
        self.predictor, self.fps = predictor, fps
        self.frame = self.next = 0
        self.tracks: list[Track] = []

    def step(self, frame: np.ndarray) -> tuple[bool, list[tuple[Track, Face]]]:
        """One frame (H, W, 3) uint8 RGB, in order: was the detector asked, and the faces that are followed here."""
        looked = self.frame % DETECT_EVERY == 0 or not self.tracks or any(track.lost for track in self.tracks)
        self.frame += 1
        if looked:
            self._look(frame)
        followed = [track for track in self.tracks if not track.lost]
        faces = self.predictor.faces(frame, [track.box for track in followed]) if followed else []
        kept = []
        for track, face in zip(followed, faces, strict=True):
            box = _next_crop(face.landmarks68, track.box, *frame.shape[:2])
            track.lost = int(box is None)
            if box is not None:
                track.box = box
                kept.append((track, face))
        return looked, kept

    def _look(self, frame: np.ndarray) -> None:
        detections = self.predictor.detector.detect(frame, thorough=False)
        found = [Box(*map(float, detection.crop())) for detection in detections]
        pairs = matches([track.box for track in self.tracks], found)
        for number, track in enumerate(self.tracks):
            if number not in pairs:
                track.lost += 1
                continue
            box, track.score = found[pairs[number]], float(detections[pairs[number]].score)
            if track.lost or overlap(track.box, box) < AGREE:
                track.box = box
            track.lost = 0
        self.tracks = [track for track in self.tracks if track.lost <= HOLD * self.fps]
        new = sorted(set(range(len(found))) - set(pairs.values()))
        for number in self._upright(frame, detections, new):
            self.tracks.append(Track(self.next, found[number], float(detections[number].score)))
            self.next += 1

    def _upright(self, frame: np.ndarray, detections: list[Detection], new: list[int]) -> list[int]:
        """The new faces that stand upright. The detector also finds turned faces, with lower scores: if a new face has
        a low score, the quarter turns of the frame are searched too, and a face found there is dropped."""
        if all(detections[number].score >= SURELY_UPRIGHT for number in new):
            return new
        size = frame.shape[:2]
        turned = [face.box_in_photo(*size) for face in self.predictor.detector.detect(frame) if face.turns]
        boxes = {number: detections[number].box_in_photo(*size) for number in new}
        return [number for number in new if not any(same_place(boxes[number], box) for box in turned)]


def upright(clip: Clip, detector: Detector) -> Clip:
    """The clip, turned by quarter turns until its faces stand upright.

    Every `DETECT_EVERY`th frame is searched in all turns until `LOOKS` frames had a face; the turn with the highest sum
    of scores is taken. If the first `SEARCHED` searches find no face, the clip stays unturned."""
    scores, looks = [0.0] * 4, 0
    for number, (_, frame) in enumerate(clip.frames()):
        if number % DETECT_EVERY == 0:
            found = detector.detect(frame)
            looks += bool(found)
            for face in found:
                scores[face.turns] += face.score
        if looks == LOOKS or number == SEARCHED * DETECT_EVERY:
            break
    return clip.turned(int(np.argmax(scores)))


def matches(known: list[Box], found: list[Box]) -> dict[int, int]:
    """Which found box belongs to which known one, by index: the nearest pair first, each box once, none beyond NEAR."""
    pairs = sorted((_distance(a, b), i, j) for i, a in enumerate(known) for j, b in enumerate(found))
    result: dict[int, int] = {}
    for distance, i, j in pairs:
        if distance < NEAR and i not in result and j not in result.values():
            result[i] = j
    return result


def _distance(one: Box, other: Box) -> float:
    across = (one.x + one.w / 2 - other.x - other.w / 2, one.y + one.h / 2 - other.y - other.h / 2)
    return float(np.hypot(*across) / max(one.w, other.w))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one.x + one.w, other.x + other.w) - max(one.x, other.x)
    height = min(one.y + one.h, other.y + other.h) - max(one.y, other.y)
    shared = max(width, 0) * max(height, 0)
    return shared / (one.w * one.h + other.w * other.h - shared)


def _next_crop(landmarks: np.ndarray, last: Box, height: int, width: int) -> Box | None:
    """The crop about the landmarks, or None if it left the picture or moved farther in a frame than faces can."""
    try:
        box = crop_box_from_landmarks(landmarks)
    except UserError:  # not finite, or all in one place
        return None
    x, y = box.x + box.w / 2, box.y + box.h / 2
    inside = 0 <= x <= width and 0 <= y <= height
    return box if inside and 0.5 < box.w / last.w < 2 and _distance(box, last) < 0.5 else None


def confirmed(frames: Iterable[tuple[bool, list[Row]]]) -> Iterator[tuple[int, Row]]:
    """(frame number, row) of the rows that a detection confirms; frames: was the detector asked, and the rows.

    Rows between two detections wait for the later one. They are dropped if it misses their face and the face is not
    found again within BLINK frames. Rows that still wait at the end of the clip are kept.
    """
    waiting: dict[int, list[tuple[int, Row]]] = {}
    look = 0
    for number, (looked, rows) in enumerate(frames):
        look = number if looked else look
        for row in rows:
            held = waiting.setdefault(row.id, [])
            if looked:
                yield from held if held and number - held[-1][0] <= BLINK else ()
                yield number, row
                held.clear()
            else:
                held.append((number, row))
    for held in waiting.values():
        yield from held if held and held[-1][0] > look else ()
