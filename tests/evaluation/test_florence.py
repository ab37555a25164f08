"""The Florence benchmark on small synthetic scans: what is known of the shapes must come out of the protocol."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_system import ToySystem

from mlanet_lib.data.sets.florence import Scan, read_folder, write_subject
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import scan_metrics
from mlanet_lib.evaluation.florence import evaluate_florence, evaluate_florence_prnet, summary_text
from mlanet_lib.evaluation.scan_metrics import CROP_MM, Mesh
from mlanet_lib.geometry.alignment import icp, similarity
from mlanet_lib.geometry.crops import Box
from mlanet_lib.parameters import FaceParameters

NOSE, POINTS = 30, (30, 0, 16, 36, 45, 8, 60)


@pytest.fixture(scope="module")
def scans(tmp_path_factory, toy_model):
    """Four subjects, three pictures each, whose first pixel says which subject it shows."""
    folder, rng = tmp_path_factory.mktemp("florence"), np.random.default_rng(0)
    identity = torch.tensor(rng.normal(size=(4, 5)) * 1.5, dtype=torch.float32)
    vertices = toy_model.vertices(identity, torch.zeros(4, 4))
    for k in range(4):
        points = vertices[k].double().numpy()
        landmarks = {i: points[toy_model.landmark_index[i, 0]] for i in POINTS}
        image = np.full((40, 40, 3), 50 * k, np.uint8)
        box = Box(4, 4, 32, 32)
        pictures = [("cooperative", image, box), ("indoor", image, box), ("indoor", image, None)]
        scan = Scan(points, toy_model.faces.numpy(), landmarks, toy_model.fingerprint)
        write_subject(folder, f"subject_{k + 1:02d}", scan, pictures)
    return folder, identity


class Knows(ToySystem):
    """A system that recognises the subject by its grey, and answers with its identity times `strength`."""

    def __init__(self, model, identity, strength=1.0):
        super().__init__(model)
        self.identity, self.strength = identity, strength
        self.detector = SimpleNamespace(
            detect=lambda image: [SimpleNamespace(turns=0, crop=lambda: np.array([5.0, 5, 30, 30]))]
        )

    def predict_crops(self, crops):
        who = (crops[:, 0, 4, 4] * 255 / 50).round().long()
        neutral = FaceParameters.neutral(self.model, len(crops))
        expression = torch.full_like(neutral.expression, 1.0)
        return neutral.replace(identity=self.identity[who] * self.strength, expression=expression)


def test_a_perfect_system_and_a_mean_face(scans, toy_model):
    folder, identity = scans
    result = evaluate_florence(folder, Knows(toy_model, identity))
    data = result.summary
    assert data["conditions"]["all"]["mean_mm"] < 0.05 and data["conditions"]["all"]["pictures"] == 12
    assert {name: entry["pictures"] for name, entry in data["conditions"].items()} == {
        "cooperative": 4,
        "indoor": 8,
        "all": 12,
    }
    assert data["baselines"]["mean face"]["conditions"]["all"]["mean_mm"] > 0.3
    assert data["difference"]["over_subjects"]["verdict"] == "lower"
    assert data["difference"]["over_subjects"]["images"] == 4 and data["difference"]["over_pictures"]["images"] == 12
    assert (
        data["vertex_error"]["conditions"]["all"]["mean_mm"]
        < 1e-3
        < data["vertex_error"]["mean face"]["all"]["mean_mm"]
    )
    assert data["undetected"] == 0 and data["subjects"] == 4
    assert "stand-in" in data["protocol"] and "isotropic scale" in data["protocol"]
    for words in ("crop 95 mm", "farthest 5 %", "at most 60 iterations", "4,000 points"):
        assert words in data["protocol"]
    assert data["parameters"]["icp_trim"] == 0.05 and data["parameters"]["scale"] == "isotropic"
    assert data["protocol"] in summary_text(result.summary)
    assert sorted(result.pictures["subject"].unique()) == [f"subject_{k:02d}" for k in range(1, 5)]
    assert np.allclose(result.pictures["scale"], 1, atol=0.02)

    few = evaluate_florence(folder, Knows(toy_model, identity), limit=2).summary
    assert few["subjects"] == 2


def test_the_mean_face_is_not_distinguishable_from_itself(scans, toy_model):
    folder, identity = scans
    data = evaluate_florence(folder, Knows(toy_model, identity, strength=0.0)).summary
    assert data["difference"]["over_pictures"]["verdict"] == "not distinguishable"
    assert data["conditions"] == data["baselines"]["mean face"]["conditions"]


def test_errors_and_missing_faces(scans, toy_model):
    folder, identity = scans
    system = Knows(toy_model, identity)
    system.detector = None
    with pytest.raises(UserError, match="no detector"):
        evaluate_florence(folder, system)
    system.detector = SimpleNamespace(detect=lambda image: [])
    data = evaluate_florence(folder, system, limit=2).summary
    assert data["undetected"] == 2 and data["pictures"] == 4


def test_prnets_form(scans, toy_model):
    """On pictures drawn of the scans: a perfect shape is at the floor, the grid and ICP's settings are in the record,
    and the folder's own pictures are not looked at."""
    folder, identity = scans

    class Perfect(Knows):
        def predict_crops(self, crops):
            self.seen = getattr(self, "seen", 0) + 1
            crops = torch.full_like(crops, (self.seen - 1) * 50 / 255)  # which subject: they come in order
            return super().predict_crops(crops).replace(expression=torch.zeros(len(crops), toy_model.n_expression))

    result = evaluate_florence_prnet(folder, Perfect(toy_model, identity), yaw=(-80, 0), pitch=(20,))
    data = result.summary
    assert data["pictures"] == 8 and data["subjects"] == 4 and data["looks"] == {"grey shading": 4}
    assert data["grid"] == {"yaw": [-80.0, 0.0], "pitch": [20.0], "pictures_a_scan": 2}
    assert list(data["nme_percent"]) == ["yaw -80", "yaw +0", "all"]
    mean_face = data["baselines"]["mean face"]
    for key in ("nme_percent", "surface_nme_percent"):
        assert data[key]["all"]["mean_percent"] < 0.05 < mean_face[key]["all"]["mean_percent"]
    assert data["difference"]["over_subjects"]["verdict"] == "lower"
    for words in ("yaw {-80, 0} x pitch {20}", "2 pictures a scan", "isotropic", "60 iterations", "crop 95 mm", "5 %"):
        assert words in data["protocol"]
    assert data["parameters"]["icp_points"] == 4000 and "expression shape" in data["protocol"]
    text = summary_text(result.summary)
    assert "grey shading (4)" in text and data["protocol"] in text

    class MeanFace(ToySystem):
        def predict_crops(self, crops):
            return FaceParameters.neutral(toy_model, len(crops))

    stand_in = evaluate_florence_prnet(folder, MeanFace(toy_model), yaw=(0,), pitch=(0,), limit=2)
    assert stand_in.summary["protocol"].startswith("synthetic stand-in")
    assert stand_in.summary["difference"]["over_pictures"]["difference"] == 0
    with pytest.raises(UserError, match="at least one yaw"):
        evaluate_florence_prnet(folder, Knows(toy_model, identity), yaw=())


