"""The Florence benchmark on small synthetic scans: what is known of the shapes must come out of the protocol."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlanet_lib.datasets.florence import Scan, write_subject
from mlanet_lib.datasets.sample import Box
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import evaluate_florence
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.systems import CropPrediction

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


class Knows:
    """A system that recognises the subject by its grey, and answers with its identity times `strength`."""

    image_size, weights = 8, "knows"

    def __init__(self, model, identity, strength=1.0):
        self.model, self.identity, self.strength = model, identity, strength
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
    result = evaluate_florence(folder, Knows(toy_model, identity), stand_in=True)
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
    assert sorted(result.pictures["subject"].unique()) == [f"subject_{k:02d}" for k in range(1, 5)]
    assert np.allclose(result.pictures["scale"], 1, atol=0.02)

    expressive = evaluate_florence(folder, Knows(toy_model, identity), shape="expression", limit=2).summary
    assert expressive["conditions"]["all"]["mean_mm"] > 10 * data["conditions"]["all"]["mean_mm"]
    assert expressive["subjects"] == 2 and "stand-in" not in expressive["protocol"]


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
    with pytest.raises(UserError, match="unknown shape"):
        evaluate_florence(folder, system, shape="smile")

    def flat(crops):
        return CropPrediction(np.zeros((len(crops), 68, 2)))

    flat.detector = system.detector
    with pytest.raises(UserError, match="no vertices"):
        evaluate_florence(folder, flat, model=toy_model, image_size=8)
