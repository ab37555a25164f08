# mypy: allow-untyped-defs
"""The CPU's kernels around the z-buffer: interpolation over the faces found, vertex normals, and their gradients.

Kernels take up to nine untyped arrays as parameters, since numba compiles nothing better structured as well. A task is
a whole mesh or picture, so that sums into its vertices need no locks and do not depend on the number of threads. For
the backward pass only the face of each pixel is kept; barycentric coordinates are computed again.
"""

import numpy as np
import torch
from torch import Tensor

from mlanet_lib.rasterizer.interpolation import NO_AREA
from mlanet_lib.rasterizer.numba_backend import compiled, edge_functions, in_parts, run_tasks


@compiled
def _interpolate(vertices, faces, attributes, face_index, top, bottom, image, depth):
    """Fill rows of image (C, H, W) and depth (H, W) with sum_i p_i a_i, p_i = (w_i / z_i) / sum_j (w_j / z_j)."""
    real = vertices.dtype.type
    half, one = real(0.5), real(1.0)
    for i in range(top, bottom):
        for j in range(face_index.shape[1]):
            f = face_index[i, j]
            if f < 0:
                depth[i, j] = np.inf
                for k in range(image.shape[0]):
                    image[k, i, j] = real(0.0)
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            w0, w1, w2 = edge_functions(vertices, a, b, c, real(j) + half, real(i) + half)
            q0, q1, q2 = w0 / vertices[a, 2], w1 / vertices[b, 2], w2 / vertices[c, 2]
            scale = one / (q0 + q1 + q2)
            depth[i, j] = (w0 + w1 + w2) * scale
            for k in range(image.shape[0]):
                image[k, i, j] = (q0 * attributes[a, k] + q1 * attributes[b, k] + q2 * attributes[c, k]) * scale


@compiled
def _interpolate_backward(vertices, faces, attributes, face_index, g_image, g_depth, image, g_vertices, g_attributes):
    """Add the gradients of one picture to g_vertices (V, 3) and g_attributes (V, C).

    With q_i = w_i / z_i, Q = sum q, A = sum q_i a_i / Q: dA/da_i = q_i / Q, dA/dq_i = (a_i - A) / Q; depth is the
    attribute z. The edge function w_0 of the triangle (0, 1, 2) is the cross product of its vertices 1 and 2,
    relative to the pixel, and so on around.
    """
    real = vertices.dtype.type
    half, one = real(0.5), real(1.0)
    for i in range(face_index.shape[0]):
        for j in range(face_index.shape[1]):
            f = face_index[i, j]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            px, py = real(j) + half, real(i) + half
            ax, ay, az = vertices[a, 0] - px, vertices[a, 1] - py, vertices[a, 2]
            bx, by, bz = vertices[b, 0] - px, vertices[b, 1] - py, vertices[b, 2]
            cx, cy, cz = vertices[c, 0] - px, vertices[c, 1] - py, vertices[c, 2]
            w0, w1, w2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
            q0, q1, q2 = w0 / az, w1 / bz, w2 / cz
            scale = one / (q0 + q1 + q2)
            p0, p1, p2 = q0 * scale, q1 * scale, q2 * scale
            g = g_depth[i, j]
            depth = (w0 + w1 + w2) * scale
            h0, h1, h2 = g * (az - depth), g * (bz - depth), g * (cz - depth)
            for k in range(image.shape[0]):
                gk, value = g_image[k, i, j], image[k, i, j]
                g_attributes[a, k] += p0 * gk
                g_attributes[b, k] += p1 * gk
                g_attributes[c, k] += p2 * gk
                h0 += gk * (attributes[a, k] - value)
                h1 += gk * (attributes[b, k] - value)
                h2 += gk * (attributes[c, k] - value)
            # gradients of the edge functions, then of the vertices
            e0, e1, e2 = h0 * scale / az, h1 * scale / bz, h2 * scale / cz
            g_vertices[a, 0] += e2 * by - e1 * cy
            g_vertices[a, 1] += e1 * cx - e2 * bx
            g_vertices[a, 2] += p0 * g - e0 * q0
            g_vertices[b, 0] += e0 * cy - e2 * ay
            g_vertices[b, 1] += e2 * ax - e0 * cx
            g_vertices[b, 2] += p1 * g - e1 * q1
            g_vertices[c, 0] += e1 * ay - e0 * by
            g_vertices[c, 1] += e0 * bx - e1 * ax
            g_vertices[c, 2] += p2 * g - e2 * q2


