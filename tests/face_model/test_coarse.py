"""A coarser mesh of the same face model: the same small picture, lips and lids still apart."""

import torch
from toy_faces import some_faces

from mlanet_lib.face_model.coarse import coarse
from mlanet_lib.face_model.points import LABEL_SETS
from mlanet_lib.face_sources.ict.eyes import INSIDE
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face


def test_it_draws_nearly_the_same_small_picture(face_model):
    faces = some_faces(face_model)
    few = coarse(face_model, 4000)
    assert few.n_vertices == 4000 and 6000 < len(few.faces) < 8500
    drawn, expected = render_face(few, faces, 48), render_face(face_model, faces, 48)
    inside = drawn.mask * expected.mask
    difference = ((drawn.image - expected.image).abs() * inside).sum() / (3 * inside.sum())
    plain = render_face(coarse(face_model, 400), faces, 48)
    assert difference < 0.015 < ((plain.image - expected.image).abs() * inside).sum() / (3 * inside.sum())
    assert (drawn.mask != expected.mask).float().mean() < 0.003


def test_vertices_are_the_models_own_and_none_is_left_alone(face_model):
    few = coarse(face_model, 4000)
    distance, nearest = torch.cdist(few.mean, face_model.mean, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert distance.max() == 0 and len(nearest.unique()) == 4000
    assert torch.equal(few.identity_basis, face_model.identity_basis[nearest])
    assert len(few.faces.unique()) > 3980
    corners = few.faces.sort(1).values
    assert (corners[:, 1:] != corners[:, :-1]).all() and len(corners.unique(dim=0)) == len(corners)
    normals, expected = few.normals(few.mean[None])[0], face_model.normals(face_model.mean[None])[0][nearest]
    assert ((normals * expected).sum(1) > 0.5).float().mean() > 0.97  # the winding stays, too


def test_an_open_mouth_stays_open(face_model):
    """Through it one looks at tongue and gums, darker than the lips: merged lips would stretch skin across."""
    faces = FaceParameters.neutral(face_model).replace(rotation=euler_to_matrix(torch.zeros(1, 3)))
    opened = faces.expression.clone()
    opened[:, face_model.expression_names.index("jawOpen")] = 1.0
    faces = faces.replace(expression=opened)
    few = coarse(face_model, 4000)
    pictures = [render_face(m, faces, 48, shading=False).image[0] for m in (few, face_model)]
    tongue = torch.tensor(INSIDE["gums and tongue"]).mean()
    seen = ((pictures[1].mean(0) - tongue).abs() < 0.01) & (torch.arange(48)[:, None] > 28)
    assert seen.sum() > 60
    assert ((pictures[0].mean(0)[seen] - tongue).abs() < 0.02).float().mean() > 0.9
    closed = render_face(few, faces.replace(expression=0 * opened), 48, shading=False).image[0].mean(0)
    assert ((closed[seen] - tongue).abs() < 0.02).float().mean() < 0.3


def test_both_definitions_of_the_points_stay_near(face_model):
    few = coarse(face_model, 4000)
    for labels in LABEL_SETS:
        own, expected = (model.landmarks(model.mean[None], labels)[0] for model in (few, face_model))
        assert (own - expected).norm(dim=1).max() < 8 and (own - expected).norm(dim=1).mean() < 2.5
    assert not torch.equal(few.ibug_index, few.landmark_index)


def test_few_enough_already(toy_model):
    assert coarse(toy_model, 0) is toy_model and coarse(toy_model, toy_model.n_vertices) is toy_model
