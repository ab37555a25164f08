"""Photos a second, all files written: `mlanet reconstruct --jobs N`, and the recipe of docs/scaling.md with N workers.

    python benchmarks/bulk.py [--photos 40] [--workers 1 2]

The photos are the portraits in `data/portraits`, again and again. Times are of the photos alone: processes are started,
and have loaded the network, before the clock runs.
"""

import argparse
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from dask.distributed import Client, LocalCluster

from mlanet_lib.files.outputs import Task, name_of
from mlanet_lib.files.project import find_root
from mlanet_lib.predictor import bulk

ROOT = find_root(__file__)


def photos_in(folder: Path, count: int) -> list[Path]:
    """`count` portraits under names of their own."""
    found = sorted((ROOT / "data" / "portraits").glob("*.jpg"))
    return [Path(shutil.copy(found[k % len(found)], folder / f"{k:05d}.jpg")) for k in range(count)]


def rate(outcomes: Iterable[bulk.Outcome], skip: int) -> float:
    """Photos a second, from the `skip`-th outcome on: before it, processes start."""
    begin, count = 0.0, 0
    for number, outcome in enumerate(outcomes, 1):
        if outcome.error:
            raise SystemExit(outcome.error)
        if number == skip:
            begin = time.perf_counter()
        count = number
    return (count - skip) / (time.perf_counter() - begin)


def on_dask(photos: list[Path], settings: bulk.Settings, workers: int) -> Iterable[bulk.Outcome]:
    """The recipe, as the document has it."""
    (text,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "scaling.md").read_text(), re.M | re.S)
    recipe: dict[str, Callable] = {}
    exec(compile(text, "docs/scaling.md", "exec"), recipe)
    options = {"threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        yield from recipe["reconstruct_all"](client, list(map(str, photos)), settings, at_once=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print("| processes | --jobs, photos/s | dask.distributed, photos/s |\n|---|---|---|", flush=True)
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as scratch:
            photos = photos_in(Path(scratch), options.photos)
            tasks = [Task(photo, name_of(photo)) for photo in photos]
            skip = min(2 * workers, options.photos // 2)
            jobs = rate(bulk.run(tasks, bulk.Settings(f"{scratch}/jobs"), workers), skip)
            print(f"| {workers} | {jobs:.2f} |", end="", flush=True)
            dask = rate(on_dask(photos, bulk.Settings(f"{scratch}/dask"), workers), skip)
        print(f" {dask:.2f} |", flush=True)


if __name__ == "__main__":
    main()
