"""Inputs on which an earlier version failed: each is now right, or refused in one line. A new one needs a line here."""

import json
import shutil

import numpy as np
import pytest
from paths import ROOT

from mlanet_lib.cli.__main__ import main
from mlanet_lib.data.sets.scans import check_size, read_scan
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.pictures import read_image, read_photo
from mlanet_lib.predictor.detector import Detector
from mlanet_lib.predictor.weights import find_face_model
from mlanet_lib.study.notebook_runner import clean_copy, declared_parameters
from mlanet_lib.study.params import load_params
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.tracking import upright


def photo_is_upright(path, tmp_path):
    """The orientation is used, whatever is wrong with the other tags: the face stands upright."""
    assert np.array_equal(read_photo(path), np.rot90(read_image(path, upright=False), 3))
    assert [face.turns for face in Detector.load().detect(read_photo(path))] == [0]


def photo_is_neither_white_nor_black(path, tmp_path):
    for read in (read_photo, read_image):
        picture = read(path)
        assert 100 < picture.mean() < 220 and picture.std() > 8, read


def clip_is_turned(path, tmp_path):
    detector = Detector.load()
    clip = upright(Clip.open(path), detector)
    frames = [frame for _, frame in clip.frames()]
    assert clip.turns == 2 and len(frames) == 8
    assert [face.turns for face in detector.detect(frames[0])] == [0]


def crop_is_refused(path, tmp_path):
    assert main(["reconstruct", str(path), "--cropped", "--out", str(tmp_path / "out")]) == 2


def input_is_not_written_over(path, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(path.parent, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert main(["reconstruct", str(folder), "--out", str(folder)]) == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def unit_is_refused(path, tmp_path):
    """The scan is in metres, and its landmarks say mm; in its own unit it is taken."""
    folder, out = path.parent, tmp_path / "out.json"
    arguments = ["evaluate", "scan", str(folder / "h.obj"), "--json", str(out), "--landmarks"]
    assert main([*arguments, str(folder / "m.json")]) == 2 and not out.exists()
    marks = json.loads((folder / "m.json").read_text()) | {"unit": "m"}
    (tmp_path / "m.json").write_text(json.dumps(marks))
    scan = read_scan(folder / "h.obj", tmp_path / "m.json", "m")
    check_size(scan, MorphableModel.load(find_face_model("ict")))
    assert scan.look == "texture"


def parameters_are_refused(path, tmp_path):
    with pytest.raises(UserError) as refused:
        load_params(path)
    assert "\n" not in str(refused.value) and "processes" not in str(refused.value)


def parameters_cell_is_refused(path, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(path, tmp_path / "notebooks")
    with pytest.raises(UserError):
        declared_parameters(clean_copy(path.stem, tmp_path), path.name)


def notebook_is_cleaned(path, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(path, tmp_path / "notebooks")
    assert clean_copy(path.stem, tmp_path)["nbformat"] == 4


EXPECTED = {
    "exif_neg_long.jpg": photo_is_upright,
    "exif_neg_rational.jpg": photo_is_upright,
    "exif_rational_as_byte.jpg": photo_is_upright,
    "float01.tif": photo_is_neither_white_nor_black,
    "grey16.png": photo_is_neither_white_nor_black,
    "scan_t16.png": photo_is_neither_white_nor_black,
    "crop_squash.png": crop_is_refused,
    "upside.mp4": clip_is_turned,
    "overwrite/x.jpg": input_is_not_written_over,
    "overwrite/x_0.png": input_is_not_written_over,
    "scan_unit/h.obj": unit_is_refused,
    "scan_unit/h.mtl": unit_is_refused,
    "scan_unit/m.json": unit_is_refused,
    "scan_unit/t.jpg": unit_is_refused,
    "notebooks/magic.ipynb": parameters_cell_is_refused,
    "notebooks/syntax.ipynb": parameters_cell_is_refused,
    "notebooks/nometa.ipynb": parameters_cell_is_refused,
    "notebooks/exits.ipynb": notebook_is_cleaned,  # that its kernel's end is explained, test_notebook_runner shows
    "params_bell.yaml": parameters_are_refused,
    "params_clip_negative.yaml": parameters_are_refused,
    "params_seed_negative.yaml": parameters_are_refused,
    "params_self_anchor.yaml": parameters_are_refused,
    "params_variant_path.yaml": parameters_are_refused,
}


def test_every_input_has_its_line(shared_data):
    folder = shared_data / "faults"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_was_wrong_is_right_or_one_line(name, shared_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLANET_ROOT", str(ROOT))
    monkeypatch.delenv("MLANET_MODELS", raising=False)
    EXPECTED[name](shared_data / "faults" / name, tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") <= 1 and "Traceback" not in said