@compiled
def _normals(vertices, faces, summed, normals):
    """Sum the faces' cross products (twice their area vectors) at the vertices, then normalise: all (V, 3)."""
    real = vertices.dtype.type
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            summed[corner, 0] += nx
            summed[corner, 1] += ny
            summed[corner, 2] += nz
    for v in range(len(summed)):
        x, y, z = summed[v, 0], summed[v, 1], summed[v, 2]
        length = np.sqrt(x * x + y * y + z * z)
        inverse = real(1.0) / length if length > NO_AREA else real(0.0)
        normals[v, 0], normals[v, 1], normals[v, 2] = x * inverse, y * inverse, z * inverse


@compiled
def _normals_backward(vertices, faces, summed, normals, g_normals, g_summed, g_vertices):
    """Add to g_vertices (V, 3) the gradient that g_normals (V, 3) means; g_summed (V, 3) is scratch."""
    real = vertices.dtype.type
    for v in range(len(summed)):
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        gx, gy, gz = g_normals[v, 0], g_normals[v, 1], g_normals[v, 2]
        length = np.sqrt(summed[v, 0] ** 2 + summed[v, 1] ** 2 + summed[v, 2] ** 2)
        inverse = real(1.0) / length if length > NO_AREA else real(0.0)
        along = nx * gx + ny * gy + nz * gz
        g_summed[v, 0], g_summed[v, 1] = (gx - nx * along) * inverse, (gy - ny * along) * inverse
        g_summed[v, 2] = (gz - nz * along) * inverse
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        gx = g_summed[a, 0] + g_summed[b, 0] + g_summed[c, 0]
        gy = g_summed[a, 1] + g_summed[b, 1] + g_summed[c, 1]
        gz = g_summed[a, 2] + g_summed[b, 2] + g_summed[c, 2]
        # n = u x v, hence the gradients v x g for u and g x u for v
        ex, ey, ez = vy * gz - vz * gy, vz * gx - vx * gz, vx * gy - vy * gx
        hx, hy, hz = gy * uz - gz * uy, gz * ux - gx * uz, gx * uy - gy * ux
        g_vertices[a, 0] -= ex + hx
        g_vertices[a, 1] -= ey + hy
        g_vertices[a, 2] -= ez + hz
        g_vertices[b, 0] += ex
        g_vertices[b, 1] += ey
        g_vertices[b, 2] += ez
        g_vertices[c, 0] += hx
        g_vertices[c, 1] += hy
        g_vertices[c, 2] += hz


@compiled
def _shade(albedo, normals, polynomial, first, last, colours):
    """Fill rows of colours (V, 3) with albedo times the irradiance that polynomial (9, 3) gives at the normals."""
    real = albedo.dtype.type
    for v in range(first, last):
        x, y, z = normals[v, 0], normals[v, 1], normals[v, 2]
        xy, yz, zz, xz, xx = x * y, y * z, real(3.0) * z * z - real(1.0), x * z, x * x - y * y
        for c in range(3):
            value = polynomial[0, c] + polynomial[1, c] * y + polynomial[2, c] * z + polynomial[3, c] * x
            value += polynomial[4, c] * xy + polynomial[5, c] * yz + polynomial[6, c] * zz
            value += polynomial[7, c] * xz + polynomial[8, c] * xx
            colours[v, c] = albedo[v, c] * value


