"""The AFLW2000-3D benchmark: known errors in, the same errors out; the real files; the baselines."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_model import with_ibug
from toy_system import ToySystem

from mlanet_lib import metrics
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.labels import Reannotated
from mlanet_lib.evaluation.sparse import ORACLE, evaluate_aflw2000, oracle_pose, summary_text
from mlanet_lib.evaluation.systems import CropPrediction, PointSystem
from mlanet_lib.files.records import write_json
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.geometry.crops import (
    ONE_BASED,
    ZERO_BASED,
    crop_box_from_landmarks,
    from_crop,
    from_index,
    to_crop,
    to_index,
)
from mlanet_lib.parameters import FaceParameters

YAW = [-10.0, 25, 5, -45, 50, 35, 70, -80, 88]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory, toy_model):
    """Nine synthetic faces in the layout, three a bin, every third occluded."""
    folder, rng = tmp_path_factory.mktemp("aflw"), np.random.default_rng(0)
    degrees = torch.tensor([[rng.normal() * 10, yaw, rng.normal() * 10] for yaw in YAW], dtype=torch.float32)
    identity = torch.tensor(rng.normal(size=(len(YAW), 5)), dtype=torch.float32)
    expression = torch.tensor(rng.uniform(size=(len(YAW), 4)), dtype=torch.float32)
    vertices = toy_model.vertices(identity, expression)
    points = torch.cat([toy_model.landmarks(vertices), torch.zeros(len(YAW), 1, 3)], 1)
    shift = torch.tensor([[10.0, -20.0, 2200.0]]).expand(len(YAW), 3)
    projected = project(to_camera(points, euler_to_matrix(degrees), shift), torch.full((len(YAW),), 4.5), 200, 200)
    for k in range(len(YAW)):
        truth = aflw2000.SyntheticTruth(toy_model.fingerprint, identity[k].numpy(), expression[k].numpy(), k % 3 == 0)
        image, scale = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8), 4.5 * 200 / 2200
        where = projected[k].double().numpy()
        aflw2000.write_sample(
            folder, f"image{k:05d}", image, where[:68], degrees[k].numpy(), scale, where[68], truth=truth
        )
    return folder, FaceParameters.neutral(toy_model, len(YAW)).replace(identity=identity, expression=expression)


def replay(boxes, points, pose=None, parameters=None, size=16, **more):
    """A system that answers, in the order of the crops, with points given in the photos' pixels."""
    landmarks = np.stack([to_crop(p, b) for p, b in zip(points, boxes, strict=True)])
    position = iter(range(0, 10**6))

    def predict(crops):
        assert crops.shape[1] == 3 and crops.dtype == torch.float32
        rows = [next(position) for _ in crops]
        known = (None if values is None else values[rows] for values in (pose, parameters))
        return CropPrediction(landmarks[rows], *known)

    return PointSystem(predict, size, **more)


def flat(summary):
    """A summary by yaw without its list, for approximate comparison."""
    numbers = {key: value for key, value in summary.items() if key != "images"}
    return numbers | {f"images {k}": count for k, count in enumerate(summary["images"])}


def perfect(benchmark, offset=0.0, turn=0.0, model=None, constant=None, **more):
    folder, parameters = benchmark
    samples = aflw2000.read_folder(folder)
    boxes = [crop_box_from_landmarks(sample.landmarks) for sample in samples]
    points = [sample.landmarks + offset for sample in samples]
    pose = np.stack([sample.pose_degrees for sample in samples]) + turn
    return replay(boxes, points, pose, parameters, model=model, metadata={"constant": constant}, **more)


