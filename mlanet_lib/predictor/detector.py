"""Faces in a photo: YuNet through OpenCV, and the step from its boxes to the crop that the network was trained on.

YuNet (Wu, Peng, Yu: A Tiny Millisecond-level Face Detector, 2023) gives boxes, scores and five points. Its weights
come from the folder that the environment variable MLANET_MODELS names, else they are fetched once (pooch, checked
hash). Where neither works, the Haar cascade that OpenCV 4 bundles (OpenCV 5 dropped it) finds frontal faces only.
"""

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mlanet_lib.errors import UserError

# Either file is YuNet. The first is the one that the crop constants below were measured with.
YUNET_FILES = {
    "yunet_n_640_640.onnx": (
        "25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
        "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/"
        "47198234de8c4646961e46159e02af5b06021a78/onnx/yunet_n_640_640.onnx",
    ),
    "face_detection_yunet_2023mar.onnx": (
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        "https://huggingface.co/opencv/face_detection_yunet/resolve/"
        "3cc26e7f1014a5ee5d74a42acee58bafc9d0a310/face_detection_yunet_2023mar.onnx",
    ),
}

# From a detector's box to the training crop (square on the larger side of the 68-point box, times sqrt(2)):
# medians over 4,383 AFLW crops (68 points, all poses) whose faces YuNet found, checked on 3,462 YouTube
# Faces frames. In units of s = sqrt(box width * height), s from the box's centre: the centre moves down by 0.105 and
# sideways by -0.12 of the nose's offset (a turned face's box reaches behind the ear); the side is 1.33 s.
# Overlap (IoU) with the label's crop: 0.875 and about 0.84. The benchmark's photos were not looked at.
YUNET_CROP = {"down": 0.105, "nose": -0.12, "side": 1.33}
# The cascade (OpenCV 4.14) found 327 of 400 YouTube frames; medians over those.
HAAR_CROP = {"down": 0.16, "nose": 0.0, "side": 1.25}

LONGEST_SIDE = 1024  # YuNet was trained on faces of about 10 to 300 px; bigger photos are reduced to this
FINEST_SIDE = 2048  # and to this for the small faces: 15 px of it are 45 px of a photo of 6,000
# YuNet also answers to sideways and upside-down faces, with wrong points and a lower score: at most 0.91 on 242 photos,
# where the upright score was the highest of the four every time. Above this an upright photo is taken as such.
SURELY_UPRIGHT = 0.92


@dataclass(frozen=True)
class Detection:
    """A face in a photo. `box` (4,) x, y, width, height and `points` (5,2) (subject's right eye, left eye, nose, right
    and left mouth corner; NaN where the detector has none) in pixels of the photo **after** `turns` quarter turns
    counter-clockwise (`numpy.rot90(photo, turns)`; 0 for an upright photo); `score` in [0,1]."""

    box: np.ndarray
    score: float
    points: np.ndarray
    turns: int = 0
    detector: str = "yunet"

    def box_in_photo(self, height: int, width: int) -> np.ndarray:
        """`box` (4,) in the photo as it is, height and width its own."""
        corners = turn_points(np.array([self.box[:2], self.box[:2] + self.box[2:]]), self.turns, height, width)
        return np.concatenate([corners.min(0), np.ptp(corners, axis=0)])

    def crop(self) -> np.ndarray:
        """The training crop (4,): x, y, width, height of a square, same pixels as `box`; may leave the photo."""
        constants = YUNET_CROP if self.detector == "yunet" else HAAR_CROP
        size = float(np.sqrt(self.box[2] * self.box[3]))
        centre = self.box[:2] + self.box[2:] / 2
        sideways = 0.0 if np.isnan(self.points[2, 0]) else constants["nose"] * (self.points[2, 0] - centre[0])
        centre = centre + np.array([sideways, constants["down"] * size])
        side = constants["side"] * size
        return np.array([*(centre - side / 2), side, side])


