"""Normals, areas, edges and borders of triangle meshes. points: (V, 3) in any unit; faces: (F, 3) indices."""

import numpy as np


def crossed(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) normals of faces, as long as twice their areas."""
    a, b, c = points[faces].transpose(1, 0, 2)
    return np.cross(b - a, c - a)


def face_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) unit normals, zero where a face has no area."""
    return _unit(crossed(points, faces))


def vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals: the area-weighted mean of the faces around each vertex."""
    normals, summed = crossed(points, faces), np.zeros_like(points)
    for corner in range(3):
        np.add.at(summed, faces[:, corner], normals)
    return _unit(summed)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def areas(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) areas in squared units of the points."""
    return 0.5 * np.linalg.norm(crossed(points, faces), axis=1)


def edges(faces: np.ndarray) -> np.ndarray:
    """(E, 2) the edges of the faces, each once, the smaller vertex first, in order."""
    return np.unique(np.sort(_directed(faces), axis=1), axis=0)


def borders(faces: np.ndarray) -> list[np.ndarray]:
    """The open borders of a surface of consistently wound triangles, each as vertices (N,) in their order."""
    whole = {(a, b) for a, b in _directed(faces).tolist()}
    following, found = {a: b for a, b in whole if (b, a) not in whole}, []
    while following:
        border = [min(following)]
        while (ahead := following.pop(border[-1])) != border[0]:
            border.append(ahead)
        found.append(np.array(border))
    return found


def _directed(faces: np.ndarray) -> np.ndarray:
    return faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
