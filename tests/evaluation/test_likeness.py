"""Likeness over a folder of people: known answers for a system that knows them, and for one with one face for all."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_data import striped
from toy_portraits import Knows, toy_folder, toy_people

from mlanet_lib.cli.__main__ import main
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import likeness, recognizer
from mlanet_lib.evaluation.identity import coefficient_distances
from mlanet_lib.evaluation.likeness import drawn_landmarks, evaluate_likeness, mean_face, summary_text
from mlanet_lib.evaluation.likeness_metrics import DISTANCES, PROTOCOLS, headline
from mlanet_lib.face_model.sparse_shape import in_crop


class Stub:
    """A recogniser that sees a picture's mean colour, and knows which pictures it was shown."""

    @classmethod
    def load(cls):
        return cls()

    def describe(self, pictures, marks):
        assert pictures.dtype == np.uint8 and marks.shape == (len(pictures), 68, 2) and marks.max() > 100
        return pictures.reshape(len(pictures), -1, 3).mean(1)


@pytest.fixture
def people(toy_model):
    return toy_people(toy_model)


@pytest.fixture(autouse=True)
def no_recognizer(monkeypatch):
    monkeypatch.setattr(likeness.Recognizer, "load", lambda: None)


def test_a_system_that_knows_everybody(tmp_path, toy_model, people):
    result = evaluate_likeness(toy_folder(tmp_path, toy_model, people), Knows(toy_model, people))
    data = result.summary
    assert data["proportions"]["r"] > 0.999 and data["proportions"]["slope"] == pytest.approx(1, abs=0.01)
    assert data["skin"]["lightness"]["r"] > 0.99 and data["skin"]["lightness"]["slope"] == pytest.approx(1, abs=0.1)
    assert abs(data["skin"]["lightness"]["mean_difference"]) < 1 and data["skin"]["unseen"] == 0
    assert data["identity"]["sd"]["rank_1"] == data["identity"]["cosine"]["rank_1"] == 1
    assert data["identity"]["sd"]["chance"] == pytest.approx(1 / 5)
    assert data["people"] == 5 and data["undetected"] == 0 and "stored with the photos" in data["crop"]
    assert data["protocol"] == PROTOCOLS and "only ones" in data["points"] and data["weights"] == "knows"
    assert set(data["skin"]["by_group"]) == {"white", "black"}
    assert result.photos.shape == result.drawings.shape == (5, 256, 256, 3) and result.drawings.dtype == np.uint8
    assert [row["person"] for row in result.people] == ["001", "002", "003", "004", "005"]
    for row in result.people:
        assert row["lips_mm"] == pytest.approx(row["lips_drawn_mm"], abs=0.3)
        assert row["lightness"] == pytest.approx(row["lightness_drawn"], abs=1)
    floor = data["baselines"]["mean face"]["proportions"]
    assert abs(floor["slope"]) < 0.05 and data["proportions"]["difference"]["slope"]["low"] > 0.9


def test_one_face_for_everybody(tmp_path, toy_model, people):
    """Everybody is the first person."""
    folder = toy_folder(tmp_path, toy_model, people)
    data = evaluate_likeness(folder, Knows(toy_model, people[[0] * 5])).summary
    assert data["proportions"]["r"] == data["proportions"]["slope"] == 0
    assert data["identity"]["sd"]["rank_1"] == pytest.approx(1 / 5)  # all tie
    assert abs(data["skin"]["lightness"]["slope"]) < 0.1


