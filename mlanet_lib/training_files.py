"""What a training writes into its folder, and how it finds there where to go on."""

import csv
import shutil
from pathlib import Path

from mlanet_lib import checkpoint
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files import atomic_path
from mlanet_lib.network import MLANet
from mlanet_lib.optimizer import optimizer_tensors

BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.csv"


def write_history(path: str | Path, history: list[dict]) -> None:
    """The rows as CSV with a header, columns in the order in which they first appear."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def start(resume, out: Path, fingerprint: dict, model: MorphableModel) -> tuple[Path | None, dict, dict | None]:
    """The checkpoint to go on from, its tensors and its metadata; where the run starts anew None, {}, None."""
    source = _resumable(resume, out, fingerprint, model)
    if source:
        return source, *checkpoint.read(source)
    for name in (BEST, LAST, HISTORY):  # so that no file of an older run passes for this one's
        (out / name).unlink(missing_ok=True)
    return None, {}, None


def _resumable(resume, out: Path, fingerprint: dict, model: MorphableModel) -> Path | None:
    """The checkpoint to go on from, or None to start anew (see `fit`)."""
    path = out / LAST if resume == "auto" else resume and Path(resume)
    if not path or (resume == "auto" and not path.is_file()):
        return None
    try:
        metadata = checkpoint.read_metadata(path)
        checkpoint.check_face_model(path, metadata, model)
        if different := checkpoint.differences(metadata["fingerprint"], fingerprint):
            raise UserError(f"cannot resume from {path}: it differs in {', '.join(different)}")
        if "sums" not in metadata:
            raise UserError(f"cannot resume from {path}: it holds weights only; {LAST} has the rest")
        if metadata["history"] and not path.with_name(BEST).is_file():
            raise UserError(f"cannot resume from {path}: {BEST}, the best weights so far, is not beside it")
    except UserError as error:
        if resume != "auto":
            raise
        print(f"training starts anew: {error}", flush=True)
        return None
    if path.parent != out and path.with_name(BEST).is_file():
        with atomic_path(out / BEST) as temporary:
            shutil.copyfile(path.with_name(BEST), temporary)
    return path


def save(out: Path, record: dict, sums: dict, network: MLANet, average: MLANet, optimizer, valid: bool) -> None:
    """Write the best weights, where these are, then the history, then what to resume from."""
    history = record["history"]
    weights = {f"ema.{name}": value for name, value in average.state_dict().items()}
    if valid and best_row(history) is history[-1]:
        best = {name.replace("ema.", "network.", 1): value for name, value in weights.items()}
        checkpoint.save(out / BEST, best, record)
    if history:
        write_history(out / HISTORY, history)
    state = {f"network.{name}": value for name, value in network.state_dict().items()} | weights
    checkpoint.save(out / LAST, state | optimizer_tensors(optimizer, network), record | {"sums": sums})


def best_row(history: list[dict]) -> dict | None:
    """The validation of the lowest NME."""
    return min(history, key=lambda row: row["val_nme"], default=None)
