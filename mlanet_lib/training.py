"""Semi-supervised training of MLANet: one readable loop over labelled, landmarked and unlabelled samples.

Everything random is a pure function of (seed, epoch) or (seed, step), so that a run that was stopped anywhere and
resumed ends with the same weights, bit for bit on a CPU, as one that was not.
"""

import copy
import csv
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mlanet_lib import checkpoint
from mlanet_lib.augmentation import AugmentConfig, augment
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files import atomic_path
from mlanet_lib.losses import LossWeights, SparseShape, semi_supervised_terms
from mlanet_lib.metrics import pose_mae, sparse_nme
from mlanet_lib.network import MLANet, NetworkConfig
from mlanet_lib.optimizer import adamw, learning_rate, load_optimizer, optimizer_tensors, update_average
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.training_data import KINDS, TrainingData, visiting_order

BEST, LAST, HISTORY = "best.safetensors", "last.safetensors", "history.csv"
CHECK_EVERY = 10  # steps between looks at the losses: looking makes a GPU wait


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    steps, batch_size: samples seen = their product. lr: highest learning rate of AdamW, reached after the share
    `warmup` of the steps, then a cosine down to `final_lr` of it. clip: largest norm of the gradient. ema: decay of
    the averaged weights, which are the ones that are judged and kept (0 = none). validate_every: steps between
    validations and checkpoints (0 = once an epoch). kinds: the kinds of samples that are used. vertices: points of the
    vertex loss. hidden_weight: what a landmark that is not visible counts. photometric_batch, photometric_size:
    pictures rendered a step, and their side in px (0 pictures = no photometric loss). precision: "float32", or
    "bfloat16" for the network's forward pass.
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: float = 0.1
    final_lr: float = 0.01
    clip: float = 5.0
    ema: float = 0.995
    validate_every: int = 0
    kinds: tuple[str, ...] = KINDS
    vertices: int = 200
    hidden_weight: float = 0.5
    photometric_batch: int = 8
    photometric_size: int = 48
    precision: str = "float32"
    weights: LossWeights = field(default_factory=LossWeights)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self):
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if min(self.steps, self.batch_size, self.vertices, self.photometric_size) < 1:
            raise UserError("steps, batch_size, vertices and photometric_size of the training must be at least 1")
        if self.lr <= 0 or not 0 <= self.ema < 1 or not 0 <= self.warmup < 1:
            raise UserError("training needs lr > 0, 0 <= ema < 1 and 0 <= warmup < 1")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"unknown precision {self.precision!r}; choose float32 or bfloat16")


@dataclass
class FitResult:
    """What a training left behind.

    history: one row per validation (mean losses since the last one, and `validate`'s figures); best: the row of the
    lowest validation NME; best_path: weights of that row; last_path: what to resume from; history_path: the rows as
    CSV; step: steps made; resumed_from: the step it started at; seconds: spent in this call.
    """

    history: list[dict]
    best: dict | None
    best_path: Path
    last_path: Path
    history_path: Path
    step: int
    resumed_from: int
    seconds: float


