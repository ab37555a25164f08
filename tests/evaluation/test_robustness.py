"""Robustness: the covered share is the asked one, known errors come out, the strength of an expression follows it."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay

from mlanet_lib import metrics
from mlanet_lib.cli.__main__ import main
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.robustness import (
    KINDS,
    SHARES,
    cover,
    evaluate_robustness,
    expression_strength,
    summary_text,
    terciles,
)
from mlanet_lib.evaluation.systems import CropPrediction, PointSystem
from mlanet_lib.files.records import write_json
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.crops import crop_box_from_landmarks, to_crop

YAW = [-10.0, 25, 5, -45, 50, 35, 70, -80, 88]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_model):
    """Nine toy faces in AFLW2000-3D's layout, three a yaw bin."""
    folder, rng = tmp_path_factory.mktemp("robustness"), np.random.default_rng(0)
    for k, yaw in enumerate(YAW):
        coefficients = (torch.tensor(rng.normal(size=(1, n)), dtype=torch.float32) for n in (5, 4))
        degrees = torch.tensor([[0.0, yaw, 5.0]])
        points = toy_model.landmarks(toy_model.vertices(*coefficients))
        camera = to_camera(points, euler_to_matrix(degrees), torch.tensor([[10.0, -20.0, 2200.0]]))
        where = project(camera, torch.full((1,), 4.5), 200, 200)[0].double().numpy()
        image = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
        aflw2000.write_sample(folder, f"image{k:05d}", image, where, degrees[0].numpy(), 0.4, where.mean(0))
    return folder


def truth_of(folder, limit=None) -> np.ndarray:
    samples = aflw2000.read_folder(folder, limit)
    return np.stack([to_crop(s.landmarks, crop_box_from_landmarks(s.landmarks)) for s in samples])


def system(points: np.ndarray, size=32, **more):
    """One that answers with points (N, K, 68, 2) in crop sides, in the order of the crops."""
    answers = iter(points.reshape(-1, 68, 2))
    return PointSystem(lambda crops: CropPrediction(np.stack([next(answers) for _ in crops])), size, **more)


def recorder(seen: list, size: int):
    """A system that keeps the crops, and says nothing of them."""

    def record(crops):
        seen.append(crops)
        return CropPrediction(np.zeros((len(crops), 68, 2)))

    return PointSystem(record, size)


def face_points(count=68) -> np.ndarray:
    return np.random.default_rng(5).uniform(0.15, 0.85, (count, 2))


def opacity(seed: int, size: int) -> tuple[np.ndarray, object]:
    """(K, S, S) how far a crop is covered, from what is laid over a black one and over a white one."""
    black, white = (np.full((size, size, 3), value, np.uint8) for value in (0, 255))
    on_black, on_white = (cover(crop, face_points(), np.random.default_rng(seed)) for crop in (black, white))
    return 1 - (on_white.images.astype(float) - on_black.images)[..., 0] / 255, on_white


@pytest.mark.parametrize("size", [64, 300])
def test_the_covered_share_of_the_face_is_the_one_asked_for(size):
    centres = (np.arange(size) + 0.5) / size
    inside = Delaunay(face_points()).find_simplex(np.stack(np.meshgrid(centres, centres), -1)) >= 0
    kinds = set()
    for seed in range(12):
        opaque, covered = opacity(seed, size)
        assert np.allclose(opaque[:, inside].mean(1), SHARES, atol=0.02), covered.kind
        assert np.allclose(covered.shares, SHARES, atol=0.02)
        assert (opaque[0] == 0).all() and (np.diff(opaque, axis=0) > -0.01).all()  # it grows and never wanders
        column, row = (face_points() * size).astype(int).T
        assert ((opaque[:, row, column] > 0.5) == covered.points).mean() > 0.95
        kinds.add(covered.kind)
    assert kinds == set(KINDS)


def test_known_errors_come_out(folder):
    """A system that is off by 1 % of the box's size more with each share, in covered and in free points alike."""
    truth = truth_of(folder)
    sizes = np.sqrt(np.ptp(truth, axis=1).prod(1))
    step = 0.01 * np.arange(len(SHARES))[None, :, None, None] * sizes[:, None, None, None] * [0.6, 0.8]
    known = {"constant": {"landmarks": truth[0].tolist()}}
    data = evaluate_robustness(folder, system(truth[:, None] + step, metadata=known))
    for k, entry in enumerate(data["covered"]):
        assert entry["share"] == SHARES[k] and np.allclose(entry["measured"], SHARES[k], atol=0.02)
        assert entry["sparse_nme"]["balanced_mean"] == pytest.approx(k, abs=1e-6)
        assert entry["intervals"]["balanced_mean"] == pytest.approx((k, k), abs=1e-6)
        assert entry["difference"]["difference"] == pytest.approx(k, abs=1e-6) and entry["difference"]["images"] == 9
        assert entry["difference"]["verdict"] == ("higher" if k else metrics.NOT_DISTINGUISHABLE)
        assert entry["free_points"]["mean"] == pytest.approx(k, abs=1e-6)
        if entry["covered_points"]["images"]:
            assert entry["covered_points"]["mean"] == pytest.approx(k, abs=1e-6)
    assert data["covered"][0]["covered_points"]["images"] == 0 and data["covered"][5]["covered_points"]["images"] == 9
    expected = metrics.by_yaw(metrics.sparse_nme(np.broadcast_to(truth[0], truth.shape), truth), YAW)
    baseline = data["baselines"]["constant"]
    assert baseline["sparse_nme"]["balanced_mean"] == pytest.approx(expected["balanced_mean"])
    low, high = baseline["intervals"]["balanced_mean"]
    assert low < expected["balanced_mean"] < high
    assert [entry["sparse_nme"]["images"] for entry in data["expression"]] == [[1, 1, 1, 3]] * 3
    assert sum(data["kinds"].values()) == data["images"] == 9
    text = summary_text(data)
    assert "50 %" in text and "strong" in text and text.count("protocol: ") == 2
    found = [[100 * entry["share"], entry["sparse_nme"]["balanced_mean"]] for entry in data["covered"]]
    assert np.allclose(found, [[10 * k, k] for k in range(6)], atol=1e-6)


