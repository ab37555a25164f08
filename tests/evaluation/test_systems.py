"""Systems under test: what the benchmarks feed them, and what they make of the answer."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_model import with_ibug
from toy_system import ToySystem

from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.systems import (
    CropPrediction,
    LabelledPhotos,
    PointSystem,
    detect_box,
    face_parameters,
    prediction,
    read_all,
)
from mlanet_lib.files.records import write_json
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.crops import Box
from mlanet_lib.parameters import FaceParameters


def test_prediction_projects_into_the_crop(toy_model):
    parameters = FaceParameters.neutral(toy_model, 2)
    parameters.expression[1, 0] = 1
    parameters = parameters.replace(rotation=euler_to_matrix(torch.tensor([[0.0, 0, 0], [10.0, 40, -5]])))
    result = prediction(toy_model, parameters)
    assert result.landmarks.shape == (2, 68, 2) and result.parameters.identity.shape == (2, 5)
    low, high = result.landmarks[0].min(0), result.landmarks[0].max(0)
    assert np.allclose((low + high) / 2, 0.5, atol=1e-4) and np.isclose((high - low).max(), 2**-0.5, atol=1e-4)
    assert np.allclose(result.pose_degrees, [[0, 0, 0], [10, 40, -5]], atol=1e-4)
    camera = to_camera(
        toy_model.landmarks(toy_model.vertices(parameters.identity, parameters.expression)),
        parameters.rotation,
        parameters.translation,
    )
    assert np.allclose(result.landmarks, project(camera, parameters.focal, 1, 1)[..., :2], atol=1e-6)


def test_a_photo_that_cannot_be_cropped_is_named():
    image, inside = np.zeros((20, 30, 3), np.uint8), np.array([[5.0, 5.0], [40.0, 10.0]])
    photo, box = Sample("a.jpg", lambda: image), Box(5, 5, 10, 10)

    def crops(box, points):
        return list(LabelledPhotos([photo] * 2, [box] * 2, np.stack([points] * 2), np.zeros((2, 3))).crops(8))

    assert [crop.shape for crop in crops(box, inside)] == [(8, 8, 3)] * 2
    for away in ([30, 0], [-40, 0], [0, 15], [0, -10]):
        with pytest.raises(UserError, match=r"a\.jpg: .*outside the picture \(30 x 20\)"):
            crops(box, inside + away)
    with pytest.raises(UserError, match=r"a\.jpg: no crop"):
        crops(Box(0, 0, 1e6, 1e6), inside)


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_batches_keep_order_and_lose_nothing(count):
    crops = [np.full((5, 5, 3), k, np.uint8) for k in range(count)]
    seen = []

    def predict(images):
        seen.append(images.shape)
        assert images.dtype == torch.float32 and images.max() <= 1
        values = images[:, 0, 0, 0].numpy() * 255
        points = np.broadcast_to(values[:, None, None], (len(images), 68, 2))
        return CropPrediction(points, np.zeros((len(images), 3)) if count % 2 else None)

    result = read_all(PointSystem(predict, 5), iter(crops), count, batch_size=4)
    assert result.parameters is None and (result.pose_degrees is not None) == (count % 2 == 1)
    assert np.allclose(result.landmarks[:, 0, 0], np.arange(count))
    assert sum(shape[0] for shape in seen) == count and max(shape[0] for shape in seen) <= 4


def test_a_system_says_parameters(toy_model):
    class Neutral(ToySystem):
        def predict_crops(self, crops):
            assert crops.shape[1:] == (3, 8, 8) and crops.dtype == torch.float32
            return FaceParameters.neutral(toy_model, len(crops))

    crops = [np.zeros((8, 8, 3), np.uint8)] * 3
    result = read_all(Neutral(toy_model), crops, 3, batch_size=2)
    assert result.landmarks.shape == (3, 68, 2) and len(result.parameters) == 3 and result.pose_degrees.shape == (3, 3)
    assert torch.equal(face_parameters(Neutral(toy_model), crops).translation, result.parameters.translation)


def test_detect_box_takes_the_face_in_the_middle():
    def face(x, y, side, turns=0):
        return SimpleNamespace(crop=lambda: np.array([x, y, side, side]), turns=turns)

    image = np.zeros((100, 200, 3), np.uint8)
    detector = SimpleNamespace(detect=lambda _: [face(0, 0, 50), face(70, 30, 40), face(80, 30, 40, turns=1)])
    assert detect_box(detector, image) == Box(70, 30, 40, 40)
    assert detect_box(SimpleNamespace(detect=lambda _: []), image) is None
    assert detect_box(SimpleNamespace(detect=lambda _: [face(80, 30, 40, turns=2)]), image) is None
    with pytest.raises(UserError, match="no detector"):
        detect_box(None, image)


def test_write_json_is_strict(tmp_path):
    value = {
        "a": float("nan"),
        "b": [np.float32(1.5), (1, np.int64(2))],
        "c": np.array([1.0, np.inf]),
        "d": np.bool_(True),
    }
    write_json(tmp_path / "out.json", value)
    read = json.loads((tmp_path / "out.json").read_text())
    assert read == {"a": None, "b": [1.5, [1, 2]], "c": [1.0, None], "d": True}
    write_json(tmp_path / "out.json", SimpleNamespace(summary={"x": 1}))
    assert json.loads((tmp_path / "out.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_poses_are_those_of_bfms_frame(toy_model):
    model = with_ibug(toy_model, (5.0, 0.0, 0.0))
    parameters = FaceParameters.neutral(model, 1)
    assert np.allclose(prediction(model, parameters).pose_degrees, [[5, 0, 0]], atol=1e-4)
    assert np.allclose(prediction(model, parameters).landmarks, prediction(toy_model, parameters).landmarks)
