"""Scans of heads: a mesh, points picked on it, its colours where the file has some, and pictures drawn of it.

landmarks.json: `{"unit": "mm", "landmarks": {"30": [x, y, z], "36": [...], ...}}`, by index among the 68 points
(0-based); the nose tip (30) and at least two more, not on one line; the outer and inner eye corners (36, 39, 42, 45),
the nose's base (33) and the mouth's corners (48, 54) serve well. A synthetic scan with a face model's own vertices
also says `"face_model": FINGERPRINT`; its per-vertex error can then be computed.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mlanet_lib.alignment import similarity
from mlanet_lib.camera import euler_to_matrix, project, to_camera
from mlanet_lib.datasets.sample import Box, crop_box_from_landmarks
from mlanet_lib.errors import UserError
from mlanet_lib.files import atomic_path
from mlanet_lib.lighting import ambient, directional, shade
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.pictures import read_image
from mlanet_lib.rasterizer import rasterize
from mlanet_lib.rasterizer.interpolation import vertex_normals
from mlanet_lib.renderer import render, turned

UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
NOSE_TIP = 30
PICTURE = 448  # pixels; the head fills about half of it, so that the face's crop has about a network's 224
WIDER = 1.8  # how much more a picture shows than a crop
BACKGROUND, GREY = 0.5, 0.6
AMBIENT, LAMP = 0.4, (0.3, 0.4, 0.87)  # share of the light that comes from everywhere, and the lamp's direction
_FARTHEST, _LARGEST_INDEX = 1e9, 1 << 31  # of coordinates, and of an OBJ's indices: what is beyond is no scan
SMOOTH = 2  # pictures are drawn this many times larger and averaged


@dataclass(frozen=True, eq=False)
class Scan:
    """vertices: (P, 3) mm; faces: (F, 3) int64, none for a point cloud; landmarks: index among the 68 -> (3,) mm;
    face_model: fingerprint of the model whose vertices these are, else None. Its colours: uv (F, 3, 2), one a corner,
    v up, NaN where a face has none, with picture files in `textures`; or colours (P, 3) in [0, 1]; or None of these.
    """

    vertices: np.ndarray
    faces: np.ndarray
    landmarks: dict[int, np.ndarray]
    face_model: str | None = None
    uv: np.ndarray | None = None
    colours: np.ndarray | None = None
    textures: tuple[Path, ...] = ()

    @property
    def look(self) -> str:
        """What its pictures show: "texture", "vertex colours" or "grey shading", where it has neither."""
        if self.uv is not None and self.textures:
            return "texture"
        return "grey shading" if self.colours is None else "vertex colours"


class Obj(NamedTuple):
    """vertices (V, 3), faces (F, 3), uv (F, 3, 2) or None, colours (V, 3) or None, libraries: names of .mtl files."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None
    colours: np.ndarray | None
    libraries: tuple[str, ...]


def read_scan(
    path: str | Path, landmarks_path: str | Path, unit: str = "mm", texture: str | Path | None = None
) -> Scan:
    """A scan and its landmarks, brought to mm.

    unit: of the OBJ's lengths, "mm", "cm" or "m"; landmarks.json must name the same. texture: a picture for its UVs,
    else those that its material file names and that lie beside it. Another unit, unknown indices, no nose tip, fewer
    than three points, or whatever `read_obj` refuses are UserErrors that name the file and the field.
    """
    if unit not in UNITS:
        raise UserError(f"unknown unit {unit!r}: one of {', '.join(UNITS)}")
    record = read_json(Path(landmarks_path))
    if record.get("unit") != unit:
        raise UserError(f"{landmarks_path}: field 'unit' must say \"{unit}\", the unit that the scan is read in")
    points = record.get("landmarks")
    if not isinstance(points, dict) or len(points) < 3 or str(NOSE_TIP) not in points:
        raise UserError(f"{landmarks_path}: field 'landmarks' needs the nose tip (\"30\") and at least two more points")
    for key, point in points.items():
        if not (key.isdecimal() and len(key) <= 2 and int(key) < 68) or not finite(point, 3):
            raise UserError(f"{landmarks_path}: landmark '{key}' is not an index below 68 with [x, y, z]")
    if not isinstance(record.get("face_model"), str | None):
        raise UserError(f"{landmarks_path}: field 'face_model' is not a fingerprint")
    obj = parse_obj(path)
    if texture is not None and obj.uv is None:
        raise UserError(f"{path}: has no texture coordinates, so that {texture} cannot be laid on it")
    textures = (Path(texture),) if texture is not None else _textures(Path(path), obj.libraries)
    landmarks = {int(key): UNITS[unit] * np.array(point, np.float64) for key, point in points.items()}
    vertices = UNITS[unit] * obj.vertices
    return Scan(vertices, obj.faces, landmarks, record.get("face_model"), obj.uv, obj.colours, textures)


def read_json(path: Path) -> dict:
    """A file that holds one JSON object; anything else is a UserError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object")
    return value


def finite(values, count: int) -> bool:
    """`values` is a list of so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and -_FARTHEST < v < _FARTHEST for v in values)
    )


