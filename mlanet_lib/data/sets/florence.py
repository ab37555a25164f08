"""MICC Florence (Bagdanov et al. 2011): scans and pictures of people, reader and writer.

The published layout, and what stands beside it here:

    subject_01/Model/frontal1/obj/*.obj         the scan, mm (frontal2, ... are further scans)
    subject_01/Model/frontal1/landmarks.json    points of the scan (not published: to be picked by hand)
    subject_01/Images/CONDITION/*.jpg           pictures; CONDITION: cooperative, indoor, outdoor
    subject_01/Images/CONDITION/boxes.json      {"frame_000.jpg": [x, y, w, h], ...}, where crops are known

The published set has videos (Indoor-Cooperative, PTZ-Indoor, PTZ-Outdoor) where this layout has folders of pictures:
their frames are extracted with any tool, such as `ffmpeg -i VIDEO -vf fps=1 frame_%03d.jpg`. Without `boxes.json` a
detector finds the face.

What landmarks.json holds, and how a scan is read and drawn, is in `mlanet_lib.data.sets.scans`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mlanet_lib.data.sets.aflw2000 import QUALITY
from mlanet_lib.data.sets.scans import Scan, finite, read_scan
from mlanet_lib.errors import UserError
from mlanet_lib.files import folders
from mlanet_lib.files.atomic import atomic_path, check_name
from mlanet_lib.files.obj import write_obj
from mlanet_lib.files.records import read_json, write_json
from mlanet_lib.geometry.crops import Box

CONDITIONS = ("cooperative", "indoor", "outdoor")


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


def read_folder(folder: str | Path, limit: int | None = None, need_pictures: bool = True) -> list[Subject]:
    """The subjects of a folder in the layout above, by name; `limit`: only the first so many.

    The first scan of a subject is taken (frontal1 where present). A missing folder, scan, landmarks.json or picture,
    two pictures of one name, an unreadable boxes.json, or a limit below 1, is a UserError that names the path.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    subjects = sorted(path for path in folder.glob("subject_*") if path.is_dir())
    if not subjects:
        raise UserError(f"{folder}: no subject_XX folders (MICC Florence's layout)")
    return [read_subject(path, need_pictures) for path in folders.first(subjects, limit)]


def read_subject(folder: Path, need_pictures: bool = True) -> Subject:
    """One subject_XX folder; errors as in `read_folder`."""
    scans = sorted(folder.glob("Model/*/obj/[!.]*.obj"))
    if not scans:
        raise UserError(f"{folder}: no scan (Model/frontal1/obj/*.obj)")
    landmarks = scans[0].parent.parent / "landmarks.json"
    if not landmarks.is_file():
        raise UserError(f"{landmarks}: missing; the alignment needs points of the scan (the nose tip, 30, and others)")
    pictures = []
    for condition in sorted(path for path in folder.glob("Images/*") if path.is_dir()):
        boxes = _read_boxes(condition / "boxes.json")
        pictures += [Picture(path, condition.name, boxes.get(path.name)) for path in folders.pictures(condition)]
    if need_pictures and not pictures:
        raise UserError(f"{folder}: no pictures (Images/CONDITION/*.jpg; extract the videos' frames)")
    return Subject(folder.name, scans[0], landmarks, pictures)


def _read_boxes(path: Path) -> dict[str, Box]:
    if not path.is_file():
        return {}
    boxes = read_json(path)
    for name, box in boxes.items():
        if not finite(box, 4) or min(box[2:]) <= 0:
            raise UserError(f"{path}: '{name}' is not a box [x, y, w, h] of positive size")
    return {name: Box(*map(float, box)) for name, box in boxes.items()}


def write_subject(
    folder: str | Path, name: str, scan: Scan, pictures: Iterable[tuple[str, np.ndarray, Box | None]]
) -> Path:
    """Write one subject in the layout above; returns its folder.

    name: "subject_01" and so on. pictures: (condition, (H, W, 3) uint8, crop box in pixels or None) each. A name or a
    condition that is no file's name is a UserError.
    """
    subject = Path(folder) / check_name(name, "the subject")
    model = subject / "Model" / "frontal1"
    write_obj(model / "obj" / f"{name}.obj", scan.vertices, scan.faces, scan.colours)
    record: dict[str, object] = {
        "unit": "mm",
        "landmarks": {str(k): np.round(p, 4).tolist() for k, p in scan.landmarks.items()},
    }
    if scan.face_model:
        record["face_model"] = scan.face_model
    write_json(model / "landmarks.json", record)
    boxes: dict[str, dict[str, list[float]]] = {}
    counts: Counter[str] = Counter()
    for condition, image, box in pictures:
        check_name(condition, "the condition")
        file = f"frame_{counts[condition]:03d}.jpg"
        counts[condition] += 1
        with atomic_path(subject / "Images" / condition / file) as temporary:
            Image.fromarray(image).save(temporary, quality=QUALITY, subsampling=0)
        if box is not None:
            boxes.setdefault(condition, {})[file] = [round(float(v), 3) for v in box]
    for condition, known in boxes.items():
        write_json(subject / "Images" / condition / "boxes.json", known)
    return subject
