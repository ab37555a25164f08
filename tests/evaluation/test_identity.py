"""Identity over expressions and turns: exact answers for a system whose identities are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from toy_system import ToySystem

from mlanet_lib.cli.__main__ import main
from mlanet_lib.data.sets.scans import Scan
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.identity import (
    DISTANCES,
    FIGURES,
    draw_heads,
    evaluate_identity,
    pair_distances,
    person_of,
    recognition,
    sd_between,
    summary_text,
    turn_figures,
)
from mlanet_lib.parameters import FaceParameters

NAMES = ("a_neutral.png", "a_smiling.png", "b_1.png", "b_2.jpg.png", "c_x_y.png", "c_z.png")
LINE = (0.0, 1.0, 10.0, 12.0, 13.0, 20.0)  # the first identity coefficient read in each of NAMES


class Reads(ToySystem):
    """A system that reads a flat grey picture of value v as the identity `table[v]`, and anything else as the last row;
    its detector takes the whole picture."""

    image_size = 16

    def __init__(self, model, table):
        super().__init__(model)
        self.table, self.crops = torch.as_tensor(np.array(table), dtype=torch.float32), []
        box = np.array([0.0, 0.0, 20.0, 20.0])
        face = SimpleNamespace(turns=0, crop=lambda: box)
        self.detector = SimpleNamespace(kind="whole", detect=lambda image: [face] if image.max() < 255 else [])

    def predict_crops(self, crops):
        self.crops.append(crops)
        flat = crops.flatten(1)
        value = (flat.mean(1) * 255).round().long().clamp(max=len(self.table) - 1)
        value[flat.amax(1) - flat.amin(1) > 0.01] = len(self.table) - 1
        return FaceParameters.neutral(self.model, len(crops)).replace(identity=self.table[value])


def write_photos(folder, names=NAMES):
    """Flat pictures whose grey value is their number."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number,) * 3).save(folder / name)
    return folder


def on_a_line(values, model):
    table = np.zeros((len(values) + 1, model.n_identity))
    table[: len(values), 0] = values
    return table


def test_the_figures_of_known_identities(tmp_path, toy_model):
    """Within: 1, 2, 7; between: a-b 10 12 9 11, a-c 13 20 12 19, b-c 3 10 1 8; looked up wrongly: 12 and 13."""
    result = evaluate_identity(
        write_photos(tmp_path), Reads(toy_model, on_a_line(LINE, toy_model)), heads=2, yaw=(0, 9)
    )
    data = result["photos"]
    sd = data["distances"]["sd"]
    assert sd["within"] == pytest.approx(10 / 3) and sd["between"] == pytest.approx(32 / 3)
    assert sd["ratio"] == pytest.approx(10 / 32)
    assert sd["auc"] == pytest.approx((11.5 + 11 + 10) / 36)  # the 1 of a ties with that of b-c
    assert sd["rank_1"] == pytest.approx(4 / 6) and data["rank_1_chance"] == pytest.approx(1 / 5)
    assert data["people"] == {"a": 2, "b": 2, "c": 2}
    assert data["sd_between"] == pytest.approx(np.std([0.5, 11, 16.5], ddof=1) / np.sqrt(toy_model.n_identity))
    for name in FIGURES:
        low, high = sd["intervals"][name]
        assert low < sd[name] < high, name
    assert sd["intervals"]["within"][0] > 1 and sd["intervals"]["within"][1] < 7
    identity = on_a_line(LINE, toy_model)[:6]
    distances = pair_distances(toy_model, identity)
    pairs = list(zip(*np.triu_indices(6, 1), strict=True))
    assert all(len(values) == 15 for values in distances.values())
    assert distances["sd"][pairs.index((3, 4))] == 1 and distances["cosine"][pairs.index((3, 4))] == 0
    assert distances["cosine"][pairs.index((0, 1))] == 1  # the first is all zeros


def test_people_weigh_alike_whatever_their_number_of_photos():
    """One person with three photos (distances 1, 1, 2), one with two (4): within 1/2 (4/3 + 4)."""
    position, person = np.array([0.0, 1, 2, 10, 14]), np.array([1, 1, 1, 0, 0])
    first, second = np.triu_indices(5, 1)
    found = recognition(np.abs(position[first] - position[second]), person)
    assert found["within"] == pytest.approx((4 / 3 + 4) / 2) and found["between"] == pytest.approx(11)
    assert found["auc"] == found["rank_1"] == 1 and found["intervals"]["auc"] == pytest.approx([1, 1])
    assert found["intervals"]["between"] == pytest.approx([11, 11])  # there is one pair of people only
    assert found == recognition(np.abs(position[first] - position[second]), person)
    single = recognition(np.array([1.0, 5, 6]), np.array([0, 0, 1]))  # the second person has one photo: a stranger
    assert (single["within"], single["between"], single["auc"], single["rank_1"]) == (1, 5.5, 1, 1)


