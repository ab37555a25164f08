"""Semi-supervised training of MLANet: one readable loop over labelled, landmarked and unlabelled samples.

Everything random is a pure function of (seed, epoch) or (seed, step). So a run that was stopped and resumed ends with
the same weights as an uninterrupted one, bit for bit on a CPU. Started in several processes (`processes.py`), it trains
with the same batches, split over them.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.coarse import coarse
from mlanet_lib.face_model.front import front_faces
from mlanet_lib.face_model.mirror import Mirror
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.training.augmentation import augment, random_numbers
from mlanet_lib.training.config import Job, resolved_precision
from mlanet_lib.training.data import KINDS, Batch, TrainingData, visiting_order
from mlanet_lib.training.memory import check_training
from mlanet_lib.training.optimizer import adamw, learning_rate, update_average
from mlanet_lib.training.processes import Processes
from mlanet_lib.training.resume import BEST, HISTORY, LAST, State, begin_from, best_row, save, start, start_digest
from mlanet_lib.training.terms import (
    Comparison,
    drawn_rows,
    judged_rows,
    present_terms,
    semi_supervised_terms,
    total,
)
from mlanet_lib.training.validation import validate

CHECK_EVERY = 10  # steps between looks at the losses: looking makes a GPU wait
AVERAGE_EVERY = 4  # steps between updates of the averaged weights, which would be 2 % of a step's time at each


@dataclass
class FitResult:
    """The result of a training.

    history: one row per validation (mean losses since the last one, and `validate`'s figures); best: the row of the
    lowest validation NME; best_path: weights of that row; last_path: what to resume from; history_path: the rows as
    CSV; step: steps made; resumed_from: the step it started at; seconds: spent in this call.
    """

    history: list[dict[str, float]]
    best: dict[str, float] | None
    best_path: Path
    last_path: Path
    history_path: Path
    step: int
    resumed_from: int
    seconds: float


def fit(
    job: Job,
    resume: str | Path | None = "auto",
    max_steps: int | None = None,
    progress: bool = True,
    device: str = "cpu",
) -> FitResult:
    """Train a network, writing `best.safetensors`, `last.safetensors` and `history.csv` into `job.out_folder`.

    resume: None starts anew; "auto" goes on from `last.safetensors` where its fingerprint (configuration, seed, data,
    face model, code) is this run's, and starts anew otherwise; a path must fit, else a UserError names what differs.
    `job.network.start`: the checkpoint whose weights a run that starts anew begins with (`begin_from`); its contents
    are part of the fingerprint, and only the main process reads it. max_steps: stop after this many steps in all; the
    schedule stays that of `job.train.steps`. A loss that is not finite is a UserError naming the step and the term.
    device: as `Processes.join` takes it.

    If several processes call this, started by `accelerate launch` or `torchrun`, they share each batch and all return
    the same. Only the first writes, prints and shows progress. The face model and the data must be the same on all
    machines; a UserError in one process is raised in all.
    """
    return Trainer(job, resume, device).run(max_steps, progress)


class Trainer:
    """One training run. Making the object begins or resumes it; `run` then trains, validates and saves.

    To train another network, or with other losses, subclass this: see `architecture`, `build`, `losses` and `figures`.
    """

    def __init__(self, job: Job, resume: str | Path | None = "auto", device: str = "cpu") -> None:
        self.began, self.team = time.monotonic(), Processes.join(device)
        precision = resolved_precision(job.train.precision, self.team.device.type)
        self.config = replace(job.train, precision=precision)
        self.job = replace(job, train=self.config)
        with self.team.agreeing():
            self._read_data()
        self.fingerprint = self._fingerprint()
        for rank, other in enumerate(self.team.gathered(self.fingerprint)):
            if different := checkpoint.differences(other, self.fingerprint):
                raise UserError(f"cannot train together with process {rank}: it differs in {', '.join(different)}")
        self.model = copy.deepcopy(job.model).to(self.team.device)
        self.mirror = Mirror.of(self.model) if self.config.augment.mirror else None
        self.shape = SparseShape(self.model, self.config.vertices)
        self.drawing = coarse(self.model, self.config.photometric_vertices)
        self.front = front_faces(self.drawing)
        self._begin(resume)
        self.resumed_from = self.state.step
        self.order, self.order_epoch = torch.empty(0), -1
        self.pending: list[dict[str, Tensor]] = []  # losses of the steps since the last look at them
        call: Callable[[Tensor], Any] = self.team.wrap(self.state.network.train())
        self.call = torch.compile(call, dynamic=False) if self.config.compile else call
        bfloat16 = self.config.precision == "bfloat16"
        self.autocast = torch.autocast(self.team.device.type, torch.bfloat16, enabled=bfloat16)

    def architecture(self) -> dict[str, Any]:
        """The description of the network for the checkpoint's header and the fingerprint."""
        return asdict(self.job.network) | {"levels": list(self.job.network.levels)}

    def build(self, fresh: bool) -> nn.Module:
        """The network, on the CPU, with its first weights; if not `fresh`, these may be anything, since they are
        overwritten."""
        config = self.job.network
        network = MLANet(self.model, config, pretrained=config.pretrained and fresh and not config.start)
        if config.start and fresh:
            begin_from(network, self.model)
        network.freeze(self.config.frozen)
        return network

    def losses(self, rows: Tensor, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss terms by name, "total" among them, and all that the network gave.

        rows: of the data, those of the whole batch; batch: this process's share of them, augmented.
        """
        team, config = self.team, self.config
        with self.autocast:
            outputs = self.call(batch.images)
        predicted = FaceParameters.from_tensors(outputs)
        drawn = drawn_rows(self.data.lit[rows], config)
        seen = Comparison(predicted, outputs, batch, team.mine(drawn), self.shape, self.drawing, self.front, config)
        terms, amounts = semi_supervised_terms(seen)
        if team.count > 1:
            whole = judged_rows(self.data.kind[rows], self.data.lit[rows], self.data.shaped[rows], drawn)
            present = present_terms(whole, config, outputs)
            terms = team.whole_batch(terms, amounts, [term.name for term in present])
        return total(terms, config.weights), outputs

    def figures(self) -> dict[str, float]:
        """Errors of the averaged network on held-out samples; `val_nme` must be among them."""
        return validate(cast(MLANet, self.state.average), self.held_out, self.shape, self.team)

    def run(self, max_steps: int | None = None, progress: bool = True) -> FitResult:
        """All steps, or those up to `max_steps`, with validations, checkpoints and a progress bar."""
        state, steps = self.state, self.config.steps
        end = steps if max_steps is None else min(steps, max_steps)
        hidden = not (progress and self.team.main)
        with tqdm(total=steps, initial=state.step, desc="training", unit="step", disable=hidden) as bar:
            while state.step < end:
                self.step()
                bar.update()
                valid = self._is_valid()
                if len(self.pending) == CHECK_EVERY or valid or state.step == end:
                    bar.set_postfix(loss=f"{self._gather():.3f}", nme=self._latest(), refresh=False)
                if valid:
                    self._validate()
                    bar.set_postfix(loss=f"{state.history[-1]['total']:.3f}", nme=self._latest())
                if valid or state.step == end:
                    record = self.metadata | {"step": state.step, "history": state.history}
                    self.team.from_main(lambda: save(self.job.out_folder, record, state, valid))  # noqa: B023
        best, last, curves = (self.job.out_folder / name for name in (BEST, LAST, HISTORY))
        seconds = time.monotonic() - self.began
        row = best_row(state.history)
        return FitResult(state.history, row, best, last, curves, state.step, self.resumed_from, seconds)

    def step(self) -> None:
        """One step of the optimiser."""
        state, team, config = self.state, self.team, self.config
        rows = self._rows()
        numbers = random_numbers(self.batch_size, generator(self.job.seed, state.step, team.device))
        weak = state.step >= (1 - config.weak_end) * config.steps
        strengths = config.augment.weak() if weak else config.augment
        batch = augment(self.data.batch(team.mine(rows)), strengths, team.mine(numbers), self.mirror)
        self.lr = learning_rate(state.step, config.steps, config.lr, config.warmup, config.final_lr)
        for group in state.optimizer.param_groups:
            group["lr"] = self.lr
        terms, outputs = self.losses(rows, batch)
        state.optimizer.zero_grad()
        team.backward(terms["total"], outputs)
        nn.utils.clip_grad_norm_(state.network.parameters(), config.clip)
        state.optimizer.step()
        state.step += 1
        self.pending.append({name: value.detach() for name, value in terms.items()})
        if self._is_valid() or state.step % AVERAGE_EVERY == 0:
            update_average(state.average, state.network, state.step / AVERAGE_EVERY, config.ema**AVERAGE_EVERY)

    def _read_data(self) -> None:
        """UserError if the data are wrong, or the training does not fit into the memory or the number of processes."""
        job, config, team, side = self.job, self.config, self.team, self.job.network.image_size
        self.data = TrainingData(job.train_folder, job.model, side, config.kinds, team.device, config.labelled_share)
        self.held_out = TrainingData(job.validation_folder, job.model, side, KINDS[:2], team.device)
        self.batch_size = min(config.batch_size, len(self.data))
        self.epoch_steps = len(self.data) // self.batch_size
        check_training(config, job.network, job.model, team.in_one_memory(self.batch_size), team.device)
        if self.batch_size < 2 * team.count and team.count > 1:
            short = f"a batch of {self.batch_size} is too small for {team.count} processes"
            raise UserError(f"{short}: each needs two samples")

    def _fingerprint(self) -> dict[str, Any]:
        """All that the result of the run depends on."""
        settings = asdict(self.config) | {"kinds": list(self.config.kinds)}
        del settings["processes"]
        return {
            "train": settings,
            "network": self.architecture(),
            "start_file": self.team.from_main(lambda: start_digest(self.job.network, self.job.out_folder)),
            "seed": self.job.seed,
            "data": {"train": self.data.fingerprint, "validation": self.held_out.fingerprint},
            "face_model": self.job.model.fingerprint,
            "code": checkpoint.code_fingerprint(),
        }

    def _begin(self, resume: str | Path | None) -> None:
        """Make the state: that of the checkpoint to resume, else a new one."""
        job, team = self.job, self.team
        found = team.from_main(lambda: start(resume, job.out_folder, self.fingerprint, job.model))
        with torch.random.fork_rng(devices=[]), team.agreeing():  # the caller's random state stays as it is
            torch.manual_seed(job.seed)
            network = self.build(fresh=team.main and found is None)
        network = network.to(team.device).to(memory_format=torch.channels_last)
        team.share(network)
        average = copy.deepcopy(network).eval().requires_grad_(False)
        self.state = State(network, average, adamw(network, self.config.lr, self.config.weight_decay))
        if found:
            self.state.restore(found)
        self.metadata = {
            "network": self.fingerprint["network"],
            "face_model": {"name": job.model.name, "fingerprint": job.model.fingerprint},
            "pretrained_weights": found.metadata["pretrained_weights"] if found else network.pretrained_weights,
            "constant": self.data.constant(),
            "fingerprint": self.fingerprint,
            "samples": {kind: int((self.data.kind == k).sum()) for k, kind in enumerate(KINDS)},
        }

    def _rows(self) -> Tensor:
        """The rows of the data for the next step."""
        epoch, place = divmod(self.state.step, self.epoch_steps)
        if epoch != self.order_epoch:
            self.order, self.order_epoch = visiting_order(self.data.kind, self.data.person, self.job.seed, epoch), epoch
        return self.order[place * self.batch_size : (place + 1) * self.batch_size]

    def _is_valid(self) -> bool:
        """Whether a validation follows the last step."""
        step = self.state.step
        return step == self.config.steps or step % (self.config.validate_every or self.epoch_steps) == 0

    def _gather(self) -> float:
        """Add the pending losses to the sums, and return the last total; one that is not finite is a UserError."""
        sums, pending = self.state.sums, self.pending
        values = self.team.mean(torch.cat([torch.stack(list(terms.values())) for terms in pending])).tolist()
        for step, terms in enumerate(pending, self.state.step - len(pending) + 1):
            for name in terms:
                value = values.pop(0)
                if not np.isfinite(value):
                    raise UserError(f"training diverged: loss '{name}' is {value} at step {step} (lower train.lr?)")
                sums[name] = sums.get(name, 0.0) + value
            sums["steps"] = sums.get("steps", 0) + 1
        pending.clear()
        return value

    def _validate(self) -> None:
        """Add a row to the history: the mean losses since the last one, and the `figures`."""
        state = self.state
        self.team.share(state.average)  # the processes' batch statistics may differ
        means = {name: value / state.sums["steps"] for name, value in state.sums.items() if name != "steps"}
        row = {"step": state.step, "epoch": state.step / self.epoch_steps, "lr": self.lr}
        state.history.append(row | means | self.figures())
        state.sums.clear()

    def _latest(self) -> str:
        return f"{self.state.history[-1]['val_nme']:.2f}%" if self.state.history else "-"


def generator(seed: int, step: int, device: str | torch.device) -> torch.Generator:
    """The random numbers of one step."""
    state = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    return torch.Generator(device).manual_seed(state)
