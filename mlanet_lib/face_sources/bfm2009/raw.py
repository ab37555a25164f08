"""3DDFA's shape model in its raw units, and the reading of the arrays in BFM 2009's files.

The labels of 300W-LP and AFLW2000-3D hold coefficients of this model (Zhu et al. 2016).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.points import N_LANDMARKS
from mlanet_lib.face_sources.bfm2009 import bfm_files as files
from mlanet_lib.geometry.camera import euler_to_matrix


@dataclass(frozen=True, eq=False)
class BfmFit:
    """A fit of the Basel Face Model, as 300W-LP and AFLW2000-3D carry it.

    shape: (199,) and expression: (29,), in the raw units of 3DDFA's bases (not in standard deviations); translation:
    (3,), y-up pixels; scale: pixels a micrometre. The pose is the sample's. Decoded by
    `mlanet_lib.face_sources.bfm2009.raw`.
    """

    shape: np.ndarray
    expression: np.ndarray
    translation: np.ndarray
    scale: float


@dataclass(frozen=True, eq=False)
class RawBfm:
    """3DDFA's shape model in its raw units, those of `Shape_Para` and `Exp_Para` in 300W-LP and AFLW2000-3D.

    mean (V, 3), shape_basis (V, 3, 199), expression_basis (V, 3, 29): micrometres, float32, V = 53,215; shape_sigma
    (199,), expression_sigma (29,): standard deviations of the raw coefficients; faces (F, 3) and landmarks (68,), from
    0. texture: mean RGB (V, 3) in [0, 1] and its basis per standard deviation (V, 3, Kt), either None if unknown.
    """

    mean: np.ndarray
    shape_basis: np.ndarray
    expression_basis: np.ndarray
    shape_sigma: np.ndarray
    expression_sigma: np.ndarray
    faces: np.ndarray
    landmarks: np.ndarray
    texture: tuple[np.ndarray | None, np.ndarray | None] = (None, None)

    @classmethod
    def load(cls, source: str | Path) -> "RawBfm":
        """From `Model_Shape.mat` and `Model_Exp.mat` (`Model_Expression.mat`), or from `01_MorphableModel.mat` and
        `model_info.mat` in place of the first. Missing or wrong files are a UserError that says which."""
        parts = files.parts_of(source)
        if all(files.missing(shape, parts) for shape in files.SHAPES):
            raise UserError(f"{source}: 3DDFA's shape model lacks {', '.join(files.missing('3ddfa', parts))}")
        return cls.read(parts)

    @classmethod
    def read(cls, parts: dict[str, Path]) -> "RawBfm":
        """From the files of one shape, see `bfm_files.parts_of`."""
        moving = files.read(parts["expression"], "expression")
        path = parts.get("shape") or parts["original"]
        still = _generated(parts) if "shape" in parts else _trimmed(parts)
        shape, expression = columns(still["w"], path, "w"), columns(moving["w_exp"], parts["expression"], "w_exp")
        size = len(shape)
        if len(expression) != size or still["mu_shape"].size != 3 * size or moving["mu_exp"].size != 3 * size:
            raise UserError(f"{parts['expression']} has {len(expression):,} vertices, {path} {size:,}: another mesh")
        mean = still["mu_shape"].astype(np.float64).reshape(size, 3) + moving["mu_exp"].reshape(size, 3)
        return cls(
            mean.astype(np.float32),
            shape,
            expression,
            sigmas(still["sigma"], shape, path, "sigma"),
            sigmas(moving["sigma_exp"], expression, parts["expression"], "sigma_exp"),
            faces(still["tri"], size, path),
            landmarks(still["keypoints"], size, path),
            _texture(still, path),
        )

    def vertices(self, fit: BfmFit) -> np.ndarray:
        """(V, 3) micrometres, model frame: mu + w_shape Shape_Para + w_exp Exp_Para (Zhu et al. 2016)."""
        for name, basis in (("shape", self.shape_basis), ("expression", self.expression_basis)):
            if getattr(fit, name).shape != basis.shape[2:]:
                raise UserError(f"the fit has {getattr(fit, name).size} {name} numbers, the model {basis.shape[2]}")
        moved = self.shape_basis @ fit.shape.astype(np.float32)
        return (self.mean + moved + self.expression_basis @ fit.expression.astype(np.float32)).astype(np.float64)

    def posed(self, fit: BfmFit, pose_degrees: np.ndarray, height: int) -> np.ndarray:
        """(V, 3) in the photo: x, y in pixels, first pixel's centre at 0.5, third the depth in pixels, smaller is
        nearer. pose_degrees: (3,) pitch, yaw, roll; height: of the photo, pixels.

        The published formula is p = scale R V + t with R = Rx Ry Rz and y_image = height + 1 - p_y, counted from 1.
        """
        rotation = euler_to_matrix(torch.as_tensor(np.asarray(pose_degrees, np.float64))).numpy()
        p = fit.scale * self.vertices(fit) @ rotation.T + fit.translation
        return np.stack([p[:, 0] - 0.5, height + 1 - p[:, 1] - 0.5, -p[:, 2]], 1)

    def standard(self, fit: BfmFit) -> tuple[np.ndarray, np.ndarray]:
        """The fit's shape (199,) and expression (29,) in standard deviations: raw over sigma, the coefficients of
        `convert`'s model of these files."""
        return fit.shape / self.shape_sigma, fit.expression / self.expression_sigma

    def correspondence(self, model: MorphableModel) -> np.ndarray | None:
        """(V,) int64: for each vertex of a face model the corresponding vertex of this one; None if unknown.

        It is known only for this very mesh, recognised by its size and its 68 vertices.
        """
        points = model.landmark_index[:, 0].cpu().numpy()
        same = not model.points_between and len(self.mean) == model.n_vertices
        return np.arange(len(self.mean)) if same and np.array_equal(points, self.landmarks) else None


