"""The files of a training: what it writes, how it resumes from them, and other checkpoints that it may start from."""

import csv
import hashlib
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.network import MLANet, NetworkConfig, checkpoint
from mlanet_lib.training.optimizer import load_optimizer, optimizer_tensors

BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.csv"
ARCHITECTURE = ("backbone", "levels", "attention", "fusion", "width", "pool")
"""The fields of `NetworkConfig` that decide which weights a network has; crops of another size change none."""
CONCATENATED = {"concatenate": "none", "hierarchical_concatenate": "hierarchical"}
"""A concatenating fusion -> the one with a weighted mean of the levels whose checkpoint can initialise it."""
NEEDED = ("backbone.", "attention.", "project.", "gates.", "level_logits", "heads.")
"""Beginnings of the names of the weights without which a file is no start; others may be there or not. A file without
heads is one of the backbone alone (`benchmarks/point_regressor.py` makes such): the rest begins at random then."""
READ_AT_POINTS = re.compile(r"feedback\.\d+\.read\.\d+\.weight")
"""Names of the kernels with which feedback reads the levels."""
OF_ONE_FACE_MODEL = ("identity", "expression", "albedo")
"""The heads whose weights mean something else with another face model. Pose's and light's do not: all face models lie
in one frame, and translation counts from where a model's own mean face fills the crop. A network of ICT-FaceKit's
face that began with weights of another face model had, before its first step, an NME of 11.5 % on 400 AFLW crops with
the heads of pose and light and 21.4 % without; the weights it came from had 10.8 %."""


class Saved(NamedTuple):
    """A checkpoint to go on from: its file, its tensors on the CPU and its metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


@dataclass
class State:
    """All that changes while a network is trained.

    average: the network with averaged weights; step: steps made; history: a row for each validation; sums: of the
    losses since the last one, by name, and under "steps" how many.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    def restore(self, saved: Saved) -> None:
        """Take the state of a checkpoint; a UserError if it does not fit the network."""
        self.step, self.history, self.sums = (saved.metadata[name] for name in ("step", "history", "sums"))
        checkpoint.load_state(saved.path, self.network, saved.tensors, "network.")
        checkpoint.load_state(saved.path, self.average, saved.tensors, "ema.")
        load_optimizer(self.optimizer, self.network, saved.tensors)


def save(out: Path, record: dict[str, Any], state: State, valid: bool) -> None:
    """Write the best weights if the current ones are (`valid`: they have just been validated), then the history, then
    the checkpoint to resume from. record: the metadata."""
    weights = state.average.state_dict()
    if valid and best_row(state.history) is state.history[-1]:
        checkpoint.save(out / BEST, {f"network.{name}": value for name, value in weights.items()}, record)
    if state.history:
        write_history(out / HISTORY, state.history)
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in weights.items()}
    tensors |= optimizer_tensors(state.optimizer, state.network)
    checkpoint.save(out / LAST, tensors, record | {"sums": state.sums})


