"""Textures of a mesh: the albedo, or a photo, laid into its texture coordinates."""

import numpy as np
import torch

from mlanet_lib.drawing.views import to_bytes
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.rasterizer import rasterize

ALBEDO_SIZE, PHOTO_SIZE = 512, 1024  # texels; the albedo has one value a vertex, the photo has detail


def bake(
    uv: torch.Tensor, faces: torch.Tensor, values: torch.Tensor, size: int = ALBEDO_SIZE, backend: str = "auto"
) -> np.ndarray:
    """Per-vertex values drawn into the UV map: uv (V,2) in [0,1], v up; faces (F,3); values (V,C) -> (size,size,C).

    Row 0 is v = 1 (a picture's top). Texels that no triangle covers take the nearest covered one, so that filtering
    at a seam or at the mesh's border mixes in no background.
    """
    from scipy.ndimage import distance_transform_edt

    corners_uv = uv.detach().cpu().float()[faces.cpu()]
    # triangles that cross the map's border lie over everything else, the wrong way round: behind the camera, not drawn
    depth = 1 - 2 * crossing(corners_uv).float()[:, None].expand(-1, 3)
    flat = torch.stack([corners_uv[..., 0] * size, (1 - corners_uv[..., 1]) * size, depth], -1).reshape(1, -1, 3)
    fragments = rasterize(flat, torch.arange(flat.shape[1]).reshape(-1, 3), size, size, backend)
    index, weights = fragments.face_index[0].numpy(), fragments.barycentric[0].numpy()
    covered = index >= 0
    if not covered.any():
        raise UserError("the face model's UV map covers no texel: it has no usable UVs")
    corners = values.detach().cpu().numpy()[faces.cpu().numpy()[index[covered]]]
    texture = np.zeros((size, size, values.shape[1]))
    texture[covered] = (weights[covered][..., None] * corners).sum(1)
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return texture[tuple(nearest)]


def crossing(corners: torch.Tensor) -> torch.Tensor:
    """Triangles (F,) bool that run the other way round in the UV map than most do: corners (F,3,2)."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return area * torch.sign(area).sum().sign() < 0


def cut(uv: torch.Tensor, faces: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mesh cut open along its UV map's border, for files: (source (W,) vertex indices, faces (F,3), uv (W,2)).

    A triangle that crosses the border would show a strip of the whole map; it gets corners of its own, all at the UV of
    its first, and so one colour.
    """
    uv, faces = uv.detach().cpu(), faces.cpu()
    chosen = crossing(uv[faces])
    corners = faces[chosen]
    source = torch.cat([torch.arange(len(uv)), corners.reshape(-1)])
    opened = faces.clone()
    opened[chosen] = len(uv) + torch.arange(corners.numel()).reshape(-1, 3)
    placed = torch.cat([uv, uv[corners[:, :1].expand(-1, 3)].reshape(-1, 2)])
    return source.numpy(), opened.numpy(), placed.numpy()


def albedo_texture(
    model: MorphableModel, parameters: FaceParameters, size: int = ALBEDO_SIZE, backend: str = "auto"
) -> np.ndarray:
    """The model's albedo of one face (batch of 1) as a texture, (size,size,3) uint8."""
    albedo = model.albedo(parameters.albedo)[0]
    return to_bytes(bake(model.uv, model.faces, albedo, size, backend))


def photo_texture(
    model: MorphableModel, parameters: FaceParameters, crop: np.ndarray, size: int = PHOTO_SIZE
) -> np.ndarray:
    """The photo's colours where it sees the face, the model's albedo elsewhere; (size,size,3) uint8.

    `crop` (S,S,3) uint8: the square that the parameters describe. A point counts as seen where it is the nearest at
    its pixel and faces the camera. So that no edge shows, the albedo is first brought to the seen part's mean colour,
    and the photo fades out towards the border of what is seen, and where the face turns away.
    The photo's light stays in the colours: this is a texture to look at, no albedo.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    side = crop.shape[0]
    vertices = model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(vertices, parameters.rotation, parameters.translation)
    screen = project(camera, parameters.focal, side, side)
    depth = rasterize(screen, model.faces, side, side).depth[0].numpy()
    towards = -(torch.nn.functional.normalize(camera, dim=-1))
    normals = (model.normals(vertices) @ parameters.rotation.transpose(1, 2)) * vertices.new_tensor([1.0, -1, -1])
    facing = (normals * towards).sum(-1)[0]
    texels = bake(
        model.uv, model.faces, torch.cat([screen[0], facing[:, None], model.albedo(parameters.albedo)[0]], 1), size
    )
    x, y = texels[..., 0] - 0.5, texels[..., 1] - 0.5
    inside = (x >= 0) & (x <= side - 1) & (y >= 0) & (y <= side - 1)
    column, row = np.clip(x.round(), 0, side - 1).astype(int), np.clip(y.round(), 0, side - 1).astype(int)
    seen = inside & (np.abs(texels[..., 2] - depth[row, column]) < 4.0) & (texels[..., 3] > 0.15)
    fade = np.clip(2 * gaussian_filter(seen.astype(float), size / 256) - 1, 0, 1)  # 0.5 is a straight border's middle
    from_border = np.minimum(np.minimum(x, side - 1 - x), np.minimum(y, side - 1 - y)) / (side / 16)
    weight = fade * np.clip(from_border, 0, 1) * np.clip((texels[..., 3] - 0.15) / 0.35, 0, 1)
    colours = np.stack([map_coordinates(crop[..., c] / 255.0, [y, x], order=1, mode="nearest") for c in range(3)], -1)
    albedo = texels[..., 4:7]
    if weight.sum() > 0:
        mean = [np.average(values.reshape(-1, 3), axis=0, weights=weight.ravel()) for values in (colours, albedo)]
        albedo = albedo * (mean[0] / np.maximum(mean[1], 1e-3))
    return to_bytes(weight[..., None] * colours + (1 - weight[..., None]) * albedo)
