"""Skin and light of photos that were all taken in one even light: labels for albedo and lighting.

One photo cannot say whether skin is dark or badly lit; many people's photos in the same studio can. With c_p(v) the
colour that photo p shows at vertex v, n its normal and Y the nine spherical harmonics,

    c_p(v) = (mean(v) + B(v) a_p) E(n_p(v)),   E(n) = sum_k l_k Y_k(n)

the albedo a_p of each person and the one grey light l of all photos are solved in turn, l on bare skin alone. E is 1 in
the mean over the cheeks, so that albedo has the level that these photos have there, as the face model's own skin has
(`face_sources.ict.skin`). Pixels that fit badly (hair, highlights, beards that the model does not know) count less.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import project
from mlanet_lib.geometry.lighting import BANDS, REFLECTED, sh_basis
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import decode

ROUNDS, NOISE, TRUSTED = 8, 0.04, 0.06
"""Of solving in turn; standard deviation of a colour, which weighs the prior of the albedo; a residual that halves the
trust in a pixel."""
POINTS, FACING = 3000, 0.35
"""Vertices that are looked at, and the least cosine between their normals and the line of sight."""
COVERED = {9.0: range(17, 27), 7.0: (*range(36, 48), *range(48, 68)), 4.0: range(31, 36)}
"""mm around landmarks that are no bare skin: brows, eyes and lips, nostrils."""
FEWEST = 3
"""Photos that skin and light are told apart by."""
ABOVE = 12.0
"""mm above the brows from which on hair may cover the forehead."""


def skin_and_light(
    model: MorphableModel, faces: FaceParameters, photos: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Albedo (N, Ka) and lighting (N, 9, 3), the same for all, of N photos.

    faces: pose and shape of a fit to each; photos: (N, S, S, 3) uint8, the crops that they are about, taken in one
    light. Fewer than `FEWEST` photos are a ValueError: nothing then tells skin from light.
    """
    if len(photos) < FEWEST:
        raise ValueError(f"skin and light are told apart by {FEWEST} or more photos in the same light")
    bare, within = _areas(model)
    chosen = model.subset_index(min(POINTS, model.n_vertices))
    chosen = chosen[within[chosen]]
    colour, shape, weight = (torch.cat(part) for part in zip(*_looks(model, faces, photos, chosen), strict=True))
    mean, basis = model.albedo_mean[chosen].double(), model.albedo_basis[chosen].double()
    cheeks = weight * bare[chosen]
    albedo = torch.zeros(len(photos), model.n_albedo, dtype=torch.float64)
    light = torch.zeros(BANDS, dtype=torch.float64)
    light[0] = 1 / sh_basis(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))[0]
    for _ in range(ROUNDS):
        lit = (shape @ light)[..., None]
        off = colour - (mean + torch.einsum("scm,nm->nsc", basis, albedo)) * lit
        trust = weight / (1 + (off.norm(dim=2) / TRUSTED) ** 2)
        design = basis * lit[..., None]  # (N, S, 3, Ka)
        gram = torch.einsum("ns,nscm,nsck->nmk", trust, design, design)
        right = torch.einsum("ns,nscm,nsc->nm", trust, design, colour - mean * lit)
        scale = NOISE**2 * trust.sum(1)[:, None, None] / 100  # neighbouring pixels err together
        albedo = torch.linalg.solve(gram + scale * torch.eye(model.n_albedo).double(), right)
        skin = mean + torch.einsum("scm,nm->nsc", basis, albedo)
        sure = trust * bare[chosen]
        design = skin[..., None] * shape[:, :, None]  # (N, S, 3, 9)
        gram = torch.einsum("ns,nscm,nsck->mk", sure, design, design)
        gram += 1e-4 * gram.trace() * torch.diag(torch.tensor([0.0] + 8 * [1.0]).double())
        light = torch.linalg.solve(gram, torch.einsum("ns,nscm,nsc->m", sure, design, colour))
        light = light * cheeks.sum() / (cheeks * (shape @ light)).sum()
    lighting = (light / torch.tensor(REFLECTED).double()).float()
    return albedo.float(), lighting[None, :, None].repeat(len(photos), 1, 3)


def _areas(model: MorphableModel) -> tuple[torch.Tensor, torch.Tensor]:
    """(V,) bool each: bare skin, and the whole front of the face."""
    marks = model.landmarks(model.mean[None], "ibug")[0]
    distance = torch.cdist(model.mean, marks)
    covered = torch.stack([(distance[:, list(at)] < reach).any(1) for reach, at in COVERED.items()]).any(0)
    height, across = model.mean[:, 1], model.mean[:, 0].abs()
    within = (height > marks[8, 1]) & (height < marks[17:27, 1].max() + ABOVE) & (across < marks[:17, 0].abs().max())
    return within & ~covered, within


def _looks(
    model: MorphableModel, faces: FaceParameters, photos: np.ndarray, chosen: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each photo the colours (1, S, 3) at the chosen vertices, their harmonics (1, S, 9) and weights (1, S)."""
    with torch.no_grad():
        for number in range(len(photos)):
            face = decode(model, faces[number])
            normals, camera = face.normals[:, chosen].double(), face.vertices_camera[:, chosen]
            toward = _toward(camera)
            weight = ((normals * toward).sum(2) - FACING).clamp(0) / (1 - FACING)
            places = project(camera, face.focal, 1, 1)[..., :2]
            photo = torch.from_numpy(photos[number].copy()).permute(2, 0, 1)[None].double() / 255
            grid = (2 * places - 1)[:, :, None].double()
            colour = F.grid_sample(photo, grid, align_corners=False)[..., 0].mT
            weight = weight * ((places > 0) & (places < 1)).all(2)
            yield colour, sh_basis(normals), weight


def _toward(camera: torch.Tensor) -> torch.Tensor:
    """Unit vectors from points (1, S, 3) of the camera's frame to the camera, y up."""
    return F.normalize(camera.double() * torch.tensor([-1.0, 1.0, 1.0]).double(), dim=2)
