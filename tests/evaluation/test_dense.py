"""The 3D errors: a system with the very fit has none, known errors come out, and what cannot be had is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from toy_bfm import toy_bfm, write_3ddfa
from toy_system import ToySystem

from mlanet_lib import metrics
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.evaluation.dense import ORACLE, in_photo, why_not_dense
from mlanet_lib.evaluation.sparse import evaluate_aflw2000, summary_text
from mlanet_lib.evaluation.systems import CropPrediction, PointSystem
from mlanet_lib.face_sources.bfm2009.convert import convert
from mlanet_lib.face_sources.bfm2009.raw import BfmFit, RawBfm
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.crops import crop_box_from_landmarks
from mlanet_lib.parameters import FaceParameters

YAW = [-8.0, 20, 40, -55, 65, -80]
FAR = 1500.0  # focal length in crop sides: so far away that perspective is scaled orthography


class Fitted(ToySystem):
    """A system that knows each photo's fit, and answers with `change`d coefficients."""

    def __init__(self, raw, model, samples, shift=0.0, change=np.asarray, wrap=lambda answer: answer):
        super().__init__(model)
        self.raw, self.samples, self.at = raw, samples, 0
        self.shift, self.change, self.wrap = shift, change, wrap

    def predict_crops(self, crops):
        chosen = self.samples[self.at : self.at + len(crops)]
        self.at += len(crops)
        return FaceParameters.cat([self.wrap(self.answer(sample)) for sample in chosen])

    def answer(self, sample):
        box = crop_box_from_landmarks(sample.landmarks)
        shape, expression = self.raw.standard(sample.bfm)
        rotation = euler_to_matrix(torch.tensor(sample.pose_degrees[None])).float()
        # the frame's origin lies at t in the y-up pixels of Pose_Para
        x, y = sample.bfm.translation[0] - 0.5, sample.image().shape[0] + 0.5 - sample.bfm.translation[1]
        distance = FAR * box.w / (sample.bfm.scale * 1000)
        centre = (np.array([x + self.shift, y]) - [box.x, box.y]) / box.w - 0.5
        translation = torch.tensor([[*(centre * distance / FAR), distance]]).float()
        neutral = FaceParameters.neutral(self.model)
        return neutral.replace(
            identity=torch.tensor(self.change(shape)[None, : self.model.n_identity]).float(),
            expression=torch.tensor(expression[None, : self.model.n_expression]).float(),
            rotation=rotation,
            translation=translation,
            focal=torch.tensor([FAR]),
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory, toy_model):
    """Six photos whose labels are the toy BFM's: folder, RawBfm, its MorphableModel, the toy's ingredients."""
    folder, rng = tmp_path_factory.mktemp("aflw"), np.random.default_rng(3)
    toy = toy_bfm(toy_model)
    raw = RawBfm.load(write_3ddfa(tmp_path_factory.mktemp("raw"), toy))
    for k, yaw in enumerate(YAW):
        degrees = np.array([rng.normal() * 8, yaw, rng.normal() * 8])
        shape, expression = rng.normal(size=199) * raw.shape_sigma, rng.normal(size=29) * raw.expression_sigma
        fit = BfmFit(shape, expression, np.array([104.0, 97.5, -30.0]), 6e-4)
        posed = raw.posed(fit, degrees, 200)[raw.landmarks]
        labels = {
            "pt3d_68": (posed * [1, 1, -1] + [0.5, 0.5, 0]).T.astype(np.float32),
            "Pose_Para": np.array([[*np.deg2rad(degrees), *fit.translation, fit.scale]]),
            "Shape_Para": shape[:, None],
            "Exp_Para": expression[:, None],
        }
        savemat(folder / f"image{k:05d}.mat", labels)
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(folder / f"image{k:05d}.jpg")
    model = convert(write_3ddfa(tmp_path_factory.mktemp("3ddfa"), toy))
    return folder, raw, model, toy


def test_the_very_fit_has_no_error(world):
    folder, raw, model, _ = world
    result = evaluate_aflw2000(folder, Fitted(raw, model, aflw2000.read_folder(folder)), bfm=raw)
    data = result.summary
    assert data["dense"]["computed"] and data["dense"]["vertices"] == len(raw.mean)
    assert data["dense"]["label_offset_px"] < 1e-3
    for entry in (data["sparse_3d_nme"], data["dense"]["dense_nme"], data["dense"]["reconstruction_nme"]):
        assert entry["by_yaw"]["balanced_mean"] < 0.1 and entry["by_yaw"]["images"] == [2, 2, 2, 6]
    for name in ("dense_nme", "reconstruction_nme"):
        entry = data["dense"][name]
        assert entry[ORACLE]["balanced_mean"] > 2 and entry["difference"]["verdict"] == "lower"
        assert entry["protocol"] == metrics.PROTOCOLS[name]
    assert {"dense nme", "sparse 3d nme", "reconstruction nme", f"dense nme {ORACLE}"} <= set(result.images)
    text = summary_text(result.summary)
    assert "dense 3D NME %: 0.0" in text and "reconstruction NME" in text and "labels: original" in text
    assert f"minus {ORACLE} (uses the truth)" in text and "not computed" not in text


