"""A training of a small network on toy faces."""

import dataclasses
from pathlib import Path

import torch

from mlanet_lib.network import NetworkConfig, checkpoint
from mlanet_lib.training.augmentation import AugmentConfig
from mlanet_lib.training.config import Job, TrainConfig
from mlanet_lib.training.loop import FitResult, fit

NETWORK = NetworkConfig(backbone="lcnet_050", levels=(2, 3, 4), image_size=32, width=16, pool=2)
PLAIN = AugmentConfig(**{field.name: 0.0 for field in dataclasses.fields(AugmentConfig)})
QUICK = TrainConfig(steps=9, batch_size=8, vertices=20, photometric_batch=2, photometric_size=16, validate_every=4)


def run(model, folders, out: Path, config=QUICK, network=NETWORK, seed: int = 0, **options) -> FitResult:
    """`fit` without a progress bar. folders: of the training and of the validation split."""
    return fit(Job(config, network, model, *folders, out, seed), progress=False, **options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(path)[0]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
