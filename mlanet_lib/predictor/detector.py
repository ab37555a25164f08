"""Faces in a photo, and the step from the detector's boxes to the crop that the network was trained on."""

import itertools
from dataclasses import dataclass

import numpy as np

from mlanet_lib.predictor.yunet import YuNet

# From the detector's box to the training crop (square on the larger side of the 68-point box, times sqrt(2)): measured
# by benchmarks/detector.py on the 4,348 faces that YuNet found in 4,377 AFLW crops (68 points, all poses), checked on
# 866 YouTube Faces frames. In units of s = sqrt(box width * height), s from the box's centre: the centre moves down by
# 0.126 (median) and sideways by -0.09 of the nose's offset (a turned face's box reaches behind the ear); the side is
# 1.29 s (median). Overlap (IoU) with the label's crop: 0.874 in the mean (median 0.891), on the frames 0.881 (0.888).
# The benchmark's photos were not looked at.
YUNET_CROP = {"down": 0.126, "nose": -0.09, "side": 1.29}

# YuNet was trained on faces of about 10 to 300 px. A photo is looked at in copies of at most so many pixels:
COARSE_SIDE = 320  # for faces that fill a good part of it
MIDDLE_SIDE = 1024  # for smaller ones
FINEST_SIDE = 3072  # for the smallest: 15 px of it are 30 px of a photo of 6,000
SMALL = 1 / 8  # a face that is smaller than this part of the photo's longer side may have smaller ones around it
THUMBNAIL = 200  # a photo of fewer pixels is enlarged twice
# YuNet also answers to sideways and upside-down faces, with wrong points and a lower score: at most 0.91 on 242 photos,
# where the upright score was the highest of the four every time. Above this an upright photo is taken as such.
SURELY_UPRIGHT = 0.92


@dataclass(frozen=True)
class Detection:
    """A face in a photo. `box` (4,) x, y, width, height and `points` (5,2) (subject's right eye, left eye, nose, right
    and left mouth corner) in pixels of the photo **after** `turns` quarter turns counter-clockwise
    (`numpy.rot90(photo, turns)`; 0 for an upright photo); `score` in [0,1]."""

    box: np.ndarray
    score: float
    points: np.ndarray
    turns: int = 0

    def box_in_photo(self, height: int, width: int) -> np.ndarray:
        """`box` (4,) in the photo's own pixels, before any turn; height, width: of the photo."""
        corners = turn_points(np.array([self.box[:2], self.box[:2] + self.box[2:]]), self.turns, height, width)
        return np.concatenate([corners.min(0), np.ptp(corners, axis=0)])

    def crop(self) -> np.ndarray:
        """The training crop (4,): x, y, width, height of a square, same pixels as `box`; may leave the photo."""
        size = float(np.sqrt(self.box[2] * self.box[3]))
        centre = self.box[:2] + self.box[2:] / 2
        sideways = 0.0 if np.isnan(self.points[2, 0]) else YUNET_CROP["nose"] * (self.points[2, 0] - centre[0])
        centre = centre + np.array([sideways, YUNET_CROP["down"] * size])
        side = YUNET_CROP["side"] * size
        return np.array([*(centre - side / 2), side, side])


class Detector:
    """Finds faces: `Detector.load().detect(photo)`."""

    kind = "yunet"

    def __init__(self, network: YuNet):
        self.network = network

    @classmethod
    def load(cls) -> "Detector":
        """With the weights of `YuNet.load`, and its UserErrors."""
        return cls(YuNet.load())

    def detect(self, photo: np.ndarray, thorough: bool = True) -> list[Detection]:
        """Faces of an RGB uint8 photo (H,W,3), largest (box area times score) first; none: an empty list.

        The photo is looked at in a small copy and in one of `MIDDLE_SIDE` pixels. With `thorough`, it is looked at once
        more with up to `FINEST_SIDE` if the small copy shows no face or a small one, or the larger copy more faces; and
        if no face is found, or one that is not surely upright, in its three quarter turns too. At each place the
        detection with the highest score is kept, so that faces of one photo may be turned differently.
        """
        size = photo.shape[:2]
        small = SMALL * max(size)
        coarse = self._look(photo, 0, COARSE_SIDE)
        found = _merged(coarse, self._look(photo, 0, MIDDLE_SIDE), *size)
        least = min((max(face.box[2:]) for face in coarse), default=0)
        if thorough and max(size) > MIDDLE_SIDE and (least < small or len(found) > len(coarse)):
            found = _merged(found, self._look(photo, 0, FINEST_SIDE), *size)
        unsure = [max(face.box[2:]) for face in found if face.score < SURELY_UPRIGHT]
        if thorough and (unsure or not found):
            sides = [COARSE_SIDE, MIDDLE_SIDE] if min(unsure, default=0) < small else [COARSE_SIDE]
            for turns, side in itertools.product((1, 3, 2), sides):
                found = _merged(found, self._look(photo, turns, side), *size)
        return sorted(found, key=lambda face: -face.box[2] * face.box[3] * face.score)

    def _look(self, photo: np.ndarray, turns: int, longest: int) -> list[Detection]:
        """The upright faces of the photo after so many quarter turns, in a copy reduced to `longest` pixels."""
        import cv2

        side = max(photo.shape[:2])
        if longest > COARSE_SIDE and side <= COARSE_SIDE:
            return []  # the small copy is the photo
        scale = 2.0 if side < THUMBNAIL else min(1.0, longest / side)
        size = tuple(max(1, round(side * scale)) for side in photo.shape[1::-1])
        how = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
        copy = cv2.resize(photo, size, interpolation=how) if scale != 1 else photo
        # a face that fills its photo has too little around it for YuNet
        frame = max(size) // 4 if longest == COARSE_SIDE else 16
        found = self.network(np.rot90(copy, turns), frame)
        zoom = np.array(photo.shape[1::-1]) / np.array(size)
        zoom = zoom if turns % 2 == 0 else zoom[::-1]
        return [
            Detection(box * np.tile(zoom, 2), float(min(score, 1.0)), points * zoom, turns)
            for box, points, score in zip(*found, strict=True)
        ]


def same_place(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes (4,), x, y, width, height, can be of one face: the centre of one lies within the other."""
    apart = np.abs(one[:2] + one[2:] / 2 - other[:2] - other[2:] / 2)
    return bool((apart < np.maximum(one[2:], other[2:]) / 2).all())


def _merged(faces: list[Detection], more: list[Detection], height: int, width: int) -> list[Detection]:
    """Merge the detections of two looks at one photo: if both found the same face, the one with the higher score is
    kept."""

    def rivals(face: Detection, others: list[Detection]) -> list[Detection]:
        box = face.box_in_photo(height, width)
        return [other for other in others if same_place(box, other.box_in_photo(height, width))]

    kept = [face for face in faces if all(other.score <= face.score for other in rivals(face, more))]
    return kept + [face for face in more if not rivals(face, kept)]


def turn_points(points: np.ndarray, turns: int, height: int, width: int) -> np.ndarray:
    """Points (...,2) of `numpy.rot90(photo, turns)` in the photo's own pixels (`height`, `width` of the photo)."""
    x, y = points[..., 0], points[..., 1]
    turned = {0: (x, y), 1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[turns % 4]
    return np.stack(turned, -1)
