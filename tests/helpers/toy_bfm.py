"""Small files in the shapes in which BFM 2009 circulates, of a toy face: no BFM data, only their structure."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat


@dataclass(frozen=True)
class ToyBfm:
    """The ingredients: `whole` vertices (the original's), of which `trim` (from 0) are 3DDFA's and Guo's mesh, of which
    `cut` are Deep3D's. Bases are (3V, K) as stored, lengths micrometres. `landmarks`, `faces`: in 3DDFA's mesh."""

    fields: dict
    trim: np.ndarray
    cut: np.ndarray
    landmarks: np.ndarray
    faces: np.ndarray
    expression_mean: np.ndarray
    expression_basis: np.ndarray
    expression_sigma: np.ndarray
    cut_faces: np.ndarray
    cut_landmarks: np.ndarray


def toy_bfm(model) -> ToyBfm:
    """From the toy face (mm), with 199 shape, 199 texture and 79 expression modes of random orthonormal columns."""
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
    cut = np.flatnonzero(model.mean[:, 1].numpy() > -60)
    place = np.full(size, -1)
    place[cut] = np.arange(len(cut))
    cut_faces = place[faces][(place[faces] >= 0).all(1)]
    landmarks = rng.permutation(cut)[:68]
    fields["tl"] = trim[faces] + 1
    return ToyBfm(
        fields,
        trim,
        cut,
        landmarks,
        faces,
        (rng.normal(size=(3 * size, 1)) * 300).astype(np.float32),
        np.linalg.qr(rng.normal(size=(3 * size, 79)))[0].astype(np.float32),
        np.geomspace(3e4, 500, 79),
        cut_faces,
        place[landmarks],
    )


def rows(index: np.ndarray) -> np.ndarray:
    """The rows 3i, 3i+1, 3i+2 of vertices i, as MATLAB's scripts make them."""
    return (3 * index[:, None] + np.arange(3)).ravel()


def write_original(folder: Path, toy: ToyBfm) -> Path:
    """01_MorphableModel.mat, Exp_Pca.bin, std_exp.txt and Deep3D's index files."""
    savemat(folder / "01_MorphableModel.mat", toy.fields, do_compression=True)
    with (folder / "Exp_Pca.bin").open("wb") as file:
        np.array([79], "<i4").tofile(file)
        toy.expression_mean.astype("<f4").tofile(file)
        np.ascontiguousarray(toy.expression_basis.T, "<f4").tofile(file)
    np.savetxt(folder / "std_exp.txt", toy.expression_sigma[None])
    savemat(folder / "BFM_exp_idx.mat", {"trimIndex": (toy.trim + 1).reshape(-1, 1)})
    savemat(folder / "BFM_front_idx.mat", {"idx": (toy.cut + 1).reshape(-1, 1)})
    info = {"tri": toy.cut_faces + 1, "keypoints": toy.cut_landmarks[None] + 1, "point_buf": np.ones((5, 8))}
    savemat(folder / "facemodel_info.mat", info)
    return folder


def write_deep3d(folder: Path, toy: ToyBfm) -> Path:
    """BFM_model_front.mat by Deep3D's published recipe: decimetres, 80 + 64 + 80 modes times their deviations."""
    fields, pick = toy.fields, rows(toy.trim[toy.cut])
    data = {
        "meanshape": fields["shapeMU"][pick].T / 1e5,
        "meantex": fields["texMU"][pick].T,
        "idBase": (fields["shapePC"] * fields["shapeEV"].T / 1e5)[pick, :80],
        "exBase": (toy.expression_basis * toy.expression_sigma / 1e5)[rows(toy.cut), :64],
        "texBase": (fields["texPC"] * fields["texEV"].T)[pick, :80],
        "tri": toy.cut_faces + 1,
        "keypoints": toy.cut_landmarks[None] + 1,
        "skinmask": np.ones((1, len(toy.cut))),
    }
    savemat(folder / "BFM_model_front.mat", data)
    return folder


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
    """The first 29 expression modes in 3DDFA's fields."""
    data = {
        "mu_exp": toy.expression_mean,
        "w_exp": toy.expression_basis[:, :29],
        "sigma_exp": toy.expression_sigma[:29, None],
    }
    savemat(folder / name, data)


def write_info(folder: Path, toy: ToyBfm) -> None:
    """model_info.mat: 3DDFA's mesh among the original's vertices."""
    data = {"trimIndex": (toy.trim + 1).reshape(-1, 1), "tri": toy.faces.T + 1, "keypoints": toy.landmarks[None] + 1}
    savemat(folder / "model_info.mat", data)
