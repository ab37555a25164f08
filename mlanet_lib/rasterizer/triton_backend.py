# mypy: allow-untyped-defs, allow-incomplete-defs
"""The z-buffer on a GPU, in Triton: it needs a CUDA device, or TRITON_INTERPRET=1, which runs it slowly on the CPU.

Triangles are drawn in any order, with atomic minima that make the result independent of it: the same pixels, depths
and ties as in `numba_backend`. In float32 the minimum is taken of one int64 a pixel, the bits of the depth (they order
like the depth) above the face's index. float64 leaves no room for the index: a first pass finds the lowest depth of
each pixel, a second one the lowest face at exactly that depth.

Most triangles of a face mesh cover a pixel or two, so a lane draws a triangle, by walking over its bounding box. Those
with larger boxes are put in a list on the device, and drawn by a second kernel in which a whole program shares a box.
Nothing here waits for the device.

Multiplications and additions are not fused (`LAUNCH`), and divisions are rounded correctly. Fused, the edge function
E(p, q) = p_x q_y - p_y q_x would round one product and not the other, no longer be antisymmetric in p and q, and two
triangles that share an edge could both miss a pixel on it.

Kernels have as many parameters as they need, since Triton knows no structures, and no types but `constexpr`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"enable_fp_fusion": False}
_EMPTY = 2**63 - 1  # a pixel without face: its lower half, as int32, is the face index -1
_MOST_PIXELS = 2**30  # in one picture: offsets within it are int32
_FACES = 64  # a program: two warps, few enough that a larger box among them keeps few lanes waiting
_SMALL = 64  # pixels in the largest bounding box that one lane walks over
_PIXELS = 256  # a program, where lanes are pixels
_PROGRAMS = (256, 8)  # that share the large triangles, and each of their boxes
# Numbers that change from mesh to mesh and picture to picture, for which a kernel is not compiled again
_SIZES = ["count", "triangles", "height", "width"]


@triton.jit
def divide(numerator, denominator):
    """Correctly rounded, which Triton's own `/` is in float64 only."""
    if numerator.dtype == tl.float64:
        return numerator / denominator
    else:
        return tl.div_rn(numerator, denominator)


@triton.jit
def corner_indices(faces, face, mask):
    """The three vertices of faces (int64), 0 where masked out."""
    first = faces + 3 * face
    a = tl.load(first, mask=mask, other=0).to(tl.int64)
    b = tl.load(first + 1, mask=mask, other=0).to(tl.int64)
    c = tl.load(first + 2, mask=mask, other=0).to(tl.int64)
    return a, b, c


@triton.jit
def load_point(points, index, mask):
    """The three components of points (..., 3) at an index that counts through the batch, 1 where masked out."""
    first = points + 3 * index
    x = tl.load(first, mask=mask, other=1.0)
    y = tl.load(first + 1, mask=mask, other=1.0)
    z = tl.load(first + 2, mask=mask, other=1.0)
    return x, y, z


@triton.jit
def edge_functions(ax, ay, bx, by, cx, cy):
    """Those of a triangle whose corners are given relative to the point, opposite a, b, c; not normalised."""
    return bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx


@triton.jit
def _load_triangle(vertices, faces, first_vertex, face, mask):
    a, b, c = corner_indices(faces, face, mask)
    x0, y0, z0 = load_point(vertices, first_vertex + a, mask)
    x1, y1, z1 = load_point(vertices, first_vertex + b, mask)
    x2, y2, z2 = load_point(vertices, first_vertex + c, mask)
    return x0, y0, z0, x1, y1, z1, x2, y2, z2


@triton.jit
def _bounding_box(triangle, height, width):
    """Top, left, and size of the box of pixel centres that a triangle may cover; of size 0 where it is not drawn."""
    x0, y0, z0, x1, y1, z1, x2, y2, z2 = triangle
    # clamped before they become integers, which NaN and huge values cannot
    first = tl.maximum(tl.ceil(tl.minimum(y0, tl.minimum(y1, y2)) - 0.5), 0.0)
    last = tl.minimum(tl.floor(tl.maximum(y0, tl.maximum(y1, y2)) - 0.5), (height - 1).to(y0.dtype))
    left = tl.maximum(tl.ceil(tl.minimum(x0, tl.minimum(x1, x2)) - 0.5), 0.0)
    right = tl.minimum(tl.floor(tl.maximum(x0, tl.maximum(x1, x2)) - 0.5), (width - 1).to(x0.dtype))
    drawn = (first <= last) & (left <= right) & (z0 > 0) & (z1 > 0) & (z2 > 0)
    drawn = drawn & (tl.abs(x0 + x1 + x2 + y0 + y1 + y2 + z0 + z1 + z2) < float("inf"))
    rows = tl.where(drawn, last - first + 1, 0.0).to(tl.int32)
    columns = tl.where(drawn, right - left + 1, 0.0).to(tl.int32)
    return tl.where(drawn, first, 0.0).to(tl.int32), tl.where(drawn, left, 0.0).to(tl.int32), rows, columns


