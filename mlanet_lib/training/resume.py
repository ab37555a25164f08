"""What a training writes into its folder, how it finds there where to go on, and what else it may begin with."""

import csv
import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.network import MLANet, NetworkConfig, checkpoint
from mlanet_lib.training.optimizer import optimizer_tensors

BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.csv"
ARCHITECTURE = ("backbone", "levels", "attention", "fusion", "width", "pool")
"""The fields of `NetworkConfig` that decide which weights a network has; pictures of another size change none."""
ONE_READING = {"concatenate": "none", "hierarchical_concatenate": "hierarchical"}
"""Fusions whose heads read the levels side by side, and those that differ from them in nothing else: what the latter's
heads compute of the levels' weighted mean the former's can compute, too, and so begin with."""
NEEDED = ("backbone.", "attention.", "project.", "gates.", "level_logits", "heads.")
"""Beginnings of the names of the weights without which a file is no start; others may be there or not. A file without
heads is one of the backbone alone (`benchmarks/point_regressor.py` makes such): the rest begins at random then."""
OF_ONE_FACE_MODEL = ("identity", "expression", "albedo")
"""The heads whose weights mean something else with another face model. Pose's and light's do not: all face models lie
in one frame, and translation counts from where a model's own mean face fills the crop. A network of ICT-FaceKit's
face that began with weights of another face model had, before its first step, an NME of 11.5 % on 400 AFLW crops with
the heads of pose and light and 21.4 % without; the weights it came from had 10.8 %."""


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


def start_digest(config: NetworkConfig, out: Path) -> str | None:
    """sha256 of the file that `config.start` names, None where it names none.

    UserError where there is no such file, where it is no checkpoint or one of another architecture (the fields that
    differ are named), and where it lies in `out`, whose files a run that starts anew deletes.
    """
    if config.start is None:
        return None
    path = Path(config.start)
    if not path.is_file():
        raise UserError(f"network.start: no file {path}")
    if path.resolve().parent == out.resolve():
        raise UserError(f"network.start: {path} lies in the folder that this training writes; copy it elsewhere")
    there, here = checkpoint.read_metadata(path).get("network", {}), asdict(config) | {"levels": list(config.levels)}
    compared = ARCHITECTURE if "levels" in there else ("backbone",)
    if there.get("fusion") == ONE_READING.get(here["fusion"], here["fusion"]):
        here["fusion"] = there.get("fusion")
    if different := checkpoint.differences(*({name: one.get(name) for name in compared} for one in (there, here))):
        raise UserError(f"network.start: {path} is of another network: {', '.join(different)}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def begin_from(network: MLANet, model: MorphableModel) -> None:
    """Put the weights of `network.config.start` (its averaged ones where it has them) into a new network of `model`.

    All that are there where they were trained with this face model, else the heads `OF_ONE_FACE_MODEL` stay as they
    are. The neutral framing and the heads' scales stay the network's own: heads with other scales are converted, and
    so are those of a weighted mean of the levels where the network's read the levels side by side (`ONE_READING`).
    `network.pretrained_weights` says so. `start_digest` has found the file fit; other UserErrors as `load_state`.
    """
    path = Path(network.config.start)
    tensors, metadata = checkpoint.read(path)
    prefix = "ema." if any(name.startswith("ema.") for name in tensors) else "network."
    there = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    factors = there.get("head_scale", torch.ones_like(network.head_scale)).float() / network.head_scale
    for factor, name in zip(factors, network.sizes, strict=True):
        there |= {key: value.float() * factor for key, value in there.items() if key.startswith(f"heads.{name}.")}
    if network.side_by_side and metadata.get("network", {}).get("fusion") in ONE_READING.values():
        there |= _side_by_side(there, network)
    fresh = () if metadata["face_model"]["fingerprint"] == model.fingerprint else OF_ONE_FACE_MODEL
    own = ("neutral_translation", "head_scale", *(f"heads.{name}." for name in fresh))
    here = network.state_dict()
    taken = {name: value for name, value in there.items() if name in here and not name.startswith(own)}
    needed = NEEDED if any(name.startswith("heads.") for name in there) else ("backbone.",)
    kept = {name: value for name, value in here.items() if name.startswith(own) or not name.startswith(needed)}
    checkpoint.load_state(path, network, kept | taken, "")
    made_of = f"{metadata['face_model']['name']}, step {metadata.get('step', 'unknown')}"
    network.pretrained_weights = f"started from {path.name} ({made_of})"


def _side_by_side(weights: dict[str, torch.Tensor], network: MLANet) -> dict[str, torch.Tensor]:
    """The heads that make of the levels side by side what `weights`' heads make of their weighted mean."""
    shares = weights["level_logits"].float().softmax(1)
    heads = {f"heads.{name}.weight": share for name, share in zip(network.sizes, shares, strict=True)}
    wide = {name: torch.cat([w * weights[name] for w in share], 1) for name, share in heads.items()}
    return wide | {"level_logits": network.level_logits}


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
