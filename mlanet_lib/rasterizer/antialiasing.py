"""Anti-aliased outlines: what gives a mesh's shape and pose gradients where one surface ends before another.

The analytic post-process of Laine et al. 2020 (Modular Primitives for High-Performance Differentiable Rendering,
section 3.4), in tensor operations for any device. Between the centres of two neighbouring pixels that show different
faces, the nearer one's surface may end at a silhouette edge: one that belongs to a single face, or to two that lie on
the same side of it in the picture. Where it ends, a share t of the way, says how much of the pixel that it ends in
each of the two colours covers, and t is differentiable in the edge's two vertices.

Other than in the paper, whose edges are those of the nearer pixel's own triangle, the surface is followed from
triangle to triangle until it ends, so that triangles smaller than a pixel, or foreshortened at the outline, have
edges too. What is thinner than the distance of the pixel centres stays unseen where it covers none: also a second
surface that goes on for a part of the way behind the end of the first, whose place the farther pixel's colour takes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_BORDER, _BRANCHING = -1, -2
_MARGIN = 0.01  # pixels


class HalfEdges(NamedTuple):
    """The half-edges of F triangles: 3 f + k runs from corner k of face f to its corner k + 1.

    begin: (3F,) the vertex at which each begins; following: (3F,) the next one around its face; opposite: (3F,) the one
    on the other side, -1 on a border and -2 where more than two faces meet; edge: (E,) one half-edge of each edge of
    one face or two; beside: (2, E) the faces there, of one twice; sign: (E,) of the product of the signed areas of two
    faces that lie on different sides of the edge: 1, or -1 where their windings differ; 0 on a border. All int64 but
    the sign (float32). Faces that name a vertex twice have no area and no neighbours.
    """

    begin: Tensor
    following: Tensor
    opposite: Tensor
    edge: Tensor
    beside: Tensor
    sign: Tensor


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # faces -> (version of their contents, half-edges)


def half_edges(faces: Tensor) -> HalfEdges:
    """The half-edges of faces (F, 3), integers of any winding; computed once per tensor."""
    version = None if faces.is_inference() else faces._version
    known = _known.get(faces)
    if known is None or known[0] != version:
        with torch.no_grad():
            known = _known[faces] = (version, _connect(faces))
    return known[1]


def antialias(
    image: Tensor, mask: Tensor, projected: Tensor, faces: Tensor, face_index: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Blend the pixels at the outlines of surfaces; differentiable in image, mask and projected.

    image: (B, C, H, W); mask: (B, 1, H, W), 1 where a face is and 0 elsewhere; projected: (B, V, 3) x, y in pixels,
    depth; faces: (F, 3); face_index, depth: (B, H, W) of the rasterizer. Returns image and mask with each pixel a
    convex mixture of its own old value and its four neighbours'. Edges steeper than 45 degrees move the values of
    horizontal neighbours and all others those of vertical ones: areas add up, and no |dt / dvertex| exceeds 1 a pixel.
    """
    near, far, share = _crossings(projected, faces, face_index, depth)
    batch, channels, height, width = image.shape
    values = torch.cat([image, mask], 1).permute(0, 2, 3, 1).reshape(-1, channels + 1)
    # the surface ends in the half of the way that belongs to the far pixel, or already in the near pixel's own
    beyond = share > 0.5
    blended, other = torch.where(beyond, far, near), torch.where(beyond, near, far)
    weight = torch.where(beyond, share - 0.5, 0.5 - share)  # abs would have no gradient half-way, where it has one
    total = torch.zeros_like(values[:, 0]).index_add(0, blended, weight).clamp(min=1.0)
    change = (weight / total[blended])[:, None] * (values[other] - values[blended])
    values = values.index_add(0, blended, change).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
    return values[:, :channels].contiguous(), values[:, channels:].contiguous()