def test_points_are_ibugs_where_the_model_knows_them(toy_model, people):
    index = toy_model.landmark_index.numpy()[::-1].copy()
    other = toy_model.replace(ibug_index=index, ibug_weights=np.tile(np.float32([1, 0, 0]), (68, 1)))
    places = in_crop(toy_model, people).numpy()
    np.testing.assert_allclose(drawn_landmarks(other, people), places[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(in_crop(other, people), places, atol=1e-6)
    flat = mean_face(people)
    assert not flat.identity.any() and not flat.albedo.any() and torch.equal(flat.translation, people.translation)


def test_without_crops_the_detector_says_where_and_who_is_not_found_is_taken_whole(tmp_path, toy_model, people):
    folder = toy_folder(tmp_path, toy_model, people, crops=None)
    system = Knows(toy_model, people)
    faces = iter([True, False] + [True] * 8)
    face = SimpleNamespace(turns=0, crop=lambda: np.array([0.0, 0, 160, 160]))
    system.detector = SimpleNamespace(kind="toy", detect=lambda photo: [face] if next(faces) else [])
    data = evaluate_likeness(folder, system).summary
    assert data["undetected"] == 1 and data["crop"].startswith("face detector (toy)")
    assert data["proportions"]["r"] > 0.999  # the whole photo is the crop


def test_the_recogniser_is_asked_where_it_is_installed(tmp_path, toy_model, people, monkeypatch):
    folder, system = toy_folder(tmp_path, toy_model, people), Knows(striped(toy_model), people)
    result = evaluate_likeness(folder, system)
    assert (
        result.summary["recognisable"]["run"] is False and "mlanet[likeness]" in result.summary["recognisable"]["why"]
    )
    assert "not run: needs pip install" in summary_text(result.summary)
    monkeypatch.setattr(likeness, "Recognizer", Stub)
    result = evaluate_likeness(folder, system)
    found = result.summary["recognisable"]
    assert found["run"] and 0 <= found["rank_1"] <= 1 and found["of_the_photos"] == 1 and found["chance"] == 0.2
    assert "photos themselves 1.00" in summary_text(result.summary)


def test_the_recogniser_is_not_there_without_its_packages(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(recognizer, "find_spec", lambda name: None)
    assert recognizer.Recognizer.load() is None


def test_the_real_recogniser_finds_a_person_again(shared_data, monkeypatch):
    """Three people, smiling among neutral; only where the extra is installed."""
    monkeypatch.undo()
    found = recognizer.Recognizer.load()
    if found is None:
        pytest.skip("the extra likeness is not installed")
    from mlanet_lib.files.pictures import read_image

    square = np.array([[230.0, 250.0], [450.0, 470.0]])
    described = [
        found.describe(
            np.stack([read_image(shared_data / "london" / f"{n}_{mood}.jpg") for n in ("001", "004", "005")]),
            np.broadcast_to(square, (3, 2, 2)),
        )
        for mood in ("neutral", "smiling")
    ]
    distance = np.linalg.norm(described[1][:, None] - described[0][None], axis=2)
    assert distance.shape == (3, 3) and (distance.argmin(1) == np.arange(3)).all() and distance.diagonal().max() < 0.6


def test_identity_distances(toy_model, people):
    identity = people.identity.double().numpy()
    found = coefficient_distances(identity, identity)
    assert np.abs(np.diagonal(found["sd"])).max() == 0 and np.abs(np.diagonal(found["cosine"])).max() < 1e-6
    a, b = people.identity[0].double(), people.identity[3].double()
    assert found["sd"][0, 3] == pytest.approx(float((a - b).norm()), abs=1e-5)
    assert found["cosine"][0, 3] == pytest.approx(1 - float(a @ b / a.norm() / b.norm()), abs=1e-5)
    nobody = coefficient_distances(0 * identity, identity)
    assert (nobody["cosine"] == 1).all()


def test_what_is_wrong_is_a_user_error(tmp_path, toy_model, people):
    system = Knows(toy_model, people)
    with pytest.raises(UserError, match=r"labels\.npz: no such file"):
        evaluate_likeness(tmp_path, system)
    folder = toy_folder(tmp_path / "photos", toy_model, people)
    (folder / "002_neutral.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"002_neutral\.jpg"):
        evaluate_likeness(folder, system)


def test_command(tmp_path, toy_model, people, monkeypatch, capsys):
    monkeypatch.setattr("mlanet_lib.cli.options.load_predictor", lambda options: Knows(toy_model, people))
    folder, out = toy_folder(tmp_path / "photos", toy_model, people), tmp_path / "out.json"
    assert main(["evaluate", "likeness", str(folder), "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "proportions: slope" in text and "5 people" in text and all(name in text for name in DISTANCES)
    assert all(f"protocol, {name}: " in text for name in PROTOCOLS)
    data = json.loads(out.read_text())
    assert data["proportions"]["r"] > 0.999 and data["recognisable"]["run"] is False
    assert [name for name, *_ in headline(data)][-1] == "recognisable: rank-1"
    assert main(["evaluate", "likeness", str(folder)]) == 0
    capsys.readouterr()
    for arguments, word in (
        ([str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path)], "labels.npz"),
        ([str(folder), "--json", str(folder / "labels.npz")], "labels.npz"),
    ):
        assert main(["evaluate", "likeness", *arguments]) == 2
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1
    assert json.loads(out.read_text()) == data