def test_a_perfect_system_has_no_error(benchmark, toy_model):
    result = evaluate_aflw2000(benchmark[0], perfect(benchmark, model=toy_model, size=32))
    data = result.summary
    assert data["sparse_nme"]["images"] == [3, 3, 3, 9] and data["sparse_nme"]["balanced_mean"] < 1e-9
    assert data["pose_mae"]["mean"] < 1e-9 and data["pose_mae"]["images"] == 9
    assert data["vertex_error"]["mean_mm"] < 1e-3 < 0.5 < data["vertex_error"]["mean_face_mm"]
    assert data["vertex_error"]["difference"]["verdict"] == "lower"
    assert data["by_occlusion"]["occluded"]["images"] == [1, 1, 1, 3]
    assert data["by_occlusion"]["free"]["images"] == [2, 2, 2, 6]
    assert data["baselines"][ORACLE]["uses_the_truth"] and data["baselines"][ORACLE]["sparse_nme"]["image_mean"] > 0.3
    assert data["baselines"][ORACLE]["difference"]["sparse_nme"]["verdict"] == "lower"


def test_known_errors_come_out(benchmark, toy_model):
    samples = aflw2000.read_folder(benchmark[0])
    offset = np.array([3.0, 4.0])
    result = evaluate_aflw2000(benchmark[0], perfect(benchmark, offset, [1, 2, 6], model=toy_model))
    sizes = np.array([np.sqrt(np.ptp(sample.landmarks, axis=0).prod()) for sample in samples])
    assert np.allclose(result.images["nme"], 500 / sizes)
    expected = metrics.by_yaw(500 / sizes, np.array([sample.pose_degrees[1] for sample in samples]))
    assert flat(result.summary["sparse_nme"]) == pytest.approx(flat(expected))
    pose = dict(result.summary["pose_mae"])
    assert 3 < pose.pop("geodesic") < 9
    assert pose == pytest.approx({"pitch": 1, "yaw": 2, "roll": 6, "mean": 3, "images": 9}, abs=1e-6)
    assert np.allclose(result.predicted, [sample.landmarks + offset for sample in samples])
    low, high = result.summary["intervals"]["balanced_mean"]
    assert low <= expected["balanced_mean"] <= high
    assert result.summary["intervals"]["pose_mae_mean"] == pytest.approx((3, 3), abs=1e-6)


def test_constant_baseline_is_placed_by_the_crop_alone(benchmark, toy_model):
    samples = aflw2000.read_folder(benchmark[0])
    landmarks = np.random.default_rng(1).uniform(0.2, 0.8, (68, 2))
    constant = {"landmarks": landmarks.tolist(), "pose_degrees": [0.0, 10.0, 0.0]}
    system = perfect(benchmark, model=toy_model, constant=constant)
    entry = evaluate_aflw2000(benchmark[0], system).summary["baselines"]["constant"]
    boxes = [crop_box_from_landmarks(sample.landmarks) for sample in samples]
    points = np.stack([from_crop(landmarks, box) for box in boxes])
    truth, pose = np.stack([s.landmarks for s in samples]), np.stack([s.pose_degrees for s in samples])
    nme = metrics.sparse_nme(points, truth)
    assert flat(entry["sparse_nme"]) == pytest.approx(flat(metrics.by_yaw(nme, pose[:, 1])))
    assert entry["uses_the_truth"] is False
    assert entry["pose_mae"] == pytest.approx(metrics.pose_mae(np.broadcast_to([0, 10, 0], pose.shape), pose))
    assert entry["difference"]["sparse_nme"]["verdict"] == entry["difference"]["pose_mae"]["verdict"] == "lower"


def test_a_system_no_better_than_the_baseline_is_not_distinguishable(benchmark, toy_model):
    landmarks = np.random.default_rng(1).uniform(0.2, 0.8, (68, 2))

    def predict(crops):
        return CropPrediction(np.broadcast_to(landmarks, (len(crops), 68, 2)))

    constant = {"landmarks": landmarks, "pose_degrees": None}
    system = PointSystem(predict, 32, metadata={"constant": constant})
    data = evaluate_aflw2000(benchmark[0], system).summary
    assert data["baselines"]["constant"]["difference"]["sparse_nme"]["verdict"] == metrics.NOT_DISTINGUISHABLE
    assert data["pose_mae"] is None and data["baselines"]["constant"]["pose_mae"] is None