def test_known_errors_come_out(world):
    """A shift of 3 pixels is 3 px over each dense box, and no error of shape; a wrong identity is one of both."""
    folder, raw, model, _ = world
    samples = aflw2000.read_folder(folder)
    shifted = evaluate_aflw2000(folder, Fitted(raw, model, samples, shift=3.0), bfm=raw)
    truth = [raw.posed(sample.bfm, sample.pose_degrees, 200) for sample in samples]
    boxes = np.array([np.sqrt(np.ptp(points[:, :2], axis=0).prod()) for points in truth])
    assert np.allclose(shifted.images["dense nme"], 300 / boxes, atol=0.05)
    points = np.array([np.sqrt(np.ptp(sample.landmarks, axis=0).prod()) for sample in samples])
    assert np.allclose(shifted.images["sparse 3d nme"], 300 / points, atol=0.05)
    assert shifted.images["reconstruction nme"].max() < 0.05
    flat = evaluate_aflw2000(folder, Fitted(raw, model, samples, change=np.zeros_like), bfm=raw)
    k = 3
    mean = BfmFit(np.zeros(199), samples[k].bfm.expression, samples[k].bfm.translation, samples[k].bfm.scale)
    posed = raw.posed(mean, samples[k].pose_degrees, 200)
    expected = metrics.dense_nme(posed[None], truth[k][None])[0]
    assert flat.images["dense nme"][k] == pytest.approx(expected, abs=0.05) and expected > 1
    eyes = truth[k][raw.landmarks[[36, 45]]][None]
    expected = metrics.reconstruction_nme(posed[None], truth[k][None], eyes)[0]
    assert flat.images["reconstruction nme"][k] == pytest.approx(expected, abs=0.05)


def test_what_cannot_be_had_says_why(world, toy_model):
    folder, raw, model, _ = world
    samples = aflw2000.read_folder(folder)
    result = evaluate_aflw2000(folder, Fitted(raw, model, samples))
    assert result.summary["dense"].keys() == {"computed", "reason"} and not result.summary["dense"]["computed"]
    assert "no BFM is given" in result.summary["dense"]["reason"]
    assert result.summary["sparse_3d_nme"]["by_yaw"]["balanced_mean"] < 0.1
    line = [line for line in summary_text(result.summary).splitlines() if "not computed" in line]
    assert len(line) == 1 and line[0].startswith("dense and reconstruction NME")

    system = Fitted(raw, toy_model, samples, wrap=lambda answer: FaceParameters.neutral(toy_model))
    other = evaluate_aflw2000(folder, system, bfm=raw).summary["dense"]["reason"]
    assert "toy" in other and "no known correspondence" in other

    def points(crops):
        return CropPrediction(np.random.default_rng(0).uniform(size=(len(crops), 68, 2)))

    only = evaluate_aflw2000(folder, PointSystem(points, 8), bfm=raw).summary
    assert "gives points" in only["dense"]["reason"] and only["sparse_3d_nme"] is None


def test_synthetic_faces_and_photos_without_a_fit_have_no_dense_truth(world):
    """This project's own files carry a zero Shape_Para: their meshes must not be taken for BFM's mean face."""
    folder, raw, model, _ = world
    samples = aflw2000.read_folder(folder)
    assert why_not_dense(model, samples, raw) is None
    synthetic = replace(samples[2], truth=aflw2000.SyntheticTruth("abc", np.zeros(1), np.zeros(1), False))
    assert "synthetic" in why_not_dense(model, [*samples, synthetic], raw)
    assert "Shape_Para" in why_not_dense(model, [*samples, replace(samples[0], bfm=None)], raw)


def test_in_photo_is_the_camera_s_own_projection(toy_model):
    """Near the camera too: x and y by perspective, depth in the same pixels."""
    parameters = FaceParameters.neutral(toy_model)
    box = crop_box_from_landmarks(np.array([[30.0, 40], [130, 140]]))
    posed = in_photo(toy_model.mean[None], parameters, box)
    z = parameters.translation[0, 2].item() - toy_model.mean[:, 2].double().numpy()
    scale = parameters.focal.item() * box.w / z
    x = (toy_model.mean[:, 0].numpy() + parameters.translation[0, 0].item()) * scale + box.x + box.w / 2
    assert np.abs(posed[:, 0] - x).max() < 1e-2
    assert np.allclose(np.ptp(posed[:, 2]), np.ptp(z) * parameters.focal.item() * box.w / z.mean(), rtol=1e-4)
    assert posed[toy_model.mean[:, 2].argmax(), 2] == posed[:, 2].min()


def test_depth_runs_as_in_the_real_labels(shared_data, face_model):
    """The mean face in each real photo's pose and size: its depth follows the labels', in direction and in scale."""
    slopes, correlations = [], []
    for sample in aflw2000.read_folder(shared_data / "AFLW2000_dev", limit=30):
        neutral, box = FaceParameters.neutral(face_model), crop_box_from_landmarks(sample.landmarks)
        parameters = neutral.replace(rotation=euler_to_matrix(torch.tensor(sample.pose_degrees[None])).float())
        points = in_photo(face_model.landmarks(face_model.mean[None]), parameters, box)
        ours, theirs = points[:, 2] - points[:, 2].mean(), sample.nearness - sample.nearness.mean()
        size = np.ptp(points[:, :2], axis=0).max() / np.ptp(sample.landmarks, axis=0).max()
        slopes.append((ours * theirs).sum() / (theirs**2).sum() / size)
        correlations.append(np.corrcoef(ours, theirs)[0, 1])
    assert np.median(correlations) > 0.95 and 0.8 < np.median(slopes) < 1.25
