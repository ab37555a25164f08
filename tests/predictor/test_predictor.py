"""Photo to faces: the way through the crop and back, records, weights that are not there."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image
from toy_model import with_ibug

from mlanet_lib.drawing.views import landmarks
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks, crop_image
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import Predictor, predictor
from mlanet_lib.predictor.detector import YUNET_CROP, Detection, turn_points
from mlanet_lib.predictor.weights import find_weights, ship, shipped_weights


@pytest.fixture(scope="module")
def network(toy_model):
    torch.manual_seed(0)
    network = MLANet(toy_model, backbone="resnet10t", image_size=32, width=8, pool=1)
    with torch.no_grad():  # away from the mean face, so that something can go wrong
        network.heads["rotation"].bias[:] = torch.tensor([0.1, 0.2, 0, 0, 0, 0.1])
        network.heads["translation"].bias[:] = torch.tensor([0.05, -0.03, 0.1])
    return network.eval()


@pytest.fixture
def toy(network, toy_model):
    metadata = {"face_model": {"name": "toy", "fingerprint": toy_model.fingerprint}, "step": 7}
    return Predictor(network, toy_model, metadata)


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


class Fixed:
    """A detector that answers with what it is told."""

    def __init__(self, *found):
        self.found = list(found)

    def detect(self, photo):
        return self.found


def found_at(x, y, side, turns=0):
    return Detection(np.array([x, y, side, side], float), 0.9, np.full((5, 2), x + side / 2.0), turns)


def test_landmarks_are_the_crop_s_in_the_photo(toy, photo):
    box = Box(20.0, 10.0, 80.0, 80.0)
    face = toy.faces(photo, [box])[0]
    assert face.crop == box and face.score is None and face.turns == 0  # nothing measured a score
    crop = predictor.crop_image(photo, box, 32)
    assert np.array_equal(face.crop_image, crop)
    parameters = toy.predict_crops(crop[None])
    inside = landmarks(toy.model, parameters, 32)[0]
    assert np.allclose(face.landmarks68, inside * 80 / 32 + [20, 10], atol=1e-3)
    assert face.pose_degrees["yaw"] == pytest.approx(float(parameters.pose_degrees()[0, 1]), abs=1e-4)


def test_crops_as_bytes_and_as_floats_agree(toy):
    crops = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    floats = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    one, other = toy.predict_crops(crops), toy.predict_crops(floats, batch_size=2)
    for name, value in one.as_tensors().items():
        assert torch.allclose(value, getattr(other, name), atol=1e-5), name
    assert len(toy.predict_crops(crops[:0])) == 0
    assert toy.predict_crops(np.zeros((1, 50, 50, 3), np.uint8)).rotation.shape == (1, 3, 3)
    one.identity.requires_grad_()  # editable


def test_faces_are_fitted_where_that_is_asked_for(network, toy, toy_model, photo):
    fitting = Predictor(network, toy_model, toy.metadata, fitted=True)
    box = Box(20.0, 10.0, 80.0, 80.0)
    (face,), (read,) = fitting.faces(photo, [box]), toy.faces(photo, [box])
    assert face.crop_image.shape[:2] == (fitting.image_size,) * 2 and fitting.image_size > toy.image_size
    record = fitting.record(face)["fit"]
    assert record["kept"] == "fitted" and record["after"]["total"] < record["before"]["total"]
    assert read.fit is None and toy.record(read)["fit"] is None and "fitted" in fitting.weights
    alone = fitting.predict_crops(face.crop_image[None])
    assert torch.allclose(alone.identity, face.parameters.identity, atol=1e-4)
    assert not torch.allclose(alone.identity, read.parameters.identity, atol=1e-2)
    assert fitting.faces_of([photo, photo], [[], [box]])[1][0].fit == record
    json.dumps(fitting.record(face))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_gives_the_upright_face_turned(toy, photo, turns):
    toy._detector = Fixed(found_at(40, 30, 60))
    upright = toy.faces(photo)[0]
    turned_photo = np.ascontiguousarray(np.rot90(photo, turns))
    toy._detector = Fixed(found_at(40, 30, 60, (4 - turns) % 4))
    face = toy.faces(turned_photo)[0]
    back = turn_points(face.landmarks68, turns, *photo.shape[:2])
    assert np.abs(back - upright.landmarks68).max() < 1e-2
    corners = turn_points(np.array([[face.box.x, face.box.y]]), turns, *photo.shape[:2])[0]
    assert min(abs(corners[0] - v) for v in (upright.box.x, upright.box.x + upright.box.w)) < 1e-3
    # the head of a photo turned counter-clockwise rolls counter-clockwise: 3DDFA's roll falls by 90 a turn
    quarter = euler_to_matrix(torch.tensor([0.0, 0.0, -90.0 * turns]))
    expected = upright.parameters.replace(rotation=quarter @ upright.parameters.rotation).pose_degrees()[0]
    assert np.allclose(list(face.pose_degrees.values()), expected.numpy(), atol=1e-2)
    assert toy.overlay(turned_photo, face).shape == turned_photo.shape


def test_roll_of_a_turned_photo_follows_its_points(toy, photo):
    """Independent of any formula: the direction from nose bridge to chin in the photo says how the head lies."""
    for turns in range(4):
        toy._detector = Fixed(found_at(40, 30, 60, turns))
        face = toy.faces(np.ascontiguousarray(np.rot90(photo, -turns)))[0]
        own = toy.model.landmarks(toy.model.mean[None])[0]
        low, high = int(own[:, 1].argmin()), int(own[:, 1].argmax())
        down = face.landmarks68[low] - face.landmarks68[high]
        from_points = np.degrees(np.arctan2(-down[0], down[1]))  # clockwise from upright, as seen in the picture
        assert abs((face.pose_degrees["roll"] - from_points + 180) % 360 - 180) < 35


def test_several_and_no_faces(toy, photo):
    toy._detector = Fixed(found_at(0, 0, 60), found_at(90, 40, 30))
    assert [round(face.box.w) for face in toy.faces(photo)] == [60, 30]
    toy._detector = Fixed()
    assert toy.faces(photo) == []


def test_record_names_everything_and_is_json(toy, photo):
    face = toy.faces(photo, [Box(0, 0, 120, 120)])[0]
    record = json.loads(json.dumps(toy.record(face), allow_nan=False))
    assert np.shape(record["landmarks68"]) == (68, 2)
    assert set(record["pose_degrees"]) == {"pitch", "yaw", "roll"}
    assert record["pose_degrees_bfm"] == record["pose_degrees"]  # a model that names no other frame
    assert list(record["expression"]) == toy.model.expression_names
    assert np.shape(record["lighting"]) == (9, 3) and len(record["identity"]) == 5
    assert {"box", "score", "weights", "face_model", "crop"} <= set(record)
    assert "toy" in record["weights"] and "7" in record["weights"]


def test_overlay_draws_on_the_face_only(toy):
    photo = np.full((300, 400, 3), 90, np.uint8)
    face = toy.faces(photo, [Box(150, 100, 100, 100)])[0]
    drawn = toy.overlay(photo, face)
    assert drawn.shape == photo.shape and (drawn[150, 200] != 90).any()
    assert (drawn[:, :90] == 90).all()
    half = toy.faces(photo, [Box(-50, -50, 100, 100)])[0]  # reaches out of the photo
    assert (toy.overlay(photo, half)[:40, :40] != 90).any()


def save(path, network, model, **changes):
    metadata = {
        "network": dataclasses.asdict(network.config),
        "face_model": {"name": model.name, "fingerprint": model.fingerprint},
        "pretrained_weights": "random",
        "step": 3,
    } | changes
    checkpoint.save(path, {f"network.{k}": v for k, v in network.state_dict().items()}, metadata)


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    return tmp_path


def test_auto_takes_shipped_weights_first(project, network, toy_model):
    with pytest.raises(UserError, match="make repro"):
        Predictor.load()
    save(project / "outputs" / "train" / "best.safetensors", network, toy_model)
    with pytest.raises(UserError, match=r"best\.safetensors: its face model 'toy' is not here .*nothing here"):
        Predictor.load()
    toy_model.save(project / "data" / "face_models" / "toy.npz")
    stored = type(toy_model).load(project / "data" / "face_models" / "toy.npz")
    save(project / "outputs" / "train" / "best.safetensors", network, stored)
    assert Predictor.load().path.name == "best.safetensors"
    save(project / "weights" / "toy.safetensors", network, stored)
    loaded = Predictor.load()
    assert loaded.path.name == "toy.safetensors" and loaded.image_size == 32
    crop = np.full((1, 32, 32, 3), 99, np.uint8)
    direct = FaceParameters.cat([network.encode(torch.full((1, 3, 32, 32), 99 / 255)).detach()])
    assert torch.allclose(loaded.predict_crops(crop).rotation, direct.rotation, atol=1e-5)


@pytest.fixture
def stored(project, toy_model):
    """The toy face model as a file of the project."""
    toy_model.save(project / "data" / "face_models" / "toy.npz")
    return type(toy_model).load(project / "data" / "face_models" / "toy.npz")


def test_shipped_weights_are_asked_for_by_name(project, network, stored, monkeypatch):
    for name in ("zebra", "toy", "ict"):
        save(project / "weights" / f"{name}.safetensors", network, stored)
    assert list(shipped_weights()) == ["ict", "toy", "zebra"]
    assert Predictor.load("toy").path == project / "weights" / "toy.safetensors"
    monkeypatch.chdir(project / "weights")
    assert Predictor.load("zebra.safetensors").path.name == "zebra.safetensors"  # a path is a path
    line = r"checkpoint not found: zebar \(shipped, by name: ict, toy, zebra\)"
    with pytest.raises(UserError, match=line):
        Predictor.load("zebar")


def test_a_name_where_nothing_is_shipped(project):
    with pytest.raises(UserError, match=r"checkpoint not found: toy \(shipped, by name: none here\)"):
        Predictor.load("toy")


def test_auto_takes_the_default_models_and_else_weights_whose_face_model_is_here(project, network, stored):
    save(project / "weights" / "another.safetensors", network, stored)
    save(project / "weights" / "toy.safetensors", network, stored)
    assert find_weights().stem == "toy"  # there is no another.npz
    save(project / "weights" / "ict.safetensors", network, stored)
    assert find_weights().stem == "toy"
    (project / "licensed" / "face_models").mkdir(parents=True)
    for name in ("another", "ict"):
        shutil.copy(project / "data" / "face_models" / "toy.npz", project / "licensed" / "face_models" / f"{name}.npz")
    assert find_weights().stem == "ict"
    (project / "weights" / "ict.safetensors").unlink()
    assert find_weights().stem == "another"


def test_weights_without_their_face_model_are_the_last_resort(project, network, stored):
    save(project / "weights" / "another.safetensors", network, stored)
    assert find_weights().stem == "another"
    save(project / "outputs" / "train" / "best.safetensors", network, stored)
    assert find_weights().stem == "best"


def test_weights_are_shipped_by_their_face_model_s_name(project, network, stored):
    save(project / "outputs" / "train" / "best.safetensors", network, stored)
    assert ship() == project / "weights" / "toy.safetensors" == find_weights()
    assert checkpoint.read_metadata(ship())["weights_dtype"] == "float16"
    with pytest.raises(UserError, match="checkpoint not found"):
        ship("elsewhere.safetensors")


def test_weights_of_another_face_model_are_refused(project, network, toy_model):
    toy_model.save(project / "data" / "face_models" / "toy.npz")
    save(project / "w.safetensors", network, toy_model, face_model={"name": "toy", "fingerprint": "0" * 64})
    with pytest.raises(UserError, match=r"w\.safetensors was trained with face model .*: name weights of this"):
        Predictor.load(project / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("anthropometric", "name other weights, or train anew"),  # the default before this one
        ("ict", r"dvc pull data\.dvc"),
        ("bfm2009_3ddfa", "mlanet face-model convert bfm2009"),
    ],
)
def test_weights_whose_face_model_is_not_here_say_what_to_do(project, network, toy_model, name, advice):
    path = project / "weights" / "old.safetensors"
    save(path, network, toy_model, face_model={"name": name, "fingerprint": "0" * 64})
    with pytest.raises(UserError, match=rf"old\.safetensors: its face model '{name}' is not here .*{advice}") as caught:
        Predictor.load("old")
    assert "\n" not in str(caught.value)


def test_a_detected_face_is_looked_at_twice(toy, photo):
    toy._detector = Fixed(found_at(40, 30, 60))
    (first,) = toy.faces(photo, [Box(*toy.detector.detect(photo)[0].crop())])
    (face,) = toy.faces(photo)
    assert face.crop == pytest.approx(crop_box_from_landmarks(first.landmarks68), abs=1e-3)
    assert face.crop != pytest.approx(first.crop, abs=0.1)
    assert np.array_equal(face.crop_image, crop_image(photo, face.crop, toy.image_size))


def test_given_crops_need_no_detector(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor.Detector, "load", lambda: pytest.fail("the detector was loaded"))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert len(toy.faces(tmp_path / "a.png", [Box(0, 0, 64, 64)])) == 1


def test_portraits_end_to_end(shared_data, toy, monkeypatch):
    """Real photos through the real detector, points inside the photo (untrained network: plumbing only)."""
    monkeypatch.setenv("MLANET_MODELS", str(ROOT / "weights"))
    for path in sorted((shared_data / "portraits").glob("*.jpg"))[::5]:
        (face,) = toy.faces(path)
        assert face.landmarks68.min() > 0 and face.landmarks68.max() < 675
        assert face.crop.w == pytest.approx(YUNET_CROP["side"] * np.sqrt(face.box.w * face.box.h), rel=0.1)


def test_a_face_has_its_pose_in_the_models_frame_and_in_bfms(toy, photo):
    model = with_ibug(toy.model, (6.0, 0.0, 0.0))
    face = Predictor(toy.network, model, toy.metadata).faces(photo, [Box(0, 0, 120, 120)])[0]
    for found, turn in ((face.pose_degrees, None), (face.pose_degrees_bfm, model.bfm_rotation)):
        expected = face.parameters.pose_degrees(turn)[0].tolist()
        assert list(found) == ["pitch", "yaw", "roll"] and list(found.values()) == pytest.approx(expected, abs=1e-4)
    assert face.pose_degrees_bfm["pitch"] - face.pose_degrees["pitch"] == pytest.approx(6, abs=1.5)
