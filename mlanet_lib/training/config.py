"""The configuration of a training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.limits import COUNT, COUNT_OR_NONE, SHARE, FieldError, Range, check_fields
from mlanet_lib.network import NetworkConfig
from mlanet_lib.training.augmentation import AugmentConfig
from mlanet_lib.training.data import KINDS
from mlanet_lib.training.losses import LossWeights


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    steps, batch_size: samples seen = their product; a batch is that of all processes together. lr: highest learning
    rate of AdamW, reached after the share `warmup` of the steps, then a cosine down to `final_lr` of it. clip: largest
    norm of the gradient. ema: decay of the averaged weights, which are validated and kept (0 = no averaging).
    validate_every: steps between validations and checkpoints (0 = once an epoch). kinds: the kinds of samples that are
    used; labelled_share: share of the labelled samples that keep their labels. vertices: points of the vertex loss.
    hidden_weight: weight of a landmark that is not visible. frozen: the backbone up to
    its first so many levels stays as it was (`MLANet.freeze`). photometric_batch, photometric_size: photos rendered a
    step, and their side in px (0 photos = no photometric loss). photometric_vertices: of the mesh that is rendered
    (`coarse`; 0 = all). precision: "float32", or "bfloat16" for the network's forward pass; "auto": see
    `resolved_precision`. compile: use torch.compile for the network, which takes time at the start. processes: in how
    many `launch.fit_in_processes` trains on this machine (0 = one for each GPU); it is no part of the fingerprint. More
    processes than cores, or than GPUs, are refused unless the environment variable MLANET_PROCESSES holds the same
    number. weak_end: share of the steps, at the end, with weak augmentation (`AugmentConfig.weak`).

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
    frozen: Annotated[int, Range(0, 4)] = 0
    photometric_batch: Annotated[int, COUNT_OR_NONE] = 8
    photometric_size: Annotated[int, COUNT] = 48
    photometric_vertices: Annotated[int, COUNT_OR_NONE] = 4000
    precision: str = "float32"
    compile: bool = False
    processes: Annotated[int, COUNT_OR_NONE] = 1
    weights: LossWeights = field(default_factory=LossWeights)
    weak_end: Annotated[float, SHARE] = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        check_fields(self)
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise FieldError(f"kinds = {list(self.kinds)}: must be one or more of {', '.join(KINDS)}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UserError(f"unknown precision {self.precision!r}; choose auto, float32 or bfloat16")


@dataclass(frozen=True)
class Job:
    """One training: its settings, the network, the face model, the folders of its data (`TrainingData`), the folder for
    its results, and the random seed."""

    train: TrainConfig
    network: NetworkConfig
    model: MorphableModel
    train_folder: Path
    validation_folder: Path
    out_folder: Path
    seed: int = 0


def resolved_precision(precision: str, device: str = "cpu") -> str:
    """The precision that "auto" stands for on this machine: "bfloat16" if the processor supports it, else "float32".

    A CPU without such instructions emulates them (the embedded study's steps took nearly twice as long on one). The
    result is part of a run's fingerprint, so a run does not resume on a machine where it differs.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 does not tell yet
    return "bfloat16" if any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"