@triton.jit
def _sample(triangle, i, j):
    """Edge functions, their sum and the depth at the centre of the pixel (i, j)."""
    x0, y0, z0, x1, y1, z1, x2, y2, z2 = triangle
    px, py = j.to(x0.dtype) + 0.5, i.to(x0.dtype) + 0.5
    w0, w1, w2 = edge_functions(x0 - px, y0 - py, x1 - px, y1 - py, x2 - px, y2 - py)
    total = w0 + w1 + w2
    divisor = tl.where(total != 0, total, 1.0)
    return w0, w1, w2, total, z0 + divide(w1 * (z1 - z0) + w2 * (z2 - z0), divisor)


@triton.jit
def _draw(triangle, i, j, mask, face, pixel, nearest, winner, PASS: tl.constexpr):
    """Put a triangle into the pixel (i, j), which is the number `pixel` of the batch, if it covers that."""
    w0, w1, w2, total, z = _sample(triangle, i, j)
    inside = ((w0 >= 0) & (w1 >= 0) & (w2 >= 0)) | ((w0 <= 0) & (w1 <= 0) & (w2 <= 0))
    inside = inside & (total != 0) & (z < float("inf")) & mask
    # Bits of a float order like the float, those of negative ones the other way around: depths are positive, but
    # rounding can bring one to 0 or below where a triangle's corners differ in depth by many orders of magnitude.
    if PASS == "key":
        bits = z.to(tl.int32, bitcast=True)
        order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
        tl.atomic_min(winner + pixel, (order << 32) | face, mask=inside, sem="relaxed")
    else:
        bits = z.to(tl.int64, bitcast=True)
        order = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
        if PASS == "depth":
            tl.atomic_min(nearest + pixel, order, mask=inside, sem="relaxed")
        else:
            inside = inside & (tl.load(nearest + pixel, mask=inside, other=0) == order)
            tl.atomic_min(winner + pixel, face, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=_SIZES)
