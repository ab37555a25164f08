"""Drawing in several processes: independent batches, each with the face model at hand."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

import torch
from tqdm.auto import tqdm

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.limits import check_processes, cores


@contextmanager
def worker_pool(model: MorphableModel, workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool for `run_tasks`: None for one worker, that is, this process.

    Each worker computes with one thread: whole batches side by side are faster than threads within small operations.
    Workers end with this process, however it ends. For more workers than cores see `limits.check_processes`.
    """
    check_processes(workers, cores(), "workers", "cores")
    if workers <= 1:
        yield None
    else:
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (model,)) as pool:
            yield pool


def run_tasks(
    function: Callable[..., Any],
    model: MorphableModel,
    tasks: Sequence[tuple],
    pool: ProcessPoolExecutor | None,
    what: str,
) -> Iterator[Any]:
    """Yield `function(model, *task)` for every task, in order, computed in the pool's processes or, without, in this;
    `what` stands before the bar."""
    with tqdm(total=len(tasks), desc=what, unit="batch") as bar:
        if pool is not None:
            for result in pool.map(_run_task, [function] * len(tasks), tasks):
                yield result
                bar.update()
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums come out the same as in a worker
        try:
            for task in tasks:
                yield function(model, *task)
                bar.update()
        finally:
            torch.set_num_threads(threads)


_worker_model: MorphableModel | None = None


def _start_worker(model: MorphableModel) -> None:
    global _worker_model
    _worker_model = model
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone; otherwise it would wait for work for ever."""
    if parent := parent_process():
        parent.join()
    os._exit(1)


def _run_task(function: Callable[..., Any], task: tuple) -> Any:
    return function(_worker_model, *task)
