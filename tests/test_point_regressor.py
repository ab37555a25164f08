"""The plain regressor of points: it learns, goes on bit for bit, and is judged as it is."""

import dataclasses
import importlib
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from paths import BENCHMARKS, HELPERS, ROOT
from toy_data import striped, write_toy_split

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.crops import crop_box_from_landmarks, from_crop
from mlanet_lib.metrics import sparse_nme
from mlanet_lib.network import NetworkConfig, checkpoint
from mlanet_lib.training.augmentation import AugmentConfig
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.data import TrainingData
from mlanet_lib.training.resume import BEST, HISTORY, LAST

NETWORK = NetworkConfig(backbone="lcnet_050", image_size=32)
CONFIG = TrainConfig(steps=20, batch_size=8, validate_every=5)
PLAIN = AugmentConfig(**dict.fromkeys((field.name for field in dataclasses.fields(AugmentConfig)), 0.0))
DEATH = 9  # the step in the midst of which a training is killed
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{benchmarks!r}, {tests!r}, {helpers!r}]
import torch
import point_regressor, test_point_regressor
torch.set_num_threads(1)
from mlanet_lib.training import loop
augment, calls = loop.augment, []
def deadly(*arguments):
    calls.append(arguments)
    if len(calls) == test_point_regressor.DEATH:
        os.kill(os.getpid(), signal.SIGKILL)
    return augment(*arguments)
loop.augment = deadly
test_point_regressor.run(point_regressor, Path({folder!r}), Path({out!r}))
"""


def run(module, folder, out, config=CONFIG):
    model = MorphableModel.load(folder / "model.npz")
    return module.train(Job(config, NETWORK, model, folder / "train", folder / "validation", out, seed=5))


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("point_regressor")


@pytest.fixture(scope="module")
def folder(toy_model, tmp_path_factory):
    root, model = tmp_path_factory.mktemp("points"), striped(toy_model)
    model.save(root / "model.npz")
    write_toy_split(model, root / "train", 44, seed=0, kinds=(0, 0, 1, 2))
    write_toy_split(model, root / "validation", 12, seed=1, kinds=(0, 1))
    return root


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_killed_training_goes_on_bit_for_bit(module, folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result, rate = run(module, folder, whole)
    assert [row["step"] for row in result.history] == [5, 10, 15, 20] and rate > 0
    script = CHILD.format(
        benchmarks=str(BENCHMARKS), tests=str(ROOT / "tests"), helpers=str(HELPERS), folder=str(folder), out=str(killed)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = checkpoint.read_metadata(killed / LAST)
    assert left["step"] == 5 and len(left["history"]) == 1
    again, _ = run(module, folder, killed)
    assert again.history == result.history and again.resumed_from == 5
    assert importlib.import_module("kill_and_resume").unlike(whole, killed) == []
    assert sorted(path.name for path in killed.iterdir()) == sorted((BEST, LAST, HISTORY))


def test_it_begins_with_the_mean_points_and_is_judged_on_photos(module, folder):
    model, kinds = MorphableModel.load(folder / "model.npz"), ("labelled", "landmarked")
    data, held_out = (TrainingData(folder / name, model, 32, kinds) for name in ("train", "validation"))
    mean = torch.tensor(data.constant()["landmarks"])
    network = module.PointRegressor(NETWORK, mean).eval()
    with torch.no_grad():
        assert (network(held_out.batch(torch.arange(4)).images) - mean).abs().max() < 1e-3
    truth = held_out.labels["landmarks"].numpy()
    errors = sparse_nme(mean.expand(len(truth), 68, 2).numpy(), truth)
    photos = np.arange(len(truth)) % 2 == 1  # samples whose light is not known: the landmarked ones
    assert abs(errors[photos].mean() - errors.mean()) > 0.05 * errors.mean()
    assert module.validate(network, held_out) == pytest.approx(errors[photos].mean(), rel=0.01)


@pytest.mark.slow
def test_it_learns_by_heart(module, folder, tmp_path):
    """Sixteen faces: their points come at least four times nearer than the mean points."""
    model = MorphableModel.load(folder / "model.npz")
    for name in ("train", "validation"):
        write_toy_split(model, tmp_path / name, 16, kinds=(0, 1))
    data = TrainingData(tmp_path / "train", model, 32)
    before = module.validate(module.PointRegressor(NETWORK, data.labels["landmarks"].mean(0)).eval(), data)
    config = TrainConfig(steps=80, batch_size=16, augment=PLAIN, validate_every=20, ema=0.9, precision="bfloat16")
    network = NetworkConfig(backbone="resnet10t", image_size=32)
    job = Job(config, network, model, tmp_path / "train", tmp_path / "validation", tmp_path / "out")
    result, _ = module.train(job)
    assert result.history[-1]["val_nme"] < before / 4


def test_another_run_is_not_gone_on_with(module, folder, tmp_path):
    run(module, folder, tmp_path, TrainConfig(steps=2, batch_size=8))
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(UserError, match=r"cannot resume from .*train\.lr"):
        run(module, folder, tmp_path, TrainConfig(steps=2, batch_size=8, lr=1e-3))
    assert (tmp_path / LAST).read_bytes() == before


def test_evaluation_of_known_points(module, tmp_path, capsys):
    """Weights that say the same points of every picture have the error of those points."""
    rng = np.random.default_rng(0)
    mean, photos = rng.uniform(0.2, 0.8, (68, 2)), tmp_path / "photos"
    for k, yaw in enumerate((-10.0, 45.0, 80.0)):
        points = 40 + 120 * (mean + 0.02 * rng.normal(size=(68, 2)))
        picture = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
        aflw2000.write_sample(
            photos, f"image{k:05d}", picture, np.c_[points, np.zeros(68)], np.array([0, yaw, 0]), 1.0, np.zeros(3)
        )
    samples = aflw2000.read_folder(photos)
    errors = [
        sparse_nme(from_crop(mean, crop_box_from_landmarks(s.landmarks))[None], s.landmarks[None])[0] for s in samples
    ]
    network = module.PointRegressor(NETWORK, torch.tensor(mean).float())
    torch.nn.init.zeros_(network.points.weight)
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    metadata = {
        "network": {"backbone": NETWORK.backbone, "image_size": 32},
        "constant": {"landmarks": mean.tolist(), "pose_degrees": None},
        "step": 7,
    }
    checkpoint.save(tmp_path / "points.safetensors", tensors, metadata)
    command = ["evaluate", "--weights", str(tmp_path / "points.safetensors"), "--folder", str(photos)]
    assert module.main([*command, "--json", str(tmp_path / "out.json")]) == 0
    data, text = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    assert [data["sparse_nme"][name] for name in ("bin_0_30", "bin_30_60", "bin_60_90")] == pytest.approx(
        errors, rel=1e-4
    )
    assert data["sparse_nme"]["balanced_mean"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert data["pose_mae"] is None and data["baselines"]["constant"]["sparse_nme"]["images"] == [1, 1, 1, 3]
    assert f"{np.mean(errors):.2f}" in text and "95 % interval" in text and "points, lcnet_050, step 7" in text
    assert module.main([*command[:2], str(tmp_path / "missing.safetensors"), *command[3:]]) == 2
    assert "not found" in capsys.readouterr().err
    checkpoint.save(tmp_path / "points.safetensors", {"network.heads": torch.zeros(2)}, metadata)
    assert module.main(command) == 2 and "another network" in capsys.readouterr().err
