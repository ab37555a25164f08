"""Florence's layout: written and read back, and every way a folder can be wrong."""

import json

import numpy as np
import pytest
import trimesh

from mlanet_lib.data.sets.florence import Scan, read_folder, read_scan, write_subject
from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import Box


@pytest.fixture
def subject(tmp_path, toy_model):
    """Two subjects written in the layout; the folder of the first."""
    vertices, faces = toy_model.mean.double().numpy(), toy_model.faces.numpy()
    landmarks = {k: vertices[toy_model.landmark_index[k, 0]] for k in (30, 36, 45, 48, 54)}
    image = np.full((60, 80, 3), 90, np.uint8)
    for name in ("subject_02", "subject_01"):
        pictures = [("indoor", image, Box(5, 6, 40.5, 40.5)), ("outdoor", image, None), ("indoor", image + 9, None)]
        write_subject(tmp_path, name, Scan(vertices, faces, landmarks, "abc"), pictures)
    return tmp_path / "subject_01"


def test_written_and_read_back(subject, toy_model):
    first, second = read_folder(subject.parent)
    assert (first.name, second.name) == ("subject_01", "subject_02")
    scan = first.scan()
    assert np.allclose(scan.vertices, toy_model.mean, atol=1e-4) and np.array_equal(scan.faces, toy_model.faces)
    assert scan.face_model == "abc" and sorted(scan.landmarks) == [30, 36, 45, 48, 54]
    assert np.allclose(scan.landmarks[36], toy_model.mean[toy_model.landmark_index[36, 0]], atol=1e-4)
    assert [(p.condition, p.path.name) for p in first.pictures] == [
        ("indoor", "frame_000.jpg"),
        ("indoor", "frame_001.jpg"),
        ("outdoor", "frame_000.jpg"),
    ]
    assert first.pictures[0].box == Box(5, 6, 40.5, 40.5) and first.pictures[2].box is None
    assert abs(int(read_image(first.pictures[1].path)[30, 40, 0]) - 99) <= 1
    assert first.scan_path.relative_to(subject).as_posix() == "Model/frontal1/obj/subject_01.obj"


def test_the_obj_opens_elsewhere(subject, toy_model):
    mesh = trimesh.load(next(subject.glob("Model/frontal1/obj/*.obj")), process=False)
    assert len(mesh.vertices) == len(toy_model.mean) and len(mesh.faces) == len(toy_model.faces)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"landmarks": {"30": [0, 0, 0]}}, "'unit'"),
        ({"unit": "cm", "landmarks": {}}, "'unit'"),
        ({"unit": "mm"}, "'landmarks'"),
        ({"unit": "mm", "landmarks": {"36": [0, 0, 0], "45": [1, 0, 0], "48": [0, 1, 0]}}, "nose tip"),
        ({"unit": "mm", "landmarks": {"30": [0, 0], "45": [1, 0, 0], "48": [0, 1, 0]}}, "'30'"),
        ({"unit": "mm", "landmarks": {"30": [0, 0, 0], "nose": [1, 0, 0], "48": [0, 1, 0]}}, "'nose'"),
        ({"unit": "mm", "landmarks": {"30": [0, 0, 0], "68": [1, 0, 0], "48": [0, 1, 0]}}, "'68'"),
        ([1, 2], "no JSON object"),
    ],
)
def test_bad_landmarks(subject, record, message):
    path = subject / "Model" / "frontal1" / "landmarks.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"landmarks\.json.*{message}"):
        read_scan(next(subject.glob("Model/*/obj/*.obj")), path)


def test_bad_folders(subject, tmp_path):
    boxes = subject / "Images" / "indoor" / "boxes.json"
    for text in ("{", '{"frame_000.jpg": [1, 2, 3]}', '{"frame_000.jpg": [1, 2, 0, 5]}', "[]"):
        boxes.write_text(text)
        with pytest.raises(UserError, match=r"boxes\.json"):
            read_folder(tmp_path)
    boxes.unlink()
    assert read_folder(tmp_path)[0].pictures[0].box is None
    for picture in subject.rglob("*.jpg"):
        picture.unlink()
    assert read_folder(tmp_path, need_pictures=False)[0].pictures == []
    with pytest.raises(UserError, match="subject_01: no pictures"):
        read_folder(tmp_path)
    (subject / "Model" / "frontal1" / "landmarks.json").unlink()
    with pytest.raises(UserError, match=r"landmarks\.json: missing"):
        read_folder(tmp_path)
    next(subject.glob("Model/*/obj/*.obj")).unlink()
    with pytest.raises(UserError, match="subject_01: no scan"):
        read_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no subject_XX"):
        read_folder(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "nothing")
