"""Training in several processes of this machine from one that has none: a notebook, or `mlanet train`.

    fit_in_processes(...) -> python -m mlanet_lib.training.launch FOLDER, once for each process -> training.fit in all
    of them

What is trained goes to the processes as `job.json` and `face_model.npz` in a temporary folder, and the result comes
back in it. Several machines are `torchrun`'s and `accelerate launch`'s business (README.md).
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

import torch

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.limits import check_processes, cores
from mlanet_lib.network import NetworkConfig
from mlanet_lib.training.augmentation import AugmentConfig
from mlanet_lib.training.loop import FitResult, TrainConfig, fit
from mlanet_lib.training.losses import LossWeights
from mlanet_lib.training.processes import leave

GRACE = 10.0
"""Seconds that the other processes have to end by themselves when one has failed."""


def fit_in_processes(
    config: TrainConfig,
    network_config: NetworkConfig,
    model: MorphableModel,
    train_folder: str | Path,
    validation_folder: str | Path,
    out_folder: str | Path,
    seed: int = 0,
    resume: str | Path | None = "auto",
    max_steps: int | None = None,
    progress: bool = True,
    device: str = "auto",
) -> FitResult:
    """`training.fit` in `config.processes` processes of this machine; arguments and result are its own.

    In one, or where a launcher started several already, this is `fit` itself. Otherwise what the processes print, the
    progress bar too, appears on this one's stderr; a failure is a UserError with what they said last. They end when
    this process does, however it ends. More processes than cores, or than GPUs where those train, are a UserError
    unless they were asked for twice (`limits.check_processes`).
    """
    folders = (train_folder, validation_folder, out_folder)
    gpus = torch.cuda.device_count()
    count = config.processes or max(1, gpus)
    on_gpus = device != "cpu" and gpus > 0
    check_processes(count, gpus if on_gpus else cores(), "train.processes", "GPUs" if on_gpus else "cores")
    if count == 1 or "RANK" in os.environ:
        return fit(config, network_config, model, *folders, seed, resume, max_steps, progress, device)
    job = {
        "config": asdict(config),
        "network": asdict(network_config),
        "folders": [str(folder) for folder in folders],
        "options": {
            "seed": seed,
            "resume": resume if resume is None else str(resume),
            "max_steps": max_steps,
            "progress": progress,
            "device": device,
        },
    }
    with tempfile.TemporaryDirectory(prefix="mlanet_") as folder:
        (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        model.save(Path(folder) / "face_model.npz")
        _run(count, Path(folder))
        result = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    paths = {name: Path(value) for name, value in result.items() if name.endswith("_path")}
    best = next((row for row in result["history"] if row == result["best"]), None)
    return FitResult(**result | paths | {"best": best})


def main(folder: str) -> int:
    """One of the processes: what `job.json` in the folder says; returns the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(folder)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    values = job["config"]
    config = TrainConfig(
        **values | {"weights": LossWeights(**values["weights"]), "augment": AugmentConfig(**values["augment"])}
    )
    rank = int(os.environ["RANK"])
    try:
        model = MorphableModel.load(folder / "face_model.npz")
        result = fit(config, NetworkConfig(**job["network"]), model, *job["folders"], **job["options"])
    except UserError as error:
        (folder / f"error_{rank}").write_text(str(error), encoding="utf-8")
        return 2
    finally:
        leave()
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(asdict(result), default=str), encoding="utf-8")
    return 0


def _run(count: int, folder: Path) -> None:
    """Start the processes, pass on what they print, and wait; a UserError where one fails."""
    # the address at which they meet is held here: a port that is only looked for could be taken before they come
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # as torchrun tells its processes that it holds the address
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count)),
    }
    printed, printing = os.pipe()
    waiting, alive = os.pipe()  # nothing is ever written: the reading end closes when this process is gone
    started = []
    try:
        for rank in range(count):
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "mlanet_lib.training.launch", str(folder)]
            started.append(subprocess.Popen(command, env=environment, stdin=waiting, stdout=printing, stderr=printing))
        os.close(printing)
        last = _pass_on(printed, started)
        codes = [process.wait() for process in started]
    finally:
        _end(started)
        for descriptor in (printed, waiting, alive):
            os.close(descriptor)
    if any(codes):
        errors = sorted(folder.glob("error_*"))
        raise UserError(errors[0].read_text(encoding="utf-8") if errors else f"training in {count} processes: {last}")


def _pass_on(printed: int, started: list[subprocess.Popen]) -> str:
    """Write to stderr what comes out of the pipe until it closes; returns the last line. Where one process fails, the
    others are ended after `GRACE` seconds."""
    tail, failed_at = "", None
    while True:
        if select.select([printed], [], [], 0.2)[0]:
            chunk = os.read(printed, 1 << 16)
            if not chunk:
                break
            text = chunk.decode(errors="replace")
            sys.stderr.write(text)
            sys.stderr.flush()
            tail = (tail + text)[-4000:]
        if failed_at is None and any(process.poll() for process in started):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() > failed_at + GRACE:
            _end(started)
    lines = [line.strip() for line in tail.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "ended without a word"


def _end(started: list[subprocess.Popen]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
    for process in started:
        process.wait()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone (a kernel that was restarted, say)."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
