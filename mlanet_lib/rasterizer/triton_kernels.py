# mypy: allow-untyped-defs, allow-incomplete-defs
"""The GPU's kernels around the z-buffer, in Triton: interpolation over the faces found, vertex normals, gradients.

The formulas are those of `numba_kernels`. A lane takes a pixel or a face and adds to vertices with float atomics, whose
order changes: sums, and with them gradients and normals, differ in the last bits from one run to the next.

Normals, too, have kernels, since tensor operations would write every corner of every face several times: with 32 meshes
of 70 000 faces the gathered corners alone are 80 MB, and some 300 MB in all would be kept for the backward pass, which
sorts indices besides. Here nothing is stored per face, and what is kept is 27 MB, two vectors a vertex.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlanet_lib.rasterizer.interpolation import NO_AREA
from mlanet_lib.rasterizer.triton_backend import LAUNCH, corner_indices, divide, edge_functions, load_point

_PIXELS = 256  # a program
_FACES = 128
_SIZES = ["count", "triangles", "channels", "height", "width"]


@triton.jit
def _weights(vertices, faces, face_index, count, height, width, BLOCK: tl.constexpr):
    """BLOCK pixels of one picture: which, whether covered, and the perspective-correct weights of their corners.

    Returns mesh and offset of the pixels in their picture, masks of those that exist and of those covered, the corners'
    numbers in the batch, their positions relative to the pixel with their depths, q_i = w_i / z_i with their sum (1
    where not covered), and the depth.
    """
    blocks = tl.cdiv(height * width, BLOCK)
    mesh = (tl.program_id(0) // blocks).to(tl.int64)
    offset = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    exists = offset < height * width
    face = tl.load(face_index + mesh * height * width + offset, mask=exists, other=-1).to(tl.int64)
    covered = face >= 0
    a, b, c = corner_indices(faces, face, covered)
    a, b, c = mesh * count + a, mesh * count + b, mesh * count + c
    ax, ay, az = load_point(vertices, a, covered)
    bx, by, bz = load_point(vertices, b, covered)
    cx, cy, cz = load_point(vertices, c, covered)
    px, py = (offset % width).to(ax.dtype) + 0.5, (offset // width).to(ax.dtype) + 0.5
    ax, ay, bx, by, cx, cy = ax - px, ay - py, bx - px, by - py, cx - px, cy - py
    w0, w1, w2 = edge_functions(ax, ay, bx, by, cx, cy)
    q0, q1, q2 = divide(w0, az), divide(w1, bz), divide(w2, cz)
    total = tl.where(covered, q0 + q1 + q2, 1.0)
    depth = divide(w0 + w1 + w2, total)
    corners = (ax, ay, az, bx, by, bz, cx, cy, cz)
    return mesh, offset, exists, covered, (a, b, c), corners, (q0, q1, q2, total), depth


@triton.jit(do_not_specialize=_SIZES)
def _interpolate(
    vertices, faces, attributes, face_index, image, depth, count, channels, height, width, BLOCK: tl.constexpr
):
    """Fill image (B, C, H, W) and depth (B, H, W) with sum_i p_i a_i, p_i = q_i / sum_j q_j."""
    mesh, offset, exists, covered, numbers, _corners, weights, z = _weights(
        vertices, faces, face_index, count, height, width, BLOCK
    )
    a, b, c = numbers
    q0, q1, q2, total = weights
    tl.store(depth + mesh * height * width + offset, tl.where(covered, z, float("inf")), mask=exists)
    p0, p1, p2 = divide(q0, total), divide(q1, total), divide(q2, total)
    for k in range(0, channels):
        value = p0 * tl.load(attributes + a * channels + k, mask=covered, other=0.0)
        value += p1 * tl.load(attributes + b * channels + k, mask=covered, other=0.0)
        value += p2 * tl.load(attributes + c * channels + k, mask=covered, other=0.0)
        pixel = (mesh * channels + k) * height * width + offset
        tl.store(image + pixel, tl.where(covered, value, 0.0), mask=exists)


@triton.jit
def _add(points, index, x, y, z, mask):
    """Add vectors to those of points (..., 3) at an index that counts through the batch."""
    first = points + 3 * index
    tl.atomic_add(first, x, mask=mask, sem="relaxed")
    tl.atomic_add(first + 1, y, mask=mask, sem="relaxed")
    tl.atomic_add(first + 2, z, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=_SIZES)
def _interpolate_backward(
    vertices,
    faces,
    attributes,
    face_index,
    image,
    g_image,
    g_depth,
    g_vertices,
    g_attributes,
    count,
    channels,
    height,
    width,
    BLOCK: tl.constexpr,
):
    """Add the gradients to g_vertices (B, V, 3) and g_attributes (B, V, C); the formulas: `numba_kernels`."""
    mesh, offset, _exists, covered, numbers, corners, weights, z = _weights(
        vertices, faces, face_index, count, height, width, BLOCK
    )
    a, b, c = numbers  # nested targets of an assignment are beyond Triton
    ax, ay, az, bx, by, bz, cx, cy, cz = corners
    q0, q1, q2, total = weights
    p0, p1, p2 = divide(q0, total), divide(q1, total), divide(q2, total)
    g = tl.load(g_depth + mesh * height * width + offset, mask=covered, other=0.0)
    h0, h1, h2 = g * (az - z), g * (bz - z), g * (cz - z)
    for k in range(0, channels):
        pixel = (mesh * channels + k) * height * width + offset
        value = tl.load(image + pixel, mask=covered, other=0.0)
        gk = tl.load(g_image + pixel, mask=covered, other=0.0)
        h0 += gk * (tl.load(attributes + a * channels + k, mask=covered, other=0.0) - value)
        h1 += gk * (tl.load(attributes + b * channels + k, mask=covered, other=0.0) - value)
        h2 += gk * (tl.load(attributes + c * channels + k, mask=covered, other=0.0) - value)
        tl.atomic_add(g_attributes + a * channels + k, p0 * gk, mask=covered, sem="relaxed")
        tl.atomic_add(g_attributes + b * channels + k, p1 * gk, mask=covered, sem="relaxed")
        tl.atomic_add(g_attributes + c * channels + k, p2 * gk, mask=covered, sem="relaxed")
    # gradients of the edge functions, then of the vertices
    e0, e1, e2 = divide(divide(h0, total), az), divide(divide(h1, total), bz), divide(divide(h2, total), cz)
    _add(g_vertices, a, e2 * by - e1 * cy, e1 * cx - e2 * bx, p0 * g - e0 * q0, covered)
    _add(g_vertices, b, e0 * cy - e2 * ay, e2 * ax - e0 * cx, p1 * g - e1 * q1, covered)
    _add(g_vertices, c, e1 * ay - e0 * by, e0 * bx - e1 * ax, p2 * g - e2 * q2, covered)


@triton.jit
def _edges(vertices, faces, count, triangles, BLOCK: tl.constexpr):
    """BLOCK faces of one mesh: their corners' numbers in the batch, the edges u = b - a and v = c - a, and a mask."""
    blocks = tl.cdiv(triangles, BLOCK)
    mesh = (tl.program_id(0) // blocks).to(tl.int64)
    face = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = face < triangles
    a, b, c = corner_indices(faces, face, mask)
    a, b, c = mesh * count + a, mesh * count + b, mesh * count + c
    ax, ay, az = load_point(vertices, a, mask)
    bx, by, bz = load_point(vertices, b, mask)
    cx, cy, cz = load_point(vertices, c, mask)
    return a, b, c, bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az, mask


@triton.jit(do_not_specialize=_SIZES)
def _sum_normals(vertices, faces, summed, count, triangles, BLOCK: tl.constexpr):
    """Add the faces' cross products n = u x v to summed (B, V, 3) at their corners."""
    a, b, c, ux, uy, uz, vx, vy, vz, mask = _edges(vertices, faces, count, triangles, BLOCK)
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    _add(summed, a, nx, ny, nz, mask)
    _add(summed, b, nx, ny, nz, mask)
    _add(summed, c, nx, ny, nz, mask)


@triton.jit(do_not_specialize=_SIZES)
def _sum_normals_backward(vertices, faces, g_summed, g_vertices, count, triangles, BLOCK: tl.constexpr):
    """Add to g_vertices (B, V, 3) v x g for the edges u and g x u for v, where g sums g_summed (B, V, 3) of a face."""
    a, b, c, ux, uy, uz, vx, vy, vz, mask = _edges(vertices, faces, count, triangles, BLOCK)
    gx, gy, gz = load_point(g_summed, a, mask)
    gbx, gby, gbz = load_point(g_summed, b, mask)
    gcx, gcy, gcz = load_point(g_summed, c, mask)
    gx, gy, gz = gx + gbx + gcx, gy + gby + gcy, gz + gbz + gcz
    ex, ey, ez = vy * gz - vz * gy, vz * gx - vx * gz, vx * gy - vy * gx
    hx, hy, hz = gy * uz - gz * uy, gz * ux - gx * uz, gx * uy - gy * ux
    _add(g_vertices, a, -(ex + hx), -(ey + hy), -(ez + hz), mask)
    _add(g_vertices, b, ex, ey, ez, mask)
    _add(g_vertices, c, hx, hy, hz, mask)


def interpolate(vertices: Tensor, faces: Tensor, attributes: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) and the depth (B, H, W); all contiguous tensors on one device, floats of one dtype."""
    batch, height, width = face_index.shape
    count, channels = attributes.shape[1:]
    image, depth = vertices.new_empty(batch, channels, height, width), vertices.new_empty(batch, height, width)
    if batch:
        with torch.cuda.device_of(vertices):
            _interpolate[(batch * triton.cdiv(height * width, _PIXELS),)](
                *(vertices, faces, attributes, face_index, image, depth, count, channels, height, width),
                BLOCK=_PIXELS,
                **LAUNCH,
            )
    return image, depth


def interpolate_backward(
    given: tuple[Tensor, ...], image: Tensor, g_image: Tensor, g_depth: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients (B, V, 3) and (B, V, C) of what `interpolate` was given, from those of what it returned."""
    vertices, _, attributes, face_index = given
    batch, height, width = face_index.shape
    sizes = (*attributes.shape[1:], height, width)
    gradients = torch.zeros_like(vertices), torch.zeros_like(attributes)
    if batch:
        with torch.cuda.device_of(vertices):
            _interpolate_backward[(batch * triton.cdiv(height * width, _PIXELS),)](
                *(*given, image, g_image.contiguous(), g_depth.contiguous(), *gradients, *sizes),
                BLOCK=_PIXELS,
                **LAUNCH,
            )
    return gradients


def normals(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals and the sums they come from, (B, V, 3) each; contiguous tensors on one device."""
    summed = _over_faces(_sum_normals, vertices, faces)
    return summed * _inverse_length(summed), summed


def normals_backward(vertices: Tensor, faces: Tensor, summed: Tensor, unit: Tensor, g_unit: Tensor) -> Tensor:
    """The gradient (B, V, 3) with respect to the vertices."""
    along = (unit * g_unit).sum(-1, keepdim=True)
    return _over_faces(_sum_normals_backward, vertices, faces, (g_unit - unit * along) * _inverse_length(summed))


def _over_faces(kernel: Any, vertices: Tensor, faces: Tensor, *given: Tensor) -> Tensor:
    """What a kernel over all faces of the batch adds to zeros (B, V, 3)."""
    result = torch.zeros_like(vertices)
    batch, count, triangles = len(vertices), vertices.shape[1], len(faces)
    if batch and triangles:
        with torch.cuda.device_of(vertices):
            kernel[(batch * triton.cdiv(triangles, _FACES),)](
                *(vertices, faces, *given, result, count, triangles), BLOCK=_FACES, **LAUNCH
            )
    return result


def _inverse_length(summed: Tensor) -> Tensor:
    """(B, V, 1), 0 for a vertex without area."""
    length = torch.linalg.vector_norm(summed, dim=-1, keepdim=True)
    return torch.where(length > NO_AREA, 1 / length, 0.0)
