"""What finds faces and their 68 points for `mlanet_lib.data.annotate`: dlib's predictor, or the network where that is
not installed.

dlib's predictor (Kazemi and Sullivan 2014, an ensemble of regression trees; King 2009) was trained on iBUG 300-W, whose
licence allows research only. It comes inside a package, so nothing is downloaded at run time.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mlanet_lib.data.annotate import Marked
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.geometry.crops import Box, crop_image, from_crop
from mlanet_lib.predictor.predictor import Face, Predictor

INSTALL = 'pip install "mlanet[annotate]" (dlib-bin and face-recognition-models)'
RESEARCH = "dlib's 68-point predictor was trained on iBUG 300-W, which is for research only: so are labels made with it"
_POINTS = "shape_predictor_68_face_landmarks.dat"
ROOM = 1.3
"""Side of a stored picture in sides of the face's crop, so that a crop made of the points found lies within it."""
WORKING = 384
"""Pixels of the side of the picture in which points are searched."""
STARTS = ((0.0, 0.0, 1.0), (0.05, 0.0, 1.08), (-0.05, 0.0, 0.92), (0.0, 0.05, 0.92), (0.0, -0.05, 1.08))
"""Each start's box: how far it is moved right and down, in its sides, and its size. dlib's own detector scatters by as
much (standard deviation 0.05 sides, and 0.11 in size: `python benchmarks/annotate.py`)."""
DLIB_SIDE = 1.04
"""Side of the box that dlib's predictor wants, around the mean of points 17-67, in larger sides of the points' box."""


class DlibPoints:
    """`DlibPoints.load()` -> dlib's predictor, or None if the extra is not installed."""

    def __init__(self, find: Callable, rectangle: Callable):
        self._find, self._rectangle = find, rectangle

    @classmethod
    def load(cls) -> "DlibPoints | None":
        """The package of the weights is looked for without importing it: it needs setuptools of some years ago."""
        found = find_spec("face_recognition_models")
        if found is None or not found.origin or find_spec("dlib") is None:
            return None
        path = Path(found.origin).parent / "models" / _POINTS
        if not path.is_file():
            return None
        import dlib

        return cls(dlib.shape_predictor(str(path)), dlib.rectangle)

    def starts(self, picture: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """(K, 68, 2) pixels of a picture (H, W, 3) uint8, first centre at 0.5, from K boxes around a guess of the
        points, (68, 2)."""
        picture = np.ascontiguousarray(picture)
        side = DLIB_SIDE * np.ptp(guess, axis=0).max()
        found = []
        for right, down, size in STARTS:
            (x, y), half = guess[17:].mean(0) + side * np.array([right, down]), side * size / 2
            box = self._rectangle(*(round(float(value)) for value in (x - half, y - half, x + half, y + half)))
            found.append([(point.x + 0.5, point.y + 0.5) for point in self._find(picture, box).parts()])
        return np.array(found, np.float64)


class FaceAnnotator:
    """The faces of a photo with their points: see `data.annotate.Annotator`.

    predictor: finds the faces, their pose and a guess of the points. points: dlib's predictor, whose points follow
    iBUG's definition; without it the network's own are taken, by 3DDFA's. size: the largest side of a stored picture,
    px; smaller faces keep the photo's pixels.
    """

    def __init__(self, predictor: Predictor, points: DlibPoints | None, size: int = 256):
        if size < 64:
            raise UserError(f"--size {size}: crops of fewer than 64 pixels are too small to learn from")
        self._predictor, self._points, self._size = predictor, points, size
        self.definition = "3ddfa" if points is None else "ibug"
        weights = f"faces and pose: {predictor.weights}, face model {predictor.model.fingerprint[:12]}"
        by = "the network" if points is None else f"dlib {_POINTS}"
        self.source = f"points: {by}, median of {len(STARTS)} starts; {weights}; at most {size} px"

    def faces(self, photo: np.ndarray, /) -> list[Marked]:
        """The faces of an RGB photo (H, W, 3) uint8, largest first; none: an empty list."""
        found = self._predictor.faces(photo)
        upright = {turns: np.ascontiguousarray(np.rot90(photo, turns)) for turns in {face.turns for face in found}}
        return [self._marked(upright[face.turns], face) for face in found]

    def _marked(self, photo: np.ndarray, face: Face) -> Marked:
        crop, model = face.crop, self._predictor.model
        margin = (ROOM - 1) / 2
        box = Box(crop.x - margin * crop.w, crop.y - margin * crop.h, ROOM * crop.w, ROOM * crop.h)
        picture = crop_image(photo, box, WORKING)
        inner = Box(*(WORKING * value / ROOM for value in (margin, margin, 1, 1)))
        guess = from_crop(in_crop(model, face.parameters, self.definition)[0].numpy().astype(np.float64), inner)
        starts = self._looks(picture, inner) if self._points is None else self._points.starts(picture, guess)
        side = max(1, min(self._size, round(box.w)))
        smaller = side / WORKING
        return Marked(
            picture=picture if side == WORKING else crop_image(photo, box, side),
            starts=starts * smaller,
            other=None if self._points is None else guess * smaller,
            yaw_degrees=float(face.parameters.pose_degrees(model.bfm_rotation)[0, 1]),
            zoom=box.w / side,
            origin=(box.x, box.y),
        )

    def _looks(self, picture: np.ndarray, inner: Box) -> np.ndarray:
        """(K, 68, 2) the network's points in K crops around the one it chose itself, pixels of the picture."""
        side = inner.w
        boxes = [
            Box(
                inner.x + side * (right + (1 - size) / 2),
                inner.y + side * (down + (1 - size) / 2),
                side * size,
                side * size,
            )
            for right, down, size in STARTS
        ]
        images = np.stack([crop_image(picture, box, self._predictor.image_size) for box in boxes])
        points = in_crop(self._predictor.model, self._predictor.predict_crops(images), self.definition).numpy()
        return np.stack([from_crop(few.astype(np.float64), box) for few, box in zip(points, boxes, strict=True)])