def test_oracle_pose_fits_the_mean_shape_exactly(toy_model):
    shape = toy_model.landmarks(toy_model.mean[None])[0].double().numpy()
    degrees = torch.tensor([[10.0, 30, -5], [-20.0, -70, 15]], dtype=torch.float64)
    turned = shape @ euler_to_matrix(degrees).numpy().transpose(0, 2, 1)
    truth = turned[..., :2] * [1.3, -1.3] + [200, 220]
    points, angles = oracle_pose(toy_model, truth)
    assert np.allclose(points, truth, atol=1e-6) and np.allclose(angles, degrees, atol=1e-5)


def test_public_system_on_the_real_files(benchmark, shared_data, toy_model):
    """3DDFA_V2's stored points through the whole evaluator. Its own script compares its points, counted from 0, with
    labels counted from 1: read as such, its known numbers come out; with both counted right it is a little better."""
    folder = shared_data / "AFLW2000_dev"
    stored = np.load(folder / "predictions_3ddfa_v2_mb05.npz")
    samples = aflw2000.read_folder(folder, limit=200)
    assert [sample.name for sample in samples] == stored["names"].tolist()
    boxes = [crop_box_from_landmarks(sample.landmarks) for sample in samples]
    means = {}
    for first in (ONE_BASED, ZERO_BASED):
        points = from_index(stored["landmarks68"].astype(float), first)
        data = evaluate_aflw2000(folder, replay(boxes, points, size=8, weights="mb05")).summary
        means[first] = data["sparse_nme"]
    expected = {"bin_0_30": 2.869, "bin_30_60": 3.391, "bin_60_90": 4.216, "balanced_mean": 3.492, "image_mean": 3.170}
    for name, value in expected.items():
        assert abs(means[ONE_BASED][name] - value) < 1e-3
    assert means[ONE_BASED]["images"] == [132, 38, 30, 200]
    assert means[ZERO_BASED]["image_mean"] == pytest.approx(3.113, abs=1e-3)
    assert (
        data["weights"] == "mb05" and "by_occlusion" not in data and "original labels" in data["protocol"]["sparse_nme"]
    )


def test_other_systems_points_are_judged_alike(benchmark, toy_model, tmp_path):
    folder = benchmark[0]
    samples = aflw2000.read_folder(folder)
    boxes = [crop_box_from_landmarks(sample.landmarks) for sample in samples]
    truth = np.stack([sample.landmarks for sample in samples])
    off = to_index(truth + np.array([3.0, 4.0]), ONE_BASED)
    names = np.array([sample.name for sample in samples])
    np.savez(tmp_path / "peer.npz", names=names[::-1], landmarks68=off[::-1])
    system = replay(boxes, truth, model=toy_model, weights="w")
    result = evaluate_aflw2000(folder, system, others=[("peer", tmp_path / "peer.npz")])
    entry = result.summary["others"]["peer"]
    size = np.sqrt((truth.max(1) - truth.min(1)).prod(1))
    assert np.allclose(result.images["nme peer"], 500 / size) and entry["pose_mae"] is None
    assert entry["difference"]["sparse_nme"]["verdict"] == "lower" and "peer" not in result.summary["baselines"]
    assert "minus peer: " in summary_text(result.summary)
    np.savez(tmp_path / "less.npz", names=names[1:], landmarks68=off[1:])
    np.savez(tmp_path / "form.npz", names=names, landmarks68=off[:, :5])
    np.savez(tmp_path / "none.npz", names=names)
    for name, message in (("less", f"no points for {names[0]}"), ("form", "not .9, 68, 2"), ("none", "no field")):
        with pytest.raises(UserError, match=message):
            evaluate_aflw2000(folder, replay(boxes, truth), others=[("peer", tmp_path / f"{name}.npz")])