def test_one_answer_for_all_is_chance():
    found = recognition(np.zeros(66), np.repeat(np.arange(6), 2))
    assert found["auc"] == pytest.approx(0.5) and found["rank_1"] == pytest.approx(1 / 11)
    assert found["within"] == 0 and np.isnan(found["ratio"])


def test_interval_over_people_has_the_spread_of_a_mean():
    """For the mean of n people the bootstrap's width is that of the normal interval, nearly."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 2)
    first, second = np.triu_indices(80, 1)
    distance = np.where(person[first] == person[second], rng.normal(5, 1, len(first)), rng.normal(9, 1, len(first)))
    found = recognition(distance, person)
    own = distance[person[first] == person[second]]
    half = 1.96 * own.std() / np.sqrt(41)
    low, high = found["intervals"]["within"]
    assert low == pytest.approx(own.mean() - half, abs=0.06) and high == pytest.approx(own.mean() + half, abs=0.06)


def test_distances(toy_model):
    """In sd and by angle by hand, in mm by SciPy's rigid alignment, and the same both ways."""
    rng = np.random.default_rng(1)
    identity = np.concatenate([rng.normal(size=(3, toy_model.n_identity)), np.zeros((1, toy_model.n_identity))])
    found = pair_distances(toy_model, identity)
    assert set(found) == set(DISTANCES)
    backwards = pair_distances(toy_model, identity[::-1].copy())
    zero = torch.zeros(4, toy_model.n_expression)
    shapes = toy_model.vertices(torch.tensor(identity, dtype=torch.float32), zero).double().numpy()
    for k, (i, j) in enumerate(zip(*np.triu_indices(4, 1), strict=True)):
        a, b = (shape - shape.mean(0) for shape in (shapes[i], shapes[j]))
        turn, _ = Rotation.align_vectors(b, a)
        assert found["mm"][k] == pytest.approx(np.linalg.norm(turn.apply(a) - b, axis=1).mean(), abs=1e-4)
        assert found["sd"][k] == pytest.approx(np.sqrt(((identity[i] - identity[j]) ** 2).sum()), abs=1e-5)
        lengths = np.linalg.norm(identity[i]) * np.linalg.norm(identity[j])
        angle = 1 - identity[i] @ identity[j] / lengths if j < 3 else 1
        assert found["cosine"][k] == pytest.approx(angle, abs=1e-5)
    for name, values in found.items():
        np.testing.assert_allclose(np.sort(backwards[name]), np.sort(values), atol=2e-5)
    assert found["mm"].min() > 0.1


def test_turns_of_known_predictions(toy_model):
    """Two heads whose first coefficient grows by 0.1 a degree: sd over yaws 1, over people 3 / sqrt 2."""
    yaw = (-10, 0, 10)
    identity = np.zeros((2, 3, toy_model.n_identity))
    identity[..., 0] = [[-1, 0, 1], [2, 3, 4]]
    between = sd_between(identity.mean(1))
    figures = turn_figures(toy_model, identity, yaw, between)
    assert figures["sd_over_yaw"] == pytest.approx(1 / np.sqrt(5))
    assert between == pytest.approx(3 / np.sqrt(2) / np.sqrt(5))
    assert figures["ratio"] == pytest.approx(np.sqrt(2) / 3) and figures["heads"] == 2
    assert [at["yaw"] for at in figures["by_yaw"]] == [-10, 0, 10] and [at["sd"] for at in figures["by_yaw"]] == [
        1,
        0,
        1,
    ]
    frontal = figures["by_yaw"][1]
    assert frontal["mm"] == 0 and frontal["mm_interval"] == (0, 0)
    alone = turn_figures(toy_model, identity[:1], yaw, 0.0)
    table = pair_distances(toy_model, identity[0])
    assert alone["by_yaw"][0]["mm"] == pytest.approx(table["mm"][0], abs=1e-5) and alone["by_yaw"][0]["mm"] > 0.1
    assert np.isnan(alone["ratio"]) and "mm_interval" not in alone["by_yaw"][0]


def test_heads_turn_and_nothing_else_changes(toy_model):
    views = draw_heads(toy_model, (-30, 0, 30, 0), heads=3, size=32)
    assert views.shape == (3, 4, 32, 32, 3) and views.dtype == np.uint8
    assert np.array_equal(views[:, 1], views[:, 3])  # the same person, light, background and noise
    assert np.array_equal(views, draw_heads(toy_model, (-30, 0, 30, 0), heads=3, size=32))
    difference = np.abs(views[:, 1:2].astype(int) - views[:, [0, 2]]).mean((2, 3, 4))
    assert difference.min() > 1  # a turn is seen
    people = np.abs(views[0, 1].astype(int) - views[1:, 1]).mean((1, 2, 3))
    assert people.min() > 5


