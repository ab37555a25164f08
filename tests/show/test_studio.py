"""The studio: a photo becomes a face, the face changes, two are compared, files are written; mistakes are one line."""

import datetime
import io
import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.crops import Box
from mlanet_lib.network import MLANet
from mlanet_lib.predictor import Predictor
from mlanet_lib.show.studio import Studio

BOXES = [Box(20.0, 16.0, 100.0, 100.0), Box(130.0, 30.0, 60.0, 60.0)]


@pytest.fixture
def studio(toy_model, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = MLANet(toy_model, backbone="resnet10t", image_size=32, width=8, pool=1).eval()
    with torch.no_grad():
        network.heads["expression"].bias[:] = 2.0
    metadata = {"face_model": {"name": "toy", "fingerprint": toy_model.fingerprint}, "step": 7}
    predictor = Predictor(network, toy_model, metadata)
    found = predictor.faces
    monkeypatch.setattr(predictor, "faces", lambda photo: found(photo, BOXES) if photo.mean() > 5 else [])
    return Studio(lambda: predictor, folder=tmp_path / "faces")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "two.png"
    pixels = np.random.default_rng(0).integers(60, 200, (160, 240, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def size(picture):
    return Image.open(io.BytesIO(picture.value)).size


def test_loads_no_network_before_a_photo_is_opened():
    def load():
        raise UserError("no weights here yet")

    studio = Studio(load)
    studio.path.value = "nowhere.jpg"
    assert studio.message.value == "<b>no such photo: nowhere.jpg</b>"
    with pytest.raises(UserError, match="open a photo first"):
        studio.write()
    studio.save.click()
    assert "open a photo first" in studio.message.value


def test_missing_weights_are_said_in_one_line(photo):
    def load():
        raise UserError("no weights here yet: run make repro")

    studio = Studio(load)
    studio.path.value = str(photo)
    assert studio.message.value == "<b>no weights here yet: run make repro</b>"


def test_a_path_becomes_pictures_and_sliders(studio, photo):
    assert size(studio.strip) == (1, 1)
    studio.path.value = str(photo)
    assert size(studio.strip) == (5 * 208, 208)
    assert size(studio.levels)[0] > 300
    assert studio.message.value.startswith("two.png: photo, overlay")
    assert [label for label, _ in studio.which.options] == ["1 of 2", "2 of 2"]
    assert studio.changed.children == (studio.explorer.widget,)
    first = studio.strip.value
    studio.which.value = 1
    assert studio.face is studio.faces[1]
    assert studio.strip.value != first


def test_an_upload_is_opened_and_may_be_repeated(studio, photo):
    file = {
        "name": "../up.png",
        "type": "image/png",
        "size": 1,
        "content": memoryview(photo.read_bytes()),
        "last_modified": datetime.datetime.now(datetime.UTC),
    }
    for _ in range(2):
        studio.upload.set_trait("value", (file,))
        assert studio.name == "up.png"
        assert studio.upload.value == ()
    studio.upload.set_trait("value", (file | {"content": memoryview(b"no picture")},))
    assert "not a readable picture" in studio.message.value
    assert studio.name == "up.png"  # what was shown stays


def test_a_photo_without_a_face_changes_nothing(studio, photo):
    studio.open(photo)
    shown = studio.strip.value
    with pytest.raises(UserError, match="dark: no face found"):
        studio.open(np.zeros((64, 64, 3), np.uint8), "dark")
    assert (studio.name, studio.strip.value) == ("two.png", shown)


def test_files_hold_the_edited_face(studio, photo):
    studio.open(photo)
    untouched = json.loads(next(p for p in studio.write() if p.suffix == ".json").read_text())
    assert untouched["edited"] is False
    studio.explorer.identity[1].value = 2.0
    paths = studio.write()
    assert sorted(path.suffix for path in paths) == [".glb", ".json", ".mtl", ".obj", ".png", ".png"]
    record = json.loads(next(p for p in paths if p.suffix == ".json").read_text())
    assert record["edited"] is True
    assert record["identity"][1] == 2.0
    mesh = trimesh.load(next(p for p in paths if p.suffix == ".glb"), force="mesh", process=False)
    model, face = studio.predictor.model, studio.face.parameters
    identity = face.identity.clone()
    identity[0, 1] = 2.0
    expected = model.vertices(identity, torch.zeros_like(face.expression))[0].numpy() / 1000
    np.testing.assert_allclose(mesh.vertices[: len(expected)], expected, atol=1e-6)


def test_two_faces_are_compared_without_their_expression(studio, photo):
    studio.open(photo)
    studio.keep.click()
    one = size(studio.pair)
    assert one == (2 * 208, 208)
    for slider in studio.explorer.expression.values():
        slider.value = 0.0
    studio.hold()
    assert size(studio.pair) == (4 * 208, 208)
    assert "0.00 mm apart" in studio.difference.value
    studio.explorer.identity[0].value = 3.0
    studio.hold()
    apart = float(studio.difference.value.split("expression: ")[1].split(" mm")[0])
    assert apart > 0.1


def test_a_folder_that_cannot_be_written_is_one_line(studio, photo, tmp_path):
    (tmp_path / "file").write_text("")
    studio.open(photo)
    studio.folder.value = str(tmp_path / "file" / "below")
    studio.save.click()
    assert "cannot write into" in studio.message.value