def test_boxes_of_a_detector(benchmark, toy_model):
    folder = benchmark[0]
    seen, looks = [], []

    class Detected(ToySystem):
        image_size, weights = 16, "w.safetensors"
        detector = SimpleNamespace(
            detect=lambda image: (
                seen.append(image.shape)
                or ([SimpleNamespace(turns=0, crop=lambda: np.array([20, 30, 150, 150]))] if len(seen) > 1 else [])
            )
        )

        def predict_crops(self, crops):
            looks.append(len(crops))
            return FaceParameters.neutral(toy_model, len(crops))

    system = Detected(toy_model)
    system.metadata = {"constant": {"landmarks": np.full((68, 2), 0.5).tolist(), "pose_degrees": [0, 0, 0]}}
    found = evaluate_aflw2000(folder, system, box="detector")
    assert looks == [9, 9]  # a second look, at what the detector found
    assert found.summary["undetected"] == 1 and len(seen) == 9 and "detector" in found.summary["box"]
    middle = found.predicted.mean(1)
    assert np.abs(middle[0] - 100).max() < 15 and np.abs(middle[1:] - [95, 105]).max() < 15
    assert found.summary["weights"] == "w.safetensors" and "constant" in found.summary["baselines"]
    with pytest.raises(UserError, match="unknown box"):
        evaluate_aflw2000(folder, system, box="guess")


def test_reannotated_labels_judge_but_do_not_crop(benchmark, toy_model, tmp_path):
    """The second label set is another truth for the points: crops and bins stay, and the summary says which it is."""
    folder = benchmark[0]
    samples, moved = aflw2000.read_folder(folder), np.array([3.0, 4.0])
    np.save(tmp_path / "re.npy", np.stack([(sample.landmarks + 0.5 + moved).T for sample in samples]))
    given = Reannotated(tmp_path / "re.npy")
    result = evaluate_aflw2000(folder, perfect(benchmark, model=toy_model), limit=4, reannotated=given)
    sizes = np.array([np.sqrt(np.ptp(sample.landmarks, axis=0).prod()) for sample in samples[:4]])
    assert np.allclose(result.images["nme"], 500 / sizes) and result.summary["labels"] == "reannotated"
    assert "reannotated" in result.summary["protocol"]["sparse_nme"] and result.summary["images"] == 4
    assert "labels: reannotated" in summary_text(result.summary) and "original labels" not in summary_text(
        result.summary
    )
    original = evaluate_aflw2000(folder, perfect(benchmark, model=toy_model))
    assert original.summary["labels"] == "original" and "original labels" in summary_text(original.summary)


def test_json_and_table(benchmark, toy_model, tmp_path):
    result = evaluate_aflw2000(benchmark[0], perfect(benchmark, 2.0, model=toy_model), limit=2)
    write_json(tmp_path / "out.json", result)
    data = json.loads((tmp_path / "out.json").read_text())
    assert {"sparse_nme", "pose_mae", "baselines", "protocol", "weights"} <= set(data)
    assert data["sparse_nme"]["bin_60_90"] is None and data["sparse_nme"]["images"] == [2, 0, 0, 2]
    assert data["intervals"]["balanced_mean"] == [None, None]
    text = summary_text(result.summary)
    assert "uses the truth" in text and "sqrt(w*h)" in text and "2 images" in text


def test_no_other_system_takes_another_ones_row(benchmark, toy_model, tmp_path):
    """Whatever is called as a baseline, as the system, or twice, is refused; the baselines' numbers are their own."""
    samples = aflw2000.read_folder(benchmark[0])
    path, points = tmp_path / "o.npz", np.stack([sample.landmarks + 0.5 for sample in samples])
    np.savez(path, names=np.array([sample.name for sample in samples]), landmarks68=points)
    known = {"model": toy_model, "constant": {"landmarks": np.random.default_rng(0).random((68, 2))}, "weights": "ours"}
    twice = [("<b>one</b>", path), ("two/..", path)]
    data = evaluate_aflw2000(benchmark[0], perfect(benchmark, 2.0, **known), others=twice).summary
    assert list(data["others"]) == ["<b>one</b>", "two/.."] and set(data["baselines"]) == {"constant", ORACLE}
    assert (
        data["others"]["two/.."]["sparse_nme"]["image_mean"]
        < 1e-6
        < data["baselines"]["constant"]["sparse_nme"]["image_mean"]
    )
    for name in ("constant", ORACLE, "ours", "<b>one</b>"):
        with pytest.raises(UserError, match=f"cannot be called '{name}'"):
            evaluate_aflw2000(benchmark[0], perfect(benchmark, **known), others=[*twice, (name, path)])
    with pytest.raises(UserError, match="cannot be called 'constant'"):  # also where there is no such baseline
        evaluate_aflw2000(benchmark[0], perfect(benchmark), others=[("constant", path)])