def _crossings(projected: Tensor, faces: Tensor, face_index: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The P pairs of neighbouring pixels between whose centres the nearer one's surface ends.

    Returns the nearer and the farther pixel, (P,) indices into the flattened (B, H, W), and the share (P,) in [0, 1) of
    the way from one centre to the other at which it ends, differentiable in `projected`.
    """
    mesh = half_edges(faces)
    batch, height, width = face_index.shape
    with torch.no_grad():
        drawn = (projected[..., 2] > 0) & projected.isfinite().all(-1)
        points = projected[..., :2].masked_fill(~drawn[..., None], torch.nan)
        first, second, across = _pairs(points, mesh, height, width)
        face, depth = face_index.reshape(-1).long(), depth.reshape(-1)
        differ = face[first] != face[second]
        first, second, across = first[differ], second[differ], across[differ]
        swap = depth[second] < depth[first]
        near, far = torch.where(swap, second, first), torch.where(swap, first, second)
        picture, row, column = near // (height * width), near // width % height, near % width
        centre = torch.stack([column, row], -1).to(points.dtype) + 0.5
        centre = torch.where(across[:, None], centre, centre.flip(-1))
        points = points.reshape(-1, 2)
        # all points in each of the frames that rays along +x, -x, +y and -y have: u along the ray, v across it
        frames = torch.cat(
            [torch.stack([sign * u, v], -1) for u, v in (points.t(), points.t().flip(0)) for sign in (1, -1)]
        )
        offset = ((2 * (~across).long() + swap) * batch + picture) * projected.shape[1]
        origin = centre * torch.stack([torch.where(swap, -1, 1), torch.ones_like(near)], -1)
        pair, above, below = _ends(frames, mesh, face[near], origin, offset)
        above, below = above % len(points), below % len(points)
        dx, dy = (points[above] - points[below]).abs().unbind(-1)
        steep = torch.where(across[pair], dy >= dx, dx > dy)
        pair, above, below = pair[steep], above[steep], below[steep]
    ends = projected.reshape(-1, 3)[torch.stack([above, below]), :2]
    ends = torch.where(across[pair, None], ends, ends.flip(-1)) - centre[pair]
    return near[pair], far[pair], _crossing(*ends) * torch.where(swap[pair], -1, 1)


def _pairs(points: Tensor, mesh: HalfEdges, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of neighbouring pixels between whose centres any silhouette edge passes, seen or not.

    points: (B, V, 2), NaN where a vertex has no picture. Returns the left or upper pixel and the right or lower one,
    (P,) flat indices, and whether they lie in one row.
    """
    x, y = (part.index_select(1, mesh.begin).unflatten(1, (-1, 3)) for part in points.movedim(-1, 0).contiguous())
    dx, dy = x[..., 1:] - x[..., :1], y[..., 1:] - y[..., :1]
    side = (dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]).sign()
    one, other = (side.index_select(1, face) for face in mesh.beside)
    # also those of faces without area or without a picture, whose side is 0 or NaN
    picture, edge = (~(one * other * mesh.sign > 0)).nonzero(as_tuple=True)
    half = mesh.edge[edge]
    start, end = points[picture, mesh.begin[half]], points[picture, mesh.begin[mesh.following[half]]]
    dx, dy = (end - start).abs().unbind(-1)
    across = dy >= dx
    # u runs along the pairs, v counts the rows or columns of pixels whose centres the edge passes
    (u0, v0), (u1, v1) = (torch.where(across[:, None], p, p.flip(-1)).unbind(-1) for p in (start, end))
    low = (torch.minimum(v0, v1) - 0.5).floor().clamp(min=-1) + 1
    high = torch.minimum((torch.maximum(v0, v1) - 0.5).floor(), torch.where(across, height, width) - 1)
    count = torch.where(high >= low, high - low + 1, 0).long()
    one = torch.arange(len(count), device=count.device).repeat_interleave(count)
    line = torch.arange(len(one), device=one.device) - (count.cumsum(0) - count)[one] + low[one].long()
    place = u0[one] + (line + 0.5 - v0[one]) * ((u1 - u0) / (v1 - v0))[one] - 0.5
    # at a centre the pairs on both sides of it, since rounding may put the edge into either
    place = torch.cat([place - _MARGIN, place + _MARGIN]).floor()
    one, line = one.repeat(2), line.repeat(2)
    inside = (place >= 0) & (place < torch.where(across, width, height)[one] - 1)
    one, line, place = one[inside], line[inside], place[inside].long()
    across = across[one]
    first = (picture[one] * height + torch.where(across, line, place)) * width + torch.where(across, place, line)
    key = torch.unique(2 * first + across)
    first, across = key // 2, key % 2 == 1
    return first, first + torch.where(across, 1, width), across


