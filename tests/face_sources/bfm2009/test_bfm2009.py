"""BFM 2009 from small files of the published structure: conversion, the published formula, and what can be wrong."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat
from toy_bfm import rows, toy_bfm, write_3ddfa, write_expression, write_info

from mlanet_lib.cli.__main__ import main
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.bfm2009 import bfm_files
from mlanet_lib.face_sources.bfm2009 import convert as bfm2009
from mlanet_lib.face_sources.bfm2009.convert import carried_albedo, convert, identify
from mlanet_lib.face_sources.bfm2009.raw import BfmFit, RawBfm
from mlanet_lib.geometry.alignment import rotation_vector
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera


@pytest.fixture(scope="module")
def toy(toy_model):
    return toy_bfm(toy_model)


@pytest.fixture
def fit():
    rng = np.random.default_rng(8)
    shape, expression = rng.normal(size=199) * np.geomspace(8e4, 1e3, 199), rng.normal(size=29) * 1e4
    return BfmFit(shape, expression, np.array([231.4, 190.2, -66.0]), 1.1e-3)


def published(toy, fit, pose_degrees, height):
    """pt3d_68 in MATLAB's pixels, by AFLW2000-3D's own script: reshape(mu + w a + w_exp b, 3, []), f R V + t, flip."""
    pick = rows(toy.trim)
    column = toy.fields["shapeMU"][pick].astype(float) + toy.expression_mean
    column = column[:, 0] + toy.fields["shapePC"][pick].astype(float) @ fit.shape
    column = column + toy.expression_basis.astype(float) @ fit.expression
    vertex = column.reshape(3, -1, order="F")
    phi, gamma, theta = np.deg2rad(pose_degrees)
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(phi), s(phi)], [0, -s(phi), c(phi)]])
    ry = np.array([[c(gamma), 0, -s(gamma)], [0, 1, 0], [s(gamma), 0, c(gamma)]])
    rz = np.array([[c(theta), s(theta), 0], [-s(theta), c(theta), 0], [0, 0, 1]])
    projected = fit.scale * (rx @ ry @ rz) @ vertex + fit.translation[:, None]
    projected[1] = height + 1 - projected[1]
    return projected


def test_units_are_millimetres_and_standard_deviations(toy, toy_model, tmp_path):
    model = convert(write_3ddfa(tmp_path, toy))
    assert (model.n_identity, model.n_expression, model.n_albedo) == (199, 29, 80)
    mean = toy_model.mean.numpy() + toy.expression_mean.reshape(-1, 3) / 1000
    assert np.allclose(model.mean, mean, atol=1e-3)
    first = toy.fields["shapePC"][rows(toy.trim), 0].reshape(-1, 3) * toy.fields["shapeEV"][0] / 1000
    assert np.allclose(model.identity_basis[..., 0], first, rtol=1e-3, atol=1e-4)
    texture = toy.fields["texPC"][rows(toy.trim), 1].reshape(-1, 3) * toy.fields["texEV"][1] / 255
    assert np.allclose(model.albedo_basis[..., 1], texture, rtol=1e-3, atol=1e-5)
    assert model.albedo_mean.min() > 60 / 255 and model.albedo_mean.max() < 200 / 255
    assert model.uv.min() == 0 and model.uv.max() == 1 and len(set(model.expression_names)) == 29
    right, left = model.mean[:, 0] < -40, model.mean[:, 0] > 40
    assert model.uv[right, 0].max() < model.uv[left, 0].min()


def test_windings_are_turned_outward(toy, tmp_path):
    model = convert(write_3ddfa(tmp_path, replace(toy, faces=toy.faces[:, ::-1])))
    outwards = (model.normals(model.mean[None])[0] * model.mean).sum(1)
    assert (outwards > 0).float().mean() > 0.99


def test_3ddfa_s_model_takes_its_coefficients_over_sigma(toy, fit, tmp_path):
    folder = write_3ddfa(tmp_path, toy, name="Model_Expression.mat")
    raw, model = RawBfm.load(folder), convert(folder)
    assert (model.n_identity, model.n_expression) == (199, 29)
    shape, expression = raw.standard(fit)
    assert np.allclose(shape * toy.fields["shapeEV"][:, 0], fit.shape)
    decoded = model.vertices(torch.tensor(shape[None]).float(), torch.tensor(expression[None]).float())[0]
    assert np.abs(decoded.numpy() - raw.vertices(fit) / 1000).max() < 0.02
    assert np.array_equal(raw.correspondence(model), np.arange(len(raw.mean)))
    assert np.array_equal(model.landmark_index[:, 0], toy.landmarks)
    pick = toy.fields["texPC"][rows(toy.trim)] * toy.fields["texEV"].T / 255
    assert np.allclose(model.albedo_basis.reshape(-1, 80), pick[:, :80], rtol=1e-3, atol=1e-5)


def test_the_script_that_people_did_not_run(toy, fit, tmp_path):
    """01_MorphableModel.mat with model_info.mat is what ModelGenerate.m makes Model_Shape.mat from."""
    for name in ("made", "raw", "raw/original", "raw/3ddfa"):
        (tmp_path / name).mkdir()
    made = RawBfm.load(write_3ddfa(tmp_path / "made", toy))
    savemat(tmp_path / "raw/original/01_MorphableModel.mat", toy.fields)
    write_expression(tmp_path / "raw/3ddfa", toy)
    write_info(tmp_path / "raw/3ddfa", toy)
    raw = RawBfm.load(tmp_path / "raw")
    assert np.array_equal(raw.vertices(fit), made.vertices(fit)) and np.array_equal(raw.faces, made.faces)
    assert convert(tmp_path / "raw").n_identity == 199 and "complete" in identify(tmp_path / "raw")


def test_posed_vertices_are_the_published_formula(toy, fit, tmp_path):
    """One pixel off is the classic error: pt3d_68 written by the published script, read by the loader, met exactly."""
    raw, degrees, height = RawBfm.load(write_3ddfa(tmp_path, toy)), np.array([-12.0, 43.0, 7.0]), 450
    stored = published(toy, fit, degrees, height)
    pose = [*np.deg2rad(degrees), *fit.translation, fit.scale]
    labels = {
        "pt3d_68": stored[:, toy.landmarks],
        "Pose_Para": np.array([pose]),
        "Shape_Para": fit.shape[:, None],
        "Exp_Para": fit.expression[:, None],
    }
    savemat(tmp_path / "image00001.mat", labels)
    sample = aflw2000.read_mat(tmp_path / "image00001.mat")
    posed = raw.posed(sample["bfm"], sample["pose_degrees"], height)
    assert np.abs(posed[toy.landmarks, :2] - sample["landmarks"]).max() < 2e-3
    assert np.abs(posed[toy.landmarks, 2] - sample["nearness"]).max() < 2e-3
    assert np.abs(posed[:, :2] - (stored[:2].T - 0.5)).max() < 2e-3 and np.abs(posed[:, 2] + stored[2]).max() < 2e-3


def test_written_samples_are_the_posed_mean(toy, tmp_path):
    """A face of the toy BFM's mean shape, photographed from far, by the project's own writer: zero Shape_Para."""
    raw = RawBfm.load(write_3ddfa(tmp_path, toy))
    degrees, far = torch.tensor([[8.0, -25.0, 4.0]], dtype=torch.float64), 4e6
    points = torch.tensor(np.concatenate([raw.mean[toy.landmarks], np.zeros((1, 3))])[None] / 1000).double()
    where = to_camera(points, euler_to_matrix(degrees), torch.tensor([[15.0, -9.0, far]]).double())
    pixels = project(where, torch.tensor([0.9 * far / 450]).double(), 450, 450)[0].numpy()
    image = np.zeros((450, 450, 3), np.uint8)
    photo = aflw2000.write_sample(tmp_path, "far", image, pixels[:68], degrees[0].numpy(), 0.9, pixels[68])
    sample = aflw2000.read_sample(photo)
    posed = raw.posed(sample.bfm, sample.pose_degrees, sample.image().shape[0])[toy.landmarks]
    assert np.abs(posed[:, :2] - sample.landmarks).max() < 0.01
    assert np.ptp(posed[:, 2] - sample.nearness) < 0.01


def test_only_its_own_mesh_corresponds(toy, toy_model, tmp_path):
    raw = RawBfm.load(write_3ddfa(tmp_path, toy))
    model = convert(tmp_path)
    assert np.array_equal(raw.correspondence(model), np.arange(len(raw.mean)))
    assert raw.correspondence(toy_model) is None
    assert raw.correspondence(model.replace(landmark_index=np.roll(model.landmark_index[:, 0], 1))) is None


def test_albedo_is_carried_over_where_there_is_none(toy, toy_model, tmp_path):
    folder = write_3ddfa(tmp_path, toy, texture=False)
    # the toy face itself, with the landmarks of the toy BFM, gives its own colours back
    painted = toy_model.replace(
        landmark_index=toy.landmarks, albedo_mean=(toy_model.mean / 300 + 0.5).clamp(0, 1), name="painted"
    )
    model = convert(folder, albedo_from=painted)
    assert (model.albedo_mean - painted.albedo_mean).abs().max() < 0.01
    assert model.n_albedo == 3 and model.name == "bfm2009_3ddfa"
    painted.save(tmp_path / "painted.npz")
    assert convert(folder, albedo_from=tmp_path / "painted.npz").fingerprint == model.fingerprint
    for missing, named in ((None, "none is named"), (tmp_path / "away.npz", r"away\.npz")):
        with pytest.raises(UserError, match=rf"no scaled texture modes, and no face model .*{named} .*dvc pull"):
            convert(folder, albedo_from=missing)


def own_points(model):
    return model.landmarks(model.mean[None])[0].numpy()


@settings(max_examples=20, deadline=None)
@given(
    scale=st.floats(0.01, 100),
    vector=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_a_model_gets_its_own_colours_back_in_any_frame_and_unit(toy_model, scale, vector, shift):
    def moved(points):
        return scale * points.astype(float) @ rotation_vector(np.array(vector)).T + shift

    colour, modes = carried_albedo(toy_model, moved(toy_model.mean.numpy()), moved(own_points(toy_model)))
    assert np.abs(colour - toy_model.albedo_mean.numpy()).max() < 1e-4
    assert np.abs(modes - toy_model.albedo_basis.numpy()).max() < 1e-4


def test_between_vertices_the_colour_is_interpolated(toy_model):
    corners = toy_model.faces[100].numpy()
    weights = np.array([0.2, 0.5, 0.3])
    place = weights @ toy_model.mean.numpy()[corners]
    _, modes = carried_albedo(toy_model, place[None], own_points(toy_model))
    assert np.allclose(modes[0], np.einsum("k,kcm->cm", weights, toy_model.albedo_basis.numpy()[corners]), atol=1e-5)


def test_points_on_a_line_carry_nothing_over(toy_model):
    with pytest.raises(ValueError, match="line"):
        carried_albedo(toy_model, toy_model.mean.numpy(), np.linspace([0, 0, 0], [1, 1, 1], 68))


def test_identify_says_what_there_is(toy, tmp_path):
    assert identify(tmp_path) is None
    write_3ddfa(tmp_path, toy)
    assert identify(tmp_path) == "BFM 2009, 3DDFA's shape model: complete" == identify(tmp_path / "Model_Exp.mat")
    os.rename(tmp_path / "Model_Shape.mat", tmp_path / "model_shape.MAT")
    assert "complete" in identify(tmp_path) and convert(tmp_path / "Model_Exp.mat").n_identity == 199
    (tmp_path / "Model_Exp.mat").unlink()
    text = identify(tmp_path)
    assert "incomplete" in text and "missing: Model_Exp.mat or Model_Expression.mat (in the folder Code" in text
    with pytest.raises(UserError, match=r"missing: Model_Exp\.mat"):
        convert(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        identify(tmp_path / "nowhere")


def test_other_shapes_are_refused_with_the_files_that_are_wanted(toy, tmp_path, capsys):
    """Deep3D's files, and the original without 3DDFA's: in one line."""
    (tmp_path / "BFM_model_front.mat").write_bytes(b"x")
    out = ["--out", str(tmp_path / "model.npz")]
    for source in (tmp_path, tmp_path / "BFM_model_front.mat"):
        assert main(["face-model", "convert", "bfm2009", str(source), *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "BFM_model_front.mat: BFM 2009 as Deep3D has it, which is not read here" in line
        assert "Model_Shape.mat" in line and "Model_Exp.mat" in line
        assert main(["face-model", "check", str(source)]) == 2 and "Deep3D" in capsys.readouterr().err
    savemat(tmp_path / "01_MorphableModel.mat", toy.fields)
    assert main(["face-model", "convert", "bfm2009", str(tmp_path), *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "incomplete" in line and "missing: model_info.mat" in line and "missing: Model_Exp.mat" in line


WRONG = {
    "html": (b"\n<!DOCTYPE html>\n<html><head><title>3DFace</title>", "not a readable .mat"),
    "v73": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(600), "-v7"),
    "empty": (b"", "not a readable .mat"),
    "noise": (b"MATLAB 5.0 MAT-file" + bytes(range(256)) * 4, "not a readable .mat"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["Model_Shape.mat", "Model_Exp.mat"])
def test_each_wrong_file_is_named(toy, tmp_path, kind, name):
    write_3ddfa(tmp_path, toy)
    content, said = WRONG[kind]
    (tmp_path / name).write_bytes(content)
    text = identify(tmp_path)
    assert said in text and name in text and "cannot be used" in text
    with pytest.raises(UserError, match=name):
        convert(tmp_path)


def changed(path, **fields):
    data = {name: value for name, value in loadmat(path).items() if not name.startswith("__")} | fields
    savemat(path, {name: value for name, value in data.items() if value is not None})


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("w", None, "no field w or w_shape"),
        ("w", np.full((3 * 357, 199), np.nan), "'w' does not hold finite"),
        ("w", np.ones((3 * 357 - 1, 199)), r"\(3 V, modes\)"),
        ("w", np.ones((3 * 300, 199)), "another mesh"),
        ("sigma", np.ones((50, 1)), "199 positive standard deviations"),
        ("sigma", np.zeros((199, 1)), "199 positive standard deviations"),
        ("tri", np.zeros((3, 20), int), "'tri' is not an index from 1 to 357"),
        ("tri", np.ones((4, 20), int), "'tri' has shape"),
        ("keypoints", np.full((1, 68), 358), "'keypoints' is not an index"),
        ("keypoints", np.ones((1, 51), int), "51 points, not 68"),
        ("keypoints", np.array([[{"a": 1}]], dtype=object), "'keypoints' does not hold finite"),
        ("mu_shape", np.ones((3 * 357, 1)), "its unit is not"),
    ],
)
def test_damaged_fields_are_named(toy, tmp_path, field, value, said):
    changed(write_3ddfa(tmp_path, toy) / "Model_Shape.mat", **{field: value})
    with pytest.raises(UserError, match=said):
        convert(tmp_path)


def test_points_and_triangles_may_lie_in_model_info(toy, fit, tmp_path):
    path = write_3ddfa(tmp_path, toy) / "Model_Shape.mat"
    before = RawBfm.load(tmp_path)
    changed(path, keypoints=None, tri=None)
    with pytest.raises(UserError, match="no field tri or keypoints"):
        RawBfm.load(tmp_path)
    write_info(tmp_path, toy)
    assert np.array_equal(RawBfm.load(tmp_path).landmarks, before.landmarks)
    with pytest.raises(UserError, match="100 shape numbers, the model 199"):
        before.vertices(BfmFit(fit.shape[:100], fit.expression, fit.translation, fit.scale))


def test_huge_claims_and_missing_parts(toy, tmp_path, monkeypatch):
    write_3ddfa(tmp_path, toy)
    monkeypatch.setattr(bfm_files, "_LARGEST", 1000)
    with pytest.raises(UserError, match="unpacks to more than"):
        convert(tmp_path)
    (tmp_path / "Model_Exp.mat").unlink()
    with pytest.raises(UserError, match=r"Model_Exp\.mat or Model_Expression\.mat \(in the folder Code"):
        RawBfm.load(tmp_path)


def test_damaged_bytes_are_an_error_never_a_crash(toy, tmp_path):
    """Cut off or overwritten anywhere: a UserError that names the file, or a file that still says the same."""
    path = write_3ddfa(tmp_path, toy, texture=False) / "Model_Shape.mat"
    whole, rng, failed = path.read_bytes(), np.random.default_rng(1), 0
    for k in range(40):
        damaged = bytearray(whole)
        start = int(rng.integers(0, 400 if k % 2 else len(whole)))
        if k % 4 < 2:
            damaged = damaged[:start]
        else:
            damaged[start : start + 8] = rng.integers(0, 256, 8, dtype=np.uint8).tobytes()
        path.write_bytes(damaged)
        assert "BFM 2009" in identify(tmp_path)
        try:
            RawBfm.load(tmp_path)
        except UserError as error:
            assert "Model_" in str(error)
            failed += 1
    assert failed >= 20


def test_uvs_do_not_fold_on_a_face(toy_model):
    uv = bfm2009.cylindrical(toy_model.mean.double().numpy())
    corners = uv[toy_model.faces.numpy()]
    first, second = np.moveaxis(corners[:, 1:] - corners[:, :1], 1, 0)
    assert (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0] > 0).all()
