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
import time
from pathlib import Path

import norm_free
import numpy as np
import pytest
import torch
from paths import HELPERS, ROOT
from torch import nn
from toy_data import write_toy_split

from mlanet_lib.errors import UserError
from mlanet_lib.files.project import read_yaml
from mlanet_lib.network import NetworkConfig, checkpoint
from mlanet_lib.study.profiles import merge
from mlanet_lib.training import launch
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.launch import fit_in_processes
from mlanet_lib.training.loop import fit
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
NORM_FREE = str(HELPERS / "norm_free.py")


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_no_batch_norms():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(launch, "WORKER", (NORM_FREE, "mlanet_lib.training.launch"))
        for kind, forward in norm_free.replacements():
            patch.setattr(kind, "forward", forward)
        yield


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


def job(model, folders, out: Path, **changes) -> Job:
    return Job(dataclasses.replace(CONFIG, **changes), NETWORK, model, *folders, out, seed=3)


@pytest.fixture(scope="module")
def alone(model, folders, tmp_path_factory):
    return fit_in_processes(job(model, folders, tmp_path_factory.mktemp("alone"), processes=1), device="cpu")


@pytest.fixture(scope="module")
def together(model, folders, tmp_path_factory):
    """The training in two processes, with what they printed: they write to the file descriptor."""
    out, printed = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("printed") / "stderr"
    kept = os.dup(2)
    try:
        with printed.open("wb") as file:
            os.dup2(file.fileno(), 2)
        result = fit_in_processes(job(model, folders, out), device="cpu")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    return result, printed.read_bytes().decode()


def test_two_processes_have_the_curves_of_one(alone, together):
    result, _ = together
    assert [row["step"] for row in result.history] == [5, 10, 15, 20]
    assert {"albedo", "lighting", "vertices", "landmarks", "photometric", "prior_light"} <= set(result.history[0])
    for here, there in zip(alone.history, result.history, strict=True):
        assert list(here) == list(there)
        for name, value in here.items():
            assert there[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, here["step"])


def test_two_processes_train_feedback_as_one_does(model, folders, tmp_path):
    curves = []
    for count in (1, 2):
        settings = job(model, folders, tmp_path / str(count), steps=6, validate_every=3, processes=count)
        settings = dataclasses.replace(settings, network=dataclasses.replace(NETWORK, feedback=2))
        curves.append(fit_in_processes(settings, device="cpu").history)
    assert {"early", "points"} <= set(curves[0][0])
    for here, there in zip(*curves, strict=True):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-6)


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


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Sets a script in place of the processes."""

    def use(script: str) -> None:
        (tmp_path / "worker.py").write_text(f"import os, sys, time\nfrom pathlib import Path\n{script}")
        monkeypatch.setattr(launch, "WORKER", (str(tmp_path / "worker.py"),))

    return use


def test_a_user_error_in_a_process_is_one_here(worker, model, folders, tmp_path, capfd):
    worker("Path(sys.argv[1], 'error_' + os.environ['RANK']).write_text('too small'); sys.exit(2)")
    with pytest.raises(UserError, match=r"^too small$"):
        fit_in_processes(job(model, folders, tmp_path / "out"), device="cpu")
    assert capfd.readouterr().err == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "death, said", [("sys.exit(3)", "exit code 3"), ("os.kill(os.getpid(), 9)", "SIGKILL")], ids=["exit", "killed"]
)
def test_a_process_that_dies_takes_the_others_with_it(death, said, worker, model, folders, tmp_path):
    worker(f"""
Path({str(tmp_path)!r}, 'process_' + os.environ['RANK']).write_text(str(os.getpid()))
if os.environ['RANK'] == '1':
    {death}
time.sleep(60)
""")
    began = time.monotonic()
    with pytest.raises(UserError, match=f"^training in 2 processes: process 1 ended by {said}$"):
        fit_in_processes(job(model, folders, tmp_path / "out"), device="cpu")
    assert time.monotonic() - began < 30 and not alive(int((tmp_path / "process_0").read_text()))


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("signal", [2, 9, 15], ids=["interrupted", "killed", "terminated"])
def test_processes_end_with_the_one_that_started_them(signal, tmp_path):
    """A cell that is interrupted, a kernel that is restarted."""
    script = f"""
