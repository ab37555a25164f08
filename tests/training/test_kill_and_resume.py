"""A training that is killed with SIGKILL again and again, also half-way through its files, ends as if nothing had been.

The children come from a fork server that has imported torch once, so that each is a fresh process and yet quick.
"""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from toy_training import NETWORK
from tqdm.auto import tqdm

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.network import checkpoint
from mlanet_lib.training import loop
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.loop import fit
from mlanet_lib.training.resume import BEST, HISTORY, LAST

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no SIGKILL on this system"
)
CONFIG = TrainConfig(steps=25, batch_size=8, vertices=20, photometric_batch=2, photometric_size=16, validate_every=2)


def train(folder: Path, out: Path, reports) -> None:
    """A child: trains, sends the name of every moment at which it may die, and waits there for an answer."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a named semaphore, which a killed process leaves behind

    def moment(name: str) -> None:
        reports.send(name)
        reports.recv()

    def save_in_two_halves(tensors, path, metadata):
        content = safetensors.torch.save(tensors, metadata)
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            moment(f"half of {Path(path).name.strip('.')}")
            file.write(content[len(content) // 2 :])

    def sync(descriptor: int) -> None:  # all is written, and the file does not yet have its name
        moment(f"unnamed {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name.strip('.')}")

    def augment_and_tell(*arguments):
        moment("step")
        return augment(*arguments)

    augment, loop.augment = loop.augment, augment_and_tell
    checkpoint.save_file, os.fsync = save_in_two_halves, sync
    model = MorphableModel.load(folder / "model.npz")
    job = Job(CONFIG, NETWORK, model, folder / "train", folder / "validation", out, seed=5)
    result = fit(job, progress=False)
    reports.send(result.resumed_from)


def live(folder: Path, out: Path, death: str | None = None, times: int = 1, delay: float = 0.0) -> tuple[list, int]:
    """The moments of a child's life and its exit code. It is killed when it has come `times` times to `death`:
    there, or `delay` seconds later, wherever it is then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlanet_lib.training.loop", "mlanet_lib.rasterizer.numba_backend"])
    reports, theirs = context.Pipe()
    child = context.Process(target=train, args=(folder, out, theirs), daemon=True)
    child.start()
    theirs.close()
    moments = []
    while child.is_alive() or reports.poll():
        try:
            moments.append(reports.recv())
            if moments.count(death) == times and moments[-1] == death:
                if delay:
                    reports.send("go on")
                    time.sleep(delay)
                os.kill(child.pid, signal.SIGKILL)
                break
            reports.send("go on")
        except (EOFError, ConnectionError):  # it has ended
            break
    child.join()
    return moments, child.exitcode


@pytest.fixture(scope="module")
def folder(model, folders):
    """The toy data, and beside them the face model."""
    root = folders[0].parent
    model.save(root / "model.npz")
    return root


@pytest.fixture(scope="module")
def unharmed(folder, tmp_path_factory):
    """The run that nobody killed: its folder and its moments."""
    out = tmp_path_factory.mktemp("unharmed")
    moments, code = live(folder, out)
    assert code == 0 and moments.count("step") == CONFIG.steps and moments[-1] == 0
    return out, moments


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the child asks /proc which file it is writing")
@pytest.mark.timeout(120)
def test_killed_again_and_again_it_ends_bit_for_bit_the_same(folder, unharmed, tmp_path):
    reference, moments = unharmed
    kinds = [f"{state} {name}" for state in ("half of", "unnamed") for name in (LAST, BEST)] + [f"unnamed {HISTORY}"]
    assert {*kinds, "step"} == set(moments[:-1])
    chance = np.random.default_rng(0)
    # the first validation is the best so far: a child that begins anew is sure to write that file
    deaths = [(f"half of {BEST}", 1, 0.0)]
    others = [f"unnamed {LAST}", f"unnamed {HISTORY}"]
    deaths += [(others[k], int(chance.integers(2, 4)), 0.0) for k in chance.permutation(2)]
    deaths += [("step", int(chance.integers(1, 4)), float(chance.uniform(0.005, 0.05)))]
    remains = []
    for death, times, delay in deaths:
        moments, code = live(folder, tmp_path, death, times, delay)
        assert code == -signal.SIGKILL, (death, moments)
        for path in tmp_path.glob("*.safetensors"):  # never a torn one
            tensors, metadata = checkpoint.read(path)
            assert tensors and metadata["step"] == metadata["history"][-1]["step"]
        remains.append([path.name for path in tmp_path.iterdir() if path.name not in (BEST, LAST, HISTORY)])
    assert max(map(len, remains)) == 1  # a kill leaves one at most, and the next child that writes removes it
    moments, code = live(folder, tmp_path)
    assert code == 0 and 0 < moments[-1] < CONFIG.steps
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((BEST, LAST, HISTORY))
    for name in (BEST, LAST):
        (tensors, metadata), (expected, record) = checkpoint.read(tmp_path / name), checkpoint.read(reference / name)
        assert tensors.keys() == expected.keys() and metadata == record
        assert all(torch.equal(tensors[key], expected[key]) for key in expected), name
    assert (tmp_path / HISTORY).read_bytes() == (reference / HISTORY).read_bytes()
