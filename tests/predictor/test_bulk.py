"""Many photos to files: batches, what is done and what is not, several processes, and a kill in between."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image

from mlanet_lib.cli.__main__ import main
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.outputs import Task
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.predictor import bulk
from mlanet_lib.predictor.predictor import Predictor


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_model):
    """A project folder with a toy face model and two untrained networks."""
    root = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "dvc.yaml"):
        (root / name).write_text("")
    toy_model.save(root / "data" / "face_models" / "toy.npz")
    stored = MorphableModel.load(root / "data" / "face_models" / "toy.npz")
    for seed, name in enumerate(("toy", "other")):
        torch.manual_seed(seed)
        network = MLANet(stored, backbone="resnet10t", image_size=32, width=8, pool=1)
        metadata = {
            "network": dataclasses.asdict(network.config),
            "face_model": {"name": "toy", "fingerprint": stored.fingerprint},
            "pretrained_weights": "random",
            "step": 0,
            "constant": {"landmarks": np.full((68, 2), 0.5).tolist(), "pose_degrees": [0.0, 0.0, 0.0]},
        }
        tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
        checkpoint.save(root / "weights" / f"{name}.safetensors", tensors, metadata)
    return root


@pytest.fixture(autouse=True)
def at_home(project, monkeypatch):
    monkeypatch.setenv("MLANET_ROOT", str(project))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"p{number}.png")
    return tmp_path / "photos"


def reconstruct(project, folder, out, *more):
    weights = project / "weights" / "toy.safetensors"
    return main(["reconstruct", str(folder), "--out", str(out), "--cropped", "--weights", str(weights), *more])


def made(out):
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_batches_give_what_single_photos_give(project, folder, tmp_path, capsys):
    assert reconstruct(project, folder, tmp_path / "one") == 0
    lines = capsys.readouterr().out.splitlines()
    assert reconstruct(project, folder, tmp_path / "many", "--jobs", "1") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.replace("/many/", "/one/") for line in said[:-1]] == lines
    assert said[-1] == "4 faces written, 0 photos were done already, 0 failed"
    assert made(tmp_path / "one").keys() == made(tmp_path / "many").keys()
    one, many = (json.loads((tmp_path / name / "p2_0.json").read_text()) for name in ("one", "many"))
    assert one["made_from"] == many["made_from"] and one["faces"] == 1
    assert np.allclose(one["landmarks68"], many["landmarks68"], atol=0.01)


def test_what_is_done_is_skipped_and_what_is_not_is_made(project, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert reconstruct(project, folder, out, "--jobs", "1") == 0
    before = made(out)
    assert reconstruct(project, folder, out, "--jobs", "1") == 0
    assert "0 faces written, 4 photos were done already" in capsys.readouterr().out and made(out) == before
    (out / "p1_0.json").unlink()  # killed before its files were there
    (out / "p2_0.json").write_text((out / "p2_0.json").read_text()[:200])  # mlanet's own, but half
    Image.new("RGB", (80, 80), "red").save(folder / "p3.png")  # another photo
    assert reconstruct(project, folder, out, "--jobs", "1") == 0
    assert "3 faces written, 1 photos were done already" in capsys.readouterr().out
    assert made(out)["p0_0.glb"] == before["p0_0.glb"] and made(out)["p3_0.glb"] != before["p3_0.glb"]
    for more in (("--texture", "photo"), ("--texture", "albedo")):
        assert reconstruct(project, folder, out, "--jobs", "1", *more) == 0
        assert "4 faces written" in capsys.readouterr().out
    weights = project / "weights" / "other.safetensors"
    assert (
        main(["reconstruct", str(folder), "--out", str(out), "--cropped", "--weights", str(weights), "--jobs=1"]) == 0
    )
    assert "4 faces written" in capsys.readouterr().out
    before = made(out)
    assert reconstruct(project, folder, out) == 0  # without --jobs nothing is skipped
    assert all(made(out)[name] != when for name, when in before.items())


def test_all_faces_of_a_photo_must_be_there(tmp_path):
    task = Task(tmp_path / "a.jpg", "a")
    for number, record in enumerate(({"made_from": "x", "faces": 2}, {"made_from": "x", "faces": 2})):
        assert not bulk.is_done(task, tmp_path, "x")
        (tmp_path / f"a_{number}.json").write_text(json.dumps(record))
    assert bulk.is_done(task, tmp_path, "x") and not bulk.is_done(task, tmp_path, "y")
    (tmp_path / "a_1.json").write_text(json.dumps({"made_from": "y", "faces": 2}))
    assert not bulk.is_done(task, tmp_path, "x")
    (tmp_path / "a_1.json").write_text(json.dumps({"made_from": "x", "faces": "many"}))
    assert not bulk.is_done(task, tmp_path, "x")


def test_two_processes_and_a_photo_that_is_broken(project, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bulk, "cores", lambda: 2)
    (folder / "p9.png").write_bytes(b"no picture")
    assert reconstruct(project, folder, tmp_path / "out", "--jobs", "2") == 2
    said = capsys.readouterr()
    assert "4 faces written, 0 photos were done already, 1 failed" in said.out
    (line,) = [line for line in said.err.splitlines() if line.startswith("mlanet: ")]
    assert "p9.png: not a readable picture" in line
    assert len(list((tmp_path / "out").glob("*.glb"))) == 4


def test_a_fault_in_a_batch_is_that_of_one_photo(project, folder, tmp_path, capsys, monkeypatch):
    real = Predictor._read

    def surprise(self, images, *more):
        if (np.asarray(images)[..., 1].mean((1, 2)) < 20).any():  # the red one
            raise ValueError("a surprise")
        return real(self, images, *more)

    monkeypatch.setattr(Predictor, "_read", surprise)
    Image.new("RGB", (80, 80), "red").save(folder / "p1.png")
    assert reconstruct(project, folder, tmp_path / "out", "--jobs", "1") == 2
    said = capsys.readouterr()
    assert "3 faces written" in said.out and "p1.png: unexpected ValueError: a surprise" in said.err


def test_a_killed_run_goes_on(project, folder, tmp_path, capsys):
    for number in range(4, 14):
        (folder / f"p{number}.png").write_bytes((folder / "p0.png").read_bytes())
    out, weights = tmp_path / "out", project / "weights" / "toy.safetensors"
    command = [sys.executable, "-m", "mlanet_lib.cli", "reconstruct", str(folder), "--out", str(out), "--cropped"]
    environment = os.environ | {"MLANET_ROOT": str(project), "PYTHONPATH": str(ROOT), "MLANET_PROCESSES": "2"}
    with subprocess.Popen([*command, "--weights", str(weights), "--jobs", "2"], env=environment) as process:
        end = time.monotonic() + 120
        while len(list(out.glob("*.json")) if out.is_dir() else []) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGKILL)
    assert workers
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)  # they end with it
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    there = len(list(out.glob("*.json")))
    assert 2 <= there < 14
    assert reconstruct(project, folder, out, "--jobs", "1") == 0
    written, done = map(
        int, re.match(r"(\d+) faces written, (\d+) photos", capsys.readouterr().out.splitlines()[-1]).groups()
    )
    assert written + done == 14 and done >= there - 1  # of one, the files were being moved
    assert not list(out.glob(".*"))


def test_a_process_that_dies_is_one_line(project, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bulk, "cores", lambda: 2)
    monkeypatch.setattr(bulk, "_start_worker", os.abort)
    assert reconstruct(project, folder, tmp_path / "out", "--jobs", "2") == 2
    assert "a process was killed, perhaps for want of memory" in capsys.readouterr().err


def test_what_is_wrong_is_refused(project, folder, tmp_path, capsys):
    assert reconstruct(project, folder, tmp_path / "out", "--jobs", "999") == 2
    assert "--jobs 999 is more than the" in capsys.readouterr().err
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"")
    assert main(["reconstruct", str(clip), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    assert "--jobs is for photos" in capsys.readouterr().err
    with pytest.raises(UserError, match="checkpoint not found"):
        list(bulk.run([], bulk.Settings(str(tmp_path), weights=str(tmp_path / "none.safetensors")), 1))
    assert not (tmp_path / "out").exists()


def test_faces_of_several_photos_are_those_of_each(monkeypatch):
    """With the detector and a second look; a photo without a face between them."""
    monkeypatch.delenv("MLANET_ROOT")
    try:
        predictor = Predictor.load(
            face_model=ROOT / "data" / "face_models" / "ict.npz", weights=ROOT / "weights" / "ict.safetensors"
        )
    except UserError as error:
        pytest.skip(str(error))
    people = [read_photo(ROOT / "data" / "portraits" / f"{name}_neutral.jpg") for name in ("001", "002")]
    photos = [people[0], np.full((90, 80, 3), 127, np.uint8), np.ascontiguousarray(np.rot90(people[1]))]
    together = predictor.faces_of(photos)
    assert [len(faces) for faces in together] == [1, 0, 1]
    for photo, faces in zip(photos, together, strict=True):
        for one, other in zip(predictor.faces(photo), faces, strict=True):
            assert np.allclose(one.landmarks68, other.landmarks68, atol=0.5) and one.turns == other.turns
            assert np.allclose(one.crop, other.crop, atol=0.5) and one.score == pytest.approx(other.score, abs=0.01)
    assert predictor.faces_of(photos[1:2]) == [[]] and predictor.faces_of([]) == []
