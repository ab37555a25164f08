"""One scan through the Florence path: what is drawn is what is judged, and the record says what it is."""

import numpy as np
import pytest
import torch
from paths import ROOT
from toy_system import ToySystem

from mlanet_lib.cli.__main__ import main
from mlanet_lib.data.sets.scans import Scan, read_scan
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.scans import evaluate_scan, summary_text
from mlanet_lib.parameters import FaceParameters

MARKS = ROOT / "docs" / "head_scan_landmarks.json"
POINTS = (30, 0, 16, 36, 45, 8, 60)


class Answers(ToySystem):
    """A system that answers every crop with one identity, and keeps the crops."""

    image_size = 48

    def __init__(self, model, identity):
        super().__init__(model)
        self.identity = identity

    def predict_crops(self, crops):
        self.crops = crops
        neutral = FaceParameters.neutral(self.model, len(crops))
        return neutral.replace(identity=self.identity.expand(len(crops), -1))


@pytest.fixture
def scan(toy_model):
    identity = torch.tensor([[1.5, -1.0, 0.8, 1.2, -0.6]])
    vertices = toy_model.vertices(identity, torch.zeros(1, 4))[0].double().numpy()
    landmarks = {k: vertices[toy_model.landmark_index[k, 0]] for k in POINTS}
    return Scan(vertices, toy_model.faces.numpy(), landmarks), identity


def test_the_right_shape_beats_the_mean_face(scan, toy_model):
    scan, identity = scan
    system = Answers(toy_model, identity)
    data = evaluate_scan(scan, system, "toy.obj", yaw=(-30, 0, 30))
    assert system.crops.shape == (3, 3, 48, 48)
    assert [(row["yaw"], row["pitch"]) for row in data["pictures"]] == [(-30, 0), (0, 0), (30, 0)]
    assert data["mean_mm"] < 0.01 < data["baselines"]["mean face"]["rmse_mm"]
    assert data["difference"]["verdict"] == "lower" and data["points"] > 100
    assert "one head scan (toy.obj), not Florence" in data["protocol"] and "crop 95 mm" in data["protocol"]
    assert data["look"].startswith("grey shading") and data["grid"]["pictures_a_scan"] == 3
    text = summary_text(data)
    assert data["protocol"] in text and "of this one head" in text


def test_the_mean_face_against_itself(scan, toy_model):
    data = evaluate_scan(scan[0], Answers(toy_model, scan[1] * 0), "toy.obj", yaw=(0, 40))
    assert data["difference"]["verdict"] == "not distinguishable" and data["difference"]["difference"] == 0
    assert data["mean_mm"] == data["baselines"]["mean face"]["rmse_mm"]


def test_the_real_scan(shared_data, face_model):
    """Landmarks lie on the scan, sizes are a head's, and the mean face fits it as faces fit."""
    folder = shared_data / "head_scan"
    scan = read_scan(folder / "LeePerrySmith.obj", MARKS, "m", folder / "Map-COL.jpg")
    assert scan.look == "texture" and scan.uv.shape == (*scan.faces.shape, 2)
    for point in scan.landmarks.values():
        assert np.linalg.norm(scan.vertices - point, axis=1).min() < 6  # the mesh's spacing
    eyes = np.linalg.norm(scan.landmarks[36] - scan.landmarks[45])
    assert 80 < eyes < 105
    system = Answers(face_model, torch.zeros(1, face_model.n_identity))
    data = evaluate_scan(scan, system, "LeePerrySmith.obj", yaw=(0,))
    assert data["pictures"][0]["converged"] and 1 < data["mean_mm"] < 2.5
    assert 100 < data["unseen_points_left_out"] < data["points"]
    assert system.crops[:, 0].mean() > system.crops[:, 2].mean() + 15 / 255  # skin, not background


def test_the_scan_whose_unit_is_wrong(shared_data, face_model):
    """The same head, said to be in mm while its lengths are metres: no 0.03 mm, but one line."""
    folder = shared_data / "faults" / "scan_unit"
    system = Answers(face_model, torch.zeros(1, face_model.n_identity))
    with pytest.raises(UserError, match=r"h\.obj: its landmarks 36 and 45 are 0\.09\d+ mm apart.* look like m$"):
        evaluate_scan(read_scan(folder / "h.obj", folder / "m.json"), system, "h.obj", yaw=(0,))


def test_cli_refuses_what_is_wrong(tmp_path, capsys):
    missing = tmp_path / "none.obj"
    for arguments, word in (
        (["florence", tmp_path, "--json", tmp_path / "o.json", "--yaw", "0"], "prnet"),
        (["scan", missing, "--landmarks", MARKS, "--unit", "m", "--json", tmp_path / "o.json"], "none.obj"),
        (["scan", missing, "--landmarks", MARKS, "--json", tmp_path / "o.json"], "'unit'"),
    ):
        assert main(["evaluate", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1
    assert not (tmp_path / "o.json").exists()
