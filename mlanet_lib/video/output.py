"""The files of a clip's faces: a table of frames, the shared shape, and the clip with the faces drawn on it."""

import csv
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.drawing.views import landmarks, overlay_in_photo
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.activations import activations
from mlanet_lib.files.atomic import together
from mlanet_lib.files.outputs import MARK, TABLE_HEADER
from mlanet_lib.geometry.camera import matrix_to_euler
from mlanet_lib.geometry.crops import Box, from_crop
from mlanet_lib.predictor.detector import Detector
from mlanet_lib.predictor.predictor import Predictor
from mlanet_lib.video.clip import Clip, video_writer
from mlanet_lib.video.faces import FILTERS, FOCAL, ClipFace, gather, predict_frames, share, smooth
from mlanet_lib.video.tracking import upright

COLUMNS = TABLE_HEADER.split(",")
"""Of the table, before one column an expression."""
UNITS = {
    "pitch, yaw, roll": "degrees, along the line of sight to the face, 3DDFA's signs",
    "x_mm, y_mm, z_mm": "the model's origin in the camera's frame (x right, y down, z away); z_mm is in "
    "proportion to the assumed focal length, x_mm and y_mm do not depend on it",
    "identity, albedo": "standard deviations; robust means over the clip",
    "expression columns": "activation in [0, 1], 1 = full: the mesh nearest to the predicted one",
    "quarter_turns": "counter-clockwise, by which the clip's frames were turned; all pixels are theirs",
    "filter": "min_cutoff Hz; beta Hz for: rotation, a radian/s; position, a crop side/s; size, 1/s of the "
    "crop side's logarithm; expression, 1/s",
    "score": "the detector's, of its last look",
}
"""Of the numbers in the table and in `record`."""
SURROUNDINGS = 1.02
"""Half the side of the part of a frame that is drawn anew for a face, in crop sides: the mesh is drawn up to 1."""


def reconstruct_clip(
    clip: Clip,
    predictor: Predictor,
    folder: Path,
    name: str,
    backend: str = "auto",
    may_replace: Callable[[Path], bool] | None = None,
) -> list[ClipFace]:
    """Write NAME.csv, NAME.json and NAME_overlay.mp4 into the folder, all or none; returns the faces, by id.

    The clip is turned as its faces stand (`upright`), and so is what is written. may_replace: which files of these
    names may be replaced (all). UserError: no face in the clip, a damaged clip, a folder that cannot be written.
    """
    clip = upright(clip, predictor.detector)
    frames = predict_frames(clip, predictor)
    faces = [smooth(share(face, predictor.model)) for face in gather(frames)]
    if not faces:
        raise UserError(f"{clip.path}: no face found in {len(frames)} frames")
    with together(folder, may_replace or (lambda path: True)) as scratch:
        write_table(scratch / f"{name}.csv", faces, predictor.model, clip.width, clip.height)
        text = json.dumps(record(clip, faces, predictor, len(frames)), indent=1, allow_nan=False) + "\n"
        (scratch / f"{name}.json").write_text(text, encoding="utf-8")
        write_overlay(scratch / f"{name}_overlay.mp4", clip, faces, predictor.model, backend)
    return faces


def write_table(path: Path, faces: list[ClipFace], model: MorphableModel, width: int, height: int) -> None:
    """A CSV row for each frame and face, in order: `COLUMNS`, then activations by name (`record` has the units)."""
    rows: list[tuple[int, list[float]]] = []
    for face in faces:
        degrees = matrix_to_euler(face.parameters.rotation.double()).numpy()
        columns = [face.times, np.full(len(face.times), face.id), face.scores, degrees]
        columns += [face.translation(width, height), activations(model, face.parameters.expression)]
        rows += zip(face.frames.tolist(), np.column_stack(columns).tolist(), strict=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*COLUMNS, *model.expression_names])
        for frame, (time, id, *values) in sorted(rows, key=lambda row: (row[0], row[1][1])):
            table.writerow([frame, f"{time:.4f}", int(id), *(f"{value:.4f}" for value in values)])


