"""Appearance of one face model carried over to another that has none."""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mlanet_lib.alignment import similarity
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.surface import Surface


def albedo(
    source: MorphableModel, mean: np.ndarray, landmarks: np.ndarray, faces: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Albedo of `source` at the vertices of another mean face: (V,3) display-encoded RGB and modes (V,3,Ka).

    mean: (V,3), any unit and frame; landmarks: (68,3), the same face's Multi-PIE points. A similarity brings the points
    onto the source's (Umeyama 1991); there each vertex takes what the source has at the nearest point of its mean
    surface, interpolated in the triangle. faces: (F,3), the part of the source's triangles that may give colours
    (`parts`), else all. Not finite or collinear points are a ValueError.
    """
    own = source.mean.double()
    to_source = similarity(landmarks, source.landmarks(own[None])[0].numpy())
    faces = source.faces.numpy() if faces is None else np.asarray(faces)
    nearest = Surface(own.numpy(), faces).closest(to_source.apply(mean))
    corners, weights = faces[nearest.face_index], nearest.barycentric
    colour = np.einsum("vk,vkc->vc", weights, source.albedo_mean.double().numpy()[corners])
    modes = np.zeros((*colour.shape, source.n_albedo))
    for corner in range(3):
        modes += weights[:, corner, None, None] * source.albedo_basis.double().numpy()[corners[:, corner]]
    return colour, modes


def parts(source: MorphableModel) -> list[np.ndarray]:
    """The triangles (F,3) of each connected part of a model, that with the most first: the skin before eyes, teeth."""
    faces = source.faces.numpy()
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(source.n_vertices,) * 2)
    labels = connected_components(graph, directed=False)[1][faces[:, 0]]
    names, counts = np.unique(labels, return_counts=True)
    return [faces[labels == name] for name in names[np.argsort(-counts, kind="stable")]]