def best_row(history: list[dict[str, float]]) -> dict[str, float] | None:
    """The validation of the lowest NME."""
    return min(history, key=lambda row: row["val_nme"], default=None)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """The rows as CSV with a header, columns in the order in which they first appear."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def start(resume: str | Path | None, out: Path, fingerprint: dict[str, Any], model: MorphableModel) -> Saved | None:
    """The checkpoint to go on from, or None if the run starts anew (see `loop.fit`)."""
    if source := _resumable(resume, out, fingerprint, model):
        return Saved(source, *checkpoint.read(source))
    for name in (BEST, LAST, HISTORY):  # so that no file of an older run passes for this one's
        (out / name).unlink(missing_ok=True)
    return None


def _resumable(resume: str | Path | None, out: Path, fingerprint: dict[str, Any], model: MorphableModel) -> Path | None:
    if resume is None or (resume == "auto" and not (out / LAST).is_file()):
        return None
    path = out / LAST if resume == "auto" else Path(resume)
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
    """sha256 of the file that `config.start` names, None if it names none.

    UserError if there is no such file, if it is no checkpoint or one of another architecture (the fields that differ
    are named), or if it lies in `out`, whose files a new run deletes.
    """
    if config.start is None:
        return None
    path = Path(config.start)
    if not path.is_file():
        raise UserError(f"network.start: no file {path}")
    if path.resolve().parent == out.resolve():
        raise UserError(f"network.start: {path} lies in the folder that this training writes; copy it elsewhere")
    there, here = checkpoint.read_metadata(path).get("network", {}), asdict(config) | {"levels": list(config.levels)}
    if there.get("fusion") == CONCATENATED.get(config.fusion):  # its heads can be converted
        here["fusion"] = there.get("fusion")
    names = ARCHITECTURE if "levels" in there else ("backbone",)
    there, here = ({name: one.get(name) for name in names} for one in (there, here))
    if different := checkpoint.differences(there, here):
        raise UserError(f"network.start: {path} is of another network: {', '.join(different)}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def begin_from(network: MLANet, model: MorphableModel) -> None:
    """Put the weights of `network.config.start` (the averaged ones if it has them) into a new network of `model`.

    If the checkpoint was trained with this face model, all its weights are taken; else the heads `OF_ONE_FACE_MODEL`
    keep their new weights. The neutral framing and the heads' scales stay the network's own: heads with other scales
    are converted, and so are those of a weighted mean of the levels where the network concatenates them
    (`CONCATENATED`), and feedback that reads fewer places (`_widened_patches`). `network.pretrained_weights` says so.
    `start_digest` has found the file fit; other UserErrors as `load_state`.
    """
    path = Path(str(network.config.start))
    tensors, metadata = checkpoint.read(path)
    face_model, weights = metadata["face_model"], checkpoint.network_weights(tensors)
    needed: tuple[str, ...] = ("backbone.",)
    if any(name.startswith("heads.") for name in weights):
        needed = NEEDED
        weights |= _rescaled_heads(weights, network)
        if network.side_by_side and metadata.get("network", {}).get("fusion") in CONCATENATED.values():
            weights |= _concatenated_heads(weights, network)
    weights |= _widened_patches(weights, network)
    unfit = () if face_model["fingerprint"] == model.fingerprint else OF_ONE_FACE_MODEL
    ridges = [f"feedback.{k}.log_ridge" for k in range(network.config.feedback)] if unfit else []
    own = ("neutral_translation", "head_scale", *ridges, *(f"heads.{name}." for name in unfit))
    state = network.state_dict()
    kept = {name: value for name, value in state.items() if name.startswith(own) or not name.startswith(needed)}
    taken = {name: value for name, value in weights.items() if name in state and not name.startswith(own)}
    checkpoint.load_state(path, network, kept | taken, "")
    made_with = f"{face_model['name']}, step {metadata.get('step', 'unknown')}"
    network.pretrained_weights = f"started from {path.name} ({made_with})"


def _widened_patches(weights: dict[str, Tensor], network: MLANet) -> dict[str, Tensor]:
    """The kernels of `weights` with which feedback reads fewer cells around a point than the network's, with zeros for
    the cells that are new."""
    sides = {name: value.shape[-1] for name, value in network.state_dict().items() if READ_AT_POINTS.match(name)}
    more = {name: (side - weights[name].shape[-1]) // 2 for name, side in sides.items() if name in weights}
    return {name: F.pad(weights[name], 4 * [rim]) for name, rim in more.items() if rim > 0}


def _rescaled_heads(weights: dict[str, Tensor], network: MLANet) -> dict[str, Tensor]:
    """The heads of `weights`, converted to the network's scales; their predictions stay the same."""
    scales = weights.get("head_scale", torch.ones(len(network.sizes))).float() / network.head_scale
    factors = dict(zip(network.sizes, scales, strict=True))
    heads = {key: value for key, value in weights.items() if key.startswith("heads.")}
    return {key: value.float() * factors[key.split(".")[1]] for key, value in heads.items()}


def _concatenated_heads(weights: dict[str, Tensor], network: MLANet) -> dict[str, Tensor]:
    """The heads that make of the concatenated levels what `weights`' heads make of their weighted mean."""
    shares = weights["level_logits"].float().softmax(1)
    heads = {f"heads.{name}.weight": share for name, share in zip(network.sizes, shares, strict=True)}
    wide = {name: torch.cat([weight * weights[name] for weight in share], 1) for name, share in heads.items()}
    return wide | {"level_logits": network.level_logits}