@compiled
def _shade_backward(albedo, normals, polynomial, g_colours, g_albedo, g_normals, g_polynomial):
    """Fill g_albedo, g_normals (V, 3) and g_polynomial (9, 3) of one mesh; g_normals must be zero before."""
    real = albedo.dtype.type
    two, three, six, one = real(2.0), real(3.0), real(6.0), real(1.0)
    for c in range(3):  # a channel at a time, so that its nine coefficients and their sums stay in registers
        p0, p1, p2 = polynomial[0, c], polynomial[1, c], polynomial[2, c]
        p3, p4, p5 = polynomial[3, c], polynomial[4, c], polynomial[5, c]
        p6, p7, p8 = polynomial[6, c], polynomial[7, c], polynomial[8, c]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = 0.0  # float64: tens of thousands of vertices add up
        for v in range(len(albedo)):
            x, y, z = normals[v, 0], normals[v, 1], normals[v, 2]
            xy, yz, zz, xz, xx = x * y, y * z, three * z * z - one, x * z, x * x - y * y
            value = p0 + p1 * y + p2 * z + p3 * x + p4 * xy + p5 * yz + p6 * zz + p7 * xz + p8 * xx
            g_albedo[v, c] = g_colours[v, c] * value
            g = g_colours[v, c] * albedo[v, c]
            g_normals[v, 0] += g * (p3 + p4 * y + p7 * z + two * p8 * x)
            g_normals[v, 1] += g * (p1 + p4 * x + p5 * z - two * p8 * y)
            g_normals[v, 2] += g * (p2 + p5 * y + six * p6 * z + p7 * x)
            s0 += g
            s1 += g * y
            s2 += g * z
            s3 += g * x
            s4 += g * xy
            s5 += g * yz
            s6 += g * zz
            s7 += g * xz
            s8 += g * xx
        for k, total in enumerate((s0, s1, s2, s3, s4, s5, s6, s7, s8)):
            g_polynomial[k, c] = total


@compiled
def _project(vertices, focal, middle, centre, smallest, first, last, projected):
    """Fill rows of projected (V, 3) with x, y in pixels and the depth; focal, middle, centre in pixels."""
    real = vertices.dtype.type
    middle, centre, smallest = real(middle), real(centre), real(smallest)
    for v in range(first, last):
        z = vertices[v, 2]
        scale = focal / z if z > smallest else focal
        projected[v, 0] = vertices[v, 0] * scale + middle
        projected[v, 1] = vertices[v, 1] * scale + centre
        projected[v, 2] = z


@compiled
def _project_backward(vertices, focal, g_projected, smallest, g_vertices):
    """Fill g_vertices (V, 3); returns the gradient for focal."""
    real = vertices.dtype.type
    smallest, one, zero, g_focal = real(smallest), real(1.0), real(0.0), 0.0
    for v in range(len(vertices)):
        z, gx, gy = vertices[v, 2], g_projected[v, 0], g_projected[v, 1]
        inverse = one / z if z > smallest else one
        scale = focal * inverse
        along = (gx * vertices[v, 0] + gy * vertices[v, 1]) * inverse
        g_focal += along
        g_vertices[v, 0], g_vertices[v, 1] = gx * scale, gy * scale
        g_vertices[v, 2] = g_projected[v, 2] - (along * scale if z > smallest else zero)
    return g_focal


def _numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def interpolate(vertices: Tensor, faces: Tensor, attributes: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) and the depth (B, H, W); all contiguous CPU tensors, floats of one dtype."""
    batch, height, width = face_index.shape
    image = vertices.new_empty(batch, attributes.shape[2], height, width)
    depth = vertices.new_empty(batch, height, width)
    points, triangles, values, index, colours, distances = _numpy(vertices, faces, attributes, face_index, image, depth)

    def fill(n: int, top: int, bottom: int) -> None:
        _interpolate(points[n], triangles, values[n], index[n], top, bottom, colours[n], distances[n])

    in_parts(fill, batch, height, face_index.numel())
    return image, depth


def interpolate_backward(
    given: tuple[Tensor, ...], image: Tensor, g_image: Tensor, g_depth: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients (B, V, 3) and (B, V, C) of what `interpolate` was given, from those of what it returned."""
    vertices, faces, attributes, face_index = given
    gradients = torch.zeros_like(vertices), torch.zeros_like(attributes)
    arrays = _numpy(attributes, face_index, g_image.contiguous(), g_depth.contiguous(), image, *gradients)
    points, triangles = _numpy(vertices, faces)

    def add(n: int) -> None:
        _interpolate_backward(points[n], triangles, *(array[n] for array in arrays))

    run_tasks(add, len(vertices), face_index.numel())
    return gradients


