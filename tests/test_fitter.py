"""Fits to photos, of faces that the renderer drew: so the truth is known."""

import pytest
import torch
from toy_model import with_ibug

from mlanet_lib import fitter as fitter_module
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.fitter import TOGETHER, Fitter, FitterSettings
from mlanet_lib.geometry.camera import rotation_vector_to_matrix
from mlanet_lib.limits import FieldError
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face

SIZE = 64


def people(model, count: int, seed: int = 0) -> FaceParameters:
    generator = torch.Generator().manual_seed(seed)
    face = FaceParameters.neutral(model, count)

    def normal(name: str, spread: float) -> torch.Tensor:
        value = getattr(face, name)
        return value + spread * torch.randn(value.shape, generator=generator)

    return face.replace(
        identity=normal("identity", 1.0), albedo=normal("albedo", 1.0), lighting=normal("lighting", 0.03)
    )


def disturbed(face: FaceParameters) -> FaceParameters:
    """What a network could have said of it: nearly the mean face, a little off and turned."""
    turn = rotation_vector_to_matrix(torch.tensor([[0.03, -0.05, 0.02]]))
    shift = face.translation * torch.tensor([1.0, 1.0, 1.02]) + torch.tensor([1.0, -1.5, 0.0])
    lighting = face.lighting.mean((0, 2), keepdim=True).expand_as(face.lighting)
    return face.replace(
        identity=0.3 * face.identity,
        albedo=0 * face.albedo,
        lighting=lighting,
        rotation=turn @ face.rotation,
        translation=shift,
    )


@pytest.fixture(scope="module")
def fitter(toy_model):
    return Fitter(toy_model, FitterSettings(size=SIZE, vertices=0, steps=80))


def error(fitted: torch.Tensor, truth: torch.Tensor) -> float:
    return float((fitted - truth).norm() / truth.norm())


def test_a_fit_comes_nearer_to_shape_skin_and_place(toy_model, fitter):
    truth = people(toy_model, 3)
    start = disturbed(truth)
    photos = render_face(toy_model, truth, SIZE).image.clamp(0, 1)
    fitted = fitter.fit(photos, start, in_crop(toy_model, truth, "ibug"))
    assert fitted.kept.all()
    for name in ("identity", "albedo", "rotation"):  # depth and size explain each other
        before, after, right = (getattr(side, name) for side in (start, fitted.parameters, truth))
        assert (after - right).norm() < 0.5 * (before - right).norm(), name
    for name in ("points", "picture", "total"):
        assert (fitted.after[name] < fitted.before[name]).all()


def test_the_picture_says_what_the_points_do_not(face_model):
    """On a face with eyes and lips: points that are as wrong as the start are left where the picture says so."""
    truth = people(face_model, 2, seed=1)
    start = disturbed(truth).replace(rotation=truth.rotation, translation=truth.translation)
    photos = render_face(face_model, truth, 112).image.clamp(0, 1)
    settings = FitterSettings(size=112, vertices=6000, correlated=5.0)
    fitted = Fitter(face_model, settings).fit(photos, start)
    right, before, after = (in_crop(face_model, face, "ibug") for face in (truth, start, fitted.parameters))
    assert (after - right).norm() < 0.7 * (before - right).norm()
    assert (fitted.before["points"] == 0).all() and (fitted.after["points"] > 0).all()
    assert (fitted.after["picture"] < 0.7 * fitted.before["picture"]).all()


def test_what_covers_a_face_hardly_moves_it(toy_model, fitter):
    truth = people(toy_model, 1, seed=2)
    start, photo = disturbed(truth), render_face(toy_model, truth, SIZE).image.clamp(0, 1)
    covered = photo.clone()
    covered[..., 34:44, 18:46] = torch.tensor([0.1, 0.9, 0.1])[:, None, None]
    ends = [fitter.fit(picture, start).parameters for picture in (photo, covered)]
    right, before, plain, behind = (in_crop(toy_model, face, "ibug") for face in (truth, start, *ends))
    assert (behind - plain).norm() < 0.5 * (before - right).norm()
    assert error(ends[1].albedo, truth.albedo) < 0.8  # and no green skin


def test_a_fit_that_went_wrong_is_not_kept(toy_model, monkeypatch):
    """One step, far too long, of a start that is right."""
    truth = people(toy_model, 2, seed=3)
    photos = render_face(toy_model, truth, SIZE).image.clamp(0, 1)
    monkeypatch.setattr(fitter_module, "RATES", {name: 30.0 for name in fitter_module.RATES})
    fitted = Fitter(toy_model, FitterSettings(size=SIZE, vertices=0, steps=1)).fit(photos, truth)
    assert (fitted.after["total"] > fitted.before["total"]).all() and not fitted.kept.any()
    for name, value in fitted.parameters.as_tensors().items():
        assert torch.equal(value, getattr(truth, name).float()), name
    assert fitted.record(0)["kept"] == "predicted" and fitted.record(1)["after"].keys() == {
        "points",
        "picture",
        "total",
    }


def test_many_faces_are_fitted_as_each_alone(toy_model):
    count = TOGETHER + 1
    truth = people(toy_model, count, seed=4)
    photos = render_face(toy_model, truth, SIZE).image.clamp(0, 1)
    quick = Fitter(toy_model, FitterSettings(size=SIZE, vertices=0, steps=3))
    together, alone = quick.fit(photos, disturbed(truth)), quick.fit(photos[-1:], disturbed(truth)[count - 1])
    assert len(together.parameters) == count and together.after["total"].shape == (count,)
    assert torch.allclose(together.parameters.identity[-1:], alone.parameters.identity, atol=1e-4)
    assert len(quick.fit(photos[:0], truth[torch.arange(0)]).parameters) == 0


def test_a_rotation_that_is_known_stays(toy_model):
    truth = people(toy_model, 2, seed=5)
    start, photos = disturbed(truth), render_face(toy_model, truth, SIZE).image.clamp(0, 1)
    moved = []
    for turn_error in (None, 0.1):
        settings = FitterSettings(size=SIZE, vertices=0, steps=40, turn_error=turn_error)
        found = Fitter(toy_model, settings).fit(photos, start, in_crop(toy_model, truth, "ibug")).parameters
        moved.append((found.rotation - start.rotation).norm())
    assert moved[1] < 0.2 * moved[0]


def test_points_may_follow_either_definition(toy_model):
    model = with_ibug(toy_model)
    truth = people(model, 1, seed=6)
    photos, start = render_face(model, truth, SIZE).image.clamp(0, 1), disturbed(truth)
    fitter = Fitter(model, FitterSettings(size=SIZE, vertices=0, steps=60))
    for name in ("3ddfa", "ibug"):
        fitted = fitter.fit(photos, start, in_crop(model, truth, name), labels=name)
        assert fitted.after["points"] < 0.3 * fitted.before["points"], name
    with pytest.raises(ValueError, match="aflw"):
        fitter.fit(photos, start, labels="aflw")


def test_settings_out_of_range_are_refused():
    with pytest.raises(FieldError, match="point_noise"):
        FitterSettings(point_noise=0.0)
    with pytest.raises(FieldError, match="steps"):
        FitterSettings(steps=0)
