"""The ablation: the errors of every variant and seed, and whether their differences can be distinguished from chance.

A variant is trained once for each seed and judged on the same images as `full`. Its difference to `full` is paired by
image and by seed; its interval resamples both, because three seeds differ among themselves as much as variants do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from mlanet_lib.evaluation.summary import RESAMPLES, resampled
from mlanet_lib.evaluation.systems import CropPrediction, LabelledPhotos, PointSystem, prediction, read_all
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.limits import check_memory
from mlanet_lib.metrics import NOT_DISTINGUISHABLE, YAW_BINS, by_yaw, sparse_nme, yaw_bin
from mlanet_lib.network import MLANet

FORWARD = 60
"""Bytes a pixel of a batch that a network holds at least while it looks at it (measured at 1000 crops of 96 px, as the
growth of the peak: 102 of lcnet_050, which is among the leanest, 152 of resnet18)."""
FULL = "full"
"""The variant without a change, with which the others are compared."""


@dataclass(frozen=True)
class Scores:
    """Errors of one variant: images (N,) names, yaw (N,) degrees, seeds (S,), nme (N, S) in percent."""

    images: list[str]
    yaw: np.ndarray
    seeds: list[int]
    nme: np.ndarray


def score(folder: str | Path, model: MorphableModel, networks: dict[int, MLANet], batch_size: int = 64) -> Scores:
    """Errors of one variant trained with several seeds, on a folder in AFLW2000-3D's layout (crops from the truth).

    model: the face model; networks: seed -> trained network, all of one image size, in evaluation mode.
    """
    photos = LabelledPhotos.read(folder)
    size = next(iter(networks.values())).config.image_size
    crops, truth = list(photos.crops(size)), photos.in_crops()
    errors, held = [], min(batch_size, len(crops))
    check_memory(held * size**2 * FORWARD, f"benchmark.batch_size {held} at network.image_size {size}")
    for network in networks.values():
        found = read_all(PointSystem(_reader(model, network), size), crops, len(crops), batch_size)
        errors.append(sparse_nme(found.landmarks, truth))
    return Scores([sample.name for sample in photos.samples], photos.pose[:, 1], list(networks), np.stack(errors, 1))


def _reader(model: MorphableModel, network: MLANet) -> Callable[[Tensor], CropPrediction]:
    return lambda images: prediction(model, network.encode(images))


def balanced(nme: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(S,) balanced mean of nme (N, S): the unweighted mean over the yaw bins (N,) that occur of each bin's mean."""
    return np.mean([nme[bins == k].mean(0) for k in np.unique(bins)], axis=0)


def resampled_balanced(nme: np.ndarray, bins: np.ndarray, samples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(samples,) balanced means of nme (N, S), images redrawn within their yaw bin (N,), and seeds redrawn."""
    rng = np.random.default_rng(seed)
    groups = [nme[bins == k] for k in np.unique(bins)]
    means = np.zeros((samples, nme.shape[1]))
    for group in groups:
        means += np.concatenate([draws.mean(1) for draws in resampled(group, rng, samples)]) / len(groups)
    chosen = rng.integers(0, nme.shape[1], means.shape)
    return np.take_along_axis(means, chosen, 1).mean(1)


def judge(found: dict[str, Scores], samples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """One row for each variant: its error, its difference to `full`, and the verdict on it.

    name; balanced_mean: over the seeds, %; seed_sd: standard deviation of the seeds' balanced means (0 for one seed);
    bins: the three bins' means; per_seed. For all but `full` also difference (variant - full, percentage points of
    NME), low and high: its 95 % interval (Bonferroni-corrected for all comparisons), over images and seeds, paired in
    both; verdict: "worse", "better" or "not distinguishable" (zero lies in the interval).
    """
    full, rows = found[FULL], []
    bins, tail = yaw_bin(full.yaw), 0.025 / max(1, len(found) - 1)
    for name, scores in found.items():
        means, means_by_yaw = balanced(scores.nme, bins), by_yaw(scores.nme.mean(1), scores.yaw)
        row = {
            "name": name,
            "balanced_mean": float(means.mean()),
            "seed_sd": float(means.std(ddof=1)) if len(means) > 1 else 0.0,
            "per_seed": dict(zip(map(str, scores.seeds), means.tolist(), strict=True)),
            "bins": {key: means_by_yaw[key] for key in YAW_BINS},
            "images": len(scores.images),
            "seeds": len(scores.seeds),
        }
        if name != FULL:
            difference = scores.nme - full.nme
            drawn = resampled_balanced(difference, bins, samples, seed)
            low, high = np.quantile(drawn, [tail, 1 - tail]).tolist()
            verdict = "worse" if low > 0 else "better" if high < 0 else NOT_DISTINGUISHABLE
            row |= {"difference": float(balanced(difference, bins).mean()), "low": low, "high": high}
            row |= {"verdict": verdict}
        rows.append(row)
    return rows
