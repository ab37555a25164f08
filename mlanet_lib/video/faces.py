"""A clip -> the faces in it: one identity and albedo a face, smooth expression and pose of every frame.

Two passes. The first (`predict_frames`) goes frame by frame and appends what it finds to a .part file, from which a
killed run goes on. The second takes each face's identity and albedo as robust means over the clip and fits the frames'
crops to that shape (`share`), then smooths over time (`smooth`). `mlanet_lib.video.output` writes the result.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.files.outputs import MARK, may_replace
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.smoothing import OneEuro, both_ways, nearest_rotations, robust_mean, smooth_rotations
from mlanet_lib.video.tracking import DETECT_EVERY, Tracker, confirmed

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

    def translation(self, width: int, height: int, focal: float = FOCAL) -> np.ndarray:
        """(N, 3) mm: the model's origin before the clip's camera (x right, y down, z away), its focal length `focal`
        of the picture's longer side. Sideways mm do not depend on it."""
        origin, pixels_a_mm = self.origin()
        offset = (origin - [width / 2, height / 2]) / pixels_a_mm[:, None]
        return np.column_stack([offset, focal * max(width, height) / pixels_a_mm])

    def origin(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the model's origin lies, (N, 2) pixels, and the picture's scale there, (N,) pixels a mm."""
        x, y, z = self.parameters.translation.double().numpy().T
        focal, sides = self.parameters.focal.double().numpy(), self.boxes[:, 2]
        inside = np.stack([0.5 + focal * x / z, 0.5 + focal * y / z], 1)
        return self.boxes[:, :2] + inside * sides[:, None], focal * sides / z


def predict_frames(clip: Clip, predictor, part: Path) -> list[dict]:
    """What detector and network say of every frame: {"time", "looked", "rows", "state"}, appended to the file `part`.

    A `part` of the same clip, weights and settings is gone on from, any other begun anew. A UserError (a damaged clip)
    removes it.
    """
    if (part.exists() or part.is_symlink()) and not may_replace(part):
        raise UserError(f"{part} is no file of mlanet's: move it away")
    header = {
        "generator": MARK,
        "clip": clip.stamp(),
        "weights": predictor.weights,
        "trained": predictor.metadata.get("fingerprint"),
    }
    header |= {"face_model": predictor.model.fingerprint, "detector": predictor.detector.kind, "every": DETECT_EVERY}
    done = _resume(part, header)
    tracker = Tracker(predictor, clip.fps, done[-1]["state"] if done else None)
    bar = {"total": clip.count or None, "initial": len(done), "disable": not sys.stderr.isatty()}
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a") as file:
            if not done:
                file.write(json.dumps(header) + "\n")
            for time, frame in tqdm(clip.frames(len(done)), "faces", unit="frame", **bar):
                looked, faces = tracker.step(frame)
                rows = [_row(track, face) for track, face in faces]
                line = json.dumps({"time": time, "looked": looked, "rows": rows, "state": tracker.state()})
                file.write(line + "\n")
                file.flush()
                done.append(_parse(line))
    except UserError:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror or error}") from error
    return done


def _row(track, face) -> dict:
    tensors = face.parameters.as_tensors().items()
    parameters = {name: np.round(value[0].double().numpy(), 6).tolist() for name, value in tensors}
    return {"id": track.id, "score": track.score, "box": list(map(float, face.crop)), "parameters": parameters}


def _resume(part: Path, header: dict) -> list[dict]:
    """The frames of an earlier run's file, which is cut after its last whole line; none where it is another run's."""
    if not part.is_file():
        return []
    whole = part.read_bytes()
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()
    try:
        mine = bool(lines) and json.loads(lines[0]) == header
        done = [_parse(line) for line in lines[1:]] if mine else []
    except ValueError:
        done = []
    if not done:
        part.unlink()
        return []
    with part.open("r+b") as file:
        file.truncate(whole.rfind(b"\n") + 1)
    return done


def _parse(line: str | bytes) -> dict:
    """One frame's line, its parameters as arrays (lists of numbers would fill the memory for an hour of video)."""
    frame = json.loads(line)
    for row in frame["rows"]:
        row["parameters"] = {name: np.array(value, np.float32) for name, value in row["parameters"].items()}
    return frame


def gather(done: list[dict]) -> list[ClipFace]:
    """The faces of `predict_frames`, each as predicted, in order of appearance."""
    rows: dict[int, list[tuple[int, dict]]] = {}
    for number, row in confirmed((frame["looked"], frame["rows"]) for frame in done):
        rows.setdefault(row["id"], []).append((number, row))
    faces = []
    for id, found in sorted(rows.items()):
        found.sort(key=lambda pair: pair[0])
        tensors = {
            name: torch.from_numpy(np.stack([row["parameters"][name] for _, row in found]))
            for name in FaceParameters.names()
        }
        frames = np.array([number for number, _ in found])
        times = np.array([done[number]["time"] for number in frames])
        scores, boxes = (np.array([row[key] for _, row in found], np.float64) for key in ("score", "box"))
        faces.append(ClipFace(id, frames, times, scores, boxes, FaceParameters(**tensors)))
    return faces


def share(face: ClipFace, model) -> ClipFace:
    """The same face with one identity, albedo and framing for the clip, its crops moved so that the shape fits.

    Identity and albedo are robust means over the frames; the translation within the crop is the frames' median. Each
    crop is then moved and scaled (least squares) until the 68 points lie where the frame's own prediction had them.
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


def smooth(face: ClipFace, over_time=both_ways) -> ClipFace:
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
