"""Scans of heads: a mesh, points picked on it, its colours where the file has some, and pictures drawn of it.

landmarks.json: `{"unit": "mm", "landmarks": {"30": [x, y, z], "36": [...], ...}}`, by index among the 68 points
(0-based); the nose tip (30) and at least two more, not on one line; the outer and inner eye corners (36, 39, 42, 45),
the nose's base (33) and the mouth's corners (48, 54) serve well. A synthetic scan with a face model's own vertices
also says `"face_model": FINGERPRINT`; its per-vertex error can then be computed.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.obj import Obj, parse_obj, shades, textures
from mlanet_lib.files.pictures import read_image
from mlanet_lib.files.records import read_json
from mlanet_lib.geometry.alignment import Similarity, similarity
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks
from mlanet_lib.geometry.lighting import ambient, directional, shade
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.rasterizer import rasterize
from mlanet_lib.rasterizer.interpolation import vertex_normals
from mlanet_lib.renderer import render, turned

UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
_OTHER_UNITS = {"micrometres": 1e-3, "inches": 25.4}  # scans come in them; to be converted before
SMALLEST, LARGEST, OFF = 0.5, 1.5, 20.0
"""Of a head: its size in mean faces', and how far its landmarks lie from its points, mm, at most. The biocular width is
at one year 86 % of an adult's, which differ by a tenth or so (Farkas et al. 1992, Growth patterns in the orbital
region); the face's height grows more. A wrong unit is off by 2.5 at least."""
MISPLACED = 0.15
"""Root mean square distance of a scan's landmarks from the mean face's, laid on them, at most, in their extent. People
differ by a third of that; points taken for each other lie far beyond."""
NOSE_TIP = 30
PICTURE = 448  # pixels; the head fills about half of it, so that the face's crop has about a network's 224
BEHIND = 2.0  # mm, at the mean face's size, that a point may lie behind the surface that a picture shows
WIDER = 1.8  # how much more a picture shows than a crop
BACKGROUND, GREY = 0.5, 0.6
AMBIENT, LAMP = 0.4, (0.3, 0.4, 0.87)  # share of the light that comes from everywhere, and the lamp's direction
_FARTHEST = 1e9  # of coordinates: what is beyond is no scan
SMOOTH = 2  # pictures are drawn this many times larger and averaged


@dataclass(frozen=True, eq=False)
class Scan:
    """A mesh, points picked on it, and its colours.

    vertices: (P, 3) mm; faces: (F, 3) int64, none for a point cloud; landmarks: index among the 68 -> (3,) mm;
    face_model: fingerprint of the model whose vertices these are, else None. Its colours: uv (F, 3, 2), one a corner, v
    up, NaN where a face has none, with picture files in `textures`; or colours (P, 3) in [0, 1]; or None of these.
    lacking: what its files name as its colours but is missing, so that it must not be drawn; "" if nothing is. name,
    unit: of the file and of the lengths in it.
    """

    vertices: np.ndarray
    faces: np.ndarray
    landmarks: dict[int, np.ndarray]
    face_model: str | None = None
    uv: np.ndarray | None = None
    colours: np.ndarray | None = None
    textures: tuple[Path, ...] = ()
    lacking: str = ""
    name: str = "the scan"
    unit: str = "mm"

    @property
    def look(self) -> str:
        """What its pictures show: "texture", "vertex colours" or "grey shading", where it has neither."""
        if self.uv is not None and self.textures:
            return "texture"
        return "grey shading" if self.colours is None else "vertex colours"


