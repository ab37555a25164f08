"""Several processes train as one does: the same curves, one writer, the same bits again, and one end for all.

Processes are started as users start them: by `fit_in_processes`, and by torchrun over `mlanet train`.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paths import ROOT
from timm.layers import BatchNormAct2d
from torch import nn
from toy_data import striped, write_toy_split

from mlanet_lib.errors import UserError
from mlanet_lib.files.project import read_yaml
from mlanet_lib.network import NetworkConfig, checkpoint
from mlanet_lib.study.profiles import merge
from mlanet_lib.training import launch, processes
from mlanet_lib.training.launch import fit_in_processes
from mlanet_lib.training.loop import TrainConfig, fit
from mlanet_lib.training.processes import Processes

NETWORK = NetworkConfig(backbone="test_resnet", levels=(2, 3, 4), image_size=32, width=16, pool=2)
# a batch of nine is shared unevenly, and its three rows of a kind are not the same ones in each process
CONFIG = TrainConfig(
    steps=20,
    batch_size=9,
    lr=2e-4,
    vertices=20,
    photometric_batch=3,
    photometric_size=16,
    validate_every=5,
    processes=2,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def model(toy_model):
    return striped(toy_model)


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    train = write_toy_split(model, root / "train", 36, kinds=(0, 0, 1, 2))
    with np.load(train / "labels.npz") as archive:
        labels = {name: archive[name] for name in archive.files}
    labels["lighting"][::8] = np.nan  # some labelled rows do not know their light
    labels["visible"] = np.random.default_rng(0).random(labels["visible"].shape, dtype=np.float32)
    np.savez(train / "labels.npz", **labels)
    return train, write_toy_split(model, root / "validation", 11, seed=1, kinds=(0, 1))


@pytest.fixture(scope="module")
def alone(model, folders, tmp_path_factory):
    config = dataclasses.replace(CONFIG, processes=1)
    return fit_in_processes(config, NETWORK, model, *folders, tmp_path_factory.mktemp("alone"), 3, device="cpu")


@pytest.fixture(scope="module")
def together(model, folders, tmp_path_factory):
    """The training in two processes, with what they printed."""
    out = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        printed = SimpleNamespace(text="", flush=lambda: None)
        printed.write = lambda text: setattr(printed, "text", printed.text + text)
        patch.setattr(sys, "stderr", printed)
        result = fit_in_processes(CONFIG, NETWORK, model, *folders, out, 3, device="cpu")
    return result, printed.text


def test_two_processes_have_the_curves_of_one(alone, together):
    result, _ = together
    assert [row["step"] for row in result.history] == [5, 10, 15, 20]
    assert {"albedo", "lighting", "vertices", "landmarks", "photometric", "prior_light"} <= set(result.history[0])
    for here, there in zip(alone.history, result.history, strict=True):
        assert list(here) == list(there)
        for name, value in here.items():
            assert there[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, here["step"])


def test_one_process_writes_and_shows_progress(alone, together):
    result, printed = together
    folder = result.last_path.parent
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.last_path.parent.iterdir()}
    assert result.best == min(result.history, key=lambda row: row["val_nme"]) and result.step == 20
    assert printed.count("\n") == 1 and printed.startswith("\rtraining:")  # one bar, and nothing beside it
    assert "100%" in printed and "loss=" in printed
    (one, _), (two, metadata) = (checkpoint.read(r.last_path) for r in (alone, result))
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}
    assert "processes" not in metadata["fingerprint"]["train"]


def test_wrong_input_is_one_user_error_for_all(model, folders, tmp_path, capsys):
    small = dataclasses.replace(CONFIG, batch_size=3)
    with pytest.raises(UserError, match=r"^a batch of 3 is too small for 2 processes: each needs two samples$"):
        fit_in_processes(small, NETWORK, model, *folders, tmp_path, progress=False, device="cpu")
    assert capsys.readouterr().err == "" and not list(tmp_path.iterdir())


def test_a_process_that_dies_takes_the_others_with_it(model, folders, tmp_path, monkeypatch):
    """The second is gone before they have met; the first would wait for it for half an hour."""
    monkeypatch.setattr(launch, "GRACE", 0.0)
    start = subprocess.Popen

    def broken(command, env, **options):
        if env["RANK"] == "1":
            command = [sys.executable, "-c", "import sys; sys.exit('no such luck')"]
        return start(command, env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", broken)
    with pytest.raises(UserError, match="training in 2 processes: no such luck"):
        fit_in_processes(CONFIG, NETWORK, model, *folders, tmp_path, progress=False, device="cpu")


@pytest.mark.parametrize("device, gpus, line", [("cpu", 8, "4 cores"), ("auto", 0, "4 cores"), ("auto", 2, "2 GPUs")])
def test_more_processes_than_there_are_is_refused(device, gpus, line, model, folders, tmp_path, monkeypatch):
    """Before any starts, unless it is asked for twice."""
    started = []
    monkeypatch.delenv("MLANET_PROCESSES", raising=False)
    monkeypatch.setattr(launch, "_run", lambda count, folder: started.append(count) or (folder / "result.json").touch())
    monkeypatch.setattr(launch, "cores", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    many = dataclasses.replace(CONFIG, processes=9999)
    with pytest.raises(UserError, match=f"^train.processes 9999 is more than the {line} here; if it is meant, set"):
        fit_in_processes(many, NETWORK, model, *folders, tmp_path, device=device)
    assert started == [] and not list(tmp_path.iterdir())
    monkeypatch.setenv("MLANET_PROCESSES", "9999")
    with pytest.raises(json.JSONDecodeError):  # nothing was trained: only counted
        fit_in_processes(many, NETWORK, model, *folders, tmp_path, device=device)
    assert started == [9999]


def project(root: Path, model, folders, changes: dict) -> Path:
    """A project's root for `mlanet train` on the toy data, with CONFIG and NETWORK in its params.yaml."""
    values = merge(read_yaml(ROOT / "profiles" / "embedded.yaml"), {"face_model": {"path": "toy.npz"}})
    values["paths"]["training"] = str(folders[0].parent)
    settings = json.loads(json.dumps({"train": dataclasses.asdict(CONFIG), "network": dataclasses.asdict(NETWORK)}))
    (root / "params.yaml").write_text(json.dumps(merge(merge(values, settings), changes)))  # JSON is YAML
    (root / "dvc.yaml").write_text("")
    model.save(root / "toy.npz")
    return root


