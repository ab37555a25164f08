"""A face model with fewer vertices, for small pictures: the same faces, a mesh no finer than needed."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.face_model.points import farthest_points
from mlanet_lib.geometry.mesh import edges

_PER_VERTEX = ("mean", "identity_basis", "expression_basis", "albedo_mean", "albedo_basis", "uv")
_COLOUR = 100.0  # mm that a difference of 1 in albedo counts: eyes, lips and brows keep more vertices than cheeks


def coarse(model: MorphableModel, count: int) -> MorphableModel:
    """The model on `count` of its own vertices, evenly spread over the mean face and its colours; itself for 0 or all.

    Coefficients mean the same. Every vertex is assigned to the kept one that is nearest along the surface (not through
    space, so that lips and lids stay apart). Triangles remain if their corners belong to three different kept vertices.
    Landmarks are the kept vertices nearest to them: good for drawing, not for measuring.
    """
    if count <= 0 or count >= model.n_vertices:
        return model
    mean, faces = model.mean.detach().cpu().double().numpy(), model.faces.cpu().numpy()
    colour = model.albedo_mean.detach().cpu().double().numpy()
    kept = np.sort(farthest_points(np.concatenate([mean, _COLOUR * colour], 1), count))
    cell = cells(mean, faces, kept)
    corners = joined(faces, cell)
    contents = model.contents()
    smaller = {name: value[kept] for name, value in contents.items() if name in _PER_VERTEX}
    points: dict[str, np.ndarray] = {}
    for name in ("landmark", "ibug") if "ibug_index" in contents else ("landmark",):
        index, weights = (getattr(model, f"{name}_{field}").cpu().numpy() for field in ("index", "weights"))
        nearest = cell[index[np.arange(68), weights.argmax(1)]]
        points |= {f"{name}_index": np.repeat(nearest[:, None], 3, 1), f"{name}_weights": np.tile([1, 0, 0], (68, 1))}
    return model.replace(**smaller, **points, faces=corners).to(model.mean)


def cells(points: np.ndarray, faces: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(V,) for each vertex of points (V, 3) the place in `kept` (N,), sorted, of the kept vertex that is nearest along
    the surface; the last one where none is reached (such vertices are in no face with a kept one)."""
    a, b = edges(faces).T
    length = np.linalg.norm(points[a] - points[b], axis=1)
    graph = coo_matrix((length, (a, b)), shape=(len(points), len(points)))
    _, _, source = dijkstra(graph, directed=False, indices=kept, return_predecessors=True, min_only=True)
    return np.searchsorted(kept, source).clip(0, len(kept) - 1)  # unreachable: -9999


def joined(faces: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """(F', 3) the faces (F, 3) between three different cells, each once, as triangles of cells: the cells' dual."""
    corners = cell[faces]
    corners = corners[(corners != np.roll(corners, 1, axis=1)).all(1)]
    _, first = np.unique(np.sort(corners, axis=1), axis=0, return_index=True)
    return corners[np.sort(first)]
