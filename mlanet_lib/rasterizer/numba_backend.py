# mypy: allow-untyped-defs
"""The z-buffer on the CPU, in numba, and the threads that it and its neighbours run on.

Kernels release the GIL and run in a small pool of plain Python threads, not in numba's own threading layers: those
abort the process after a fork (OpenMP) or when two threads call at once (workqueue), which DataLoader workers and
Jupyter kernels do. As many threads are used as torch uses, so that `torch.set_num_threads` rules both.

All arithmetic is done in the dtype of the vertices. An edge function is computed from vertices relative to the pixel,
E(p, q) = p_x q_y - p_y q_x, which is exactly antisymmetric in p and q also after rounding: of two triangles that share
an edge at least one covers each pixel there, so that closed meshes have no holes.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count

import numba
import numpy as np
import torch
from torch import Tensor

from mlanet_lib.geometry.compiled import compiled

# Vertices, faces or pixels below which one thread is as fast as two: about a millisecond's work, as long as torch's
# threads go on spinning after its last operation, on the cores that these would need
WORTH_THREADS = 65_536
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # a forked child inherits the pool but not its threads


def in_parts(function: Callable[[int, int, int], object], batch: int, length: int, work: int) -> None:
    """Call `function(n, first, last)` for the items n of a batch, each whole (0, length), or cut into parts where there
    are fewer items than threads. work: as `run_tasks`."""
    cuts = 1 if work < WORTH_THREADS else max(1, min(length, torch.get_num_threads() // max(batch, 1)))

    def task(k: int) -> None:
        n, part = divmod(k, cuts)
        function(n, length * part // cuts, length * (part + 1) // cuts)

    run_tasks(task, batch * cuts, work)


def run_tasks(function: Callable[[int], object], tasks: int, work: int) -> None:
    """Call `function(k)` for k = 0 ... tasks - 1, in as many threads as torch uses, the calling one among them, or in
    that one alone where there is little work: vertices, faces or pixels in the whole batch. An exception in one of them
    is raised here."""
    global _pool
    threads = min(tasks, torch.get_num_threads()) if work >= WORTH_THREADS else 1
    numbers = count()

    def take() -> None:
        while (k := next(numbers)) < tasks:
            function(k)

    if threads <= 1:
        take()
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(max(os.cpu_count() or 1, 1), thread_name_prefix="mlanet-raster")
    others = [_pool.submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        wait(others)
    for other in others:
        other.result()


@numba.njit(inline="always")
def edge_functions(vertices, a, b, c, px, py):
    """The three edge functions of the triangle (a, b, c) at the point (px, py), not normalised, opposite a, b, c."""
    ax, ay = vertices[a, 0] - px, vertices[a, 1] - py
    bx, by = vertices[b, 0] - px, vertices[b, 1] - py
    cx, cy = vertices[c, 0] - px, vertices[c, 1] - py
    return bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx


@compiled
def _draw(vertices, faces, top, bottom, face_index, depth):
    """Draw one mesh (V, 3), (F, 3) into the rows top ... bottom - 1 of face_index and depth (H, W)."""
    real = vertices.dtype.type
    half, zero = real(0.5), real(0.0)
    width = depth.shape[1]
    for i in range(top, bottom):
        for j in range(width):
            face_index[i, j] = -1
            depth[i, j] = np.inf
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        y0, y1, y2 = vertices[a, 1], vertices[b, 1], vertices[c, 1]
        # clamped before they become integers, which NaN and huge values cannot
        first = max(np.ceil(min(y0, min(y1, y2)) - half), real(top))
        last = min(np.floor(max(y0, max(y1, y2)) - half), real(bottom - 1))
        if not first <= last:
            continue
        x0, x1, x2 = vertices[a, 0], vertices[b, 0], vertices[c, 0]
        left = max(np.ceil(min(x0, min(x1, x2)) - half), zero)
        right = min(np.floor(max(x0, max(x1, x2)) - half), real(width - 1))
        if not left <= right:
            continue
        z0, z1, z2 = vertices[a, 2], vertices[b, 2], vertices[c, 2]
        if not (z0 > zero and z1 > zero and z2 > zero):
            continue
        if not abs(x0 + x1 + x2 + y0 + y1 + y2 + z0 + z1 + z2) < np.inf:
            continue
        for i in range(int(first), int(last) + 1):
            py = real(i) + half
            ay, by, cy = y0 - py, y1 - py, y2 - py
            for j in range(int(left), int(right) + 1):
                px = real(j) + half
                ax, bx, cx = x0 - px, x1 - px, x2 - px
                w0, w1, w2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
                # one branch, since each is taken unpredictably: short-circuit logic costs up to 2.5 times the time
                if ((w0 >= zero) & (w1 >= zero) & (w2 >= zero)) | ((w0 <= zero) & (w1 <= zero) & (w2 <= zero)):
                    total = w0 + w1 + w2
                    if total != zero:
                        z = z0 + (w1 * (z1 - z0) + w2 * (z2 - z0)) / total
                        if z < depth[i, j]:
                            depth[i, j] = z
                            face_index[i, j] = f


@compiled
def _fill_barycentric(vertices, faces, top, bottom, face_index, barycentric):
    """Barycentric coordinates (H, W, 3) of the pixels in some rows, from the faces that cover them; 0 elsewhere."""
    real = vertices.dtype.type
    half = real(0.5)
    for i in range(top, bottom):
        for j in range(face_index.shape[1]):
            f = face_index[i, j]
            if f < 0:
                barycentric[i, j, 0] = barycentric[i, j, 1] = barycentric[i, j, 2] = real(0.0)
                continue
            w0, w1, w2 = edge_functions(vertices, faces[f, 0], faces[f, 1], faces[f, 2], real(j) + half, real(i) + half)
            total = w0 + w1 + w2
            barycentric[i, j, 0], barycentric[i, j, 1], barycentric[i, j, 2] = w0 / total, w1 / total, w2 / total


def rasterize(vertices: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """`mlanet_lib.rasterizer.rasterize` on the CPU: checked, contiguous CPU tensors of one floating dtype.

    Threads take whole images; where there are fewer images than threads, an image is cut into bands of rows.
    """
    batch = len(vertices)
    face_index = torch.empty(batch, height, width, dtype=torch.int32)
    barycentric = torch.empty(batch, height, width, 3, dtype=vertices.dtype)
    depth = torch.empty(batch, height, width, dtype=vertices.dtype)
    meshes, triangles = vertices.numpy(), faces.numpy()
    index, weights, nearest = face_index.numpy(), barycentric.numpy(), depth.numpy()

    def draw(n: int, top: int, bottom: int) -> None:
        _draw(meshes[n], triangles, top, bottom, index[n], nearest[n])
        _fill_barycentric(meshes[n], triangles, top, bottom, index[n], weights[n])

    in_parts(draw, batch, height, batch * max(len(faces), height * width))
    return face_index, barycentric, depth
