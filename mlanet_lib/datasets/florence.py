"""MICC Florence (Bagdanov et al. 2011): scans and pictures of people, reader and writer.

The published layout, and what stands beside it here:

    subject_01/Model/frontal1/obj/*.obj         the scan, mm (frontal2, ... are further scans)
    subject_01/Model/frontal1/landmarks.json    points of the scan, see below (not published: to be picked by hand)
    subject_01/Images/CONDITION/*.jpg           pictures; CONDITION: cooperative, indoor, outdoor
    subject_01/Images/CONDITION/boxes.json      {"frame_000.jpg": [x, y, w, h], ...}, where crops are known

The published set has videos (Indoor-Cooperative, PTZ-Indoor, PTZ-Outdoor) where this layout has folders of pictures:
their frames are extracted with any tool, such as `ffmpeg -i VIDEO -vf fps=1 frame_%03d.jpg`. Without `boxes.json` a
detector finds the face.

landmarks.json: `{"unit": "mm", "landmarks": {"30": [x, y, z], "36": [...], ...}}`, by index among the 68 points
(0-based); the nose tip (30) and at least two more, not on one line; the outer and inner eye corners (36, 39, 42, 45),
the nose's base (33) and the mouth's corners (48, 54) serve well. A synthetic scan with a face model's own vertices
also says `"face_model": FINGERPRINT`; its per-vertex error can then be computed.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from mlanet_lib.datasets.sample import Box
from mlanet_lib.errors import UserError
from mlanet_lib.files import atomic_path

CONDITIONS = ("cooperative", "indoor", "outdoor")
NOSE_TIP = 30
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class Scan:
    """vertices: (P, 3) mm; faces: (F, 3) int64, none for a point cloud; landmarks: index among the 68 -> (3,) mm;
    face_model: fingerprint of the model whose vertices these are, else None."""

    vertices: np.ndarray
    faces: np.ndarray
    landmarks: dict[int, np.ndarray]
    face_model: str | None = None


@dataclass(frozen=True)
class Picture:
    """path: the picture; condition: its folder's name; box: its crop in pixels, or None: to be detected."""

    path: Path
    condition: str
    box: Box | None = None


@dataclass(frozen=True)
class Subject:
    """One person: the scan's files, read by `read_scan`, and the pictures, by condition and name."""

    name: str
    scan_path: Path
    landmarks_path: Path
    pictures: list[Picture]

    def scan(self) -> Scan:
        """The scan with its landmarks; see `read_scan`."""
        return read_scan(self.scan_path, self.landmarks_path)