def read_scan(
    path: str | Path, landmarks_path: str | Path, unit: str = "mm", texture: str | Path | None = None
) -> Scan:
    """A scan and its landmarks, brought to mm.

    unit: of the OBJ's lengths, "mm", "cm" or "m"; landmarks.json must name the same. texture: a picture for its UVs,
    else those that its material files name and that lie in its folder or below it. Another unit, unknown indices, no
    nose tip, fewer than three points, or whatever `parse_obj` refuses are UserErrors that name the file and the field.
    A texture that is named but missing is noted in `Scan.lacking`. `check_size` tests whether the unit is right.
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
        if key not in map(str, range(68)) or not finite(point, 3):
            raise UserError(f"{landmarks_path}: landmark '{key}' is not an index below 68 with [x, y, z]")
    if not isinstance(record.get("face_model"), str | None):
        raise UserError(f"{landmarks_path}: field 'face_model' is not a fingerprint")
    obj = parse_obj(path)
    if texture is not None and obj.uv is None:
        raise UserError(f"{path}: has no texture coordinates, so that {texture} cannot be laid on it")
    pictures, colours, lacking = ((Path(texture),), None, "") if texture is not None else _colours(Path(path), obj)
    landmarks = {int(key): UNITS[unit] * np.array(point, np.float64) for key, point in points.items()}
    vertices, model = UNITS[unit] * obj.vertices, record.get("face_model")
    return Scan(vertices, obj.faces, landmarks, model, obj.uv, colours, pictures, lacking, str(path), unit)


def _colours(path: Path, obj: Obj) -> tuple[tuple[Path, ...], np.ndarray | None, str]:
    """Pictures for the UVs, vertex colours or None, and the reason why the scan cannot be drawn as its files describe,
    if any."""
    colours, wrong = (None, "") if obj.colours is None else shades(obj.colours)
    pictures, missing = textures(path, obj.libraries)
    if obj.uv is not None and missing:
        return (), None, f"{missing}; name the picture (--texture), or take the lines mtllib out, to judge it without"
    if obj.uv is not None and pictures:
        return pictures, colours, ""
    if pictures and obj.colours is None:
        return (), None, f"no texture coordinates for {pictures[0].name}; take the lines mtllib out, to judge it grey"
    return (), colours, f"{wrong}; take the colours out, to judge it without" if wrong else ""


def check_size(scan: Scan, model: MorphableModel) -> Scan:
    """Returns the scan if, in the given unit, it has the size of a head and its landmarks lie on it.

    The landmarks' distances are compared with those of the model's mean face in mm. The median over all pairs decides,
    so that one misplaced point does not. A UserError names a measured distance and the unit that it suggests.
    """
    keys, mean, marks = _both_landmarks(scan, model)
    ratio = float(np.median(pdist(marks) / pdist(mean).clip(1e-6)))
    if not SMALLEST <= ratio <= LARGEST:
        pair = [keys.index(key) for key in (36, 45)] if {36, 45} <= set(keys) else [0, -1]
        apart, usual = (float(np.linalg.norm(np.subtract(*points[pair]))) for points in (marks, mean))
        sizes = {name: size / UNITS[scan.unit] for name, size in (UNITS | _OTHER_UNITS).items()}
        likely = min(sizes, key=lambda name: abs(math.log(max(ratio, 1e-300) * sizes[name])))
        looks = f"they look like {likely}" if SMALLEST <= ratio * sizes[likely] <= LARGEST else "and in no unit known"
        raise UserError(
            f"{scan.name}: its landmarks {keys[pair[0]]} and {keys[pair[1]]} are {apart:.4g} mm apart, a head's about "
            f"{usual:.0f}: its lengths are not in {scan.unit}, {looks}"
        )
    left_over = _onto(scan, mean, marks).apply(mean) - marks
    if (rest := float(np.sqrt((left_over**2).sum(1).mean()) / pdist(marks).max())) > MISPLACED:
        raise UserError(
            f"{scan.name}: its landmarks lie {rest:.0%} of their extent beside a head's, however they are turned: are "
            "two of them, or left and right, taken for each other?"
        )
    off = float(np.median(cKDTree(scan.vertices).query(marks)[0]))
    if off > OFF:
        raise UserError(f"{scan.name}: its landmarks lie {off:.4g} mm beside it (median): the two differ in their unit")
    return scan


def _both_landmarks(scan: Scan, model: MorphableModel) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The scan's K indices among the 68, and these points (K, 3) mm of the mean face and of the scan."""
    keys = sorted(scan.landmarks)
    mean = model.landmarks(model.mean[None])[0, keys].double().cpu().numpy()
    return keys, mean, np.stack([scan.landmarks[key] for key in keys])


def _onto(scan: Scan, mean: np.ndarray, marks: np.ndarray) -> Similarity:
    """The similarity that lays the mean face's points on the scan's."""
    try:
        return similarity(mean, marks)
    except ValueError as error:
        raise UserError(f"{scan.name}: its landmarks do not say how it stands: {error}") from error


def finite(values: object, count: int) -> bool:
    """`values` is a list of so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and -_FARTHEST < v < _FARTHEST for v in values)
    )


class View(NamedTuple):
    """A picture of a scan: image (S, S, 3) uint8; box: the face's crop in its pixels; yaw, pitch in degrees."""

    image: np.ndarray
    box: Box
    yaw: float
    pitch: float


@torch.no_grad()
def draw_views(
    scan: Scan,
    model: MorphableModel,
    yaw: Iterable[float] = (0.0,),
    pitch: Iterable[float] = (0.0,),
    lit: bool = False,
) -> list[View]:
    """Pictures of a scan at every pitch and yaw (degrees, 3DDFA's signs), drawn with the project's rasterizer.

    The model's mean face, laid on the scan by the scan's landmarks, defines the frontal direction and gives the crop in
    the training convention (so the truth is used to place the crop, and for nothing else). lit: under a lamp, for
    textures that hold albedo; else colours are drawn as they are, since most scans' textures hold their light already.
    A scan without colours is a grey surface under the lamp. The background is grey. A scan without faces, or with
    several textures, or lacking the colours that it should have, is a UserError.
    """
    if scan.lacking:
        raise UserError(f"{scan.name}: {scan.lacking}")
    paint = _texture(scan) if scan.look == "texture" else None
    views = []
    for pose in _poses(scan, model, yaw, pitch):
        image = _draw(scan, pose, paint, lit or scan.look == "grey shading")
        image = F.avg_pool2d(image, SMOOTH)[0].permute(1, 2, 0)
        box = crop_box_from_landmarks(project(pose.landmarks, pose.focal, PICTURE, PICTURE)[0].numpy())
        views.append(View((image.clamp(0, 1) * 255).round().byte().numpy(), box, pose.yaw, pose.pitch))
    return views


