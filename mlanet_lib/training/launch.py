"""Training in several processes of this machine from one that has none: a notebook, or `mlanet train`.

torchrun's agent runs within this process and starts `python -m mlanet_lib.training.launch FOLDER` once for each
process; what is trained goes to them as `job.json` and `face_model.npz` in a temporary folder, and the result comes
back in it. Several machines are `torchrun`'s and `accelerate launch`'s business (docs/training.md).
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.limits import check_processes, cores
from mlanet_lib.network import NetworkConfig
from mlanet_lib.training.augmentation import AugmentConfig
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.loop import FitResult, fit
from mlanet_lib.training.losses import LossWeights
from mlanet_lib.training.processes import leave

WORKER = ("-m", "mlanet_lib.training.launch")


def fit_in_processes(
    job: Job,
    resume: str | Path | None = "auto",
    max_steps: int | None = None,
    progress: bool = True,
    device: str = "auto",
) -> FitResult:
    """`loop.fit` in `job.train.processes` processes of this machine; arguments and result are its own.

    In one, or where a launcher started several already, this is `fit` itself. Otherwise what the processes print, the
    progress bar too, appears on stderr; a failure is a UserError. When one process fails, the others are ended, and all
    end when this process does, however it ends. More processes than cores, or than GPUs where those train, are a
    UserError unless they were asked for twice (`limits.check_processes`).
    """
    gpus = torch.cuda.device_count()
    count = job.train.processes or max(1, gpus)
    on_gpus = device != "cpu" and gpus > 0
    check_processes(count, gpus if on_gpus else cores(), "train.processes", "GPUs" if on_gpus else "cores")
    if count == 1 or "RANK" in os.environ:
        return fit(job, resume, max_steps, progress, device)
    source = resume if resume is None else str(resume)
    options = {"resume": source, "max_steps": max_steps, "progress": progress, "device": device}
    with tempfile.TemporaryDirectory(prefix="mlanet_") as name:
        folder = Path(name)
        _write_job(folder, job, options)
        _run(count, folder)
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    paths = {name: Path(value) for name, value in result.items() if name.endswith("_path")}
    best = next((row for row in result["history"] if row == result["best"]), None)
    return FitResult(**result | paths | {"best": best})


def main(folder: Path) -> int:
    """One of the processes: what `job.json` in the folder says; returns the exit code."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // int(os.environ["LOCAL_WORLD_SIZE"])))
    rank = int(os.environ["RANK"])
    try:
        job, options = _read_job(folder)
        result = fit(job, **options)
    except Exception as error:
        (folder / f"error_{rank}").write_text(str(error) or repr(error), encoding="utf-8")
        if not isinstance(error, UserError):
            raise
        return 2
    finally:
        leave()
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(asdict(result), default=str), encoding="utf-8")
    return 0


def _run(count: int, folder: Path) -> None:
    """Start the processes and wait for them; a UserError where one fails."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle="",  # this process's handlers stay: what they raise ends the others, too
    )
    logging.disable()  # what the agent logs of a process that fails, the UserError says
    try:
        elastic_launch(config, sys.executable)(*WORKER, str(folder))
    except ChildFailedError as error:
        said = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("error_*"))]
        rank, failure = error.get_first_failure()
        how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        raise UserError(said[0] if said else f"training in {count} processes: process {rank} ended by {how}") from error
    finally:
        logging.disable(logging.NOTSET)


def _end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone (a kernel that was restarted, say)."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _write_job(folder: Path, job: Job, options: dict[str, Any]) -> None:
    job.model.save(folder / "face_model.npz")
    paths = {name: str(value) for name, value in vars(job).items() if isinstance(value, Path)}
    values = {"train": asdict(job.train), "network": asdict(job.network), "seed": job.seed}
    (folder / "job.json").write_text(json.dumps(values | {"paths": paths, "options": options}), encoding="utf-8")


def _read_job(folder: Path) -> tuple[Job, dict[str, Any]]:
    """The job that `_write_job` wrote, and the options of `fit`."""
    values = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    train = values["train"]
    parts = {"weights": LossWeights(**train["weights"]), "augment": AugmentConfig(**train["augment"])}
    paths = {name: Path(path) for name, path in values["paths"].items()}
    model = MorphableModel.load(folder / "face_model.npz")
    job = Job(TrainConfig(**train | parts), NetworkConfig(**values["network"]), model, **paths, seed=values["seed"])
    return job, values["options"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
