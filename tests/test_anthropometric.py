"""The anthropometric face model: a face by its numbers; that it looks like one is for the eye (README's picture)."""

import numpy as np
import pytest
import torch

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_models import anthropometric, semilandmarks
from mlanet_lib.face_models.appearance import MODES
from mlanet_lib.face_models.identity import measured_statistics, mode_names
from mlanet_lib.face_models.measures import MEASURES
from mlanet_lib.face_models.parts import EYE_CENTRE, EYE_RADIUS


def shape(model, identity=None, **expressions):
    """(V,3) float64 mm of one face."""
    a = torch.zeros(1, model.n_identity) if identity is None else identity
    e = torch.zeros(1, model.n_expression)
    for name, activation in expressions.items():
        e[0, model.expression_names.index(name)] = activation
    return model.vertices(a, e)[0].double().numpy()


def landmarks(model, **kwargs):
    return model.landmarks(torch.as_tensor(shape(model, **kwargs))[None])[0].numpy()


@pytest.fixture(scope="module")
def face_model():
    """With the 68 points on lids, lips and brows as anatomy has them; where photos have them: test_landmarks."""
    return anthropometric.build(calibrated=False)


@pytest.fixture(scope="module")
def twin(face_model):
    """(V,) the vertex at each vertex's mirror image."""
    from scipy.spatial import cKDTree

    mean = face_model.mean.numpy()
    distance, index = cKDTree(mean).query(mean * [-1, 1, 1])
    assert distance.max() < 1e-3
    return index


def test_counts(face_model):
    assert 8000 <= face_model.n_vertices <= 12000
    assert face_model.n_identity >= 40 and face_model.n_expression >= 20 and face_model.n_albedo >= 10
    assert face_model.n_identity == len(mode_names()) and face_model.n_albedo == len(MODES)
    assert face_model.faces.unique().numel() == face_model.n_vertices


def test_building_again_gives_the_same_bits(face_model, tmp_path):
    again = anthropometric.build(calibrated=False)
    assert again.fingerprint == face_model.fingerprint
    again.save(tmp_path / "model.npz")
    assert MorphableModel.load(tmp_path / "model.npz").fingerprint == face_model.fingerprint
    assert (tmp_path / "model.npz").stat().st_size < 9e6


def test_mean_and_symmetric_modes_are_mirror_images(face_model, twin):
    mean, basis = face_model.mean.numpy(), face_model.identity_basis.numpy()
    np.testing.assert_allclose(mean[twin] * [-1, 1, 1], mean, atol=1e-3)
    for k, name in enumerate(mode_names()):
        sign = -1 if name.startswith("asymmetric") else 1
        np.testing.assert_allclose(sign * basis[twin, :, k] * [-1, 1, 1], basis[:, :, k], atol=0.02, err_msg=name)
    albedo = face_model.albedo_mean.numpy()
    assert np.abs(albedo[twin] - albedo).mean() < 1e-3


def test_expressions_of_the_two_sides_are_mirror_images(face_model, twin):
    basis = face_model.expression_basis.numpy()
    names = face_model.expression_names
    for k, name in enumerate(names):
        other = names.index(semilandmarks.other_side(name))
        np.testing.assert_allclose(basis[twin, :, k] * [-1, 1, 1], basis[:, :, other], atol=0.05, err_msg=name)


def test_mesh_is_clean(face_model):
    faces, mean = face_model.faces.numpy(), face_model.mean.double().numpy()
    a, b, c = mean[faces].transpose(1, 0, 2)
    assert (np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2).min() > 1e-3
    assert len(np.unique(np.sort(faces, 1), axis=0)) == len(faces)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(np.unique(directed, axis=0)) == len(directed), "an edge is walked twice in one direction: mixed winding"