def torchrun(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`mlanet train` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += [
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        "mlanet_lib.cli.__main__",
        "train",
        "--device",
        "cpu",
        *arguments,
    ]
    environment = os.environ | {"MLANET_ROOT": str(root)}
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)


def test_stopped_and_resumed(alone, together, model, folders, tmp_path):
    """Stopped under torchrun; in two processes it then ends with the bits of a training without a stop, in one with
    the same figures up to rounding."""
    root, two, one = project(tmp_path, model, folders, {"seed": 3}), tmp_path / "two", tmp_path / "one"
    done = torchrun(root, "--out", "two", "--max-steps", "12")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("seed 3, step 12, best at step ") and line.endswith("two/history.csv")
    shutil.copytree(two, one)
    resumed = fit_in_processes(CONFIG, NETWORK, model, *folders, two, 3, device="cpu")
    assert resumed.resumed_from == 12 and resumed.history == together[0].history
    found, expected = (checkpoint.read(result.last_path)[0] for result in (resumed, together[0]))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    resumed = fit(CONFIG, NETWORK, model, *folders, one, seed=3, progress=False)
    assert resumed.resumed_from == 12
    assert resumed.history[-1]["total"] == pytest.approx(alone.history[-1]["total"], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_all_with_one_line_and_code_2(model, folders, tmp_path):
    """The square of such a label is too large for a float32."""
    for folder in folders:
        shutil.copytree(folder, tmp_path / "data" / folder.name)
    labels = dict(np.load(tmp_path / "data" / "train" / "labels.npz"))
    labels["identity"] += np.float32(1e30)
    np.savez(tmp_path / "data" / "train" / "labels.npz", **labels)
    root = project(tmp_path, model, folders, {"paths": {"training": str(tmp_path / "data")}})
    done = torchrun(root)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "mlanet: " in line]
    assert re.search(r"mlanet: training diverged: loss '\w+' is \S+ at step \d+ \(lower train.lr\?\)$", line)
    assert re.search(r"exitcode *: 2 ", done.stderr) and "line 1, in" not in done.stderr
    assert not list((root / "outputs").glob("train/*.safetensors"))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_synced_norms_are_one_norm_over_all_rows(kind, count, monkeypatch):
    """Alone with all rows a synced norm is the norm itself: output, gradients, running statistics."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    torch.manual_seed(0)
    plain, synced = kind(4), kind(4)
    processes.sync_norms(synced)
    x = torch.randn(5, 4, 3, 3) * 2 + 7
    for _ in range(count):
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected, found = plain(one), synced(other)
        assert torch.allclose(expected, found, atol=1e-5)
        for output in (expected, found):
            (output * torch.arange(3)).square().sum().backward()
        assert torch.allclose(one.grad, other.grad, atol=1e-4)
    assert torch.allclose(plain.weight.grad, synced.weight.grad, rtol=1e-4)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, synced.state_dict()[name], rtol=1e-5), name
    assert torch.equal(plain.eval()(x), plain.eval()(x)) and torch.allclose(plain(x), synced.eval()(x), atol=1e-6)


def test_alone_a_process_is_one_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    team = Processes.join("cpu")
    assert (team.rank, team.count, team.main, team.accelerator) == (0, 1, True, None)
    rows = torch.arange(5)
    assert team.mine(rows).equal(rows) and team.in_order(rows, 5) is rows
    network = nn.Linear(2, 2)
    assert team.wrap(network) is network and team.from_main(lambda: 7) == 7 and team.gathered(7) == [7]
    with pytest.raises(UserError, match="wrong"), team.agreeing():
        raise UserError("wrong")


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_a_user_error(name):
    with pytest.raises(UserError, match=f"device '{name}' is not to be had here"):
        Processes.join(name)
