"""The ablation: which runs a variant is, what each run's errors were, and what the differences are worth.

A variant is trained once for each seed and judged on the same images as `full`. Its difference to `full` is paired by
image and by seed; its interval resamples both, because three seeds differ among themselves as much as variants do.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.checkpoint import export_weights
from mlanet_lib.datasets import aflw2000
from mlanet_lib.datasets.sample import crop_box_from_landmarks, crop_image, to_crop
from mlanet_lib.errors import UserError
from mlanet_lib.files import atomic_path
from mlanet_lib.limits import check_memory
from mlanet_lib.metrics import NOT_DISTINGUISHABLE, by_yaw, sparse_nme, yaw_bin
from mlanet_lib.network import MLANet, NetworkConfig
from mlanet_lib.params import FULL, Params, variant_params
from mlanet_lib.systems import prediction, run_batches
from mlanet_lib.training import TrainConfig

FORWARD = 60
"""Bytes a pixel of a batch that a network holds at least while it looks at it (measured at 1000 crops of 96 px, as the
growth of the peak: 102 of lcnet_050, which is among the leanest, 152 of resnet18)."""
MAIN = "train"
PREFIX = "ablation/"


@dataclass(frozen=True)
class Run:
    """One training: what is trained, with which seed, and into which folder its weights go."""

    name: str
    seed: int
    network: NetworkConfig
    train: TrainConfig
    folder: Path


def plan(params: Params, run: str) -> list[Run]:
    """The trainings behind a run's name: "train" is one, "ablation/KEY" one for each of `ablation.seeds`.

    Folders lie in `paths.outputs`. UserError for another name or an unknown variant.
    """
    outputs = Path(params.paths.outputs)
    if run == MAIN:
        return [Run(MAIN, params.seed, params.network, params.train, outputs / "train")]
    if not run.startswith(PREFIX):
        raise UserError(f"run {run!r} is neither {MAIN!r} nor {PREFIX}VARIANT")
    variant = run.removeprefix(PREFIX)
    network, train = variant_params(params, variant)
    folder = outputs / "ablation" / variant
    return [Run(run, seed, network, train, folder / f"seed_{seed}") for seed in params.ablation.seeds]


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


def shrink(runs: Sequence[Run]) -> None:
    """Keep of finished trainings what is looked at later: the best weights in half precision, and the curves."""
    for run in runs:
        export_weights(run.folder / "best.safetensors", run.folder / "best.safetensors")
        (run.folder / "last.safetensors").unlink(missing_ok=True)


def write_scores(path: str | Path, scores: Scores) -> None:
    """Scores as CSV, an image a line: image, yaw, and a column `seed_K` for each training. Atomic."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "yaw", *(f"seed_{seed}" for seed in scores.seeds)])
        for image, yaw, errors in zip(scores.images, scores.yaw, scores.nme, strict=True):
            writer.writerow([image, f"{yaw:.4f}", *(f"{error:.6f}" for error in errors)])


def read_scores(path: str | Path) -> Scores:
    """The inverse of `write_scores`; a missing or broken file is a UserError."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        seeds = [int(name.removeprefix("seed_")) for name in header[2:]]
        numbers = np.array([row[1:] for row in rows], float).reshape(len(rows), 1 + len(seeds))
    except OSError as error:
        raise UserError(f"no scores of variant {path.stem} ({path}): run dvc repro") from error
    except ValueError as error:
        raise UserError(f"{path} is not a table of scores: {error}") from error
    return Scores([row[0] for row in rows], numbers[:, 0], seeds, numbers[:, 1:])


def gather(folder: str | Path, variants: Sequence[str]) -> dict[str, Scores]:
    """Scores of each variant from `folder`/VARIANT.csv; UserError unless images and seeds are the same for all."""
    found = {name: read_scores(Path(folder) / f"{name}.csv") for name in variants}
    first = next(iter(found))
    for name, scores in found.items():
        if (scores.images, scores.seeds) != (found[first].images, found[first].seeds):
            raise UserError(f"variants {first} and {name} were not judged on the same images and seeds: run dvc repro")
    return found


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
