"""Shading and projection of vertices on the CPU, each in one pass over memory where tensor operations take a dozen.

They also run on the rasterizer's threads: torch's own would go on spinning for a while, in the way of these. Elsewhere,
and as the reference that tests compare with, they are `lighting.shade` and `camera.project` themselves.
"""

from types import ModuleType
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mlanet_lib.geometry.camera import SMALLEST_DEPTH, project
from mlanet_lib.geometry.lighting import irradiance_polynomial, shade
from mlanet_lib.rasterizer.interpolation import kernels_for


def shade_vertices(albedo: Tensor, normals: Tensor, lighting: Tensor) -> Tensor:
    """`lighting.shade`: (B, V, 3) albedo and unit normals, (B, 9, 3) light -> (B, V, 3), differentiable in all."""
    if albedo.device.type == "cpu" and (kernels := kernels_for(albedo.device)):
        return _Shade.apply(kernels, albedo, normals, irradiance_polynomial(lighting))
    return shade(albedo, normals, lighting)


def project_vertices(vertices_camera: Tensor, focal: Tensor, height: int, width: int) -> Tensor:
    """`camera.project`: (B, V, 3) mm and (B,) focal lengths in picture widths -> (B, V, 3), differentiable in both."""
    if vertices_camera.device.type == "cpu" and (kernels := kernels_for(vertices_camera.device)):
        pixels = focal.to(vertices_camera.dtype) * width
        return _Project.apply(kernels, vertices_camera, pixels, width / 2, height / 2)
    return project(vertices_camera, focal, height, width)


class _Shade(Function):
    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, *given: Tensor) -> Tensor:
        ctx.kernels = kernels
        inputs = [tensor.contiguous() for tensor in given]
        ctx.save_for_backward(*inputs)
        return kernels.shade(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_colours: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.kernels.shade_backward(*ctx.saved_tensors, g_colours)


class _Project(Function):
    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, vertices: Tensor, focal: Tensor, middle: float, centre: float) -> Tensor:
        ctx.kernels = kernels
        vertices, focal = vertices.contiguous(), focal.contiguous()
        ctx.save_for_backward(vertices, focal)
        return kernels.project(vertices, focal, middle, centre, SMALLEST_DEPTH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_projected: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.kernels.project_backward(*ctx.saved_tensors, g_projected, SMALLEST_DEPTH)
        return None, *gradients, None, None