def test_normals_point_out_of_the_head(face_model):
    mean = face_model.mean[None]
    normals = face_model.normals(mean)[0].numpy()
    vertices = mean[0].numpy()
    skull = (vertices[:, 1] > 60) & (np.abs(vertices[:, 0]) < 80)
    outwards = ((vertices - [0, 40, 10]) * normals).sum(1)
    assert (outwards[skull] > 0).all()
    assert normals[face_model.landmark_index[[27, 30, 51, 57, 8], 0].numpy(), 2].min() > 0.2
    tip = np.linalg.norm(vertices - EYE_CENTRE, axis=1) < EYE_RADIUS + 0.01
    eye = tip & (vertices[:, 2] > EYE_CENTRE[2] + 14.5)
    assert normals[eye, 2].min() > 0.9


def test_landmarks_stand_where_multi_pie_has_them(face_model):
    points = landmarks(face_model)
    x, y, z = points.T
    assert (np.diff(x[:17]) > 0).all(), "the jaw runs from the subject's right to the left"
    assert y[8] == y.min() and y[0] > y[4] > y[8] < y[12] < y[16]
    assert (np.diff(x[17:27]) > 0).all() and (y[17:27] > y[36:48].max()).all()
    assert (np.diff(y[27:31]) < 0).all() and z[30] == z.max()
    assert (np.diff(x[31:36]) > 0).all()
    assert x[36] < x[37] < x[38] < x[39] < 0 < x[42] < x[43] < x[44] < x[45]
    assert y[37] > y[41] and y[38] > y[40] and y[43] > y[47] and y[44] > y[46]
    assert (np.diff(x[48:55]) > 0).all() and (np.diff(x[54:60]) < 0).all()
    assert y[51] > y[62] > y[66] > y[57] and (np.diff(x[60:65]) > 0).all()
    twins = anthropometric.landmark_twins()
    np.testing.assert_allclose(points[twins] * [-1, 1, 1], points, atol=1e-3)


def test_proportions_are_human(face_model):
    """Against the ranges that Farkas (1994) gives for adults, widely taken."""
    p = landmarks(face_model)
    width = {"biocular": (36, 45), "intercanthal": (39, 42), "mouth": (48, 54)}
    size = {name: p[b, 0] - p[a, 0] for name, (a, b) in width.items()}
    assert 80 < size["biocular"] < 100 and 28 < size["intercanthal"] < 40 and 45 < size["mouth"] < 58
    assert 100 < p[27, 1] - p[8, 1] < 130 and 45 < p[27, 1] - p[33, 1] < 60


def measure(model, vertices, skin_labels):
    values = []
    for first, second, axis in MEASURES.values():
        values.append(vertices[skin_labels(first), axis] - vertices[skin_labels(second), axis])
    return np.array(values)


@pytest.fixture(scope="module")
def point(face_model):
    """name of a measuring point -> vertex: the vertex at the table's place."""
    table = semilandmarks.load()
    mean = face_model.mean.numpy()

    def find(name):
        place = table.mean[table.labels[name.rstrip("~")]] * ([-1, 1, 1] if name.endswith("~") else [1, 1, 1])
        return int(((mean - place) ** 2).sum(1).argmin())

    return find


