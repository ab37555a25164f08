"""The CPU's kernels around the z-buffer: interpolation over the faces found, vertex normals, and their gradients.

One task per mesh or picture, so that sums into its vertices need no locks and come out the same with any number of
threads. Nothing per pixel is kept for the backward pass but the face: barycentric coordinates are computed again.
"""

import numpy as np
import torch
from torch import Tensor

from mlanet_lib.rasterizer.numba_backend import compiled, edge_functions, run_tasks

_NO_AREA = 1e-12  # of twice the area around a vertex, square mm: below it has no normal, and no gradient


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
        inverse = real(1.0) / length if length > _NO_AREA else real(0.0)
        normals[v, 0], normals[v, 1], normals[v, 2] = x * inverse, y * inverse, z * inverse


@compiled
def _normals_backward(vertices, faces, summed, normals, g_normals, g_summed, g_vertices):
    """Add to g_vertices (V, 3) the gradient that g_normals (V, 3) means; g_summed (V, 3) is scratch."""
    real = vertices.dtype.type
    for v in range(len(summed)):
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        gx, gy, gz = g_normals[v, 0], g_normals[v, 1], g_normals[v, 2]
        length = np.sqrt(summed[v, 0] ** 2 + summed[v, 1] ** 2 + summed[v, 2] ** 2)
        inverse = real(1.0) / length if length > _NO_AREA else real(0.0)
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


def interpolate(vertices: Tensor, faces: Tensor, attributes: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) and the depth (B, H, W); all contiguous CPU tensors, floats of one dtype."""
    batch, height, width = face_index.shape
    image = vertices.new_empty(batch, attributes.shape[2], height, width)
    depth = vertices.new_empty(batch, height, width)
    arrays = [tensor.numpy() for tensor in (vertices, attributes, face_index, image, depth)]
    triangles = faces.numpy()
    bands = max(1, min(height, torch.get_num_threads() // max(batch, 1)))

    def task(k: int) -> None:
        n, band = divmod(k, bands)
        points, values, index, colours, distances = (array[n] for array in arrays)
        top, bottom = height * band // bands, height * (band + 1) // bands
        _interpolate(points, triangles, values, index, top, bottom, colours, distances)

    run_tasks(task, batch * bands)
    return image, depth


def interpolate_backward(vertices, faces, attributes, face_index, image, g_image, g_depth) -> tuple[Tensor, Tensor]:
    """The gradients (B, V, 3) and (B, V, C) of what `interpolate` was given, from those of what it returned."""
    g_vertices, g_attributes = torch.zeros_like(vertices), torch.zeros_like(attributes)
    inputs = (vertices, attributes, face_index, g_image.contiguous(), g_depth.contiguous(), image)
    arrays = [tensor.numpy() for tensor in (*inputs, g_vertices, g_attributes)]
    triangles = faces.numpy()

    def task(n: int) -> None:
        points, *rest = (array[n] for array in arrays)
        _interpolate_backward(points, triangles, *rest)

    run_tasks(task, len(vertices))
    return g_vertices, g_attributes


def normals(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals and the sums they come from, (B, V, 3) each; contiguous CPU tensors."""
    summed, unit = torch.zeros_like(vertices), torch.empty_like(vertices)
    points, sums, units, triangles = vertices.numpy(), summed.numpy(), unit.numpy(), faces.numpy()
    run_tasks(lambda n: _normals(points[n], triangles, sums[n], units[n]), len(vertices))
    return unit, summed


def normals_backward(vertices: Tensor, faces: Tensor, summed: Tensor, unit: Tensor, g_unit: Tensor) -> Tensor:
    """The gradient (B, V, 3) with respect to the vertices."""
    g_vertices, scratch = torch.zeros_like(vertices), torch.empty_like(vertices)
    arrays = [tensor.numpy() for tensor in (summed, unit, g_unit.contiguous(), scratch, g_vertices)]
    points, triangles = vertices.numpy(), faces.numpy()
    run_tasks(lambda n: _normals_backward(points[n], triangles, *(array[n] for array in arrays)), len(vertices))
    return g_vertices