def test_prnets_distances_by_brute_force(toy_model):
    """A waved copy of the prediction as the scan: every number again, by all pairs."""
    rng = np.random.default_rng(1)
    mean, faces = toy_model.mean.double().numpy(), toy_model.faces.numpy()
    scan = mean + 2 * np.sin(mean[:, [1, 2, 0]] / 9) + rng.normal(size=mean.shape) * 0.3
    marks = toy_model.landmark_index[list(POINTS), 0].numpy()
    eyes = scan[toy_model.landmark_index[[36, 45], 0].numpy()]
    nose = scan[toy_model.landmark_index[NOSE, 0]]
    mesh = Mesh(2 * mean, faces, 2 * mean[marks])
    result = scan_metrics.florence_prnet(mesh, Mesh(scan, faces, scan[marks]), nose, eyes)
    start = similarity(2 * mean[marks], scan[marks])
    inside = np.linalg.norm(scan - nose, axis=1) <= CROP_MM
    fit = icp(2 * mean, faces, scan[inside], start, trim=0.05, tolerance=1e-5).transform
    moved = fit.apply(2 * mean)
    judged = moved[np.linalg.norm(moved - nose, axis=1) <= CROP_MM]
    apart = np.linalg.norm(eyes[0] - eyes[1])
    pairs = np.linalg.norm(judged[:, None] - scan, axis=2).min(1)
    assert len(judged) < len(mean) and result["points"] == len(judged) and np.isclose(result["interocular_mm"], apart)
    assert np.isclose(result["nme_percent"], 100 * pairs.mean() / apart, rtol=1e-9)
    assert result["surface_nme_percent"] < result["nme_percent"] and abs(result["scale"] - 0.5) < 0.02
    cloud = scan_metrics.florence_prnet(mesh, Mesh(scan, faces[:0], scan[marks]), nose, eyes)
    assert np.isnan(cloud["surface_nme_percent"]) and cloud["nme_percent"] == result["nme_percent"]