import os, sys, threading, time
from pathlib import Path
from mlanet_lib.training import launch
if "RANK" in os.environ:
    threading.Thread(target=launch._end_with_parent, args=(os.getppid(),), daemon=True).start()
    Path({str(tmp_path)!r}, "process_" + os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(100)
launch.WORKER = (__file__,)
launch._run(2, Path({str(tmp_path)!r}))
"""
    (tmp_path / "parent.py").write_text(script)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stderr=subprocess.DEVNULL)
    files = [tmp_path / f"process_{rank}" for rank in (0, 1)]
    wait_for(lambda: all(file.is_file() and file.read_text() for file in files))
    parent.send_signal(signal)
    assert parent.wait(60) != 0
    wait_for(lambda: not any(alive(int(file.read_text())) for file in files))


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("device, gpus, line", [("cpu", 8, "4 cores"), ("auto", 0, "4 cores"), ("auto", 2, "2 GPUs")])
def test_more_processes_than_there_are_is_refused(device, gpus, line, model, folders, tmp_path, monkeypatch):
    """Before any starts, unless it is asked for twice."""
    started = []
    monkeypatch.delenv("MLANET_PROCESSES", raising=False)
    monkeypatch.setattr(launch, "_run", lambda count, folder: started.append(count) or (folder / "result.json").touch())
    monkeypatch.setattr(launch, "cores", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    many = job(model, folders, tmp_path, processes=9999)
    with pytest.raises(UserError, match=f"^train.processes 9999 is more than the {line} here; if it is meant, set"):
        fit_in_processes(many, device=device)
    assert started == [] and not list(tmp_path.iterdir())
    monkeypatch.setenv("MLANET_PROCESSES", "9999")
    with pytest.raises(json.JSONDecodeError):  # nothing was trained: only counted
        fit_in_processes(many, device=device)
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [NORM_FREE, "mlanet_lib.cli.__main__", "train", "--device", "cpu", *arguments]
    environment = os.environ | {"MLANET_ROOT": str(root)}
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_stopped_and_resumed(alone, together, model, folders, tmp_path):
    """Stopped under torchrun; in two processes it then ends with the bits of a training without a stop, in one with
    the same figures up to rounding."""
    root, two, one = project(tmp_path, model, folders, {"seed": 3}), tmp_path / "two", tmp_path / "one"
    done = torchrun(root, "--out", "two", "--max-steps", "12")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("seed 3, step 12, best at step ") and line.endswith("two/history.csv")
    shutil.copytree(two, one)
    resumed = fit_in_processes(job(model, folders, two), device="cpu")
    assert resumed.resumed_from == 12 and resumed.history == together[0].history
    found, expected = (checkpoint.read(result.last_path)[0] for result in (resumed, together[0]))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    resumed = fit(job(model, folders, one), progress=False)
    assert resumed.resumed_from == 12
    assert resumed.history[-1]["total"] == pytest.approx(alone.history[-1]["total"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_begin_with_the_weights_of_a_file(alone, model, folders, tmp_path):
    """As one process does; only the main one reads the file, and the others get its weights."""
    begun = dataclasses.replace(NETWORK, start=str(alone.last_path))
    results = []
    for processes in (1, 2):
        plain = job(model, folders, tmp_path / str(processes), processes=processes, steps=6, validate_every=2)
        results.append(fit_in_processes(dataclasses.replace(plain, network=begun), device="cpu"))
    for here, there in zip(*(result.history for result in results), strict=True):
        assert there == pytest.approx(here, rel=1e-5, abs=1e-6)
    fresh = job(model, folders, tmp_path / "fresh", processes=1, steps=6, validate_every=2)
    begin = fit_in_processes(fresh, device="cpu").history[0]
    assert abs(results[1].history[0]["val_nme"] / begin["val_nme"] - 1) > 1e-3
    metadata = checkpoint.read(results[1].last_path)[1]
    assert metadata["pretrained_weights"] == "started from last.safetensors (striped, step 20)"
    assert (
        metadata["fingerprint"]["start_file"] == checkpoint.read(results[0].last_path)[1]["fingerprint"]["start_file"]
    )


def test_a_job_goes_whole_to_the_processes(model, folders, tmp_path):
    begun = dataclasses.replace(NETWORK, start="some/file.safetensors")
    sent = dataclasses.replace(job(model, folders, tmp_path / "out"), network=begun)
    launch._write_job(tmp_path, sent, {"resume": None})
    found, options = launch._read_job(tmp_path)
    assert dataclasses.asdict(found.network) == dataclasses.asdict(begun) and found.train == sent.train
    assert (found.train_folder, found.out_folder, found.seed) == (sent.train_folder, sent.out_folder, 3)
    assert found.model.fingerprint == model.fingerprint and options == {"resume": None}


@pytest.mark.slow
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
