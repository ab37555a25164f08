"""Small files in the shapes in which BFM 2009 circulates, of a toy face: no BFM data, only their structure."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat


@dataclass(frozen=True)
class ToyBfm:
    """The ingredients: fields of the original, of whose vertices `trim` (from 0) are 3DDFA's mesh. Bases are (3V, K) as
    stored, lengths micrometres. `landmarks`, `faces`: in 3DDFA's mesh."""

    fields: dict
    trim: np.ndarray
    landmarks: np.ndarray
    faces: np.ndarray
    expression_mean: np.ndarray
    expression_basis: np.ndarray
    expression_sigma: np.ndarray


def toy_bfm(model) -> ToyBfm:
    """From the toy face (mm), with 199 shape, 199 texture and 29 expression modes of random orthonormal columns."""
    rng = np.random.default_rng(5)
    size, whole = model.n_vertices, model.n_vertices + 31
    trim = rng.permutation(whole)[:size]
    mean = rng.normal(size=(whole, 3)) * 2e4
    mean[trim] = model.mean.numpy() * 1000
    colour = rng.uniform(60, 200, (whole, 3))
    shape, texture = (np.linalg.qr(rng.normal(size=(3 * whole, 199)))[0] for _ in range(2))
    fields = {
        "shapeMU": mean.reshape(-1, 1).astype(np.float32),
        "shapePC": shape.astype(np.float32),
        "shapeEV": np.geomspace(8e4, 1e3, 199).reshape(-1, 1).astype(np.float32),
        "texMU": colour.reshape(-1, 1).astype(np.float32),
        "texPC": texture.astype(np.float32),
        "texEV": np.geomspace(400, 5, 199).reshape(-1, 1).astype(np.float32),
    }
    faces = model.faces.numpy()
    landmarks = rng.permutation(np.flatnonzero(model.mean[:, 1].numpy() > -60))[:68]
    fields["tl"] = trim[faces] + 1
    return ToyBfm(
        fields,
        trim,
        landmarks,
        faces,
        (rng.normal(size=(3 * size, 1)) * 300).astype(np.float32),
        np.linalg.qr(rng.normal(size=(3 * size, 29)))[0].astype(np.float32),
        np.geomspace(3e4, 7e3, 29),
    )


def rows(index: np.ndarray) -> np.ndarray:
    """The rows 3i, 3i+1, 3i+2 of vertices i, as MATLAB's scripts make them."""
    return (3 * index[:, None] + np.arange(3)).ravel()


def write_3ddfa(folder: Path, toy: ToyBfm, texture: bool = True, name: str = "Model_Exp.mat") -> Path:
    """Model_Shape.mat as 3DDFA's ModelGenerate.m saves it (triangles 3 x F), and the expressions."""
    fields, pick = toy.fields, rows(toy.trim)
    data = {
        "mu_shape": fields["shapeMU"][pick],
        "w": fields["shapePC"][pick],
        "sigma": fields["shapeEV"],
        "tri": toy.faces.T + 1,
        "keypoints": toy.landmarks[None] + 1,
    }
    if texture:
        data |= {"mu_tex": fields["texMU"][pick], "w_tex": fields["texPC"][pick], "alpha_tex": fields["texEV"]}
    savemat(folder / "Model_Shape.mat", data)
    write_expression(folder, toy, name)
    return folder


def write_expression(folder: Path, toy: ToyBfm, name: str = "Model_Exp.mat") -> None:
    """The expression modes in 3DDFA's fields."""
    data = {
        "mu_exp": toy.expression_mean,
        "w_exp": toy.expression_basis,
        "sigma_exp": toy.expression_sigma[:, None],
    }
    savemat(folder / name, data)


def write_info(folder: Path, toy: ToyBfm) -> None:
    """model_info.mat: 3DDFA's mesh among the original's vertices."""
    data = {"trimIndex": (toy.trim + 1).reshape(-1, 1), "tri": toy.faces.T + 1, "keypoints": toy.landmarks[None] + 1}
    savemat(folder / "model_info.mat", data)