@torch.no_grad()
def seen_from_outside(scan: Scan, model: MorphableModel) -> np.ndarray:
    """(P,) bool: points that some picture from yaw -90 to 90 and pitch -30 to 30 sees.

    Cleaned-up scans have pockets behind lids and lips that no camera saw and no face model has; their points are left
    out. A point is seen where it lies at most `BEHIND` behind the nearest surface.
    """
    seen = torch.zeros(len(scan.vertices), dtype=torch.bool)
    for pose in _poses(scan, model, range(-90, 91, 15), (-30, 0, 30)):
        points = project(pose.vertices, pose.focal, PICTURE, PICTURE)
        depth = rasterize(points, torch.from_numpy(scan.faces), PICTURE, PICTURE).depth[0]
        column, row = (points[0, :, k].floor().long() for k in (0, 1))
        inside = (column >= 0) & (column < PICTURE) & (row >= 0) & (row < PICTURE)
        nearest = depth[row.clamp(0, PICTURE - 1), column.clamp(0, PICTURE - 1)]
        seen |= inside & (points[0, :, 2] <= nearest + BEHIND)
    return seen.numpy()


class _Pose(NamedTuple):
    """The scan (1, P, 3) and the mean face's 68 points (1, 68, 3) in the camera's frame, mm at the mean face's size, at
    a yaw and a pitch, degrees; the camera's focal length (1,)."""

    vertices: Tensor
    landmarks: Tensor
    focal: Tensor
    yaw: float
    pitch: float


def _poses(scan: Scan, model: MorphableModel, yaw: Iterable[float], pitch: Iterable[float]) -> Iterator[_Pose]:
    if not len(scan.faces):
        raise UserError("the scan has no faces: a cloud of points cannot be drawn")
    onto = _onto(scan, *_both_landmarks(scan, model)[1:])
    vertices = torch.tensor(onto.inverse().apply(scan.vertices), dtype=torch.float32)[None]
    neutral, mean = FaceParameters.neutral(model, 1), model.landmarks(model.mean[None]).cpu().float()
    for up, side in product(map(float, pitch), map(float, yaw)):
        pose = turned(model, neutral, euler_to_matrix(torch.tensor([[up, side, 0.0]])))
        camera, landmarks = (to_camera(points, pose.rotation, pose.translation) for points in (vertices, mean))
        yield _Pose(camera, landmarks, pose.focal / WIDER, side, up)


def _texture(scan: Scan) -> Tensor:
    if len(scan.textures) > 1:
        raise UserError(f"the scan has {len(scan.textures)} textures ({scan.textures[0].name}, ...); name one for all")
    return torch.tensor(read_image(scan.textures[0], upright=False)).permute(2, 0, 1)[None].float() / 255


def _draw(scan: Scan, pose: _Pose, paint: Tensor | None, lit: bool) -> Tensor:
    """(1, 3, S, S), `SMOOTH` times `PICTURE` wide, the background filled; paint: the texture (1, 3, H, W); lit: under
    a lamp, else the colours as they are."""
    camera, faces, size = pose.vertices, torch.from_numpy(scan.faces), PICTURE * SMOOTH
    normals = vertex_normals(camera, faces) * camera.new_tensor([1, -1, -1])
    lamp = F.normalize(camera.new_tensor([LAMP]), dim=-1)
    light = ambient(1, AMBIENT) + directional(lamp, torch.full((1, 3), 1 - AMBIENT))
    shades = shade(torch.ones_like(camera), normals, light if lit else ambient(1))
    if paint is not None:  # every triangle has corners of its own, so that UVs may jump at a seam
        attributes = torch.cat([torch.tensor(scan.uv, dtype=torch.float32), shades[0, faces]], -1).reshape(1, -1, 5)
        corners = camera[:, faces.reshape(-1)]
        rendering = render(corners, torch.arange(faces.numel()).reshape(-1, 3), attributes, pose.focal, size)
        uv, shades = rendering.image[:, :2].permute(0, 2, 3, 1), rendering.image[:, 2:]
        uv = torch.where((uv < 0) | (uv > 1), uv - uv.floor(), uv) * 2 - 1
        image = F.grid_sample(paint, uv.nan_to_num() * uv.new_tensor([1, -1]), align_corners=False)
        image = torch.where(uv.isnan().any(-1)[:, None], GREY, image) * shades
    else:
        colours = torch.tensor(GREY if scan.colours is None else scan.colours, dtype=torch.float32)[None]
        rendering = render(camera, faces, colours * shades, pose.focal, size)
        image = rendering.image
    return torch.where(rendering.mask > 0, image, BACKGROUND)
