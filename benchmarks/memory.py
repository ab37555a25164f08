"""What a training needs and how fast pictures come to it, by the number of samples.

    python benchmarks/memory.py [--counts 20000 200000] [--size 48] [--batch 64] [--steps 60]

For each count arrays of random bytes are written, and a fresh process first goes through batches of one epoch's order,
then trains `--steps` steps of a small network without the photometric term. Printed are bytes on the disk; pictures a
second of batches alone and of whole training steps (from the median time of one in the second half); and of the process
the memory that it holds itself (RssAnon) and its largest resident memory ever (VmHWM), which also counts pages of the
files that it looks at.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from training import synthetic_split

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.project import find_root
from mlanet_lib.network import NetworkConfig
from mlanet_lib.training.config import Job, LossWeights, TrainConfig
from mlanet_lib.training.data import TrainingData, visiting_order
from mlanet_lib.training.loop import Trainer

MODEL = find_root(__file__) / "data" / "face_models" / "ict.npz"
SHARES = (0.6, 0.25)
BATCHES = 400


def write(folder: Path, model: MorphableModel, count: int, size: int) -> Path:
    """A split of `count` samples: random pictures, and the labels of a thousand faces again and again."""
    few = synthetic_split(folder, model, 1000, size, SHARES)
    labels = {name: np.resize(value, (count, *value.shape[1:])) for name, value in np.load(few / "labels.npz").items()}
    np.savez(folder / "labels.npz", **labels)
    pictures = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, size, size, 3))
    generator = np.random.default_rng(0)
    for start in range(0, count, 1000):
        some = pictures[start : start + 1000]
        some[:] = generator.integers(0, 256, some.shape, np.uint8)
    pictures.flush()
    return folder


def status(name: str) -> float:
    """A size of this process in MB."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3


def median_seconds(calls: list[Callable]) -> float:
    """Of the second half of the calls: other programs of a shared machine disturb a mean."""
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[len(seconds) // 2 :]))


def measure(folder: Path, size: int, batch: int, steps: int) -> dict[str, float]:
    """The figures of this process."""
    model = MorphableModel.load(MODEL)
    network = NetworkConfig(backbone="lcnet_050", image_size=size, width=32, pool=2)
    weights = LossWeights(photometric=0.0)
    config = TrainConfig(steps=steps, batch_size=batch, photometric_batch=0, validate_every=10**6, weights=weights)
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        data = TrainingData(folder / "train", model, size)
        found = {"start_s": time.perf_counter() - start}
        order = visiting_order(data.kind, data.person, 0, 0).split(batch)[:BATCHES]
        found["batches"] = batch / median_seconds([partial(data.batch, rows) for rows in order])
        del data
        trainer = Trainer(Job(config, network, model, folder / "train", folder / "validation", Path(out)), None)
        found["training"] = batch / median_seconds([trainer.step] * steps)
    return found | {"own_mb": status("RssAnon"), "peak_mb": status("VmHWM")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--size", type=int, default=48, help="side of the crops, px")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that is measured
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(options.folder, options.size, options.batch, options.steps)))
        return
    torch.manual_seed(0)
    model = MorphableModel.load(MODEL)
    columns = ("samples", "on disk, MB", "own memory, MB", "largest resident, MB")
    print("|", " | ".join((*columns, "batches, pictures/s", "training, pictures/s", "start, s")), "|")
    print("|---|---|---|---|---|---|---|", flush=True)
    for count in options.counts:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(folder / "train", model, count, options.size)
            write(folder / "validation", model, 100, options.size)
            sizes = [f"--{name}={getattr(options, name)}" for name in ("size", "batch", "steps")]
            command = [sys.executable, __file__, "--folder", scratch, *sizes]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            disk = sum(path.stat().st_size for path in (folder / "train").iterdir()) / 1e6
        figures = (found[name] for name in ("own_mb", "peak_mb", "batches", "training"))
        print(f"| {count:,} | {disk:,.0f} | " + " | ".join(f"{value:,.0f}" for value in figures), end="")
        print(f" | {found['start_s']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
