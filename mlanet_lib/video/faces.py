"""A clip -> the faces in it: one identity and albedo a face, smooth expression and pose of every frame.

Two passes. The first (`predict_frames`) goes frame by frame. The second takes each face's identity and albedo as robust
means over the clip and fits the frames' crops to that shape (`share`), then smooths over time (`smooth`).
`mlanet_lib.video.output` writes the result.
"""

import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor.predictor import Predictor
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.smoothing import (
    Filter,
    OneEuro,
    both_ways,
    nearest_rotations,
    robust_mean,
    smooth_rotations,
)
from mlanet_lib.video.tracking import Row, Tracker, confirmed

FOCAL = 1.0
"""Focal length taken for a clip's camera, in its longer sides (a field of view of 53 degrees); z is in proportion."""
FILTERS = {
    "rotation": OneEuro(0.8, 4.0),
    "position": OneEuro(0.8, 4.0),
    "size": OneEuro(0.4, 4.0),
    "expression": OneEuro(1.0, 4.0),
}
"""beta is for: rotation, radians/s; position, the face's usual crop sides/s; size, its logarithm/s; expression, 1/s."""


@dataclass(frozen=True, eq=False)
class ClipFace:
    """One face in N frames of a clip.

    frames: (N,) numbers, from 0; times: (N,) seconds; scores: (N,) of the last detection; boxes: (N, 4) square crops in
    the clip's pixels, which `parameters` (batch of N) describe, as `mlanet_lib.predictor.Face` does.
    """

    id: int
    frames: np.ndarray
    times: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    parameters: FaceParameters

    def translation(self, width: int, height: int) -> np.ndarray:
        """(N, 3) mm: the model's origin before the clip's camera (x right, y down, z away), its focal length `FOCAL`.
        Sideways mm do not depend on it."""
        origin, pixels_a_mm = self.origin()
        offset = (origin - [width / 2, height / 2]) / pixels_a_mm[:, None]
        return np.column_stack([offset, FOCAL * max(width, height) / pixels_a_mm])

    def origin(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the model's origin lies, (N, 2) pixels, and the picture's scale there, (N,) pixels a mm."""
        x, y, z = self.parameters.translation.double().numpy().T
        focal, sides = self.parameters.focal.double().numpy(), self.boxes[:, 2]
        inside = np.stack([0.5 + focal * x / z, 0.5 + focal * y / z], 1)
        return self.boxes[:, :2] + inside * sides[:, None], focal * sides / z


class Frame(NamedTuple):
    """A frame's time in seconds, whether the detector was asked, and the faces."""

    time: float
    looked: bool
    rows: list[Row]


def predict_frames(clip: Clip, predictor: Predictor) -> list[Frame]:
    """The results of detector and network for every frame, in order. UserError for a clip that is damaged."""
    tracker, frames = Tracker(predictor, clip.fps), []
    bar = tqdm(clip.frames(), "faces", clip.count or None, unit="frame", disable=not sys.stderr.isatty())
    for time, picture in bar:
        looked, faces = tracker.step(picture)
        rows = [Row(track.id, track.score, face.crop, face.parameters) for track, face in faces]
        frames.append(Frame(time, looked, rows))
    return frames


def gather(frames: list[Frame]) -> list[ClipFace]:
    """The faces of `predict_frames`, each as predicted, in order of appearance."""
    found: dict[int, list[tuple[int, Row]]] = {}
    for number, row in confirmed((frame.looked, frame.rows) for frame in frames):
        found.setdefault(row.id, []).append((number, row))
    faces = []
    for id, pairs in sorted(found.items()):
        numbers, rows = zip(*sorted(pairs, key=lambda pair: pair[0]), strict=True)
        times = np.array([frames[number].time for number in numbers])
        scores, boxes = np.array([row.score for row in rows]), np.array([row.box for row in rows], np.float64)
        parameters = FaceParameters.cat([row.parameters for row in rows])
        faces.append(ClipFace(id, np.array(numbers), times, scores, boxes, parameters))
    return faces


def share(face: ClipFace, model: MorphableModel) -> ClipFace:
    """The same face with one identity, albedo and framing for the clip, its crops moved so that the shape fits.

    Identity and albedo are robust means over the frames; the translation within the crop is the frames' median. Each
    crop is then moved and scaled such that the 68 points are nearest (least squares) to the frame's own prediction.
    """
    points = SparseShape(model, 0)
    old = face.parameters
    seen = _landmarks(points, old, face.boxes)
    new = old.replace(
        identity=_repeated(robust_mean(old.identity.numpy()), old),
        albedo=_repeated(robust_mean(old.albedo.numpy()), old),
        translation=_repeated(np.median(old.translation.numpy(), 0), old),
        rotation=torch.from_numpy(nearest_rotations(old.rotation.double().numpy())).to(old.rotation),
    )
    shape = _landmarks(points, new, np.tile([0.0, 0.0, 1.0, 1.0], (len(new), 1)))
    centres = seen.mean(1), shape.mean(1)
    seen, shape = seen - centres[0][:, None], shape - centres[1][:, None]
    sides = (seen * shape).sum((1, 2)) / (shape**2).sum((1, 2))
    corners = centres[0] - sides[:, None] * centres[1]
    return replace(face, parameters=new, boxes=np.column_stack([corners, sides, sides]))


def _repeated(values: np.ndarray, like: FaceParameters) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32).expand(len(like), -1).contiguous()


def _landmarks(points: SparseShape, parameters: FaceParameters, boxes: np.ndarray) -> np.ndarray:
    """(N, 68, 2) float64 in the pixels that boxes (N, 4) are in."""
    inside = points.landmarks(points.turned(parameters), parameters).double().numpy()
    return inside * boxes[:, None, 2:] + boxes[:, None, :2]


def smooth(face: ClipFace, over_time: Filter = both_ways) -> ClipFace:
    """The face (of `share`) with expression, rotation and crop smoothed over time. over_time: or `one_euro`, causal."""
    old, times = face.parameters, face.times
    origin, _ = face.origin()
    usual = np.median(face.boxes[:, 2])
    origin = usual * over_time(times, origin / usual, FILTERS["position"], joint=True)
    sides = np.exp(over_time(times, np.log(face.boxes[:, 2:3]), FILTERS["size"]))
    expression = over_time(times, old.expression.numpy(), FILTERS["expression"])
    rotation = smooth_rotations(times, old.rotation.numpy(), FILTERS["rotation"], over_time)
    still = replace(face, boxes=np.column_stack([0 * origin, sides, sides]))
    new = old.replace(expression=torch.from_numpy(expression).float(), rotation=torch.from_numpy(rotation).float())
    return replace(face, parameters=new, boxes=np.column_stack([origin - still.origin()[0], sides, sides]))
