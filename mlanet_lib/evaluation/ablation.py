"""The ablation: the errors of every variant and seed, and what the differences are worth.

A variant is trained once for each seed and judged on the same images as `full`. Its difference to `full` is paired by
image and by seed; its interval resamples both, because three seeds differ among themselves as much as variants do.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.evaluation.systems import prediction, run_batches
from mlanet_lib.geometry.crops import crop_box_from_landmarks, crop_image, to_crop
from mlanet_lib.limits import check_memory
from mlanet_lib.metrics import NOT_DISTINGUISHABLE, by_yaw, sparse_nme, yaw_bin
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


def score(folder: str | Path, model, networks: dict[int, MLANet], batch_size: int = 64) -> Scores:
    """Errors of one variant trained with several seeds, on a folder in AFLW2000-3D's layout (crops from the truth).

    model: the face model; networks: seed -> trained network, all of one image size, in evaluation mode.
    """
    samples = aflw2000.read_folder(folder)
    boxes = [crop_box_from_landmarks(sample.landmarks) for sample in samples]
    size = next(iter(networks.values())).config.image_size
    crops = [crop_image(sample.image(), box, size) for sample, box in zip(samples, boxes, strict=True)]
    truth = np.stack([to_crop(sample.landmarks, box) for sample, box in zip(samples, boxes, strict=True)])
    errors, held = [], min(batch_size, len(crops))
    check_memory(held * size**2 * FORWARD, f"benchmark.batch_size {held} at network.image_size {size}")
    for network in networks.values():
        with torch.no_grad():
            found = run_batches(lambda x, n=network: prediction(model, n.encode(x)), crops, len(crops), batch_size)
        errors.append(sparse_nme(found.landmarks, truth))
    yaw = np.array([sample.pose_degrees[1] for sample in samples])
    return Scores([sample.name for sample in samples], yaw, list(networks), np.stack(errors, 1))


def balanced(nme: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(S,) balanced mean of nme (N, S): the unweighted mean over the yaw bins (N,) that occur of each bin's mean."""
    return np.mean([nme[bins == k].mean(0) for k in np.unique(bins)], axis=0)


def resampled(nme: np.ndarray, bins: np.ndarray, samples: int = 2000, seed: int = 0) -> np.ndarray:
    """(samples,) balanced means of nme (N, S), images redrawn within their yaw bin (N,), and seeds redrawn."""
    rng = np.random.default_rng(seed)
    means = np.zeros((samples, nme.shape[1]))
    groups = [nme[bins == k] for k in np.unique(bins)]
    for group in groups:
        for k in range(samples):
            means[k] += group[rng.integers(0, len(group), len(group))].mean(0) / len(groups)
    chosen = rng.integers(0, nme.shape[1], means.shape)
    return np.take_along_axis(means, chosen, 1).mean(1)


def judge(found: dict[str, Scores], samples: int = 2000, seed: int = 0, confidence: float = 0.95) -> list[dict]:
    """One row a variant: its error, and its difference to `full` with what that is worth.

    name; balanced_mean: over the seeds, %; seed_sd: standard deviation of the seeds' balanced means (0 for one seed);
    bins: the three bins' means; per_seed. For all but `full` also difference (variant - full, percentage points of
    NME), low and high: `confidence` interval for all the comparisons together (Bonferroni), over images and seeds,
    paired in both; verdict: "worse", "better" or "not distinguishable" (zero lies in the interval).
    """
    full = found[FULL]
    bins = yaw_bin(full.yaw)
    tail = (1 - confidence) / 2 / max(1, len(found) - 1)
    rows = []
    for name, scores in found.items():
        means = balanced(scores.nme, bins)
        row = {
            "name": name,
            "balanced_mean": float(means.mean()),
            "seed_sd": float(means.std(ddof=1)) if len(means) > 1 else 0.0,
            "per_seed": dict(zip(map(str, scores.seeds), means.tolist(), strict=True)),
            "bins": {key: value for key, value in by_yaw(scores.nme.mean(1), scores.yaw).items() if key[:3] == "bin"},
            "images": len(scores.images),
            "seeds": len(scores.seeds),
        }
        if name != FULL:
            difference = scores.nme - full.nme
            low, high = np.quantile(resampled(difference, bins, samples, seed), [tail, 1 - tail]).tolist()
            verdict = "worse" if low > 0 else "better" if high < 0 else NOT_DISTINGUISHABLE
            row |= {"difference": float(balanced(difference, bins).mean()), "low": low, "high": high}
            row |= {"verdict": verdict}
        rows.append(row)
    return rows