def test_measures_spread_as_they_were_measured(face_model, point):
    """Together the modes give each measure its standard deviation, and each measure moves most with its own mode."""
    sd, correlation = measured_statistics()
    neutral = measure(face_model, shape(face_model), point)
    effect = np.stack(
        [
            measure(face_model, shape(face_model, torch.eye(face_model.n_identity)[[k]]), point) - neutral
            for k in range(face_model.n_identity)
        ],
        1,
    )
    # the eyelids glide over the eyeball instead of following the prior, which touches the measures beside the eyes
    free = [
        k
        for k, name in enumerate(MEASURES)
        if not name.startswith(("eye", "brow", "canthal", "nas", "nose_br", "int", "bio"))
    ]
    covariance = effect @ effect.T
    np.testing.assert_allclose(np.sqrt(np.diag(covariance))[free], sd[free], rtol=0.05)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), sd, rtol=0.35)
    seen = covariance / np.outer(np.sqrt(np.diag(covariance)), np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(seen[np.ix_(free, free)], correlation[np.ix_(free, free)], atol=0.06)
    for k, name in enumerate(MEASURES):
        assert effect[k, k] > 0.5 * sd[k], name
        assert effect[k, : len(MEASURES)].argmax() == k, name


def test_identities_do_not_move_the_head_as_a_whole(face_model):
    basis, mean = face_model.identity_basis.numpy(), face_model.mean.numpy()
    face = mean[:, 2] > 60
    assert np.abs(basis[face].mean(0)).max() < 0.5


def test_lids_stay_on_the_eyeball_for_every_identity(face_model):
    generator = torch.Generator().manual_seed(1)
    mean = face_model.mean.numpy()
    eye = face_model.n_vertices - 2 * 6 * 33 - 2 * 393 + np.arange(393)
    np.testing.assert_allclose(np.linalg.norm(mean[eye] - EYE_CENTRE, axis=1), EYE_RADIUS, atol=1e-3)
    rim = np.array([36, 37, 38, 39, 40, 41]) + 6
    before = np.linalg.norm(landmarks(face_model)[rim] - EYE_CENTRE, axis=1)
    for _ in range(20):
        vertices = shape(face_model, torch.randn(1, face_model.n_identity, generator=generator))
        centre = EYE_CENTRE + (vertices[eye] - mean[eye]).mean(0)
        after = np.linalg.norm(vertices[face_model.landmark_index[rim, 0].numpy()] - centre, axis=1)
        assert np.abs(after - before).max() < 1.5


def gap(points, upper, lower):
    return points[upper, 1].mean() - points[lower, 1].mean()


def test_expressions_do_what_they_are_called(face_model):
    rest = landmarks(face_model)

    def moved(**activations):
        return landmarks(face_model, **activations) - rest

    lips = ([61, 62, 63], [67, 66, 65])
    assert gap(landmarks(face_model, jawOpen=1), *lips) > 20
    assert 0 <= gap(rest, *lips) < 1
    assert moved(jawOpen=1)[8, 1] < -15
    left, right = ([43, 44], [47, 46]), ([37, 38], [41, 40])
    for name, closing, other in (("eyeBlinkLeft", left, right), ("eyeBlinkRight", right, left)):
        blink = landmarks(face_model, **{name: 1.0})
        assert gap(rest, *closing) > 6 and gap(blink, *closing) < 1.5
        assert abs(gap(blink, *other) - gap(rest, *other)) < 0.2
    assert gap(landmarks(face_model, eyeWideLeft=1), *left) > gap(rest, *left) + 1
    assert gap(landmarks(face_model, eyeSquintRight=1), *right) < gap(rest, *right) - 0.5
    smile = moved(mouthSmileLeft=1)
    assert smile[54, 0] > 3 and smile[54, 1] > 3 and np.abs(smile[48]).max() < 1.5
    assert moved(mouthSmileRight=1)[48, 0] < -3
    assert moved(mouthFrownLeft=1)[54, 1] < -2
    assert moved(mouthStretchRight=1)[48, 0] < -2
    pucker = landmarks(face_model, mouthPucker=1)
    assert pucker[54, 0] - pucker[48, 0] < rest[54, 0] - rest[48, 0] - 8
    assert gap(landmarks(face_model, mouthFunnel=1), *lips) > 4
    assert moved(jawLeft=1)[8, 0] > 2 and moved(jawRight=1)[8, 0] < -2 and moved(jawForward=1)[8, 2] > 2
    assert moved(mouthLeft=1)[62, 0] > 3 and moved(mouthRight=1)[62, 0] < -3
    assert moved(browInnerUp=1)[[21, 22], 1].min() > 2
    assert moved(browOuterUpLeft=1)[25, 1] > 2 and moved(browDownRight=1)[20, 1] < -1.5
    assert moved(mouthUpperUpLeft=1)[52, 1] > 2 and moved(mouthLowerDownRight=1)[58, 1] < -2
    assert moved(noseSneerLeft=1)[35, 1] > 1
    thickness = [landmarks(face_model, **e)[[66, 57], 1] for e in ({}, {"mouthRollLower": 1.0})]
    assert np.subtract(*thickness[1]) < np.subtract(*thickness[0]) - 1
    puffed = shape(face_model, cheekPuff=1) - shape(face_model)
    cheek = ((face_model.mean.numpy() - [50, -20, 80]) ** 2).sum(1).argmin()
    assert puffed[cheek, 0] > 2


def test_every_expression_is_named_by_arkit_and_visible(face_model):
    reach = face_model.expression_basis.norm(dim=1).amax(0)
    for name, size in zip(face_model.expression_names, reach.tolist(), strict=True):
        assert 1.5 < size < 45, name
        assert name[0].islower() and "_" not in name
        assert semilandmarks.other_side(name) in face_model.expression_names


def test_eyes_do_not_show_through_closed_lids(face_model):
    vertices = shape(face_model, eyeBlinkLeft=1)
    skin = np.arange(len(vertices)) < face_model.n_vertices - 2 * 6 * 33 - 2 * 393
    mean = face_model.mean.numpy()
    lid = skin & (np.abs(mean[:, 0] - 32) < 9) & (mean[:, 1] > 43) & (mean[:, 1] < 48) & (mean[:, 2] > 88)
    assert lid.sum() > 20
    assert np.linalg.norm(vertices[lid] - EYE_CENTRE, axis=1).min() > EYE_RADIUS


def test_albedo_is_a_face(face_model):
    albedo = face_model.albedo_mean.numpy()
    points = face_model.mean.numpy()

    def colour(x, y, z):
        return albedo[((points - [x, y, z]) ** 2).sum(1).argmin()]

    assert albedo.min() >= 0 and albedo.max() <= 1
    cheek, forehead = colour(45, 5, 90), colour(0, 80, 106)
    lip = (colour(8, -38, 115) + colour(-8, -38, 115)) / 2
    brow = albedo[face_model.landmark_index[[19, 24], 0].numpy()].mean(0)
    assert cheek[0] > cheek[1] > cheek[2] and np.abs(cheek - forehead).max() < 0.15
    assert lip[0] / lip[1] > cheek[0] / cheek[1] * 1.1
    assert brow.mean() < 0.75 * forehead.mean()
    pupil, white = colour(31.2, 36, 95), colour(39.5, 36, 93)
    assert pupil.max() < 0.1 and white.min() > 0.5
    assert colour(0, 145, 10).mean() < 0.35


def test_albedo_modes_change_what_they_are_called(face_model):
    basis, points = face_model.albedo_basis.numpy(), face_model.mean.numpy()
    reach = np.abs(basis).sum(1)
    for name, place in {
        "skin_tone": (45, 5, 90),
        "lip_redness": (8, -38, 115),
        "brow_darkness": (38, 60, 98),
        "iris_blue": (36, 36, 94),
        "beard_shadow": (20, -65, 90),
        "hair_lightness": (0, 145, 10),
        "moustache": (10, -20, 113),
    }.items():
        k = MODES.index(name)
        near = ((points - place) ** 2).sum(1).argmin()
        assert reach[near, k] > 0.3 * reach[:, k].max() > 0.01, name


def test_texture_coordinates_stay_in_the_square_and_do_not_overlap(face_model):
    uv = face_model.uv.numpy()
    assert uv.min() >= 0 and uv.max() <= 1
    a, b, c = uv[face_model.faces.numpy()].transpose(1, 0, 2)
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert (area > 0).mean() > 0.98
    left = face_model.landmark_index[[45, 26, 54], 0].numpy()
    assert (uv[left, 0] > 0.5).all()


def test_tables_carry_their_licence_and_no_mesh():
    for name in ("semilandmarks.csv", "expressions.csv", "measures.csv"):
        text = (semilandmarks.FOLDER / name).read_text()
        assert (
            text.startswith("# Statistics of ICT-FaceKit")
            and "MIT License" in text
            and "Copyright (c) 2020 USC" in text
        )
    table = semilandmarks.load()
    assert len(table.mean) < 800
    np.testing.assert_allclose(np.linalg.norm(table.chart, axis=1), 1)
