"""Faces in a photo: YuNet through OpenCV, and the step from its boxes to the crop that the network was trained on.

YuNet (Wu, Peng, Yu: A Tiny Millisecond-level Face Detector, 2023) gives boxes, scores and five points. Its weights ship
with the project's (`weights/`); the environment variable MLANET_MODELS names another folder for them.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.files.project import library_root

if TYPE_CHECKING:
    import cv2

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# From the detector's box to the training crop (square on the larger side of the 68-point box, times sqrt(2)): measured
# by benchmarks/detector.py on the 4,348 faces that YuNet found in 4,377 AFLW crops (68 points, all poses), checked on
# 866 YouTube Faces frames. In units of s = sqrt(box width * height), s from the box's centre: the centre moves down by
# 0.126 (median) and sideways by -0.09 of the nose's offset (a turned face's box reaches behind the ear); the side is
# 1.29 s (median). Overlap (IoU) with the label's crop: 0.874 in the mean (median 0.891), on the frames 0.881 (0.888).
# The benchmark's photos were not looked at.
YUNET_CROP = {"down": 0.126, "nose": -0.09, "side": 1.29}

SCORE = 0.6  # the least of a face
LONGEST_SIDE = 1024  # YuNet was trained on faces of about 10 to 300 px; bigger photos are reduced to this
FINEST_SIDE = 2048  # and to this for the small faces: 15 px of it are 45 px of a photo of 6,000
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

    def __init__(self, engine: "cv2.FaceDetectorYN"):
        self.engine = engine

    @classmethod
    def load(cls) -> "Detector":
        """YuNet from MLANET_MODELS or the project's weights. UserError if the file is not there, or is another."""
        import cv2

        path = _yunet_path()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns about its own engine
        return cls(cv2.FaceDetectorYN.create(str(path), "", (640, 640), SCORE, 0.3, 5000))

    def detect(self, photo: np.ndarray, thorough: bool = True) -> list[Detection]:
        """Faces of an RGB uint8 photo (H,W,3), largest (box area times score) first; none: an empty list.

        With `thorough`, a photo of more than `LONGEST_SIDE` pixels is looked at once more with up to `FINEST_SIDE`, for
        the small faces in it; and where no face is found, or one that is not surely upright, in its three quarter turns
        too. At each place the detection with the highest score is kept, so that faces of one photo may be turned
        differently.
        """
        found = self._detect_turned(photo, 0, LONGEST_SIDE)
        if thorough and max(photo.shape[:2]) > LONGEST_SIDE:
            found = _merged(found, self._detect_turned(photo, 0, FINEST_SIDE), *photo.shape[:2])
        if thorough and min((face.score for face in found), default=0.0) < SURELY_UPRIGHT:
            for turns in (1, 3, 2):
                found = _merged(found, self._detect_turned(photo, turns, LONGEST_SIDE), *photo.shape[:2])
        return sorted(found, key=lambda face: -face.box[2] * face.box[3] * face.score)

    def _detect_turned(self, photo: np.ndarray, turns: int, longest: int) -> list[Detection]:
        """The upright faces of the photo after so many quarter turns, reduced to `longest` pixels."""
        import cv2

        scale = min(1.0, longest / max(photo.shape[:2]))
        size = tuple(max(1, round(side * scale)) for side in photo.shape[1::-1])
        small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA) if scale < 1 else photo
        zoom = np.array(photo.shape[1::-1]) / np.array(size)
        zoom = zoom if turns % 2 == 0 else zoom[::-1]
        found = self._detect_upright(np.ascontiguousarray(np.rot90(small, turns)))
        return [
            replace(face, box=face.box * np.tile(zoom, 2), points=face.points * zoom, turns=turns) for face in found
        ]

    def _detect_upright(self, photo: np.ndarray) -> list[Detection]:
        import cv2

        # A face that fills its photo, or a thumbnail, has too little around it for YuNet: a grey frame helps.
        height, width = photo.shape[:2]
        frame = max(height, width) // 4
        zoom = 2 if max(height, width) < 200 else 1
        framed = cv2.copyMakeBorder(photo, frame, frame, frame, frame, cv2.BORDER_CONSTANT, value=(127, 127, 127))
        framed = cv2.resize(framed, None, fx=zoom, fy=zoom) if zoom > 1 else framed
        self.engine.setInputSize(framed.shape[1::-1])
        _, rows = self.engine.detect(cv2.cvtColor(framed, cv2.COLOR_RGB2BGR))
        rows = np.zeros((0, 15)) if rows is None else rows.astype(float)
        boxes = rows[:, :4] / zoom - [frame, frame, 0, 0]
        points = rows[:, 4:14].reshape(-1, 5, 2) / zoom - frame
        return [
            Detection(box, float(min(score, 1.0)), five)
            for box, five, score in zip(boxes, points, rows[:, 14], strict=True)
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


def _yunet_path() -> Path:
    """YuNet's weights, their content checked; UserError that says how to get them."""
    folder = os.environ.get("MLANET_MODELS")
    path = (Path(folder) if folder else library_root() / "weights") / YUNET_FILE
    if not path.is_file():
        raise UserError(f"the face detector's weights are not here ({path}): run dvc pull weights.dvc")
    if hashlib.sha256(path.read_bytes()).hexdigest() != YUNET_SHA256:
        raise UserError(f"{path} was altered (its sha256 differs): run dvc pull --force weights.dvc")
    return path
