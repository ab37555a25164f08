"""Photos of toy faces in the published layouts of 300W-LP and AFLW2000-3D, with BFM fits: only their structure."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.io import savemat

from mlanet_lib.geometry.camera import DEFAULT_FOCAL, euler_to_matrix
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face

SIDE = 120


def draw_photo(model, raw, rng, yaw: float):
    """(picture, fields of its .mat, coefficients): the fit places the face by the published formula."""
    identity, expression = (rng.normal(0, 0.5, n) for n in (model.n_identity, model.n_expression))
    pose, scale = np.array([rng.uniform(-10, 10), yaw, rng.uniform(-10, 10)]), 0.3  # pixels a mm
    place = np.array([SIDE / 2 + rng.uniform(-5, 5), SIDE / 2 + rng.uniform(-5, 5)])  # pixels, y up, counted from 1
    fields = {
        "Pose_Para": np.array([[*np.deg2rad(pose), *place, 0.0, scale / 1000]], np.float32),
        "Shape_Para": (identity * raw.shape_sigma)[:, None].astype(np.float32),
        "Exp_Para": (expression * raw.expression_sigma)[:, None].astype(np.float32),
        "Tex_Para": np.zeros((199, 1)),
        "Illum_Para": np.zeros((1, 10)),
        "Color_Para": np.array([[1, 1, 1, 0, 0, 0, 1]], np.float32),
        "roi": np.array([[1, 1, SIDE, SIDE]], np.int16),
    }
    depth = DEFAULT_FOCAL * SIDE / scale
    centre = np.array([place[0] - 0.5, SIDE + 1 - place[1] - 0.5]) / SIDE - 0.5
    parameters = FaceParameters.neutral(model).replace(
        identity=torch.tensor(identity[None], dtype=torch.float32),
        expression=torch.tensor(expression[None], dtype=torch.float32),
        rotation=euler_to_matrix(torch.tensor(pose[None], dtype=torch.float32)),
        translation=torch.tensor([[*(centre * depth / DEFAULT_FOCAL), depth]], dtype=torch.float32),
    )
    with torch.no_grad():
        drawing = render_face(model, parameters, SIDE)
    picture = (drawing.image[0] + 0.4 * (1 - drawing.mask[0])).clamp(0, 1)
    return (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8), fields, (identity, expression)


def points_of(fields, raw) -> np.ndarray:
    """(68, 3) the fit's points as the files count them: x, y from 1, third larger is nearer."""
    from mlanet_lib.face_sources.bfm2009.raw import BfmFit

    pose = fields["Pose_Para"][0].astype(float)
    fit = BfmFit(fields["Shape_Para"][:, 0], fields["Exp_Para"][:, 0], pose[3:6], pose[6])
    return raw.posed(fit, np.rad2deg(pose[:3]), SIDE)[raw.landmarks] * [1, 1, -1] + [0.5, 0.5, 0]


def write_300w_lp(folder: Path, model, raw, photos: int, turns: int, seed: int = 0) -> Path:
    """AFW and AFW_Flip with `photos` photos in `turns` turns each; truth.npz has the coefficients by name."""
    rng, truth = np.random.default_rng(seed), {}
    for name in ("AFW", "AFW_Flip"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for photo in range(photos):
        for turn in range(turns):
            stem = f"AFW_{photo:06d}_1_{turn}"
            picture, fields, (identity, expression) = draw_photo(model, raw, rng, rng.uniform(-40, 40))
            points = points_of(fields, raw)[:, :2].T
            mirrored = np.stack([SIDE + 1 - points[0], points[1]])
            pose = fields["Pose_Para"] * np.float32([1, -1, -1, 1, 1, 1, 1])
            pose[0, 3] = SIDE + 1 - pose[0, 3]
            image = Image.fromarray(picture)
            image.save(folder / "AFW" / f"{stem}.jpg", quality=92)
            ImageOps.mirror(image).save(folder / "AFW_Flip" / f"{stem}.jpg", quality=92)
            savemat(folder / "AFW" / f"{stem}.mat", fields | {"pt2d": points})
            savemat(folder / "AFW_Flip" / f"{stem}.mat", fields | {"pt2d": mirrored, "Pose_Para": pose})
            truth |= {f"AFW/{stem}.jpg identity": identity, f"AFW/{stem}.jpg expression": expression}
    np.savez(folder / "truth.npz", **truth)
    return folder


def write_aflw2000(folder: Path, model, raw, per_bin: int, seed: int = 1) -> Path:
    """`per_bin` photos in each yaw bin, image00002.jpg and so on, with pt3d_68 and pt2d of 21 points."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(3 * per_bin):
        picture, fields, _ = draw_photo(model, raw, rng, 30 * (k % 3) + rng.uniform(1, 29))
        points = points_of(fields, raw).T.astype(np.float32)
        Image.fromarray(picture).save(folder / f"image{k + 2:05d}.jpg", quality=92)
        savemat(folder / f"image{k + 2:05d}.mat", fields | {"pt3d_68": points, "pt2d": np.full((2, 21), -1.0)})
    return folder
