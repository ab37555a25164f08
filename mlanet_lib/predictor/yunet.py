"""YuNet (Wu, Peng, Yu: A Tiny Millisecond-level Face Detector, 2023): boxes, scores and five points of upright faces.

Its weights ship with the project's (`weights/`); the environment variable MLANET_MODELS names another folder for them.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.files.project import library_root
from mlanet_lib.predictor.engine import session

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
STRIDES = (8, 16, 32)
SCORE = 0.6  # the least of a face
OVERLAP = 0.3  # (intersection over union) beyond which the box with the lower score is dropped
AROUND = 127  # grey: what surrounds the photo


class Boxes(NamedTuple):
    """N faces: boxes (N, 4) x, y, width, height, points (N, 5, 2), both in pixels, and scores (N,) in [0, 1]."""

    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray


class YuNet:
    """YuNet at any size of photo: `YuNet.load()(photo)`."""

    def __init__(self, graph: bytes):
        """graph: the content of `YUNET_FILE`, whose input has 640 x 640 pixels: made free here."""
        import onnx

        model = onnx.load_from_string(graph)
        for value in (*model.graph.input, *model.graph.output):
            for side in value.type.tensor_type.shape.dim[1:]:
                side.Clear()
        self._session = session(model.SerializeToString())
        self._names = [f"{kind}_{stride}" for stride in STRIDES for kind in ("cls", "obj", "bbox", "kps")]

    @classmethod
    def load(cls) -> "YuNet":
        """From `detector_file`. UserError if it is not there, or is another."""
        return cls(checked(detector_file()))

    def __call__(self, photo: np.ndarray, frame: int) -> Boxes:
        """The faces of an RGB uint8 photo (H, W, 3), in its pixels, with so many grey pixels around it."""
        import cv2

        height, width = photo.shape[:2]
        sides = (-(-(side + 2 * frame) // 32) * 32 for side in (height, width))
        canvas = np.full((*sides, 3), AROUND, np.uint8)
        canvas[frame : frame + height, frame : frame + width] = photo
        outputs = self._session.run(self._names, {"input": cv2.dnn.blobFromImage(canvas, swapRB=True)})
        parts = [_decoded(outputs[4 * k : 4 * k + 4], stride, canvas.shape[1]) for k, stride in enumerate(STRIDES)]
        boxes, points, scores = map(np.concatenate, zip(*parts, strict=True))
        kept = np.asarray(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), SCORE, OVERLAP), dtype=np.int64).ravel()
        return Boxes(boxes[kept] - [frame, frame, 0, 0], points[kept] - frame, scores[kept])


def _decoded(outputs: Sequence[np.ndarray], stride: int, width: int) -> Boxes:
    """The faces that the cells of one stride say. outputs: (1, cells, 1, 1, 4 and 10), cells row by row: is it a face,
    is something there, box and points; width: of the picture."""
    kind, there, box, points = outputs
    scores = np.sqrt(np.clip(kind[0, :, 0], 0, 1) * np.clip(there[0, :, 0], 0, 1))
    (cells,) = np.nonzero(scores > SCORE)
    corner = np.stack([cells % (width // stride), cells // (width // stride)], 1)
    box, points = box[0, cells], points[0, cells].reshape(-1, 5, 2)
    size = np.exp(box[:, 2:]) * stride
    centre = (corner + box[:, :2]) * stride
    boxes = np.concatenate([centre - size / 2, size], 1).astype(float)
    return Boxes(boxes, ((points + corner[:, None]) * stride).astype(float), scores[cells])


def detector_file() -> Path:
    """Where YuNet's weights are or should be: in MLANET_MODELS, or with the project's."""
    folder = os.environ.get("MLANET_MODELS")
    return (Path(folder) if folder else library_root() / "weights") / YUNET_FILE


def checked(path: Path) -> bytes:
    """The content of the detector's file; UserError that says how to get it where it is not there, or is another."""
    pull = f"put {YUNET_FILE} there, or unset MLANET_MODELS" if os.environ.get("MLANET_MODELS") else ""
    if not path.is_file():
        raise UserError(f"the face detector's weights are not here ({path}): {pull or 'run dvc pull weights.dvc'}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != YUNET_SHA256:
        raise UserError(f"{path} was altered (its sha256 differs): {pull or 'run dvc pull --force weights.dvc'}")
    return content
