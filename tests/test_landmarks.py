"""Where the 68 points sit: on the surface, alike on both sides, near where anatomy has them, where the table says."""

import numpy as np
import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import landmark_twins
from mlanet_lib.face_models import anthropometric, landmarks
from mlanet_lib.fitting import landmark_basis
from mlanet_lib.surface import Surface


@pytest.fixture(scope="module")
def anatomical():
    return anthropometric.build(calibrated=False)


def test_the_built_model_has_the_tables_points_on_its_surface(face_model, anatomical):
    points, _ = landmark_basis(face_model)
    assert np.abs(points - landmarks.load("anthropometric")).max() < 0.02
    surface = Surface(face_model.mean.double().numpy(), face_model.faces.numpy())
    assert surface.closest(points).distances.max() < 1e-4
    assert np.abs(points - points[landmark_twins()] * [-1, 1, 1]).max() < 0.05
    moved = np.linalg.norm(points - landmark_basis(anatomical)[0], axis=1)
    assert 1 < moved.mean() < 6 and moved.max() < landmarks.REACH
    assert face_model.points_between and not anatomical.points_between
    assert np.array_equal(face_model.mean, anatomical.mean)


def test_points_keep_their_order_on_the_face(face_model):
    points, _ = landmark_basis(face_model)
    x, y = points[:, 0], points[:, 1]
    assert (np.diff(x[:17]) > 0).all() and (np.diff(x[17:27]) > 0).all()  # from the subject's right to the left
    assert (np.diff(y[27:31]) < 0).all() and y[8] == y[:68].min()
    assert y[17:27].min() > y[36:48].max() > y[33] > y[51] > y[62] > y[66] > y[57] > y[8]
    assert x[36] < x[39] < 0 < x[42] < x[45] and x[48] < x[60] < x[64] < x[54]


def test_a_patch_stays_on_the_skin(anatomical):
    """Around the lids no triangle of an eyeball, around the lips no teeth."""
    mean = anatomical.mean.double().numpy()
    for point in (37, 44, 62, 66):
        triangles = landmarks.patch(anatomical, point)
        edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
        group = {int(v): int(v) for v in np.unique(triangles)}

        def root(v, group=group):
            while group[v] != v:
                v = group[v]
            return v

        for a, b in edges.tolist():
            group[root(a)] = root(b)
        assert len({root(v) for v in group}) == 1
        assert (
            np.linalg.norm(mean[np.unique(triangles)] - mean[anatomical.landmark_index[point, 0]], axis=1).max() <= 12
        )


def test_points_of_an_unknown_model_are_refused():
    with pytest.raises(UserError, match="no points for the face model 'nobody'"):
        landmarks.load("nobody")