def _generated(parts: dict[str, Path]) -> dict[str, np.ndarray]:
    """The fields of `Model_Shape.mat`, with those of files beside it where it lacks them."""
    path = parts["shape"]
    still = files.read(path, "shape", "tri", "keypoints", "mu_tex|tex", "w_tex", "sigma_tex|alpha_tex")
    if not {"tri", "keypoints"} <= still.keys():
        if "info" not in parts:
            raise UserError(f"{path} has no field tri or keypoints, and no model_info.mat lies beside it")
        still |= files.read(parts["info"], "info")
    if "original" in parts and "sigma_tex" not in still and "w_tex" in still:
        still["sigma_tex"] = files.read(parts["original"], "original")["texEV"]
    return still


def _trimmed(parts: dict[str, Path]) -> dict[str, np.ndarray]:
    """What 3DDFA's ModelGenerate.m writes into `Model_Shape.mat`, from the original and `model_info.mat`."""
    path, info = parts["original"], files.read(parts["info"], "info")
    whole = files.read(path, "original")
    pick = index(info["trimIndex"], whole["shapeMU"].size // 3, parts["info"], "trimIndex")
    names = {"mu_shape": "shapeMU", "w": "shapePC", "mu_tex": "texMU", "w_tex": "texPC"}
    still = {ours: columns(whole[old], path, old)[pick].reshape(3 * len(pick), -1) for ours, old in names.items()}
    return still | {"sigma": whole["shapeEV"], "sigma_tex": whole["texEV"]} | info


def _texture(still: dict[str, np.ndarray], path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`RawBfm.texture`, from the fields of the shape model."""
    colour, texture = still.get("mu_tex"), None
    if colour is not None:  # (3V, 1), or (3, V) where another script than 3DDFA's wrote it
        colour = (colour.T if len(colour) == 3 else colour).reshape(-1, 3) / 255
    if {"w_tex", "sigma_tex"} <= still.keys():
        basis = columns(still["w_tex"], path, "w_tex")
        texture = basis * sigmas(still["sigma_tex"], basis, path, "sigma_tex").astype(np.float32) / 255
    return colour, texture


def columns(basis: np.ndarray, path: Path, name: str) -> np.ndarray:
    """A stored basis (3V, K), vertex by vertex, as (V, 3, K) float32; a mean (3V, 1) in the same way."""
    if basis.ndim != 2 or len(basis) % 3:
        raise UserError(f"{path}: field '{name}' has shape {basis.shape}, not (3 V, modes)")
    return np.ascontiguousarray(basis, np.float32).reshape(-1, 3, basis.shape[1])


def sigmas(values: np.ndarray, basis: np.ndarray, path: Path, name: str) -> np.ndarray:
    """(K,) positive standard deviations of a basis' K modes."""
    values = np.asarray(values, np.float64).ravel()
    if len(values) != basis.shape[-1] or values.min() <= 0:
        raise UserError(f"{path}: '{name}' are not the {basis.shape[-1]} positive standard deviations of the basis")
    return values


def index(values: np.ndarray, size: int, path: Path, name: str) -> np.ndarray:
    """Indices counted from 1 -> from 0, int64, flat."""
    values = values.astype(np.int64).ravel() - 1
    if values.min() < 0 or values.max() >= size:
        raise UserError(f"{path}: field '{name}' is not an index from 1 to {size:,}: it belongs to another mesh")
    return values


def faces(values: np.ndarray, size: int, path: Path) -> np.ndarray:
    """(F, 3), from triangles stored as (F, 3) or (3, F)."""
    if 3 not in values.shape or values.ndim != 2:
        raise UserError(f"{path}: field 'tri' has shape {values.shape}, not (F, 3)")
    values = values if values.shape[1] == 3 else values.T
    return index(values, size, path, "tri").reshape(-1, 3)


def landmarks(values: np.ndarray, size: int, path: Path) -> np.ndarray:
    """(68,) vertices, stored in any shape."""
    if values.size != N_LANDMARKS:
        raise UserError(f"{path}: field 'keypoints' has {values.size} points, not {N_LANDMARKS}")
    return index(values, size, path, "keypoints")
