"""The verb `mlanet train`: what notebook 02 trains, from the command line and in any number of processes."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlanet_lib.cli.options import a_path
from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import check_writable

if TYPE_CHECKING:
    from mlanet_lib.training.loop import FitResult


def add_options(verb: argparse.ArgumentParser) -> None:
    """The options of `mlanet train`."""
    verb.add_argument("--run", dest="name", default="train", metavar="RUN", help="train (default), or ablation/VARIANT")
    verb.add_argument("--out", type=a_path, metavar="DIR", help="folder for the weights (default: params.yaml's)")
    verb.add_argument("--resume", type=a_path, metavar="PATH", help="go on from this last.safetensors (default: DIR's)")
    verb.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda")
    verb.add_argument("--max-steps", type=int, metavar="N", help="stop after N steps, and go on another time")
    verb.set_defaults(run=train)


def train(options: argparse.Namespace) -> int:
    """Train the run; the last line says its best validation figures and its files."""
    from mlanet_lib.face_model import MorphableModel
    from mlanet_lib.files.project import find_root
    from mlanet_lib.study.params import load_params
    from mlanet_lib.study.runs import plan
    from mlanet_lib.training.launch import fit_in_processes
    from mlanet_lib.training.processes import leave

    out, resume = (path and path.resolve() for path in (options.out, options.resume))
    if options.max_steps is not None and options.max_steps < 1:
        raise UserError(f"--max-steps must be at least 1, not {options.max_steps}")
    os.chdir(find_root())
    params = load_params()
    runs = plan(params, options.name)
    if resume and len(runs) > 1:
        raise UserError(f"--resume is for one training, and {options.name} is {len(runs)}, one for each seed")
    model, data = MorphableModel.load(params.face_model.path), Path(params.paths.training)
    try:
        for one in runs:
            job = one.job(model, data)
            if out:
                job = replace(job, out_folder=out / one.folder.name if len(runs) > 1 else out)
            check_writable(job.out_folder)
            result = fit_in_processes(job, resume or "auto", options.max_steps, device=options.device)
            if os.environ.get("RANK", "0") == "0":
                print(summary(result, one.seed))
    finally:
        leave()
    return 0


def summary(result: "FitResult", seed: int) -> str:
    """One line: steps made, the best validation figures, and the files."""
    best = result.best or {}
    figures = ", ".join(f"{name.removeprefix('val_')} {best[name]:.3f}" for name in best if name.startswith("val_"))
    found = f"best at step {best['step']}: {figures}" if best else "no validation yet"
    paths = [result.best_path, result.last_path, result.history_path]
    files = ", ".join(str(path) for path in paths if path.is_file())
    return f"seed {seed}, step {result.step}, {found}; {files}"