def _ends(points: Tensor, mesh: HalfEdges, face: Tensor, origin: Tensor, offset: Tensor) -> Tensor:
    """Follow surfaces along rays to the silhouette edges, before u = 1, where they end.

    points: (N, 2), u along the ray and v across it; face: (P,) in which each ray begins; origin: (P, 2) where; offset:
    (P,) from a mesh's vertices to `points`. A ray enters and leaves a triangle through two edges with one vertex at
    v >= 0 (above) and one at v < 0 (below); the third vertex takes the place of the one on its own side. A surface ends
    at a border, at a face that is not drawn, and where it folds: where the next face is left at a smaller u than it is
    entered. Returns (3, Q): the rays that end, and both vertices of the edge, indices into `points`.
    """
    # the edge through which each ray leaves its first triangle: the last of the two that it crosses
    half = 3 * face[:, None] + torch.arange(3, device=face.device)
    begin = mesh.begin[half] + offset[:, None]
    end = begin.roll(-1, 1)
    upper = points[begin] - origin[:, None]
    lower = upper.roll(-1, 1)
    down, up = upper[..., 1] < 0, lower[..., 1] >= 0
    u = torch.where(down == up, _crossing(upper, lower), -torch.inf)
    last = u.argmax(1, keepdim=True)
    half, begin, end, u, down = (part.gather(1, last)[:, 0] for part in (half, begin, end, u, down))
    upper, lower = (part.take_along_dim(last[..., None], 1)[:, 0] for part in (upper, lower))
    ids = torch.stack([torch.where(down, end, begin), torch.where(down, begin, end)])
    edge = torch.stack([torch.where(down[:, None], lower, upper), torch.where(down[:, None], upper, lower)])
    pair = torch.arange(len(face), device=face.device)
    found = [torch.cat([pair[None], ids])[:, :0]]
    going = u.isfinite() & (u < 1)
    while len(keep := going.nonzero()[:, 0]):
        pair, half, u, origin, offset = (part[keep] for part in (pair, half, u, origin, offset))
        ids, edge = ids[:, keep], edge[:, keep]
        across = mesh.opposite[half]
        second = mesh.following[across]
        third = mesh.following[second]
        vertex = mesh.begin[third] + offset
        point = points[vertex] - origin
        place = torch.stack([up := point[:, 1] >= 0, ~up])
        next_ids, next_edge = torch.where(place, vertex, ids), torch.where(place[..., None], point, edge)
        next_u = _crossing(*next_edge)
        onward = next_u >= u  # not so either where it is NaN, since the vertex has no picture
        ended = (across == _BORDER) | ((across >= 0) & ~onward)
        found.append(torch.cat([pair[None], ids])[:, ended])
        # out of the next face between its second and third vertex where these lie on different sides
        half = torch.where((mesh.begin[second] + offset == ids[0]) != up, second, third)
        going = (across >= 0) & onward & (next_u < 1)
        ids, edge, u = next_ids, next_edge, next_u
    return torch.cat(found, 1)


def _crossing(first: Tensor, second: Tensor) -> Tensor:
    """Where the lines through points (..., 2) of different signs of v cross v = 0: u (...)."""
    (u0, v0), (u1, v1) = first.unbind(-1), second.unbind(-1)
    return (u1 * v0 - u0 * v1) / (v0 - v1)


def _connect(faces: Tensor) -> HalfEdges:
    """`half_edges`, computed."""
    begin = faces.reshape(-1).to(torch.int64, copy=True)  # not a view, which would keep `faces` alive
    end = faces.roll(-1, 1).reshape(-1).long()
    opposite = torch.full_like(begin, _BORDER)
    whole = (faces != faces.roll(-1, 1)).all(1).repeat_interleave(3).nonzero()[:, 0]
    low, high = torch.minimum(begin, end)[whole], torch.maximum(begin, end)[whole]
    key, order = torch.sort(low * (begin.amax() + 1 if len(begin) else 1) + high)
    half = whole[order]
    _, edge, count = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    count = count[edge]
    opposite[half[count > 2]] = _BRANCHING
    single, double = half[count == 1], half[count == 2].reshape(-1, 2).t()
    opposite[double] = double.flip(0)
    sign = torch.where(begin[double[0]] == begin[double[1]], -1.0, 1.0)
    half = torch.arange(len(begin), device=begin.device)
    return HalfEdges(
        begin,
        torch.where(half % 3 == 2, half - 2, half + 1),
        opposite,
        torch.cat([double[0], single]),
        torch.cat([double, single.expand(2, -1)], 1) // 3,
        torch.cat([sign, sign.new_zeros(len(single))]),
    )
