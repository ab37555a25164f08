"""pytorch3d's rasterizer behind this package's interface, if that package is installed (from conda; it is not on PyPI).

Its conventions, converted here: normalised device coordinates with +x to the *left* and +y *up*, in which the shorter
side of the picture is [-1, 1]; face indices that count through all meshes of a batch. Only the face indices are taken
from it: its barycentric coordinates divide by the area + 1e-8 in its coordinates, which moves the depth of a triangle
of a pixel by about 0.1 mm, so they are computed again. Where two surfaces are nearer to each other than that, and on
triangles below 1e-4 square pixels (at 224), it may find another face than the other backends.

Equal depths: of two faces with the same corners in the same order the lower index is found, since their depths are
computed in the same way, bit for bit. Of faces that lie upon each other in any other way (the corners in another order,
other triangles of one plane) either may be found: their depths differ by rounding, and the lower of the rounded ones
wins.
"""

import torch
from torch import Tensor

from mlanet_lib.rasterizer.interpolation import at_centres

# A squared distance in device coordinates, 1e-4 px at 224: pixels whose centre lies on an edge count as inside
_EDGE = 1e-12


def rasterize(vertices: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """`mlanet_lib.rasterizer.rasterize` by pytorch3d, on the device of the vertices, in float32."""
    from pytorch3d.renderer.mesh import rasterize_meshes
    from pytorch3d.structures import Meshes

    batch, count = len(vertices), len(faces)
    shape = (batch, height, width)
    # a triangle that must not be drawn is moved onto one point: the mesh keeps its faces and their numbers
    corners = vertices[:, faces]
    usable = (torch.isfinite(corners).all(-1) & (corners[..., 2] > 0)).all(-1)
    if not usable.any():
        index = torch.full(shape, -1, dtype=torch.int32, device=vertices.device)
        return index, vertices.new_zeros(*shape, 3), vertices.new_full(shape, torch.inf)
    shown = torch.where(torch.isfinite(vertices), vertices, torch.ones_like(vertices)).float()
    half = min(height, width) / 2
    x, y = (width / 2 - shown[..., 0]) / half, (height / 2 - shown[..., 1]) / half
    meshes = Meshes(
        verts=list(torch.stack([x, y, shown[..., 2]], -1)),
        faces=[torch.where(keep[:, None], faces, torch.zeros_like(faces)) for keep in usable],
    )
    found = rasterize_meshes(
        meshes,
        image_size=(height, width),
        blur_radius=_EDGE,
        faces_per_pixel=1,
        perspective_correct=False,
        clip_barycentric_coords=False,
        cull_backfaces=False,
    )[0][..., 0]
    background = found < 0
    first = torch.arange(batch, device=found.device)[:, None, None] * count
    face_index = (found - first).masked_fill(background, -1).int()
    places, _, edges, z = at_centres(vertices, faces, face_index)
    weights = edges / edges.sum(-1, keepdim=True)
    barycentric = vertices.new_zeros(*shape, 3).index_put(places, weights)
    depth = vertices.new_full(shape, torch.inf)
    return face_index, barycentric, depth.index_put(places, (weights * z).sum(-1))
