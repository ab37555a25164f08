"""The front of the face: within the outline of jaw and forehead."""

import torch

from mlanet_lib.face_model.coarse import coarse
from mlanet_lib.face_model.front import front_faces
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import covered_by, render_face


def test_it_holds_eyes_nose_and_mouth_and_neither_ears_nor_neck(face_model):
    front = front_faces(face_model)
    assert front.shape == (len(face_model.faces),) and front.dtype == torch.bool
    middles = face_model.mean[face_model.faces.long()].mean(1)
    points = face_model.landmarks(face_model.mean[None], "ibug")[0]
    inner = points[[30, 33, 36, 45, 48, 54, 57]]
    nearest = torch.cdist(inner, middles).argmin(1)
    assert front[nearest].all()
    jaw = face_model.landmarks(face_model.mean[None])[0, :17]
    low, across = jaw[:, 1].min() - 2, jaw[:, 0].abs().max() + 2
    assert not front[middles[:, 1] < low].any() and not front[middles[:, 0].abs() > across].any()


def test_it_looks_alike_on_either_side_and_in_a_coarse_mesh(face_model):
    neutral, seen = FaceParameters.neutral(face_model), []
    for model in (face_model, coarse(face_model, 4000)):
        fragments = render_face(model, neutral, 112).fragments
        seen.append(covered_by(fragments, front_faces(model))[0, 0])
        drawn = fragments.face_index[0] >= 0
        assert 0.4 < seen[-1].sum() / drawn.sum() < 0.8
    whole, few = seen
    for other in (few, whole.flip(1)):
        assert (whole & other).sum() > 0.95 * (whole | other).sum()
