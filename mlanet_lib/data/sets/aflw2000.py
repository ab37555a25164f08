"""AFLW2000-3D (Zhu et al. 2016): photos with a `.mat` file beside each, reader and writer of the published layout.

Conventions of the labels, converted by the reader to those of `mlanet_lib.data.sample`:

- `pt3d_68` (3, 68): x right and y down in pixels counted **from 1** (`mlanet_lib.geometry.crops`), third
  row depth in the same unit, **larger is nearer**. Photos are 450 x 450.
- `Pose_Para` (1, 7): pitch, yaw, roll in radians, R = Rx Ry Rz as in `mlanet_lib.geometry.camera`; tx, ty, tz; scale.
  It acts on BFM's micrometres in a y-up frame of pixels: y = H + 1 - (scale (R X) + t)_y. A scale of 1e-3 is 1 pixel a
  millimetre.
- `roi` (1, 4): the photo's place in the uncropped original: of no use inside the photo.

300W-LP has the same files but for `pt2d` (2, 68) in place of `pt3d_68`; `read_mat` takes either.

Synthetic faces are written with the same fields. The coefficients of BFM (Shape_Para, Exp_Para, Tex_Para) are zero, so
that readers of the real set work and find BFM's mean face. Further truth is in fields named `mlanet_*`, which such
readers ignore: `mlanet_face_model` (fingerprint), `mlanet_identity`, `mlanet_expression`, `mlanet_occluded`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from mlanet_lib.data.sample import AFLW21, Sample, SyntheticTruth
from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.bfm2009.raw import BfmFit
from mlanet_lib.files.atomic import check_name, together
from mlanet_lib.files.folders import first, pictures
from mlanet_lib.files.mat import load_mat, numbers
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import ONE_BASED, from_index, to_index

QUALITY = 92
"""Of the JPEGs that are written."""


def read_folder(folder: str | Path, limit: int | None = None) -> list[Sample]:
    """All labelled photos directly in `folder`, by name; `limit`: only the first so many.

    A folder that is not there or holds no photo, a photo without a `.mat` or a `.mat` without a photo, two photos of
    one name, a limit below 1, and whatever `read_mat` refuses are UserErrors that name the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    photos = pictures(folder)
    stems = {path.stem for path in photos}
    for path in sorted(folder.glob("[!.]*.mat")):
        if path.stem not in stems:
            raise UserError(f"{path}: no photo of that name beside it")
    if not photos:
        raise UserError(f"{folder}: no photos (.jpg beside .mat files, as AFLW2000-3D comes)")
    return [read_sample(photo) for photo in first(photos, limit)]


def read_sample(photo: str | Path) -> Sample:
    """One photo's labels, from the `.mat` beside it. The photo itself is read by `Sample.image`."""
    photo = Path(photo)
    if not photo.with_suffix(".mat").is_file():
        raise UserError(f"{photo}: no {photo.stem}.mat beside it")
    return Sample(photo.name, partial(read_image, photo, upright=False), **read_mat(photo.with_suffix(".mat")))


def read_mat(path: str | Path) -> dict[str, Any]:
    """The labels of one `.mat` file as fields of `Sample`, converted to this project's pixels and directions.

    A file that is not a MATLAB 5 file, or lacks a field, or holds one of a wrong shape or with numbers that are not
    finite, is a UserError that names the file and the field.
    """
    path = Path(path)
    mat = load_mat(path)
    pose = numbers(path, mat, "Pose_Para", (7,))
    labels = {"pose_degrees": np.rad2deg(pose[:3]), "truth": _truth(path, mat), "bfm": None}
    in_2d = np.shape(mat.get("pt2d", ()))
    if "pt3d_68" in mat or in_2d != (2, 68):
        stored = numbers(path, mat, "pt3d_68", (3, 68)).T
        labels["nearness"] = -stored[:, 2]
        if in_2d == (2, 21):
            twenty_one = numbers(path, mat, "pt2d", (2, 21)).T
            annotated = (twenty_one != -1).all(1, keepdims=True)
            labels["points21"] = np.where(annotated, from_index(twenty_one, ONE_BASED), np.nan)
    else:
        stored = numbers(path, mat, "pt2d", (2, 68)).T
    if np.ptp(stored[:, :2], axis=0).min() <= 0:
        raise UserError(f"{path}: the landmarks (field 'pt3d_68' or 'pt2d') lie on one line and span no box")
    if "Shape_Para" in mat:
        shape, expression = numbers(path, mat, "Shape_Para", (199,)), numbers(path, mat, "Exp_Para", (29,))
        labels["bfm"] = BfmFit(shape, expression, pose[3:6], float(pose[6]))
    return labels | {"landmarks": from_index(stored[:, :2], ONE_BASED)}