def test_every_row_of_the_table_is_printed_whatever_the_system_is_called(benchmark, toy_model):
    constant = {"landmarks": np.random.default_rng(0).random((68, 2))}
    system = perfect(benchmark, model=toy_model, constant=constant, weights="constant")
    text = summary_text(evaluate_aflw2000(benchmark[0], system).summary)
    assert sum(line.startswith("constant") for line in text.splitlines()) == 2


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(benchmark, toy_model, limit):
    with pytest.raises(UserError, match="1 or more"):
        evaluate_aflw2000(benchmark[0], perfect(benchmark), limit=limit)


@pytest.mark.parametrize("away", [(5000, 0), (0, -900), (1e7, 1e7)])
def test_labels_far_outside_of_the_picture_are_refused(benchmark, toy_model, tmp_path, away):
    sample = aflw2000.read_folder(benchmark[0])[0]
    points = np.column_stack([sample.landmarks + away, np.full(68, 2200.0)])
    aflw2000.write_sample(tmp_path, "far", sample.image(), points, np.zeros(3), 0.4, points[30])
    system = replay([crop_box_from_landmarks(points)], [points[:, :2]])
    with pytest.raises(UserError, match=r"far\.jpg: .*outside the picture \(200 x 200\)"):
        evaluate_aflw2000(tmp_path, system)


def test_bad_photos_are_named(benchmark, toy_model, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(benchmark[0], folder)
    photo = folder / "image00003.jpg"
    photo.write_bytes(photo.read_bytes()[:500])
    with pytest.raises(UserError, match=r"image00003\.jpg"):
        evaluate_aflw2000(folder, perfect(benchmark))


class Turned(ToySystem):
    """A system that knows the synthetic faces but for their frame: it says the poses of its own model's."""

    def __init__(self, model, samples):
        super().__init__(model)
        self.samples = iter(samples)

    def predict_crops(self, crops):
        pose = torch.tensor(np.stack([next(self.samples).pose_degrees for _ in crops]), dtype=torch.float32)
        found = FaceParameters.neutral(self.model, len(crops))
        return found.replace(rotation=euler_to_matrix(pose) @ self.model.bfm_rotation.T)


def test_poses_are_compared_in_bfms_frame(benchmark, toy_model):
    folder, model = benchmark[0], with_ibug(toy_model, (4.5, -1.0, 0.5))
    result = evaluate_aflw2000(folder, Turned(model, aflw2000.read_folder(folder)))
    assert result.summary["pose_mae"]["mean"] < 1e-2
    assert result.summary["bfm_rotation_degrees"] == pytest.approx([4.5, -1.0, 0.5], abs=1e-4)
    text = summary_text(result.summary)
    assert "BFM's frame" in text and "R0" in text and "pitch 4.50, yaw -1.00, roll 0.50 degrees" in text
    plain = evaluate_aflw2000(folder, Turned(toy_model, aflw2000.read_folder(folder)))
    assert plain.summary["pose_mae"]["mean"] < 1e-2 and plain.summary["bfm_rotation_degrees"] == [0, 0, 0]
    oracles = [r.summary["baselines"][ORACLE]["pose_mae"]["pitch"] for r in (result, plain)]
    assert oracles[0] - oracles[1] > 2  # whose mean face does stand in BFM's frame


def test_the_oracles_pose_is_that_of_bfms_frame(toy_model):
    model = with_ibug(toy_model, (10.0, 0.0, 0.0))
    shape = model.landmarks(model.mean[None])[0].double().numpy()
    _, angles = oracle_pose(model, shape[None, :, :2] * [1.3, -1.3] + [200, 220])
    assert np.allclose(angles, [[10, 0, 0]], atol=1e-4)