def test_prnets_form_needs_the_outer_eye_corners(scans, toy_model, tmp_path):
    folder, identity = scans
    scan = read_folder(folder)[0].scan()
    marks = {k: p for k, p in scan.landmarks.items() if k != 45}
    write_subject(tmp_path, "subject_01", Scan(scan.vertices, scan.faces, marks), [])
    with pytest.raises(UserError, match="36 and 45"):
        evaluate_florence_prnet(tmp_path, Knows(toy_model, identity), yaw=(0,), pitch=(0,))
    with pytest.raises(UserError, match="no pictures"):
        evaluate_florence(tmp_path, Knows(toy_model, identity))


@pytest.mark.parametrize("factor", [0.001, 0.1, 10.0])
def test_scans_in_another_unit_are_refused_in_both_forms(scans, toy_model, tmp_path, factor):
    folder, identity = scans
    scan = read_folder(folder)[0].scan()
    marks = {key: factor * point for key, point in scan.landmarks.items()}
    moved = Scan(factor * scan.vertices, scan.faces, marks)
    write_subject(tmp_path, "subject_01", moved, [("indoor", np.zeros((40, 40, 3), np.uint8), Box(4, 4, 32, 32))])
    for evaluate in (evaluate_florence, evaluate_florence_prnet):
        with pytest.raises(UserError, match=r"subject_01\.obj: its landmarks .* not in mm"):
            evaluate(tmp_path, Knows(toy_model, identity))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(scans, toy_model, limit):
    for evaluate in (evaluate_florence, evaluate_florence_prnet):
        with pytest.raises(UserError, match="1 or more"):
            evaluate(scans[0], Knows(toy_model, scans[1]), limit=limit)


def test_a_scan_of_no_face_model_is_no_stand_in(scans, toy_model, tmp_path):
    folder, identity = scans
    subject = read_folder(folder)[0]
    scan, picture = subject.scan(), np.zeros((40, 40, 3), np.uint8)
    real = Scan(scan.vertices, scan.faces, scan.landmarks)
    write_subject(tmp_path, "subject_01", real, [("indoor", picture, Box(4, 4, 32, 32))])
    system = Knows(toy_model, identity)
    prnet = evaluate_florence_prnet(tmp_path, system, yaw=(0,), pitch=(0,)).summary
    for data in (evaluate_florence(tmp_path, system).summary, prnet):
        assert data["protocol"].startswith("MICC Florence")
    assert "vertex_error" not in evaluate_florence(tmp_path, system).summary
