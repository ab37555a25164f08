"""Wavefront OBJ from bytes, fast, for meshes of a known topology; `datasets.wavefront.read_obj` reads any scan's."""

import numpy as np

from mlanet_lib.errors import UserError


def vertices(content: bytes, name: str, count: int) -> np.ndarray:
    """(count,3) float64 vertices of an OBJ's bytes, in its unit. Another number of them, or what is no finite number,
    is a UserError that starts with `name`."""
    lines = [line for line in content.split(b"\n") if line.startswith(b"v ")]
    if len(lines) != count:
        raise UserError(f"{name}: {len(lines):,} vertices instead of {count:,}")
    try:
        points = np.loadtxt(lines, comments=None, usecols=(1, 2, 3), ndmin=2)
    except ValueError as error:
        raise UserError(f"{name}: a vertex is not three numbers ({error})") from error
    if not np.isfinite(points).all():
        raise UserError(f"{name}: vertex {np.flatnonzero(~np.isfinite(points).all(1))[0] + 1} is not finite")
    return points


def polygons(content: bytes, name: str, count: int) -> tuple[list[list[int]], np.ndarray]:
    """Triangles and quads of an OBJ's bytes, as lists of vertices from 0, and uv (count,2).

    The uv of a vertex with several is that in the first polygon with it. Other polygons, corners without UV, indices
    out of range and vertices in no polygon are a UserError that starts with `name`.
    """
    lines = content.split(b"\n")
    found, uv = [], np.full((count, 2), np.nan)
    try:
        textures = [line for line in lines if line.startswith(b"vt ")]
        if not textures:
            raise ValueError("no line vt")
        maps = np.loadtxt(textures, comments=None, usecols=(1, 2), ndmin=2)
        for line in lines:
            if line.startswith(b"f "):
                corners = [tuple(map(int, word.split(b"/")[:2])) for word in line.split()[1:]]
                if len(corners) not in (3, 4) or min(map(min, corners)) < 1:
                    raise ValueError(f"polygon {line[:60]!r}")
                found.append([vertex - 1 for vertex, _ in corners])
                for vertex, texture in corners:
                    if np.isnan(uv[vertex - 1, 0]):
                        uv[vertex - 1] = maps[texture - 1]
    except (ValueError, IndexError) as error:
        raise UserError(f"{name}: not triangles and quads with UVs ({error})") from error
    if not np.isfinite(uv).all():
        raise UserError(f"{name}: vertices that are in no polygon, or UVs that are not finite")
    return found, uv


def split_quads(points: np.ndarray, polygons: list[list[int]]) -> np.ndarray:
    """(F,3) triangles in the polygons' order and winding; a quad is cut along the diagonal that bends it least."""
    corners = np.array([[*polygon, -1][:4] for polygon in polygons])
    quad = corners[:, 3] >= 0
    a, b, c, d = corners.T
    first = np.stack([np.stack([a, b, c], 1), np.stack([a, c, d], 1)], 1)
    second = np.stack([np.stack([a, b, d], 1), np.stack([b, c, d], 1)], 1)
    bend = [(normals(points, pair[:, 0]) * normals(points, pair[:, 1])).sum(1) for pair in (first, second)]
    triangles = np.where((~quad | (bend[0] >= bend[1] - 1e-9))[:, None, None], first, second)
    return triangles.reshape(-1, 3)[np.stack([np.ones_like(quad), quad], 1).reshape(-1)]


def normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(F,3) unit normals, zero where a triangle has no area."""
    a, b, c = points[triangles].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