def _textures(path: Path, libraries: Iterable[str]) -> tuple[Path, ...]:
    """The pictures that material files name in map_Kd, by their bare names: what lies elsewhere is not looked at."""
    found = []
    for library in (path.parent / _bare(name) for name in libraries):
        if library.is_file():
            lines = map(str.split, library.read_text(encoding="utf-8", errors="replace").splitlines())
            found += [path.parent / _bare(words[-1]) for words in lines if len(words) > 1 and words[0] == "map_Kd"]
    return tuple(dict.fromkeys(file for file in found if file.is_file()))


def _bare(name: str) -> str:
    return Path(name.replace("\\", "/")).name


def read_obj(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and triangles (F, 3) int64 of a Wavefront OBJ; see `parse_obj`."""
    return parse_obj(path)[:2]


def parse_obj(path: str | Path) -> Obj:
    """A Wavefront OBJ, in the file's order and unit, nothing merged.

    Reads `v` (with RGB in [0, 1] after the position, where every vertex has it), `vt`, `mtllib` and `f` with any number
    of corners (fans), with or without texture and normal indices, from 1 or negative; everything else is skipped. A
    file without vertices, or a line that is not numbers or names no vertex, is a UserError that names the line.
    """
    path = Path(path)
    vertices, colours, places, faces, corners_uv, libraries = [], [], [], [], [], []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                words = line.split()
                if not words or words[0] not in ("v", "vt", "f", "mtllib"):
                    continue
                try:
                    if words[0] == "v":
                        x, y, z = map(float, words[1:4])
                        vertices.append((x, y, z))
                        if len(words) >= 7:
                            colours.append(tuple(map(float, words[4:7])))
                    elif words[0] == "vt":
                        places.append((float(words[1]), float(words[2])))
                    elif words[0] == "f":
                        corners = [word.split("/") for word in words[1:]]
                        points = [_index(corner[0], len(vertices)) for corner in corners]
                        if len(points) < 3:
                            raise ValueError("fewer than three corners")
                        uv = [_index(c[1], len(places)) if len(c) > 1 and c[1] else -1 for c in corners]
                        for b, c in pairwise(range(1, len(points))):
                            faces.append((points[0], points[b], points[c]))
                            corners_uv.append((uv[0], uv[b], uv[c]))
                    else:
                        libraries.append(line.split(maxsplit=1)[1].strip())
                except (ValueError, IndexError) as error:
                    raise UserError(f"{path}, line {number}: not a vertex or face ({line.strip()[:60]})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    points, triangles = np.array(vertices, np.float64).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3)
    if not len(points) or not np.isfinite(points).all():
        raise UserError(f"{path}: no vertices, or some that are not finite")
    if len(triangles) and triangles.max() >= len(points):
        raise UserError(f"{path}: a face names vertex {triangles.max() + 1} of {len(points)}")
    index = np.array(corners_uv, np.int64).reshape(-1, 3)
    if len(index) and index.max() >= len(places):
        raise UserError(f"{path}: a face names texture coordinate {index.max() + 1} of {len(places)}")
    uv = np.array([*places, (np.nan, np.nan)])[index] if len(index) and (index >= 0).any() else None
    shades = np.clip(np.array(colours), 0, 1) if len(colours) == len(points) else None
    return Obj(points, triangles, uv, shades, tuple(libraries))


def _index(word: str, count: int) -> int:
    """An OBJ's index, from 1 or back from -1, as one from 0; what comes later in the file may still be named."""
    value = int(word)
    if value == 0 or value < -count or value > _LARGEST_INDEX:
        raise ValueError("counted from 1 or back from -1")
    return value - 1 if value > 0 else count + value


def write_obj(path: str | Path, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray | None = None) -> None:
    """Vertices (V, 3), to 1e-4, colours (V, 3) in [0, 1] or None, and triangles (F, 3) as a Wavefront OBJ; atomic."""
    rows = (
        np.asarray(vertices, np.float64)
        if colours is None
        else np.concatenate([vertices, colours], 1).astype(np.float64)
    )
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines("v " + " ".join(f"{x:.4f}" for x in row) + "\n" for row in rows.tolist())
        file.writelines(f"f {a} {b} {c}\n" for a, b, c in (np.asarray(faces) + 1).tolist())


class View(NamedTuple):
    """A picture of a scan: image (S, S, 3) uint8; box: the face's crop in its pixels; yaw, pitch in degrees."""

    image: np.ndarray
    box: Box
    yaw: float
    pitch: float


@torch.no_grad()
def draw_views(
    scan: Scan,
    model,
    yaw: Iterable[float] = (0.0,),
    pitch: Iterable[float] = (0.0,),
    size: int = PICTURE,
    lit: bool = False,
) -> list[View]:
    """Pictures of a scan at every pitch and yaw (degrees, 3DDFA's signs), drawn with the project's rasterizer.

    model: the `MorphableModel` whose mean face says what frontal is, and where the face ends: its 68 points, laid on
    the scan by the scan's landmarks, give the crop in the training convention (so the truth places the crop, and
    nothing else). lit: under a lamp, for textures that hold albedo; else colours are drawn as they are, since most
    scans' textures hold their light already. A scan without colours is a grey surface under the lamp. The background
    is grey. A scan without faces, or several textures, is a UserError.
    """
    faces, paint = torch.from_numpy(scan.faces), _texture(scan) if scan.look == "texture" else None
    views = []
    for side, up, camera, focal, landmarks in _poses(scan, model, yaw, pitch):
        image = _draw(scan, camera, faces, focal, size * SMOOTH, paint, lit or scan.look == "grey shading")
        image = torch.nn.functional.avg_pool2d(image, SMOOTH)[0].permute(1, 2, 0)
        box = crop_box_from_landmarks(project(landmarks, focal, size, size)[0].numpy())
        views.append(View((image.clamp(0, 1) * 255).round().byte().numpy(), box, side, up))
    return views


@torch.no_grad()
def seen_from_outside(scan: Scan, model, tolerance: float = 2.0, size: int = PICTURE) -> np.ndarray:
    """(P,) bool: points that some picture from yaw -90 to 90 and pitch -30 to 30 sees.

    Cleaned-up scans have pockets behind lids and lips that no camera saw and no face model has; their points judge
    nothing. A point is seen where it lies at most `tolerance` (mm, at the mean face's size) behind the nearest surface.
    """
    seen = torch.zeros(len(scan.vertices), dtype=torch.bool)
    for *_, camera, focal, _ in _poses(scan, model, range(-90, 91, 15), (-30, 0, 30)):
        points = project(camera, focal, size, size)
        depth = rasterize(points, torch.from_numpy(scan.faces), size, size).depth[0]
        column, row = (points[0, :, k].floor().long() for k in (0, 1))
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        nearest = depth[row.clamp(0, size - 1), column.clamp(0, size - 1)]
        seen |= inside & (points[0, :, 2] <= nearest + tolerance)
    return seen.numpy()


def _poses(scan: Scan, model, yaw: Iterable[float], pitch: Iterable[float]):
    """For every pitch and yaw: yaw, pitch, the scan (1, P, 3) and the mean face's 68 points (1, 68, 3) in the camera's
    frame, mm at the mean face's size, and the focal length between them."""
    if not len(scan.faces):
        raise UserError("the scan has no faces: a cloud of points cannot be drawn")
    keys, mean = sorted(scan.landmarks), model.landmarks(model.mean[None]).cpu().float()
    try:
        onto = similarity(mean[0, keys].double().numpy(), np.stack([scan.landmarks[key] for key in keys]))
    except ValueError as error:
        raise UserError(f"the scan's landmarks do not say how it stands: {error}") from error
    vertices = torch.tensor(onto.inverse().apply(scan.vertices), dtype=torch.float32)[None]
    frame = FaceParameters.neutral(model, 1)
    for up in map(float, pitch):
        for side in map(float, yaw):
            pose = turned(model, frame, euler_to_matrix(torch.tensor([[up, side, 0.0]])))
            camera, landmarks = (to_camera(points, pose.rotation, pose.translation) for points in (vertices, mean))
            yield side, up, camera, pose.focal / WIDER, landmarks


def _texture(scan: Scan) -> torch.Tensor:
    if len(scan.textures) > 1:
        raise UserError(f"the scan has {len(scan.textures)} textures ({scan.textures[0].name}, ...); name one for all")
    return torch.tensor(read_image(scan.textures[0], upright=False)).permute(2, 0, 1)[None].float() / 255


def _draw(scan: Scan, camera: torch.Tensor, faces: torch.Tensor, focal, size: int, paint, lit: bool) -> torch.Tensor:
    """(1, 3, S, S), the background filled; `lit`: under a lamp, else the colours as they are."""
    normals = vertex_normals(camera, faces) * camera.new_tensor([1, -1, -1])
    lamp = torch.nn.functional.normalize(camera.new_tensor([LAMP]), dim=-1)
    light = ambient(1, AMBIENT) + directional(lamp, torch.full((1, 3), 1 - AMBIENT))
    shades = shade(torch.ones_like(camera), normals, light if lit else ambient(1))
    if paint is not None:  # every triangle has corners of its own, so that UVs may jump at a seam
        attributes = torch.cat([torch.tensor(scan.uv, dtype=torch.float32), shades[0, faces]], -1).reshape(1, -1, 5)
        corners = camera[:, faces.reshape(-1)]
        rendering = render(corners, torch.arange(faces.numel()).reshape(-1, 3), attributes, focal, size)
        uv, shades = rendering.image[:, :2].permute(0, 2, 3, 1), rendering.image[:, 2:]
        uv = torch.where((uv < 0) | (uv > 1), uv - uv.floor(), uv) * 2 - 1
        image = torch.nn.functional.grid_sample(paint, uv.nan_to_num() * uv.new_tensor([1, -1]), align_corners=False)
        image = torch.where(uv.isnan().any(-1)[:, None], GREY, image) * shades
    else:
        colours = GREY if scan.colours is None else torch.tensor(scan.colours, dtype=torch.float32)[None]
        rendering = render(camera, faces, colours * shades, focal, size)
        image = rendering.image
    return torch.where(rendering.mask > 0, image, BACKGROUND)