def test_a_constant_system_does_not_move_with_the_scan(tmp_path, toy_model):
    vertices = toy_model.mean.double().numpy()
    points = (30, 0, 16, 36, 45, 8, 60)
    marks = {k: vertices[toy_model.landmark_index[k, 0]] for k in points}
    scan = Scan(vertices, toy_model.faces.numpy(), marks)
    system = Reads(toy_model, on_a_line(LINE, toy_model))
    result = evaluate_identity(write_photos(tmp_path), system, scan, "toy.obj", yaw=(-20, 0, 20), heads=2)
    photos, heads, turned = system.crops
    assert photos.shape == (6, 3, 16, 16) and heads.shape == (6, 3, 16, 16) and turned.shape == (3, 3, 16, 16)
    entry = result["turns"]["scan"]
    assert entry["sd_over_yaw"] == 0 and entry["ratio"] == 0 and all(at["mm"] == 0 for at in entry["by_yaw"])
    assert entry["sd_between"] == result["photos"]["sd_between"] and entry["scan"] == "toy.obj"
    assert np.isnan(result["turns"]["synthetic"]["ratio"])  # all heads are read as one
    text = summary_text(result)
    assert "6 photos of 3 people" in text and "0.31 (" in text and "scan (1)" in text
    assert result["photos"]["protocol"] in text and result["turns"]["protocol"] in text


def test_people_are_named_by_the_first_underscore():
    assert person_of("001_smiling_left.jpg") == person_of("001_neutral.png") == "001"
    assert person_of("anna/1_a.jpg") == person_of("anna/1_b.jpg") == "anna/1" != person_of("bea/1_a.jpg")
    assert person_of("portrait.jpg") == "portrait"


def test_what_is_wrong_is_a_user_error(tmp_path, toy_model):
    system = Reads(toy_model, on_a_line(LINE, toy_model))
    for name, files, words in (
        ("one", ("a_1.png", "a_2.png"), "one person only \\(a\\)"),
        ("each", ("a_1.png", "b_1.png", "c.png"), "a single photo of each person"),
        ("none", (), "no such folder"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate_identity(write_photos(tmp_path / name, files), system)
    folder = write_photos(tmp_path / "unseen", ("a_1.png", "a_2.png", "b_1.png"))
    Image.new("RGB", (20, 20), "white").save(folder / "b_1.png")  # no face is found there
    with pytest.raises(UserError, match="one person only"):
        evaluate_identity(folder, system)
    for wrong in ({"yaw": (-10, 10)}, {"yaw": (0,)}, {"heads": 1}):
        with pytest.raises(UserError, match="turns need"):
            evaluate_identity(folder, system, **wrong)


def test_photos_twice_and_scans_in_another_unit_are_refused(tmp_path, toy_model):
    system = Reads(toy_model, on_a_line(LINE, toy_model))
    marks = {k: toy_model.mean[toy_model.landmark_index[k, 0]].double().numpy() / 1000 for k in (30, 36, 45, 8)}
    scan = Scan(toy_model.mean.double().numpy() / 1000, toy_model.faces.numpy(), marks)
    with pytest.raises(UserError, match="look like m"):
        evaluate_identity(write_photos(tmp_path), system, scan, "s", heads=2, yaw=(0, 9))
    Image.new("RGB", (20, 20)).save(tmp_path / "a_neutral.jpg")
    with pytest.raises(UserError, match=r"a_neutral\.jpg and a_neutral\.png are one photo twice"):
        evaluate_identity(tmp_path, system, heads=2, yaw=(0, 9))


def test_command(tmp_path, toy_model, monkeypatch, capsys):
    monkeypatch.setattr(
        "mlanet_lib.cli.options.load_predictor", lambda options: Reads(toy_model, on_a_line(LINE, toy_model))
    )
    folder, out = write_photos(tmp_path / "photos"), tmp_path / "out.json"
    assert main(["evaluate", "identity", str(folder), "--json", str(out)]) == 0
    assert "6 photos of 3 people" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert data["photos"]["distances"]["sd"]["rank_1"] == pytest.approx(4 / 6)
    assert data["turns"]["synthetic"]["ratio"] is None and data["turns"]["synthetic"]["heads"] == 20
    for arguments, word in (
        (["--scan", "head.obj"], "--landmarks"),
        (["--texture", "colours.jpg"], "--scan"),
        (["--scan", "head.obj", "--landmarks", "none.json"], "none.json"),
    ):
        assert main(["evaluate", "identity", str(folder), *arguments]) == 2
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1


def test_real_portraits(shared_data, face_model):
    """Six people, twice each, by the file names alone."""
    system = Reads(face_model, np.zeros((2, face_model.n_identity)))
    system.detector.detect = lambda image: [SimpleNamespace(turns=0, crop=lambda: np.array([100.0, 100, 400, 400]))]
    data = evaluate_identity(shared_data / "portraits", system, yaw=(0, 30), heads=2)["photos"]
    assert data["people"] == {f"00{k}": 2 for k in range(1, 7)}
    assert data["distances"]["mm"]["auc"] == pytest.approx(0.5)
    assert data["rank_1_chance"] == pytest.approx(1 / 11) == data["distances"]["mm"]["rank_1"]
