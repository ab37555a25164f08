"""Annotated points correct estimated ones: on faces of the model whose points are known."""

from dataclasses import replace

import numpy as np
import pytest

from mlanet_lib.data import annotations
from mlanet_lib.data.sample import AFLW21, Sample
from mlanet_lib.face_model.fitting import FitSettings, _project, fit_landmarks, landmark_basis
from mlanet_lib.face_model.points import landmark_twins
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.metrics import sparse_nme

COUNT = 150
RIDGE = 1e-3


def picture():
    raise AssertionError("no picture is needed")


@pytest.fixture(scope="module")
def faces(face_model):
    """Faces of the model in crops 200 px wide: true points, estimates that are off as a whole, annotated points that
    are off one by one and lie elsewhere on the head (`offsets`)."""
    rng = np.random.default_rng(5)
    mean, basis = landmark_basis(face_model)
    rows = [k for k, at in enumerate(AFLW21) if at]
    offsets = np.zeros((21, 3))
    offsets[rows] = rng.normal(0, 3, (len(rows), 3))
    twin = mirrored_rows()
    offsets = (offsets + offsets[twin] * [-1, 1, 1]) / 2
    coefficients = rng.normal(0, 0.5, (COUNT, basis.shape[2]))
    coefficients[:, face_model.n_identity :] = rng.uniform(0, 0.3, (COUNT, face_model.n_expression))
    shape = mean + np.einsum("kcm,nm->nkc", basis, coefficients)
    start = np.stack([mean[:, 0], -mean[:, 1]], 1)[None]
    one = fit_landmarks(face_model, start / np.ptp(start) + 0.5, settings=FitSettings(focal=DEFAULT_FOCAL)).pose
    pose = type(one)(*(np.repeat(field, COUNT, 0) for field in one))
    angles = np.stack([rng.uniform(-0.3, 0.3, COUNT), rng.uniform(-0.9, 0.9, COUNT), rng.uniform(-0.2, 0.2, COUNT)], 1)
    pose = pose._replace(rotation=annotations_rotation(angles))
    truth = _project(pose, shape, DEFAULT_FOCAL)[0] * [1, -1]
    places = np.stack([shape[:, list(at)].mean(1) if at else np.zeros((COUNT, 3)) for at in AFLW21], 1) + offsets
    annotated = _project(pose, places, DEFAULT_FOCAL)[0] * [1, -1] + rng.normal(0, 0.003, (COUNT, 21, 2))
    annotated[:, [k for k, at in enumerate(AFLW21) if not at]] = np.nan
    annotated[rng.random((COUNT, 21)) < 0.2] = np.nan
    off = rng.normal(0, 0.02, (COUNT, 1, 2))
    centre = truth.mean(1, keepdims=True)
    estimated = centre + (truth - centre) * np.exp(rng.normal(0, 0.05, (COUNT, 1, 1))) + off
    return {"truth": truth, "annotated": annotated, "estimated": estimated, "offsets": offsets, "pose": pose}


def annotations_rotation(angles):
    from mlanet_lib.geometry.alignment import rotation_vector

    return rotation_vector(angles)


def mirrored_rows():
    names, twins = [frozenset(at) for at in AFLW21], landmark_twins()
    return [names.index(frozenset(twins[list(at)].tolist())) if at else k for k, at in enumerate(AFLW21)]


def samples_of(faces):
    return [
        Sample(f"{k}.jpg", picture, landmarks=points * 200, points21=annotated * 200)
        for k, (points, annotated) in enumerate(zip(faces["estimated"], faces["annotated"], strict=True))
    ]


def test_calibration_finds_where_annotated_points_lie(faces):
    found = annotations.calibration(faces["truth"], faces["annotated"], faces["pose"])
    offsets = faces["offsets"]  # mm, about 4 long; in perspective what is nearer than the head's middle looks larger
    larger = (found * offsets).sum() / (offsets**2).sum()
    left = np.linalg.norm(found / larger - offsets, axis=1)
    assert 1 < larger < 1.3 and left.mean() < 0.12 * np.linalg.norm(offsets, axis=1).mean()


def test_corrected_points_are_nearer_to_the_truth(faces, face_model):
    corrected = annotations.correct(samples_of(faces), face_model, 8.0, RIDGE)
    before = sparse_nme(faces["estimated"], faces["truth"])
    after = sparse_nme(np.stack([s.landmarks for s in corrected]) / 200, faces["truth"])
    assert after.mean() < 0.6 * before.mean()


def test_samples_without_annotations_stay_as_they_are(faces, face_model):
    samples = samples_of(faces)[:4]
    samples[0] = replace(samples[0], points21=None)
    samples[1] = replace(samples[1], points21=np.full((21, 2), np.nan))
    corrected = annotations.correct(samples, face_model, 8.0, RIDGE)
    assert corrected[0] is samples[0] and corrected[1] is samples[1]
    assert not np.allclose(corrected[2].landmarks, samples[2].landmarks)
    assert annotations.correct(samples[:2], face_model, 8.0, RIDGE) == samples[:2]


def test_annotations_that_are_worth_nothing_change_nothing(faces):
    points, weights = annotations.blended(
        faces["estimated"], np.ones((COUNT, 68)), faces["annotated"], faces["pose"], 0.0
    )
    assert np.array_equal(points, faces["estimated"]) and (weights == 1).all()