def normals(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals and the sums they come from, (B, V, 3) each; contiguous CPU tensors."""
    summed, unit = torch.zeros_like(vertices), torch.empty_like(vertices)
    points, triangles, sums, units = _numpy(vertices, faces, summed, unit)
    run_tasks(lambda n: _normals(points[n], triangles, sums[n], units[n]), len(vertices), len(vertices) * len(faces))
    return unit, summed


def normals_backward(vertices: Tensor, faces: Tensor, summed: Tensor, unit: Tensor, g_unit: Tensor) -> Tensor:
    """The gradient (B, V, 3) with respect to the vertices."""
    g_vertices, scratch = torch.zeros_like(vertices), torch.empty_like(vertices)
    arrays = _numpy(summed, unit, g_unit.contiguous(), scratch, g_vertices)
    points, triangles = _numpy(vertices, faces)

    def add(n: int) -> None:
        _normals_backward(points[n], triangles, *(array[n] for array in arrays))

    run_tasks(add, len(vertices), len(vertices) * len(faces))
    return g_vertices


def shade(albedo: Tensor, normals: Tensor, polynomial: Tensor) -> Tensor:
    """(B, V, 3) colours; contiguous CPU tensors (B, V, 3), (B, V, 3), (B, 9, 3) of one dtype (`lighting`)."""
    colours = torch.empty_like(albedo)
    base, directions, light, out = _numpy(albedo, normals, polynomial, colours)
    batch, size = albedo.shape[:2]

    def fill(n: int, first: int, last: int) -> None:
        _shade(base[n], directions[n], light[n], first, last, out[n])

    in_parts(fill, batch, size, batch * size)
    return colours


def shade_backward(albedo: Tensor, normals: Tensor, polynomial: Tensor, g_colours: Tensor) -> tuple[Tensor, ...]:
    """The gradients of what `shade` was given, from that of what it returned."""
    gradients = torch.empty_like(albedo), torch.zeros_like(normals), torch.empty_like(polynomial)
    arrays = _numpy(albedo, normals, polynomial, g_colours.contiguous(), *gradients)
    work = albedo.shape[0] * albedo.shape[1]
    run_tasks(lambda n: _shade_backward(*(array[n] for array in arrays)), len(albedo), work)
    return gradients


def project(vertices: Tensor, focal: Tensor, middle: float, centre: float, smallest: float) -> Tensor:
    """(B, V, 3) pixels and depth, from (B, V, 3) mm and (B,) pixels; contiguous CPU tensors of one dtype."""
    projected = torch.empty_like(vertices)
    points, lengths, out = _numpy(vertices, focal, projected)
    batch, size = vertices.shape[:2]

    def fill(n: int, first: int, last: int) -> None:
        _project(points[n], lengths[n], middle, centre, smallest, first, last, out[n])

    in_parts(fill, batch, size, batch * size)
    return projected


def project_backward(vertices: Tensor, focal: Tensor, g_projected: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """The gradients of the two tensors that `project` was given, from that of what it returned."""
    g_vertices, g_focal = torch.empty_like(vertices), torch.zeros_like(focal)
    points, lengths, incoming, out, total = _numpy(vertices, focal, g_projected.contiguous(), g_vertices, g_focal)

    def fill(n: int) -> None:
        total[n] = _project_backward(points[n], lengths[n], incoming[n], smallest, out[n])

    run_tasks(fill, len(vertices), len(points) * points.shape[1])
    return g_vertices, g_focal