class Detector:
    """Finds faces; `Detector.load()` picks the best detector that can be had, `kind` says which ("yunet", "haar")."""

    def __init__(self, kind: str, engine, score: float = 0.6):
        self.kind, self.engine, self.score = kind, engine, score

    @classmethod
    def load(cls, score: float = 0.6, download: bool = True) -> "Detector":
        """YuNet from MLANET_MODELS or the network, else OpenCV's Haar cascade with a note on stderr.

        `score`: least score of a face, in [0,1] (YuNet). Raises UserError where nothing can be had, or where the file
        in MLANET_MODELS is another one than its name says.
        """
        path, reason = yunet_weights(download)
        if path is not None:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns about its own engine
            return cls("yunet", cv2.FaceDetectorYN.create(str(path), "", (640, 640), score, 0.3, 5000), score)
        cascade = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
        if hasattr(cv2, "CascadeClassifier") and cascade.is_file():
            print(f"note: YuNet {reason}; using OpenCV's Haar cascade (frontal faces only)", file=sys.stderr)
            return cls("haar", cv2.CascadeClassifier(str(cascade)), score)
        raise UserError(
            f"no face detector: YuNet {reason}, and OpenCV {cv2.__version__} bundles no Haar cascade; put "
            f"{next(iter(YUNET_FILES))} into a folder and name it in MLANET_MODELS, or give crops (--cropped)"
        )

    def detect(self, photo: np.ndarray, thorough: bool = True) -> list[Detection]:
        """Faces of an RGB uint8 photo (H,W,3), largest (box area times score) first; none: an empty list.

        With `thorough`, a photo of more than `LONGEST_SIDE` pixels is looked at once more with up to `FINEST_SIDE`, for
        the small faces in it; and where no face is found, or one that is not surely upright, in its three quarter turns
        too. What has the highest score at a place counts, so that each face may have a turn of its own.
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
        # A face that fills its picture, or a thumbnail, has too little around it for YuNet: a grey frame helps.
        height, width = photo.shape[:2]
        frame = max(height, width) // 4
        zoom = 2 if max(height, width) < 200 else 1
        framed = cv2.copyMakeBorder(photo, *[frame] * 4, cv2.BORDER_CONSTANT, value=(127, 127, 127))
        framed = cv2.resize(framed, None, fx=zoom, fy=zoom) if zoom > 1 else framed
        if self.kind == "haar":
            grey = cv2.equalizeHist(cv2.cvtColor(framed, cv2.COLOR_RGB2GRAY))
            least = max(24, min(grey.shape) // 12)
            boxes = self.engine.detectMultiScale(grey, 1.1, 5, minSize=(least, least))
            points, scores = np.full((len(boxes), 5, 2), np.nan), np.ones(len(boxes))
            boxes = np.array(boxes, float).reshape(-1, 4)
        else:
            self.engine.setInputSize(framed.shape[1::-1])
            _, rows = self.engine.detect(cv2.cvtColor(framed, cv2.COLOR_RGB2BGR))
            rows = np.zeros((0, 15)) if rows is None else rows.astype(float)
            boxes, points, scores = rows[:, :4], rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14]
        boxes = boxes / zoom - [frame, frame, 0, 0]
        points = points / zoom - frame
        return [
            Detection(box, float(min(score, 1.0)), five, detector=self.kind)
            for box, five, score in zip(boxes, points, scores, strict=True)
        ]


def same_place(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes (4,), x, y, width, height, can be of one face: the centre of one lies within the other."""
    apart = np.abs(one[:2] + one[2:] / 2 - other[:2] - other[2:] / 2)
    return bool((apart < np.maximum(one[2:], other[2:]) / 2).all())


def _merged(faces: list[Detection], more: list[Detection], height: int, width: int) -> list[Detection]:
    """Two looks at one photo as one: where both have a face at a place, the higher score's."""

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


def yunet_weights(download: bool = True) -> tuple[Path | None, str]:
    """The path of YuNet's weights, or None and why not. MLANET_MODELS first, then pooch's cache and the network."""
    folder = os.environ.get("MLANET_MODELS")
    if folder:
        import pooch

        for name, (digest, _) in YUNET_FILES.items():
            path = Path(folder) / name
            if path.is_file():
                if pooch.file_hash(str(path)) != digest:
                    raise UserError(f"{path} is not the YuNet file of that name (its sha256 differs)")
                return path, ""
        return None, f"is not in MLANET_MODELS={folder}"
    return _fetch(download)


def _cache_folder() -> Path:
    """MLANET_CACHE, else the user's folder for caches; without a home one in the temporary folder."""
    import pooch

    try:
        return Path(os.environ.get("MLANET_CACHE") or pooch.os_cache("mlanet"))
    except RuntimeError:  # no HOME, and nobody in the system's list of users
        return Path(tempfile.gettempdir()) / f"mlanet_{os.getuid()}"


def _fetch(download: bool) -> tuple[Path | None, str]:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    cache = _cache_folder()
    for name, (digest, _) in YUNET_FILES.items():
        if (cache / name).is_file() and pooch.file_hash(str(cache / name)) == digest:
            return cache / name, ""
    if not download:
        return None, "is not downloaded"
    for name, (digest, url) in YUNET_FILES.items():
        try:
            downloader = pooch.HTTPDownloader(timeout=10)
            return Path(pooch.retrieve(url, "sha256:" + digest, name, cache, downloader=downloader)), ""
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
            reason = f"could not be downloaded ({type(error).__name__})"
    return None, reason