def fit(
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
    device: str = "cpu",
) -> FitResult:
    """Train a network, writing `best.safetensors`, `last.safetensors` and `history.csv` into `out_folder`.

    resume: None starts anew; "auto" goes on from `last.safetensors` where its fingerprint (configuration, seed, data,
    face model, code) is this run's, and starts anew otherwise; a path must fit, else a UserError names what differs.
    max_steps: stop after this many steps in all, of a schedule that stays that of `config.steps`. A loss that is not
    finite is a UserError naming the step and the term.
    """
    began, out = time.monotonic(), Path(out_folder)
    data = TrainingData(train_folder, model, network_config.image_size, config.kinds, device)
    held_out = TrainingData(validation_folder, model, network_config.image_size, KINDS[:2], device)
    fingerprint = {
        "train": asdict(config) | {"kinds": list(config.kinds)},
        "network": asdict(network_config) | {"levels": list(network_config.levels)},
        "seed": seed,
        "data": {"train": data.fingerprint, "validation": held_out.fingerprint},
        "face_model": model.fingerprint,
        "code": checkpoint.code_fingerprint(),
    }
    source = _resumable(resume, out, fingerprint, model)
    tensors, saved = checkpoint.read(source) if source else ({}, None)
    if not saved:
        for name in (BEST, LAST, HISTORY):  # so that no file of an older run passes for this one's
            (out / name).unlink(missing_ok=True)

    model = copy.deepcopy(model).to(device)
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
        torch.manual_seed(seed)
        network = MLANet(model, network_config, pretrained=network_config.pretrained and not saved)
    network = network.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = adamw(network, config.lr, config.weight_decay)
    step, history, sums = 0, [], {}
    if saved:
        step, history, sums = saved["step"], saved["history"], saved["sums"]
        network.pretrained_weights = saved["pretrained_weights"]
        checkpoint.load_state(source, network, tensors, "network.")
        checkpoint.load_state(source, average, tensors, "ema.")
        load_optimizer(optimizer, network, tensors)
    metadata = {
        "network": fingerprint["network"],
        "face_model": {"name": model.name, "fingerprint": model.fingerprint},
        "pretrained_weights": network.pretrained_weights,
        "constant": data.constant(),
        "fingerprint": fingerprint,
        "samples": {kind: int((data.kind == k).sum()) for k, kind in enumerate(KINDS)},
    }
    shape, pending = SparseShape(model, config.vertices), []
    batch_size = min(config.batch_size, len(data))
    epoch_steps = len(data) // batch_size
    resumed_from, end = step, min(config.steps, config.steps if max_steps is None else max_steps)
    order, order_epoch = None, -1
    with tqdm(total=config.steps, initial=step, desc="training", unit="step", disable=not progress) as bar:
        while step < end:
            epoch, place = divmod(step, epoch_steps)
            if epoch != order_epoch:
                order, order_epoch = visiting_order(data.kind, seed, epoch), epoch
            batch = data.batch(order[place * batch_size : (place + 1) * batch_size])
            batch = augment(batch, config.augment, _generator(seed, step, device))
            lr = learning_rate(step, config.steps, config.lr, config.warmup, config.final_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            network.train()
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                predicted = network.encode(batch.images)
            terms = semi_supervised_terms(predicted, batch, shape, model, config)
            optimizer.zero_grad()
            terms["total"].backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            step += 1
            update_average(average, network, step, config.ema)
            pending.append({name: value.detach() for name, value in terms.items()})
            bar.update()

            valid = step == config.steps or step % (config.validate_every or epoch_steps) == 0
            if len(pending) == CHECK_EVERY or valid or step == end:
                _gather(sums, pending, step)
                bar.set_postfix(loss=f"{float(pending[-1]['total']):.3f}", nme=_latest(history), refresh=False)
                pending.clear()
            if valid:
                row = {name: value / sums["steps"] for name, value in sums.items() if name != "steps"}
                row = {"step": step, "epoch": step / epoch_steps, "lr": lr} | row
                history.append(row | validate(average, held_out, shape))
                sums.clear()
                bar.set_postfix(loss=f"{row['total']:.3f}", nme=_latest(history))
            if valid or step == end:
                record = metadata | {"step": step, "history": history}
                if valid and _best(history) is history[-1]:
                    state = {f"network.{name}": value for name, value in average.state_dict().items()}
                    checkpoint.save(out / BEST, state, record)
                if history:
                    write_history(out / HISTORY, history)
                state = {f"network.{name}": value for name, value in network.state_dict().items()}
                state |= {f"ema.{name}": value for name, value in average.state_dict().items()}
                state |= optimizer_tensors(optimizer, network)
                checkpoint.save(out / LAST, state, record | {"sums": sums})
    return FitResult(
        history, _best(history), out / BEST, out / LAST, out / HISTORY, step, resumed_from, time.monotonic() - began
    )


@torch.no_grad()
def validate(network: MLANet, data: TrainingData, shape: SparseShape, batch_size: int = 128) -> dict[str, float]:
    """Figures of a network on labelled and landmarked samples, none of them augmented.

    nme: mean over samples of the 68 points' NME, %, photos alone where there are any (samples whose light nobody
    knows). Of the others, whose parameters are known and not fitted (of the fitted ones, where there are no others):
    pose_mae, mean of pitch, yaw and roll, degrees; vertices: mean distance in mm, turned but not translated; identity,
    albedo (sd) and expression (activation): root mean square, albedo where it is known.
    """
    predicted, truth, marks, distance = [], [], [], []
    for rows in torch.arange(len(data)).split(batch_size):
        batch = data.batch(rows)
        found = network.eval().encode(batch.images)
        turned = shape.turned(found)
        marks.append((shape.landmarks(turned, found), batch.landmarks))
        distance.append((turned - shape.turned(batch.parameters))[:, 68:].norm(dim=2).mean(1))
        predicted.append(found)
        truth.append(batch.parameters)
    found, known = FaceParameters.cat(predicted), FaceParameters.cat(truth)
    nme = sparse_nme(*(torch.cat(side).double().cpu().numpy() for side in zip(*marks, strict=True)))
    photos = (~data.lit).numpy()
    figures = {"val_nme": np.mean(nme[photos] if photos.any() else nme)}
    labelled = torch.nonzero(data.lit if data.lit.any() else data.kind == 0).flatten()
    if len(labelled):
        pose = (side.pose_degrees()[labelled].double().cpu().numpy() for side in (found, known))
        figures["val_pose_mae"] = pose_mae(*pose)["mean"]
        figures["val_vertices"] = torch.cat(distance)[labelled].mean()
    for name, rows in (("identity", labelled), ("expression", labelled), ("albedo", torch.nonzero(data.lit).flatten())):
        if len(rows):
            squares = (getattr(found, name) - getattr(known, name))[rows].square()
            figures[f"val_{name}"] = squares.mean().sqrt()
    return {name: float(value) for name, value in figures.items()}


def write_history(path: str | Path, history: list[dict]) -> None:
    """The rows as CSV with a header, columns in the order in which they first appear."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


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


def _gather(sums: dict[str, float], pending: list[dict[str, Tensor]], step: int) -> None:
    """Add the losses of the last steps to `sums`; the first that is not finite is a UserError."""
    for back, terms in enumerate(pending, 1 - len(pending)):
        for name, value in zip(terms, torch.stack(list(terms.values())).tolist(), strict=True):
            if not np.isfinite(value):
                raise UserError(f"training diverged: loss '{name}' is {value} at step {step + back} (lower train.lr?)")
            sums[name] = sums.get(name, 0.0) + value
        sums["steps"] = sums.get("steps", 0) + 1


def _generator(seed: int, step: int, device: str) -> torch.Generator:
    state = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    return torch.Generator(device).manual_seed(state)


def _best(history: list[dict]) -> dict | None:
    return min(history, key=lambda row: row["val_nme"], default=None)


def _latest(history: list[dict]) -> str:
    return f"{history[-1]['val_nme']:.2f}%" if history else "-"