def read_folder(folder: str | Path, limit: int | None = None) -> list[Subject]:
    """The subjects of a folder in the layout above, by name; `limit`: only the first so many.

    The first scan of a subject is taken (frontal1 where present). A missing folder, scan, landmarks.json or picture,
    or an unreadable boxes.json, is a UserError that names the path.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    subjects = sorted(path for path in folder.glob("subject_*") if path.is_dir())
    if not subjects:
        raise UserError(f"{folder}: no subject_XX folders (MICC Florence's layout)")
    return [_read_subject(path) for path in subjects[:limit]]


def _read_subject(folder: Path) -> Subject:
    scans = sorted(folder.glob("Model/*/obj/[!.]*.obj"))
    if not scans:
        raise UserError(f"{folder}: no scan (Model/frontal1/obj/*.obj)")
    landmarks = scans[0].parent.parent / "landmarks.json"
    if not landmarks.is_file():
        raise UserError(f"{landmarks}: missing; the alignment needs points of the scan (the nose tip, 30, and others)")
    pictures = []
    for condition in sorted(path for path in folder.glob("Images/*") if path.is_dir()):
        boxes = _read_boxes(condition / "boxes.json")
        files = sorted(p for p in condition.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
        pictures += [Picture(path, condition.name, boxes.get(path.name)) for path in files]
    if not pictures:
        raise UserError(f"{folder}: no pictures (Images/CONDITION/*.jpg; extract the videos' frames)")
    return Subject(folder.name, scans[0], landmarks, pictures)


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object")
    return value


def _finite(values, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    )


def _read_boxes(path: Path) -> dict[str, Box]:
    if not path.is_file():
        return {}
    boxes = _read_json(path)
    for name, box in boxes.items():
        if not _finite(box, 4) or min(box[2:]) <= 0:
            raise UserError(f"{path}: '{name}' is not a box [x, y, w, h] of positive size")
    return {name: Box(*map(float, box)) for name, box in boxes.items()}


def read_scan(path: str | Path, landmarks_path: str | Path) -> Scan:
    """A scan and its landmarks. Lengths other than mm, unknown indices, no nose tip, fewer than three points, or
    whatever `read_obj` refuses are UserErrors that name the file and the field."""
    record = _read_json(Path(landmarks_path))
    if record.get("unit") != "mm":
        raise UserError(f"{landmarks_path}: field 'unit' must say \"mm\"")
    points = record.get("landmarks")
    if not isinstance(points, dict) or len(points) < 3 or str(NOSE_TIP) not in points:
        raise UserError(f"{landmarks_path}: field 'landmarks' needs the nose tip (\"30\") and at least two more points")
    for key, point in points.items():
        if not (key.isdecimal() and int(key) < 68) or not _finite(point, 3):
            raise UserError(f"{landmarks_path}: landmark '{key}' is not an index below 68 with [x, y, z]")
    vertices, faces = read_obj(path)
    landmarks = {int(key): np.array(point, np.float64) for key, point in points.items()}
    return Scan(vertices, faces, landmarks, record.get("face_model"))


def read_obj(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and triangles (F, 3) int64 of a Wavefront OBJ, in the file's order, nothing merged.

    Reads `v` (further columns, such as colours, are left) and `f` with any number of corners (fans), with or without
    texture and normal indices, from 1 or negative; everything else is skipped. A file without vertices, or a line that
    is not numbers or names no vertex, is a UserError that names the line.
    """
    path = Path(path)
    vertices, faces = [], []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                words = line.split()
                if not words or words[0] not in ("v", "f"):
                    continue
                try:
                    if words[0] == "v":
                        x, y, z = map(float, words[1:4])
                        vertices.append((x, y, z))
                    else:
                        corners = [int(word.split("/")[0]) for word in words[1:]]
                        if len(corners) < 3 or 0 in corners or min(corners) < -len(vertices):
                            raise ValueError("three corners, counted from 1 or back from -1")
                        corners = [i - 1 if i > 0 else len(vertices) + i for i in corners]
                        faces += [(corners[0], b, c) for b, c in pairwise(corners[1:])]
                except ValueError as error:
                    raise UserError(f"{path}, line {number}: not a vertex or face ({line.strip()[:60]})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    points, triangles = np.array(vertices, np.float64).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3)
    if not len(points) or not np.isfinite(points).all():
        raise UserError(f"{path}: no vertices, or some that are not finite")
    if len(triangles) and triangles.max() >= len(points):
        raise UserError(f"{path}: a face names vertex {triangles.max() + 1} of {len(points)}")
    return points, triangles


def write_obj(path: str | Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Vertices (V, 3), to 1e-4, and triangles (F, 3) as a Wavefront OBJ; atomic."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"v {x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in np.asarray(vertices, np.float64).tolist())
        file.writelines(f"f {a} {b} {c}\n" for a, b, c in (np.asarray(faces) + 1).tolist())


def write_subject(
    folder: str | Path,
    name: str,
    scan: Scan,
    pictures: Iterable[tuple[str, np.ndarray, Box | None]],
    quality: int = 92,
) -> Path:
    """Write one subject in the layout above; returns its folder.

    name: "subject_01" and so on. pictures: (condition, (H, W, 3) uint8, crop box in pixels or None) each.
    """
    subject = Path(folder) / name
    model = subject / "Model" / "frontal1"
    write_obj(model / "obj" / f"{name}.obj", scan.vertices, scan.faces)
    record = {"unit": "mm", "landmarks": {str(k): np.round(p, 4).tolist() for k, p in scan.landmarks.items()}}
    if scan.face_model:
        record["face_model"] = scan.face_model
    _write_json(model / "landmarks.json", record)
    boxes: dict[str, dict[str, list[float]]] = {}
    counts: dict[str, int] = {}
    for condition, image, box in pictures:
        file = f"frame_{counts.get(condition, 0):03d}.jpg"
        counts[condition] = counts.get(condition, 0) + 1
        with atomic_path(subject / "Images" / condition / file) as temporary:
            Image.fromarray(image).save(temporary, quality=quality, subsampling=0)
        if box is not None:
            boxes.setdefault(condition, {})[file] = [round(float(v), 3) for v in box]
    for condition, known in boxes.items():
        _write_json(subject / "Images" / condition / "boxes.json", known)
    return subject


def _write_json(path: Path, value: Mapping) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