def record(clip: Clip, faces: list[ClipFace], predictor: Predictor, frames: int) -> dict[str, Any]:
    """The values for the whole clip, JSON-able: each face's identity and albedo, the clip, weights, filter, units."""
    return {
        "generator": MARK,
        "clip": clip.path.resolve().name,
        "quarter_turns": clip.turns,
        "size": [clip.width, clip.height],
        "fps": clip.fps,
        "frames": frames,
        "faces": [
            {
                "face": face.id,
                "frames": len(face.frames),
                "first_frame": int(face.frames[0]),
                "last_frame": int(face.frames[-1]),
                "identity": face.parameters.identity[0].tolist(),
                "albedo": face.parameters.albedo[0].tolist(),
            }
            for face in faces
        ],
        "camera": {"focal_px": FOCAL * max(clip.width, clip.height), "assumed": True},
        "filter": {
            "name": "one-euro (Casiez et al. 2012), mean of forwards and backwards",
            **{name: euro._asdict() for name, euro in FILTERS.items()},
        },
        "face_model": {"name": predictor.model.name, "fingerprint": predictor.model.fingerprint},
        "weights": predictor.weights,
        "detector": Detector.kind,
        "units": UNITS,
    }


def write_overlay(path: Path, clip: Clip, faces: list[ClipFace], model: MorphableModel, backend: str) -> None:
    """The clip with each face's mesh, points and number drawn on it, as an .mp4 of the clip's mean frame rate."""
    here: dict[int, list[tuple[ClipFace, int]]] = {}
    for face in faces:
        for row, frame in enumerate(face.frames.tolist()):
            here.setdefault(frame, []).append((face, row))
    bar = {"total": clip.count or None, "unit": "frame", "desc": "overlay", "disable": not sys.stderr.isatty()}
    with video_writer(path, clip.fps, clip.width, clip.height) as write:
        for number, (_, frame) in enumerate(tqdm(clip.frames(), **bar)):
            for face, row in here.get(number, []):
                frame = draw(frame, face, row, model, backend)
            write(frame)
    with path.open("ab") as file:  # a box that players skip (ISO/IEC 14496-12, 8.1.2)
        file.write(struct.pack(">I4s", 8 + len(MARK), b"free") + MARK.encode())


@torch.no_grad()
def draw(frame: np.ndarray, face: ClipFace, row: int, model: MorphableModel, backend: str = "auto") -> np.ndarray:
    """A frame (H, W, 3) uint8 with one face's mesh, 68 points and number; only the face's surroundings are redrawn."""
    parameters, box = face.parameters[row], Box(*face.boxes[row].tolist())
    height, width = frame.shape[:2]
    centre = np.array([box.x + box.w / 2, box.y + box.h / 2])
    left, top = np.clip((centre - SURROUNDINGS * box.w).astype(int), 0, [width - 1, height - 1])
    right, bottom = np.clip((centre + SURROUNDINGS * box.w).astype(int) + 1, [left + 1, top + 1], [width, height])
    window = np.ascontiguousarray(frame[top:bottom, left:right])
    shifted = Box(box.x - left, box.y - top, box.w, box.h)
    points = from_crop(landmarks(model, parameters)[0], shifted)
    longest = max(window.shape[:2])  # as it is
    drawn = overlay_in_photo(model, parameters, window, shifted, points, longest=longest, backend=backend)
    result = frame.copy()
    result[top:bottom, left:right] = drawn
    size = max(0.4, box.w / 300)
    place = (int(np.clip(box.x, 0, width - 1)), int(np.clip(box.y, 20 * size, height - 1)))
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        stroke = max(1, round(thickness * size))
        cv2.putText(result, str(face.id), place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, stroke, cv2.LINE_AA)
    return result
