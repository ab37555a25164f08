"""Differentiable steps on either side of a rasterizer: attributes over the faces it found, and vertex normals.

Both are custom autograd functions, with numba kernels on the CPU and Triton kernels on CUDA devices. Without that
package, on other devices, and as the reference for tests, plain tensor operations are used. Which face covers a pixel
is not differentiable and taken as given. On a GPU sums into vertices are float atomics: normals and gradients differ in
the last bits from run to run.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlanet_lib.rasterizer import is_present

NO_AREA = 1e-12
"""Twice the area around a vertex, in square units of its coordinates, below which it has no normal and no gradient."""


def interpolate(projected: Tensor, faces: Tensor, attributes: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """Vertex attributes over the pixels, perspective-correct, differentiable in vertices and attributes.

    projected: (B, V, 3) x, y in pixels, depth; faces: (F, 3); attributes: (B, V, C); face_index: (B, H, W), -1 on the
    background. Returns (B, C, H, W), 0 on the background, and the depth (B, H, W), infinite there. With the edge
    functions w_i at the pixel's centre the weights are (w_i / z_i) / sum_j (w_j / z_j).
    """
    attributes = attributes.to(projected.dtype)
    if kernels := kernels_for(projected.device):
        return _Interpolate.apply(kernels, projected, faces, attributes, face_index)
    return interpolate_reference(projected, faces, attributes, face_index)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (B, V, 3), the area-weighted mean of the faces around a vertex; differentiable.

    They point out of the side from which the faces (F, 3) wind counter-clockwise in a right-handed frame (the model's;
    in the camera's frame, which is right-handed too, they turn with the vertices). A vertex without area gets 0.
    """
    if kernels := kernels_for(vertices.device):
        return _Normals.apply(kernels, vertices, faces)
    return vertex_normals_reference(vertices, faces)


def interpolate_reference(
    projected: Tensor, faces: Tensor, attributes: Tensor, face_index: Tensor
) -> tuple[Tensor, Tensor]:
    """`interpolate` by tensor operations, on any device."""
    batch, height, width = face_index.shape
    (mesh, row, column), corners, edges, z = at_centres(projected, faces, face_index)
    weights = edges / z
    total = weights.sum(-1, keepdim=True)
    values = ((weights / total)[..., None] * attributes[mesh[:, None], corners]).sum(1)
    image = values.new_zeros(batch, height, width, attributes.shape[2]).index_put((mesh, row, column), values)
    depth = values.new_full((batch, height, width), torch.inf)
    depth = depth.index_put((mesh, row, column), edges.sum(-1) / total[:, 0])
    return image.permute(0, 3, 1, 2), depth


def at_centres(
    projected: Tensor, faces: Tensor, face_index: Tensor
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """The P covered pixels: their mesh, row and column, (P,) each; the corners (P, 3) of the faces there, their edge
    functions at the pixel's centre (P, 3), not normalised, and their depths (P, 3)."""
    covered = face_index >= 0
    mesh, row, column = places = covered.nonzero(as_tuple=True)
    corners = faces[face_index[covered].long()]
    points = projected[mesh[:, None], corners]
    centre = torch.stack([column, row], -1).to(projected.dtype) + 0.5
    x, y = (points[..., :2] - centre[:, None]).unbind(-1)
    following, last = [1, 2, 0], [2, 0, 1]
    return places, corners, x[:, following] * y[:, last] - y[:, following] * x[:, last], points[..., 2]


def vertex_normals_reference(vertices: Tensor, faces: Tensor) -> Tensor:
    """`vertex_normals` by tensor operations, on any device."""
    a, b, c = vertices[:, faces].unbind(2)
    cross = torch.linalg.cross(b - a, c - a)
    index = faces.t().reshape(1, -1, 1).expand(len(vertices), -1, 3)
    summed = torch.zeros_like(vertices).scatter_add(1, index, cross.repeat(1, 3, 1))
    square = summed.square().sum(-1, keepdim=True)
    empty = square <= NO_AREA**2
    return summed * torch.where(empty, torch.ones_like(square), square).rsqrt().masked_fill(empty, 0.0)


def kernels_for(device: torch.device) -> ModuleType | None:
    """The module of kernels for a device, or None."""
    name = {"cpu": "numba", "cuda": "triton"}.get(device.type)
    return import_module(f"mlanet_lib.rasterizer.{name}_kernels") if name and is_present(name) else None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, *given: Tensor) -> tuple[Tensor, Tensor]:
        ctx.kernels = kernels
        inputs = [tensor.contiguous() for tensor in given]
        image, depth = kernels.interpolate(*inputs)
        ctx.save_for_backward(*inputs, image)
        return image, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_image: Tensor, g_depth: Tensor) -> tuple[Tensor | None, ...]:
        *given, image = ctx.saved_tensors
        g_vertices, g_attributes = ctx.kernels.interpolate_backward(given, image, g_image, g_depth)
        return None, g_vertices, None, g_attributes, None


class _Normals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, vertices: Tensor, faces: Tensor) -> Tensor:
        ctx.kernels = kernels
        vertices, faces = vertices.contiguous(), faces.contiguous()
        unit, summed = kernels.normals(vertices, faces)
        ctx.save_for_backward(vertices, faces, summed, unit)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_unit: Tensor) -> tuple[Tensor | None, ...]:
        return None, ctx.kernels.normals_backward(*ctx.saved_tensors, g_unit), None
