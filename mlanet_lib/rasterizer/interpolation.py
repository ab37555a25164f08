"""Differentiable steps on either side of a rasterizer: attributes over the faces it found, and vertex normals.

On the CPU both are custom autograd functions over numba kernels; elsewhere, and as the reference that tests compare
them with, they are plain tensor operations. Which face covers a pixel is not differentiable and taken as given.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlanet_lib.rasterizer import numba_kernels


def interpolate(projected: Tensor, faces: Tensor, attributes: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """Vertex attributes over the pixels, perspective-correct, differentiable in vertices and attributes.

    projected: (B, V, 3) x, y in pixels, depth; faces: (F, 3); attributes: (B, V, C); face_index: (B, H, W), -1 on the
    background. Returns (B, C, H, W), 0 on the background, and the depth (B, H, W), infinite there. With the edge
    functions w_i at the pixel's centre the weights are (w_i / z_i) / sum_j (w_j / z_j).
    """
    attributes = attributes.to(projected.dtype)
    if projected.device.type == "cpu":
        return _Interpolate.apply(projected, faces, attributes, face_index)
    return interpolate_reference(projected, faces, attributes, face_index)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (B, V, 3), the area-weighted mean of the faces around a vertex; differentiable.

    They point out of the side from which the faces (F, 3) wind counter-clockwise in a right-handed frame (the model's;
    in the camera's frame, which is right-handed too, they turn with the vertices). A vertex without area gets 0.
    """
    if vertices.device.type == "cpu":
        return _Normals.apply(vertices, faces)
    return vertex_normals_reference(vertices, faces)


def interpolate_reference(
    projected: Tensor, faces: Tensor, attributes: Tensor, face_index: Tensor
) -> tuple[Tensor, Tensor]:
    """`interpolate` by tensor operations, on any device."""
    batch, height, width = face_index.shape
    covered = face_index >= 0
    mesh, row, column = covered.nonzero(as_tuple=True)
    corners = faces[face_index[covered].long()]  # (P, 3)
    points = projected[mesh[:, None], corners]
    centre = torch.stack([column, row], -1).to(projected.dtype) + 0.5
    x, y = (points[..., :2] - centre[:, None]).unbind(-1)
    following, last = [1, 2, 0], [2, 0, 1]
    edges = x[:, following] * y[:, last] - y[:, following] * x[:, last]
    weights = edges / points[..., 2]
    total = weights.sum(-1, keepdim=True)
    values = ((weights / total)[..., None] * attributes[mesh[:, None], corners]).sum(1)
    image = values.new_zeros(batch, height, width, attributes.shape[2]).index_put((mesh, row, column), values)
    depth = values.new_full((batch, height, width), torch.inf)
    depth = depth.index_put((mesh, row, column), edges.sum(-1) / total[:, 0])
    return image.permute(0, 3, 1, 2), depth


def vertex_normals_reference(vertices: Tensor, faces: Tensor) -> Tensor:
    """`vertex_normals` by tensor operations, on any device."""
    a, b, c = vertices[:, faces].unbind(2)
    cross = torch.linalg.cross(b - a, c - a)
    index = faces.t().reshape(1, -1, 1).expand(len(vertices), -1, 3)
    summed = torch.zeros_like(vertices).scatter_add(1, index, cross.repeat(1, 3, 1))
    square = summed.square().sum(-1, keepdim=True)
    empty = square <= 1e-24
    return summed * torch.where(empty, torch.ones_like(square), square).rsqrt().masked_fill(empty, 0.0)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, projected, faces, attributes, face_index):
        projected, faces, attributes = projected.contiguous(), faces.contiguous(), attributes.contiguous()
        image, depth = numba_kernels.interpolate(projected, faces, attributes, face_index.contiguous())
        ctx.save_for_backward(projected, faces, attributes, face_index, image)
        return image, depth

    @staticmethod
    @once_differentiable
    def backward(ctx, g_image, g_depth):
        projected, faces, attributes, face_index, image = ctx.saved_tensors
        inputs = (projected, faces, attributes, face_index.contiguous(), image)
        g_vertices, g_attributes = numba_kernels.interpolate_backward(*inputs, g_image, g_depth)
        return g_vertices, None, g_attributes, None


class _Normals(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, faces):
        vertices, faces = vertices.contiguous(), faces.contiguous()
        unit, summed = numba_kernels.normals(vertices, faces)
        ctx.save_for_backward(vertices, faces, summed, unit)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx, g_unit):
        return numba_kernels.normals_backward(*ctx.saved_tensors, g_unit), None