def test_errors_of_the_covered_points_stand_by_themselves(folder):
    """A system that knows what it sees and misses each covered point by a tenth of the box's size."""
    truth, seen = truth_of(folder), []
    evaluate_robustness(folder, recorder(seen, 64))
    crops = torch.cat(seen).reshape(9, len(SHARES), 3, 64, 64)
    changed = (crops - crops[:, :1]).abs().amax(2) > 0.02
    column, row = (truth * 64).astype(int).clip(0, 63).transpose(2, 0, 1)
    under = np.stack([changed[i][:, row[i], column[i]].numpy() for i in range(9)])  # (9, K, 68)
    sizes = np.sqrt(np.ptp(truth, axis=1).prod(1))
    off = truth[:, None] + (0.1 * sizes[:, None, None] * under)[..., None] * [1.0, 0.0]
    last = evaluate_robustness(folder, system(off, 64))["covered"][-1]
    assert last["covered_points"]["mean"] > 9 and last["free_points"]["mean"] < 1


def test_a_photo_s_occluder_is_its_own(folder):
    """The same photo gets the same thing laid over it, whatever else is judged."""
    whole, part = [], []
    evaluate_robustness(folder, recorder(whole, 32))
    evaluate_robustness(folder, recorder(part, 32), limit=2)
    whole, part = torch.cat(whole), torch.cat(part)
    assert torch.equal(whole[: 2 * len(SHARES)], part) and not torch.equal(part[:6], part[6:])


def test_strength_of_an_expression_is_the_mouth_s_and_the_brows():
    neutral = np.concatenate([np.random.default_rng(0).uniform(-60, 60, (68, 2)), np.zeros((68, 1))], 1)
    pairs = {(36, 45): (45, 30), (48, 54): (25, -35), (37, 44): (30, 33), (19, 24): (30, 45)}
    for pair, (x, y) in pairs.items():
        neutral[list(pair)] = [[-x, y, 0], [x, y, 0]]
    neutral[[27, 33]], neutral[[62, 66]] = [[0, 30, 0], [0, -20, 0]], [0, -35, 0]
    opened, wide, raised = (neutral.copy() for _ in range(3))
    opened[66] += [0, -20, 0]
    wide[[48, 54]] *= [1.2, 1, 1]
    raised[[19, 24]] += [0, 10, 0]
    turned = neutral @ euler_to_matrix(torch.tensor([0.0, 50.0, 0.0])).double().numpy()
    faces = np.stack([neutral, turned, neutral, opened, wide, raised])[..., :2]
    strength = expression_strength(faces)
    assert np.allclose(strength, [0, 0, 0, 20 / 50, 0.2 * 50 / 50, 10 / 50], atol=1e-6)
    moved = 3 * faces @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + 7
    assert np.allclose(expression_strength(moved), strength, atol=1e-6)


def test_terciles_are_thirds_of_each_yaw_bin():
    bins = np.repeat([0, 1, 2], [30, 9, 1])
    strength = np.concatenate([np.arange(30), np.arange(9) * 100, [5.0]])
    third = terciles(strength, bins)
    assert [np.bincount(third[bins == k], minlength=3).tolist() for k in (0, 1)] == [[10, 10, 10], [3, 3, 3]]
    assert (np.diff(third[:30]) >= 0).all() and third[39] == 0


def test_wrong_input_is_refused(folder, tmp_path, capsys):
    with pytest.raises(UserError, match="limit is 1 or more, not 0"):
        evaluate_robustness(folder, system(truth_of(folder)), limit=0)
    line = np.linspace(0.2, 0.8, 68)[:, None].repeat(2, 1)
    with pytest.raises(UserError, match="one line"):
        cover(np.zeros((32, 32, 3), np.uint8), line, np.random.default_rng(0))
    with pytest.raises(UserError, match="no such folder"):
        evaluate_robustness(tmp_path / "none", recorder([], 32))
    (tmp_path / "file").write_text("")
    assert main(["evaluate", "robustness", str(folder), "--json", str(tmp_path / "file" / "out.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_real_photos_and_a_set_without_some_poses(shared_data, tmp_path):
    folder = shared_data / "AFLW2000_dev"
    truth = truth_of(folder, 4)
    data = evaluate_robustness(folder, system(truth[:, None].repeat(len(SHARES), 1), 48), limit=4)
    assert all(entry["sparse_nme"]["image_mean"] < 1e-4 for entry in data["covered"])
    assert all(np.allclose(entry["measured"], entry["share"], atol=0.02) for entry in data["covered"])
    write_json(tmp_path / "out.json", data)
    assert json.loads((tmp_path / "out.json").read_text())["covered"][0]["covered_points"]["mean"] is None
