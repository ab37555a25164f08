"""The differentiable renderer: parameters of faces to pictures of them, with gradients for every parameter.

Vertices are decoded, turned into the camera's frame and projected; colours are shaded per vertex with nine bands of
spherical harmonics; a rasterizer finds the face at each pixel; colours are interpolated over it, perspective-correct.
Gradients flow through the interpolation (colours, and where in its triangle a pixel lies), not through which face
covers a pixel: the outline has none. All arithmetic is float32 or float64, also under autocast.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import flip, project, to_camera
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.rasterizer import Fragments, rasterize
from mlanet_lib.rasterizer.interpolation import interpolate, vertex_normals
from mlanet_lib.rasterizer.shading import project_vertices, shade_vertices

HIDDEN_BY = 5.0
"""mm; a landmark that lies so far behind the surface drawn around it is hidden."""


class Rendering(NamedTuple):
    """Pictures of B meshes.

    image: (B, C, H, W), not clamped, 0 on the background; mask: (B, 1, H, W), 1 where a face is and 0 elsewhere;
    depth: (B, 1, H, W) mm along the camera's axis, infinite on the background, differentiable; fragments: what covers
    each pixel's centre.
    """

    image: Tensor
    mask: Tensor
    depth: Tensor
    fragments: Fragments


@dataclass(eq=False)
class Decoded:
    """B faces decoded from their parameters.

    vertices: (B, V, 3) mm, model frame; normals: (B, V, 3) unit, y-up camera-aligned frame (R n); vertices_camera:
    (B, V, 3) mm, camera frame; landmarks: (B, 68, 3) mm, camera frame; focal: (B,) picture widths.
    """

    vertices: Tensor
    vertices_camera: Tensor
    normals: Tensor
    landmarks: Tensor
    focal: Tensor

    def landmarks2d(self, image_size: int | tuple[int, int]) -> Tensor:
        """(B, 68, 2) in pixels of a picture of that size, x to the right, y down."""
        return project(self.landmarks, self.focal, *height_and_width(image_size))[..., :2]


def height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """A picture's size in pixels from one number (square) or (height, width)."""
    return (image_size, image_size) if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))


def render(
    vertices_camera: Tensor,
    faces: Tensor,
    attributes: Tensor,
    focal: Tensor,
    image_size: int | tuple[int, int],
    backend: str = "auto",
) -> Rendering:
    """Draw vertex attributes of meshes, differentiable in `vertices_camera`, `attributes` and `focal`.

    vertices_camera: (B, V, 3) mm, camera frame; faces: (F, 3) integers; attributes: (B, V, C), any C (colours, UVs,
    normals); focal: (B,) in picture widths; image_size: pixels, one number or (height, width); backend: of
    `mlanet_lib.rasterizer`. Both sides of a face are drawn.
    """
    height, width = height_and_width(image_size)
    with torch.autocast(vertices_camera.device.type, enabled=False):
        projected = project_vertices(_full(vertices_camera), _full(focal), height, width)
        fragments = rasterize(projected, faces, height, width, backend)
        image, depth = interpolate(projected, faces, attributes, fragments.face_index)
        mask = (fragments.face_index >= 0).to(image.dtype)[:, None]
    return Rendering(image, mask, depth[:, None], fragments)


def decode(model: MorphableModel, parameters: FaceParameters) -> Decoded:
    """Shape and pose of faces, differentiable in the parameters."""
    with torch.autocast(model.mean.device.type, enabled=False):
        parameters = parameters.map(_full)
        vertices = model.vertices(parameters.identity, parameters.expression)
        vertices_camera = to_camera(vertices, parameters.rotation, parameters.translation)
        # the camera's frame is the y-up one turned half around x, so that normals can be taken in it and turned back
        normals = flip(vertex_normals(vertices_camera, model.faces))
        landmarks = model.landmarks(vertices_camera)
    return Decoded(vertices, vertices_camera, normals, landmarks, parameters.focal)


def render_face(
    model: MorphableModel,
    parameters: FaceParameters,
    image_size: int | tuple[int, int],
    shading: bool = True,
    albedo: Tensor | float | None = None,
    decoded: Decoded | None = None,
) -> Rendering:
    """Pictures (B, 3, H, W) of faces from their parameters, differentiable in all of them.

    shading: False draws the bare albedo. albedo: instead of the model's own, a tensor that broadcasts to (B, V, 3), or
    one grey value (a plain shaded mesh). decoded: `decode(model, parameters)` where that is known already.
    Another light or direction is another `parameters.replace(lighting=...)` or `turned(...)`.
    """
    decoded = decoded or decode(model, parameters)
    with torch.autocast(model.mean.device.type, enabled=False):
        if albedo is None:
            colours = model.albedo(_full(parameters.albedo))
        else:
            colours = torch.as_tensor(albedo, dtype=decoded.vertices.dtype, device=decoded.vertices.device)
            colours = colours.expand_as(decoded.vertices)
        if shading:
            colours = shade_vertices(colours, decoded.normals, _full(parameters.lighting))
    return render(decoded.vertices_camera, model.faces, colours, decoded.focal, image_size)


def covered_by(fragments: Fragments, chosen: Tensor) -> Tensor:
    """(B, 1, H, W) bool: the pixels that one of the chosen faces covers; chosen: (F,) bool, on the same device."""
    index = fragments.face_index.long()
    return (chosen[index.clamp_min(0)] & (index >= 0))[:, None]


def turned(model: MorphableModel, parameters: FaceParameters, rotation: Tensor) -> FaceParameters:
    """The same faces seen at another rotation (B or 1, 3, 3), the middle of the landmarks staying where it was."""
    centre = model.landmarks(model.vertices(parameters.identity, parameters.expression)).mean(1, keepdim=True)
    rotation = rotation.expand(len(parameters), 3, 3).to(centre.dtype)
    before = to_camera(centre, parameters.rotation, parameters.translation)
    after = to_camera(centre, rotation, parameters.translation)
    return parameters.replace(rotation=rotation, translation=parameters.translation + (before - after)[:, 0])


@torch.no_grad()
def landmarks_visible(
    model: MorphableModel,
    parameters: FaceParameters,
    image_size: int | tuple[int, int] = 256,
    decoded: Decoded | None = None,
    depth: Tensor | None = None,
) -> Tensor:
    """Which of the 68 points the face itself does not hide: (B, 68) bool.

    A point in the picture is visible where it lies at most `HIDDEN_BY` mm behind the farthest surface drawn in the 3 x
    3 pixels around it (the farthest, since a slanted surface has many depths there; background counts as far). Normals
    are not used there, since those on the sharp rims of lids and lips are meaningless. Points outside the picture are
    judged by their normal alone.
    """
    height, width = height_and_width(image_size)
    decoded = decoded or decode(model, parameters)
    if depth is None:
        projected = project(decoded.vertices_camera, decoded.focal, height, width)
        depth = rasterize(projected, model.faces, height, width).depth[:, None]
    farthest = torch.nn.functional.max_pool2d(depth, 3, stride=1, padding=1)[:, 0]
    points = project(decoded.landmarks, decoded.focal, height, width)
    column, row = points[..., 0].floor().long(), points[..., 1].floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    mesh = torch.arange(len(points), device=points.device)[:, None].expand_as(row)
    surface = farthest[mesh, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    normals = model.landmarks(flip(decoded.normals))
    facing = (normals * decoded.landmarks).sum(-1) <= 0  # the line of sight runs from the camera to the point
    return torch.where(inside, points[..., 2] <= surface + HIDDEN_BY, facing)


def _full(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
