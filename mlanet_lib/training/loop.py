"""Semi-supervised training of MLANet: one readable loop over labelled, landmarked and unlabelled samples.

Everything random is a pure function of (seed, epoch) or (seed, step), so that a run that was stopped anywhere and
resumed ends with the same weights, bit for bit on a CPU, as one that was not. Started in several processes
(`processes.py`), it trains with the same batches, split over them.
"""

import copy
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.coarse import coarse
from mlanet_lib.face_model.mirror import Mirror
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.limits import COUNT, COUNT_OR_NONE, SHARE, FieldError, Range, check_fields
from mlanet_lib.network import MLANet, NetworkConfig, checkpoint
from mlanet_lib.training.augmentation import AugmentConfig, augment, random_numbers
from mlanet_lib.training.data import KINDS, TrainingData, visiting_order
from mlanet_lib.training.losses import LossWeights, drawn_rows, semi_supervised_terms, term_names, total
from mlanet_lib.training.memory import check_training
from mlanet_lib.training.optimizer import adamw, learning_rate, load_optimizer, update_average
from mlanet_lib.training.processes import Processes
from mlanet_lib.training.resume import BEST, HISTORY, LAST, begin_from, best_row, save, start, start_digest
from mlanet_lib.training.validation import validate

CHECK_EVERY = 10  # steps between looks at the losses: looking makes a GPU wait
AVERAGE_EVERY = 4  # steps between updates of the averaged weights, which would be 2 % of a step's time at each


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    steps, batch_size: samples seen = their product; a batch is that of all processes together. lr: highest learning
    rate of AdamW, reached after the share `warmup` of the steps, then a cosine down to `final_lr` of it. clip: largest
    norm of the gradient. ema: decay of the averaged weights, which are the ones that are judged and kept (0 = none).
    validate_every: steps between validations and checkpoints (0 = once an epoch). kinds: the kinds of samples that are
    used; labelled_share: of the labelled ones that keep their labels. vertices: points of the vertex loss.
    hidden_weight: what a landmark that is not visible counts.
    photometric_batch, photometric_size: pictures rendered a step, and their side in px (0 pictures = no photometric
    loss). photometric_vertices: of the mesh that is rendered (`coarse`; 0 = all). precision: "float32", or "bfloat16"
    for the network's forward pass; "auto": see `resolved_precision`. compile: torch.compile for the network, a wait at
    the start for other kernels. processes: in how many `launch.fit_in_processes` trains on this machine (0 = one for
    each GPU); what comes out does not depend on it but for rounding, and it is no part of the fingerprint. More than
    there are cores, or GPUs, are refused unless the environment variable MLANET_PROCESSES says the same number.

    A number that is not finite or out of its range, and a kind or precision that is unknown, is a UserError.
    """

    steps: Annotated[int, COUNT] = 2000
    batch_size: Annotated[int, COUNT] = 64
    lr: Annotated[float, Range(0, 10, above=True)] = 2e-3
    weight_decay: Annotated[float, Range(0, 100)] = 0.02
    warmup: Annotated[float, Range(0, 1, below=True)] = 0.1
    final_lr: Annotated[float, SHARE] = 0.01
    clip: Annotated[float, Range(0, 1e9, above=True)] = 5.0
    ema: Annotated[float, Range(0, 1, below=True)] = 0.995
    validate_every: Annotated[int, COUNT_OR_NONE] = 0
    kinds: tuple[str, ...] = KINDS
    labelled_share: Annotated[float, SHARE] = 1.0
    vertices: Annotated[int, COUNT] = 200
    hidden_weight: Annotated[float, SHARE] = 0.5
    photometric_batch: Annotated[int, COUNT_OR_NONE] = 8
    photometric_size: Annotated[int, COUNT] = 48
    photometric_vertices: Annotated[int, COUNT_OR_NONE] = 4000
    precision: str = "float32"
    compile: bool = False
    processes: Annotated[int, COUNT_OR_NONE] = 1
    weights: LossWeights = field(default_factory=LossWeights)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self):
        object.__setattr__(self, "kinds", tuple(self.kinds))
        check_fields(self)
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise FieldError(f"kinds = {list(self.kinds)}: must be one or more of {', '.join(KINDS)}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UserError(f"unknown precision {self.precision!r}; choose auto, float32 or bfloat16")


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
    network_config.start: the checkpoint whose weights a run that starts anew begins with (`begin_from`); its contents
    are part of the fingerprint, and only the main process reads it.
    max_steps: stop after this many steps in all, of a schedule that stays that of `config.steps`. A loss that is not
    finite is a UserError naming the step and the term. device: as `Processes.join` takes it.

    Where several processes call this, started by `accelerate launch` or `torchrun`, they share each batch; all of them
    return the same, and the first alone writes, prints and shows progress. The face model and the data must be the
    same on all machines; a UserError in one process is raised in all.
    """
    began, out, team = time.monotonic(), Path(out_folder), Processes.join(device)
    config = replace(config, precision=resolved_precision(config.precision, team.device.type))
    with team.agreeing():
        data = TrainingData(
            train_folder, model, network_config.image_size, config.kinds, team.device, config.labelled_share
        )
        held_out = TrainingData(validation_folder, model, network_config.image_size, KINDS[:2], team.device)
        batch_size = min(config.batch_size, len(data))
        check_training(config, network_config, model, team.in_one_memory(batch_size), team.device)
        if batch_size < 2 * team.count and team.count > 1:
            raise UserError(f"a batch of {batch_size} is too small for {team.count} processes: each needs two samples")
    settings = asdict(config) | {"kinds": list(config.kinds)}
    del settings["processes"]
    start_sha256 = team.from_main(lambda: start_digest(network_config, out))
    fingerprint = {
        "train": settings,
        "network": asdict(network_config) | {"levels": list(network_config.levels)},
        "start_file": start_sha256,
        "seed": seed,
        "data": {"train": data.fingerprint, "validation": held_out.fingerprint},
        "face_model": model.fingerprint,
        "code": checkpoint.code_fingerprint(),
    }
    for rank, other in enumerate(team.gathered(fingerprint)):
        if different := checkpoint.differences(other, fingerprint):
            raise UserError(f"cannot train together with process {rank}: it differs in {', '.join(different)}")
    source, tensors, saved = team.from_main(lambda: start(resume, out, fingerprint, model))

    model = copy.deepcopy(model).to(team.device)
    mirror = Mirror.of(model) if config.augment.mirror else None
    with torch.random.fork_rng(devices=[]), team.agreeing():  # the caller's random state stays as it is
        torch.manual_seed(seed)
        fresh = team.main and not saved
        pretrained = network_config.pretrained and fresh and not start_sha256
        network = MLANet(model, network_config, pretrained=pretrained)
        if start_sha256 and fresh:
            begin_from(network, model)
    network = network.to(team.device, memory_format=torch.channels_last)
    team.share(network)
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
    call = team.wrap(network.train())
    if config.compile:
        call = torch.compile(call, dynamic=False)
    precision = torch.autocast(team.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    shape, pending = SparseShape(model, config.vertices), []
    drawing = coarse(model, config.photometric_vertices)
    epoch_steps = len(data) // batch_size
    resumed_from, end = step, min(config.steps, config.steps if max_steps is None else max_steps)
    order, order_epoch = None, -1
    progress = progress and team.main
    with tqdm(total=config.steps, initial=step, desc="training", unit="step", disable=not progress) as bar:
        while step < end:
            epoch, place = divmod(step, epoch_steps)
            if epoch != order_epoch:
                order, order_epoch = visiting_order(data.kind, seed, epoch), epoch
            rows = order[place * batch_size : (place + 1) * batch_size]
            numbers = random_numbers(batch_size, _generator(seed, step, team.device))
            batch = augment(data.batch(team.mine(rows)), config.augment, team.mine(numbers), mirror)
            lr = learning_rate(step, config.steps, config.lr, config.warmup, config.final_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            with precision:
                raw = call(batch.images)
                predicted = network.face_parameters(raw)
            drawn = team.mine(drawn_rows(data.lit[rows], config))
            terms, amounts = semi_supervised_terms(predicted, batch, shape, drawing, config, drawn, raw["points"])
            if team.count > 1:
                terms = team.whole_batch(terms, amounts, term_names(data.kind[rows], data.lit[rows], config))
            terms = total(terms, config.weights)
            optimizer.zero_grad()
            team.backward(terms["total"], raw)
            team.clip(network.parameters(), config.clip)
            optimizer.step()
            step += 1
            pending.append({name: value.detach() for name, value in terms.items()})
            bar.update()

            valid = step == config.steps or step % (config.validate_every or epoch_steps) == 0
            if valid or step % AVERAGE_EVERY == 0:
                update_average(average, network, step / AVERAGE_EVERY, config.ema**AVERAGE_EVERY)
            if len(pending) == CHECK_EVERY or valid or step == end:
                latest = _gather(sums, pending, step, team)
                bar.set_postfix(loss=f"{latest:.3f}", nme=_latest(history), refresh=False)
                pending.clear()
            if valid:
                row = {name: value / sums["steps"] for name, value in sums.items() if name != "steps"}
                row = {"step": step, "epoch": step / epoch_steps, "lr": lr} | row
                history.append(row | validate(average, held_out, shape, team=team))
                sums.clear()
                bar.set_postfix(loss=f"{row['total']:.3f}", nme=_latest(history))
            if valid or step == end:
                record = metadata | {"step": step, "history": history}
                team.from_main(lambda: save(out, record, sums, network, average, optimizer, valid))  # noqa: B023
    return FitResult(
        history, best_row(history), out / BEST, out / LAST, out / HISTORY, step, resumed_from, time.monotonic() - began
    )


def resolved_precision(precision: str, device: str = "cpu") -> str:
    """ "auto" as what this machine is faster with: "bfloat16" where it computes in it, else "float32".

    A CPU without such instructions emulates them (the embedded study's steps took nearly twice as long on one). What is
    resolved is part of a run's fingerprint: a run that goes on elsewhere with another one begins anew.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    can = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 does not tell yet
    return "bfloat16" if any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"


def _gather(sums: dict[str, float], pending: list[dict[str, Tensor]], step: int, team: Processes) -> float:
    """Add the losses of the last steps to `sums`, and return the last total; one that is not finite is a UserError."""
    values = team.mean(torch.cat([torch.stack(list(terms.values())) for terms in pending])).tolist()
    for back, terms in enumerate(pending, 1 - len(pending)):
        for name in terms:
            value = values.pop(0)
            if not np.isfinite(value):
                raise UserError(f"training diverged: loss '{name}' is {value} at step {step + back} (lower train.lr?)")
            sums[name] = sums.get(name, 0.0) + value
        sums["steps"] = sums.get("steps", 0) + 1
    return value


def _generator(seed: int, step: int, device: str | torch.device) -> torch.Generator:
    state = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    return torch.Generator(device).manual_seed(state)


def _latest(history: list[dict]) -> str:
    return f"{history[-1]['val_nme']:.2f}%" if history else "-"
