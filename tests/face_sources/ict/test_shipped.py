"""The default face model: a head by its numbers; that it looks like one is for the eye (benchmarks/face_model.py)."""

import numpy as np
import pytest
import torch

from mlanet_lib.face_model.points import landmark_twins
from mlanet_lib.face_sources.ict import build
from mlanet_lib.face_sources.ict.head import SKIN
from mlanet_lib.geometry.surface import Surface

SETS = ("3ddfa", "ibug")


def shape(model, identity=None, **expressions):
    """(1,V,3) mm of one face."""
    a = torch.zeros(1, model.n_identity) if identity is None else identity
    e = torch.zeros(1, model.n_expression)
    for name, activation in expressions.items():
        e[0, model.expression_names.index(name)] = activation
    return model.vertices(a, e)


def landmarks(model, labels="3ddfa", **expressions):
    return model.landmarks(shape(model, **expressions), labels)[0].double().numpy()


def gap(points, upper, lower):
    return points[upper, 1].mean() - points[lower, 1].mean()


def test_mesh_is_clean(face_model):
    faces, mean = face_model.faces.numpy(), face_model.mean.double().numpy()
    assert len(np.unique(np.sort(faces, 1), axis=0)) == len(faces)
    directed = faces[(faces < SKIN).all(1)][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    assert len(np.unique(directed, axis=0)) == len(directed), "an edge is walked twice in one direction: mixed winding"
    normals = face_model.normals(face_model.mean[None])[0].numpy()
    skull = np.flatnonzero((mean[:SKIN, 1] > 60) & (np.abs(mean[:SKIN, 0]) < 80))
    assert (((mean[skull] - [0, 40, 10]) * normals[skull]).sum(1) > 0).all()
    assert normals[face_model.landmark_index[30, 0], 2] > 0.7


@pytest.mark.parametrize("labels", SETS)
def test_points_keep_their_order_on_the_skin(face_model, labels):
    points = landmarks(face_model, labels)
    x, y, z = points.T
    gap = {"3ddfa": 4.0, "ibug": 2.5}[labels]  # mm; 3DDFA's points of the inner lips are apart where mouths are closed
    assert (np.diff(x[:17]) > 0).all() and (np.diff(x[17:27]) > 0).all()  # from the subject's right to the left
    assert (np.diff(y[27:31]) < 0).all() and y[8] == y.min() and z[30] == z.max()
    assert y[17:27].min() > y[36:48].max() > y[33] > y[51] > y[57] > y[8]
    assert y[51] > y[62] > y[57] and y[51] > y[66] > y[57] and abs(y[62] - y[66]) < gap  # closed lips
    assert x[36] < x[39] < 0 < x[42] < x[45] and x[48] < x[60] < x[64] < x[54]
    skin = face_model.faces.numpy()
    surface = Surface(face_model.mean.double().numpy(), skin[(skin < SKIN).all(1)])
    assert surface.closest(points).distances.max() < 2e-3
    assert np.abs(points - points[landmark_twins()] * [-1, 1, 1]).max() < 0.1


def test_points_are_those_of_the_table(face_model):
    for labels, index in zip(SETS, (face_model.landmark_index, face_model.ibug_index), strict=True):
        at = build.points(labels)
        assert np.array_equal(at.number, np.arange(68)) and np.array_equal(at.index, index.numpy())
    assert len(build.points("london").number) == 145
    with pytest.raises(ValueError, match="no set 'nobody'"):
        build.points("nobody")


def test_proportions_are_human(face_model):
    """Against the ranges that Farkas (1994) gives for adults, widely taken; iBUG's points lie where people put them."""
    p = landmarks(face_model, "ibug")
    eyes = p[45, 0] - p[36, 0]
    assert 0.34 < (p[42, 0] - p[39, 0]) / eyes < 0.45 and 0.5 < (p[54, 0] - p[48, 0]) / eyes < 0.66
    assert 1.15 < (p[27, 1] - p[8, 1]) / eyes < 1.5 and 0.48 < (p[27, 1] - p[33, 1]) / eyes < 0.66


def test_the_head_is_as_large_as_heads_are(face_model):
    p = landmarks(face_model, "ibug")
    assert 80 < p[45, 0] - p[36, 0] < 105 and 28 < p[42, 0] - p[39, 0] < 42 and 100 < p[27, 1] - p[8, 1] < 135  # mm


def test_expressions_do_what_they_are_called(face_model):
    rest = landmarks(face_model, "ibug")

    def moved(**activations):
        return landmarks(face_model, "ibug", **activations) - rest

    lips, left, right = ([61, 62, 63], [67, 66, 65]), ([43, 44], [47, 46]), ([37, 38], [41, 40])
    assert gap(landmarks(face_model, "ibug", jawOpen=1), *lips) > 20 and abs(gap(rest, *lips)) < 1.5
    assert moved(jawOpen=1)[8, 1] < -15
    for name, closing, other in (("eyeBlinkLeft", left, right), ("eyeBlinkRight", right, left)):
        blink = landmarks(face_model, "ibug", **{name: 1.0})
        assert gap(rest, *closing) > 6 and gap(blink, *closing) < 3
        assert abs(gap(blink, *other) - gap(rest, *other)) < 0.2
    smile = moved(mouthSmileLeft=1)
    assert smile[54, 0] > 3 and smile[54, 1] > 3 and np.abs(smile[48]).max() < 1.5
    assert moved(mouthFrownLeft=1)[54, 1] < -2 and moved(jawLeft=1)[8, 0] > 2 and moved(jawRight=1)[8, 0] < -2
    pucker = landmarks(face_model, "ibug", mouthPucker=1)
    assert pucker[54, 0] - pucker[48, 0] < rest[54, 0] - rest[48, 0] - 8
    assert moved(browOuterUpLeft=1)[25, 1] > 2 and moved(browDownRight=1)[20, 1] < -1.5


def test_every_expression_is_named_by_arkit_and_visible(face_model):
    reach = face_model.expression_basis.norm(dim=1).amax(0)
    for name, size in zip(face_model.expression_names, reach.tolist(), strict=True):
        other = name.replace("Left", "#").replace("Right", "Left").replace("#", "Right")
        assert 0.5 < size < 60 and name[0].islower() and "_" not in name, (name, size)
        assert other in face_model.expression_names


def test_albedo_is_a_face_with_eyes_between_the_lids(face_model):
    points, albedo = face_model.mean.double().numpy(), face_model.albedo_mean.numpy()
    assert albedo.min() >= 0 and albedo.max() <= 1

    def colour(places):
        return albedo[[((points[:SKIN] - place) ** 2).sum(1).argmin() for place in np.atleast_2d(places)]].mean(0)

    marks = landmarks(face_model, "ibug")
    cheek, forehead = colour(marks[[31, 35]] + [[-25, 0, 0], [25, 0, 0]]), colour(marks[27] + [0, 25, 0])
    lip, brow = colour((marks[[50, 52, 57]] + marks[[61, 63, 66]]) / 2), colour(marks[[19, 24]])
    assert cheek[0] > cheek[1] > cheek[2] and np.abs(cheek - forehead).max() < 0.15
    assert lip[0] / lip[1] > cheek[0] / cheek[1] * 1.05 and brow.mean() < 0.9 * forehead.mean()
    for rim in (marks[36:42], marks[42:48]):
        near = SKIN + np.flatnonzero(np.linalg.norm(points[SKIN:] - rim.mean(0), axis=1) < 9)
        pupil = near[albedo[near].mean(1) < 0.1]
        assert len(pupil) and np.abs((points[pupil].mean(0) - rim.mean(0))[:2]).max() < 4  # between the lids
        assert albedo[near].mean(1).max() > 0.45  # the sclera
