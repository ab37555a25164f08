"""How time grows with the size of the work, as Markdown: the tables of docs/scaling.md.

    python benchmarks/scaling.py [--quick] [--device cuda] [--threads 1 2] [--processes 1 2]

Each table changes one thing and holds the others. Times are medians of one run on one machine; `x` is the time a row
takes over that of the first row, which is what can be compared between machines.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from renderer import Scene, bumpy_sphere, seconds_of
from training import FEWEST, Setting, synthetic_split

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.project import find_root
from mlanet_lib.network import NetworkConfig
from mlanet_lib.study.params import load_params
from mlanet_lib.training.launch import fit_in_processes
from mlanet_lib.training.loop import TrainConfig

ROOT = find_root(__file__)


def table(title: str, unit: str, rows: dict[str, tuple[float, float]]) -> None:
    """Print one table. rows: what was changed -> (size of the work, seconds)."""
    first_work, first = next(iter(rows.values()))
    print(f"\n### {title}\n\n| {unit} | work x | ms | time x | time x / work x |\n|---|---|---|---|---|")
    for name, (work, seconds) in rows.items():
        more, longer = work / first_work, seconds / first
        print(f"| {name} | {more:.3g} | {1e3 * seconds:.4g} | {longer:.2f} | {longer / more:.2f} |", flush=True)


def rendering(device: torch.device, quick: bool) -> None:
    """Forward and backward pass of the renderer with meshes, pixels and batches."""
    seconds = 0.1 if quick else 1.0

    def timed(faces: int = 20_000, size: int = 128, batch: int = 8) -> float:
        scene = Scene(bumpy_sphere(faces), size, batch, device)
        return seconds_of(scene.differentiate, device, seconds)

    batches, sizes = ((1, 2), (32, 64)) if quick else ((1, 2, 4, 8, 16, 32), (64, 128, 256, 512))
    meshes = (1_000, 4_000) if quick else (1_000, 5_000, 20_000, 100_000, 500_000)
    table(
        "Rendering, forward and backward: batch (20 000 faces, 128 px)",
        "batch",
        {str(batch): (batch, timed(batch=batch)) for batch in batches},
    )
    table(
        "Rendering, forward and backward: faces (128 px, batch 8)",
        "faces",
        {f"{faces}": (faces, timed(faces=faces)) for faces in meshes},
    )
    table(
        "Rendering, forward and backward: pixels (20 000 faces, batch 8)",
        "side, px",
        {str(size): (size**2, timed(size=size)) for size in sizes},
    )


def make_setting(train: TrainConfig, network: NetworkConfig, model, scratch: Path, device, steps: int) -> Setting:
    """A training on synthetic arrays of the network's size: four batches of them."""
    shares, count = (0.6, 0.25), 4 * train.batch_size
    folder = scratch / f"{network.image_size}_{count}"
    folders = [folder / name for name in ("train", "validation")]
    if not folder.exists():
        for one in folders:
            synthetic_split(one, model, count, network.image_size, shares)
    return Setting(train, network, model, tuple(folders), device, steps)


def training_steps(options, device: torch.device, scratch: Path) -> None:
    """Whole training steps with batches, pictures and threads, of params.yaml's network and losses."""
    params = load_params(ROOT / "params.yaml", {"train.compile": False})
    model = MorphableModel.load(ROOT / params.face_model.path)
    steps = FEWEST if options.quick else 25

    def timed(**changes) -> float:
        network = {key: changes.pop(key) for key in list(changes) if hasattr(params.network, key)}
        train, network = dataclasses.replace(params.train, **changes), dataclasses.replace(params.network, **network)
        return make_setting(train, network, model, scratch, device, steps).seconds_a_step()

    batches, sizes = ((4, 8), (32, 64)) if options.quick else ((16, 32, 64, 128), (32, 64, 96, 128))
    network, held = params.network, 4 if options.quick else params.train.batch_size
    table(
        f"Training step: batch ({network.backbone}, {network.image_size} px)",
        "batch",
        {str(batch): (batch, timed(batch_size=batch)) for batch in batches},
    )
    table(
        f"Training step: pixels ({network.backbone}, batch {held})",
        "side, px",
        {str(size): (size**2, timed(batch_size=held, image_size=size)) for size in sizes},
    )
    rows, before = {}, torch.get_num_threads()
    for threads in options.threads:
        torch.set_num_threads(threads)
        rows[str(threads)] = (1, timed(batch_size=held))
    torch.set_num_threads(before)
    table(f"Training step: threads ({network.backbone}, {network.image_size} px, batch {held})", "threads", rows)


def processes(options, scratch: Path) -> None:
    """Training steps of the same global batch in several processes of this machine.

    A process takes seconds to start: the time of a step is the difference of two runs of unlike length over their
    steps, each the shorter of two.
    """
    params = load_params(ROOT / "params.yaml", {"train.compile": False})
    model = MorphableModel.load(ROOT / params.face_model.path)
    batch = 8 if options.quick else params.train.batch_size
    few, many = (3, 13) if options.quick else (5, 65)
    rows = {}
    for count in options.processes:
        train = dataclasses.replace(params.train, processes=count, batch_size=batch, steps=10**6, validate_every=10**6)
        setting = make_setting(train, params.network, model, scratch, torch.device(options.device), many)
        # as many cores for all of them together as one process alone has
        os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // count))
        seconds = {}
        for steps in (few, many) * 2:
            with tempfile.TemporaryDirectory() as out:
                start = time.perf_counter()
                fit_in_processes(
                    *(train, params.network, model, *setting.folders, out),
                    resume=None,
                    max_steps=steps,
                    progress=False,
                    device=options.device,
                )
                seconds[steps] = min(time.perf_counter() - start, seconds.get(steps, np.inf))
        rows[str(count)] = (1, (seconds[many] - seconds[few]) / (many - few))
    table(f"Training step: processes (global batch {batch}, all cores shared)", "processes", rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small rows a table, few steps")
    parser.add_argument("--device", default="cpu")
    cores = sorted({1, torch.get_num_threads()})
    parser.add_argument("--threads", type=int, nargs="+", default=cores, help=f"of the CPU (default: {cores})")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], help="(default: 1 2; none: no such table)")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"Measured on {device.type} ({where}), torch {torch.__version__}, by `python benchmarks/scaling.py`.")
    rendering(device, options.quick)
    with tempfile.TemporaryDirectory() as scratch:
        training_steps(options, device, Path(scratch))
        if options.processes:
            processes(options, Path(scratch))


if __name__ == "__main__":
    main()