def _truth(path: Path, mat: dict[str, Any]) -> SyntheticTruth | None:
    if "mlanet_face_model" not in mat:
        return None
    fields = ("mlanet_identity", "mlanet_expression")
    identity, expression = (numbers(path, mat, field, (np.size(mat.get(field, 0)),)) for field in fields)
    occluded = bool(numbers(path, mat, "mlanet_occluded", (1,))[0])
    name = np.ravel(mat["mlanet_face_model"])
    if name.size != 1 or name.dtype.kind != "U":
        raise UserError(f"{path}: field 'mlanet_face_model' is not one text")
    return SyntheticTruth(str(name[0]), identity, expression, occluded)


def write_sample(
    folder: str | Path,
    stem: str,
    image: np.ndarray,
    landmarks68: np.ndarray,
    pose_degrees: np.ndarray,
    pixels_per_mm: float,
    origin: np.ndarray,
    truth: SyntheticTruth | None = None,
) -> Path:
    """Write one face as `stem.jpg` and `stem.mat` in the published layout; returns the photo's path.

    image: (H, W, 3) uint8. landmarks68: (68, 3) as `mlanet_lib.geometry.camera.project` gives them: x, y in pixels
    with the first centre at 0.5, third the depth from the camera in mm, smaller is nearer. pose_degrees: (3,) pitch,
    yaw, roll. pixels_per_mm: at the face, focal in pixels / t_z. origin: (3,) where the model frame's origin is
    projected to, as landmarks68. truth: for the `mlanet_*` fields, and for `pt2d`, whose invisible points are -1. A
    stem that is no file's name is a UserError.
    """
    points, origin = np.asarray(landmarks68, np.float64), np.asarray(origin, np.float64)
    if points.shape != (68, 3) or not np.isfinite(points).all():
        raise ValueError(f"landmarks68 must be (68, 3) and finite, not {points.shape}")
    stored = to_index(points, ONE_BASED)
    stored[:, 2] = (origin[2] - points[:, 2]) * pixels_per_mm
    height, width = image.shape[:2]
    x, y = to_index(origin[:2], ONE_BASED)
    pose = [*np.deg2rad(np.asarray(pose_degrees, np.float64)), x, height + 1 - y, 0.0, pixels_per_mm / 1000]
    visible = np.ones(68, bool) if truth is None or truth.visible is None else truth.visible
    fields: dict[str, np.ndarray | str] = {
        "pt3d_68": stored.T.astype(np.float32),
        "pt2d": _aflw_points(stored[:, :2], visible),
        "roi": np.array([[1, 1, width, height]], np.int16),
        "Pose_Para": np.array([pose], np.float32),
        "Shape_Para": np.zeros((199, 1)),
        "Exp_Para": np.zeros((29, 1)),
        "Tex_Para": np.zeros((199, 1)),
        "Illum_Para": np.zeros((1, 10)),
        "Color_Para": np.array([[1, 1, 1, 0, 0, 0, 1]], np.float32),
    }
    if truth is not None:
        fields |= {
            "mlanet_face_model": truth.face_model,
            "mlanet_identity": np.asarray(truth.identity, np.float32).reshape(-1, 1),
            "mlanet_expression": np.asarray(truth.expression, np.float32).reshape(-1, 1),
            "mlanet_occluded": np.array([[truth.occluded]], np.uint8),
        }
    photo = Path(folder) / f"{check_name(stem, 'the photo')}.jpg"
    with together(folder) as scratch:
        Image.fromarray(image).save(scratch / photo.name, quality=QUALITY, subsampling=0)
        savemat(scratch / f"{stem}.mat", fields, do_compression=True, appendmat=False)
    return photo


def _aflw_points(points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """`pt2d` (2, 21): AFLW's points out of the 68, -1 where one is not visible (the ears never are)."""
    result = np.full((2, 21), -1.0)
    for column, at in enumerate(AFLW21):
        if at and visible[list(at)].all():
            result[:, column] = points[list(at)].mean(0)
    return result
