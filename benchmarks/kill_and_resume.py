"""Does a training that is killed at any time end as one that was not? By hand, since it takes minutes.

    python benchmarks/kill_and_resume.py [--kills 10] [--seed 0] [--steps 60]

A training in a process of its own says what it is about to do, and is timed, twice (the shorter times count). Then the
same training is killed with SIGKILL so many times, at moments drawn uniformly over that time, and started again after
each. At last it runs to its end, and its files are compared with those of the first: every weight, every statistic of
the optimiser, every row of the history. Exits with 1 where anything differs, where a file was ever torn, where
temporary files remain, or where the training had ended before a kill, which a changing load brings about.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from training import synthetic_split

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.project import find_root
from mlanet_lib.network import NetworkConfig, checkpoint
from mlanet_lib.training import loop, resume
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.loop import fit
from mlanet_lib.training.resume import BEST, HISTORY, LAST

FILES = (BEST, LAST, HISTORY)
MODEL = find_root(__file__) / "data" / "face_models" / "ict.npz"


def train(folder: Path, out: Path, steps: int) -> None:
    """What a child does."""
    torch.set_num_threads(1)

    def telling(owner, name: str, words) -> None:
        function = getattr(owner, name)

        def wrapper(*arguments, **options):
            print(words(*arguments), flush=True)
            return function(*arguments, **options)

        setattr(owner, name, wrapper)

    telling(loop, "learning_rate", lambda step, *_: f"step {step + 1}")
    telling(loop, "validate", lambda *_: "validation")
    telling(checkpoint, "save", lambda path, *_: f"writing {Path(path).name}")
    telling(resume, "write_history", lambda path, *_: f"writing {Path(path).name}")
    config = TrainConfig(steps=steps, batch_size=16, photometric_batch=2, photometric_size=24, validate_every=3)
    network = NetworkConfig(backbone="lcnet_050", image_size=32, width=16)
    model = MorphableModel.load(MODEL)
    fit(Job(config, network, model, folder / "train", folder / "validation", out), progress=False)


def start(folder: Path, out: Path, steps: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", str(folder), str(out), "--steps", str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def life(child: subprocess.Popen) -> list[tuple[str, float]]:
    """What a child that nobody kills did, in order, and when, in seconds after its start. Lines are made unlike by the
    step they belong to."""
    began, done, step = time.monotonic(), [("start", 0.0)], ""
    for line in child.stdout:
        step = line.strip() if line.startswith("step") else step
        done.append((named(line, step), time.monotonic() - began))
    if child.wait():
        raise SystemExit(f"the training fails by itself, with exit code {child.returncode}")
    return done


def named(line: str, step: str) -> str:
    """The name of a moment: what is done, and after which step."""
    return line.strip() if line.startswith("step") else f"{line.strip()} after {step}"


def killed(child: subprocess.Popen, moment: str, delay: float) -> tuple[str, bool]:
    """Kill a child so many seconds after a moment of its life. What it did last, and whether it was still alive."""
    latest, step = "start", ""
    if moment != "start":
        for line in child.stdout:
            step = line.strip() if line.startswith("step") else step
            latest = named(line, step)
            if latest == moment:
                break
    time.sleep(delay)
    alive = child.poll() is None
    if alive:
        os.kill(child.pid, signal.SIGKILL)
    for line in child.stdout:  # what it said in the meantime
        step = line.strip() if line.startswith("step") else step
        latest = named(line, step)
    return latest, child.wait() == -signal.SIGKILL


def torn(out: Path) -> list[str]:
    """The checkpoints that are there and cannot be read."""
    found = []
    for path in out.glob("*.safetensors"):
        try:
            checkpoint.read(path)
        except UserError as error:
            found.append(str(error))
    return found


def unlike(one: Path, other: Path) -> list[str]:
    """What differs between the files of two trainings, in words."""
    found = [HISTORY] if (one / HISTORY).read_bytes() != (other / HISTORY).read_bytes() else []
    for name in (BEST, LAST):
        (tensors, metadata), (expected, record) = checkpoint.read(one / name), checkpoint.read(other / name)
        names = sorted({*tensors, *expected})
        found += [
            f"{name}: {key}"
            for key in names
            if key not in tensors or key not in expected or not torch.equal(tensors[key], expected[key])
        ]
        found += [f"{name}: {text}" for text in checkpoint.differences(record, metadata)]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--steps", type=int, default=60, help="of the training")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        train(*options.child, options.steps)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder, whole, again, out = (Path(scratch) / name for name in ("data", "whole", "again", "killed"))
        out.mkdir()
        for name, count in (("train", 96), ("validation", 32)):
            synthetic_split(folder / name, MorphableModel.load(MODEL), count, 32, (0.5, 0.25))
        lives = [life(start(folder, place, options.steps)) for place in (whole, again)]
        names, times = [name for name, _ in lives[0]], np.min([[at for _, at in done] for done in lives], 0)
        print(f"the run that nobody kills: {options.steps} steps, {times[-1]:.1f} s")
        chosen = np.sort(np.random.default_rng(options.seed).uniform(0, times[-1], options.kills))
        failures, kills = [f"differs without a kill: {text}" for text in unlike(whole, again)], 0
        for number, at in enumerate(chosen, 1):
            k = int(np.searchsorted(times, at, side="right")) - 1
            latest, was_killed = killed(start(folder, out, options.steps), names[k], at - times[k])
            kills += was_killed
            failures += torn(out)
            remains = [path.name for path in out.iterdir() if path.name not in FILES]
            if len(remains) > 1:
                failures.append(f"{len(remains)} temporary files remain")
            state = "killed" if was_killed else "too late, it had ended,"
            print(f"{number:3} {at:7.2f} s  {state} in: {latest:40}  temporary files left: {len(remains)}", flush=True)
        life(start(folder, out, options.steps))
        failures += [f"differs: {text}" for text in unlike(whole, out)]
        failures += [f"remains: {path.name}" for path in out.iterdir() if path.name not in FILES]
    for text in failures:
        print(text)
    print(f"{kills} kills: {'NOT ' if failures else ''}bit-identical to the run that nobody killed")
    if kills < options.kills:
        print(f"{options.kills - kills} came too late: run this on a machine with less else to do")
    return 1 if failures or kills < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