def _draw_small(
    vertices,
    faces,
    nearest,
    winner,
    large,
    listed,
    count,
    triangles,
    height,
    width,
    PASS: tl.constexpr,
    SMALL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw BLOCK triangles of one mesh, a lane each; put those of more than SMALL pixels in the list `large`."""
    blocks = tl.cdiv(triangles, BLOCK)
    mesh = (tl.program_id(0) // blocks).to(tl.int64)
    face = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = face < triangles
    triangle = _load_triangle(vertices, faces, mesh * count, face, mask)
    top, left, rows, columns = _bounding_box(triangle, height, width)
    pixels = tl.where(mask, rows * columns, 0)
    if PASS != "face":  # which finds the list as the pass before has left it
        is_large = (pixels > SMALL).to(tl.int32)
        number = tl.sum(is_large, 0)
        if number > 0:
            slot = tl.atomic_add(listed, number.to(tl.int64), sem="relaxed") + tl.cumsum(is_large, 0) - 1
            tl.store(large + slot, mesh * triangles + face, mask=is_large > 0)
    pixels = tl.where(pixels > SMALL, 0, pixels)
    i, j = top, left
    picture = mesh * height * width
    for k in range(0, tl.max(pixels, 0)):
        pixel = picture + i * width + j
        _draw(triangle, i, j, k < pixels, face, pixel, nearest, winner, PASS)
        j = j + 1
        ended = j >= left + columns
        i = tl.where(ended, i + 1, i)
        j = tl.where(ended, left, j)


@triton.jit(do_not_specialize=_SIZES)
def _draw_large(
    vertices,
    faces,
    nearest,
    winner,
    large,
    listed,
    count,
    triangles,
    height,
    width,
    PASS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw the listed triangles one after the other, BLOCK pixels of their boxes at a time."""
    for n in range(tl.program_id(0), tl.load(listed), tl.num_programs(0)):
        item = tl.load(large + n)
        mesh = item // triangles
        face = item % triangles
        mask = face >= 0
        triangle = _load_triangle(vertices, faces, mesh * count, face, mask)
        top, left, rows, columns = _bounding_box(triangle, height, width)
        picture = mesh * height * width
        pixels = rows * columns
        for start in range(tl.program_id(1) * BLOCK, pixels, tl.num_programs(1) * BLOCK):
            k = start + tl.arange(0, BLOCK)
            i = top + k // columns
            j = left + k % columns
            pixel = picture + i * width + j
            _draw(triangle, i, j, k < pixels, face, pixel, nearest, winner, PASS)


@triton.jit(do_not_specialize=_SIZES)
def _resolve(vertices, faces, winner, face_index, barycentric, depth, count, height, width, BLOCK: tl.constexpr):
    """What is stored of BLOCK pixels of one picture: the face that won, and both other outputs, computed again."""
    blocks = tl.cdiv(height * width, BLOCK)
    mesh = (tl.program_id(0) // blocks).to(tl.int64)
    offset = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < height * width
    pixel = mesh * height * width + offset
    face = tl.load(winner + pixel, mask=mask, other=-1).to(tl.int32)
    covered = face >= 0
    triangle = _load_triangle(vertices, faces, mesh * count, face.to(tl.int64), covered)
    w0, w1, w2, total, z = _sample(triangle, offset // width, offset % width)
    total = tl.where(covered, total, 1.0)
    tl.store(face_index + pixel, face, mask=mask)
    tl.store(barycentric + 3 * pixel, tl.where(covered, divide(w0, total), 0.0), mask=mask)
    tl.store(barycentric + 3 * pixel + 1, tl.where(covered, divide(w1, total), 0.0), mask=mask)
    tl.store(barycentric + 3 * pixel + 2, tl.where(covered, divide(w2, total), 0.0), mask=mask)
    tl.store(depth + pixel, tl.where(covered, z, float("inf")), mask=mask)


def rasterize(vertices: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """`mlanet_lib.rasterizer.rasterize` in Triton: checked, contiguous tensors on one device, float32 or float64.

    Pictures have at most 2^30 pixels (ValueError). Besides its result it needs 8 bytes a pixel (16 in float64) and 8
    a triangle of the batch.
    """
    batch, count, triangles = len(vertices), vertices.shape[1], len(faces)
    if height * width > _MOST_PIXELS:
        raise ValueError(f"a picture of {height} x {width} has more than {_MOST_PIXELS} pixels")
    double = vertices.dtype == torch.float64
    face_index = vertices.new_empty(batch, height, width, dtype=torch.int32)
    barycentric, depth = vertices.new_empty(batch, height, width, 3), vertices.new_empty(batch, height, width)
    winner = vertices.new_full((batch, height, width), _EMPTY, dtype=torch.int64)
    nearest = torch.full_like(winner, _EMPTY) if double else winner
    large = vertices.new_empty(batch * triangles, dtype=torch.int64)
    listed = vertices.new_zeros(1, dtype=torch.int64)
    buffers = (vertices, faces, nearest, winner, large, listed)
    sizes = (count, triangles, height, width)
    few = batch * triangles, triton.cdiv(height * width, _PIXELS)
    shared = tuple(min(most, needed) for most, needed in zip(_PROGRAMS, few, strict=True))
    with torch.cuda.device_of(vertices):
        if batch and triangles:
            for step in ("depth", "face") if double else ("key",):
                _draw_small[(batch * triton.cdiv(triangles, _FACES),)](
                    *buffers, *sizes, PASS=step, SMALL=_SMALL, BLOCK=_FACES, num_warps=_FACES // 32, **LAUNCH
                )
                _draw_large[shared](*buffers, *sizes, PASS=step, BLOCK=_PIXELS, **LAUNCH)
        if batch:
            _resolve[(batch * triton.cdiv(height * width, _PIXELS),)](
                vertices, faces, winner, face_index, barycentric, depth, count, height, width, BLOCK=_PIXELS, **LAUNCH
            )
    return face_index, barycentric, depth
