"""Parts of the benchmarks' summaries: baselines, means by yaw bin, intervals, differences, tables of text.

A summary is a dict that becomes a JSON file (`files.records.write_json`): its keys are a file format.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlanet_lib.metrics import NOT_DISTINGUISHABLE, YAW_BINS, by_yaw, yaw_bin

CONSTANT, MEAN_FACE = "constant", "mean face"
RESAMPLES = 2000
"""Bootstrap draws behind an interval."""
BLOCK = 1 << 21
"""Numbers (float64: 16 MB) that a bootstrap holds at once."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """A baseline's predictions for N photos.

    landmarks: (N, 68, 2) in the unit of the truth; pose_degrees: (N, 3) pitch, yaw, roll in BFM's frame, or None; note:
    what it is, in words; uses_the_truth: it needs the truth, so it could not be used in practice.
    """

    landmarks: np.ndarray
    pose_degrees: np.ndarray | None
    note: str
    uses_the_truth: bool = False


def constant_baseline(metadata: Mapping, count: int) -> Baseline | None:
    """The training set's mean landmarks, in crop sides, and pose for `count` photos, where the network's `metadata`
    say them (`constant`: `landmarks` (68, 2), `pose_degrees` (3,) in BFM's frame or None)."""
    constant = metadata.get("constant") or {}
    if constant.get("landmarks") is None:
        return None
    landmarks, pose = np.asarray(constant["landmarks"], np.float64), constant.get("pose_degrees")
    poses = None if pose is None else np.broadcast_to(np.asarray(pose, np.float64), (count, 3))
    shown = np.broadcast_to(landmarks, (count, *landmarks.shape))
    return Baseline(shown, poses, "the training set's mean; sees no picture")


def resampled(values: np.ndarray, rng: np.random.Generator, samples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """`samples` bootstrap draws of the rows of values (N, ...), as blocks (K, N, ...) of at most `BLOCK` numbers (or of
    one draw). They are the same draws as a loop would make."""
    held = max(1, BLOCK // max(1, values.size))
    for start in range(0, samples, held):
        yield values[rng.integers(0, len(values), (min(held, samples - start), len(values)))]


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda draws: draws.mean(1),
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval, 95 %, of a statistic over images: (low, high) (Efron 1979).

    values: (N,) or (N, ...), a row an image; statistic: of K draws (K, N, ...) at once, (K,). strata: (N,) labels;
    images are then drawn within their stratum, and the statistic is the unweighted mean of the strata's, which for yaw
    bins is the balanced mean. No value gives (NaN, NaN); one value an interval of no width.
    """
    values = np.asarray(values, np.float64)
    if len(values) == 0:
        return math.nan, math.nan
    strata = np.zeros(len(values), int) if strata is None else np.asarray(strata)
    rng, labels, drawn = np.random.default_rng(seed), np.unique(strata), np.zeros(RESAMPLES)
    for label in labels:
        blocks = resampled(values[strata == label], rng)
        drawn += np.concatenate([statistic(block) for block in blocks]) / len(labels)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def paired_difference(
    first: np.ndarray, second: np.ndarray, seed: int = 0, strata: np.ndarray | None = None
) -> dict[str, float | int | str]:
    """Difference first - second of two systems on the same images, with its 95 % bootstrap interval over images.

    first, second: (N,) errors of the same images; strata as in `bootstrap_interval` (the difference is then balanced).
    Returns `difference`, `low`, `high`, `images` and `verdict`: "lower" or "higher" (the first's error), or "not
    distinguishable" where the interval holds zero.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    low, high = bootstrap_interval(differences, seed=seed, strata=strata)
    labels = np.zeros(len(differences), int) if strata is None else np.asarray(strata)
    means = [differences[labels == label].mean() for label in np.unique(labels)]
    verdict = "lower" if high < 0 else "higher" if low > 0 else NOT_DISTINGUISHABLE
    difference = float(np.mean(means)) if means else math.nan
    return {"difference": difference, "low": low, "high": high, "images": len(differences), "verdict": verdict}


def yaw_figures(nme: np.ndarray, yaw: np.ndarray, seed: int = 0) -> dict[str, dict]:
    """`sparse_nme` of errors (N,) by yaw (N,), degrees (`metrics.by_yaw`), and `intervals` of its two means; the
    balanced one is NaN where a bin is empty."""
    bins = yaw_bin(yaw)
    balanced = (math.nan, math.nan)
    if len(np.unique(bins)) == len(YAW_BINS):
        balanced = bootstrap_interval(nme, seed=seed, strata=bins)
    intervals = {"balanced_mean": balanced, "image_mean": bootstrap_interval(nme, seed=seed)}
    return {"sparse_nme": by_yaw(nme, yaw), "intervals": intervals}


def in_words(difference: Mapping) -> str:
    """A `paired_difference` in words."""
    low, high = difference["low"], difference["high"]
    return f"{difference['difference']:+.2f} ({low:+.2f} to {high:+.2f}), {difference['verdict']}"


def text_table(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """A line a row: its cells, each as wide as `widths` says, a negative one aligned to the left; rows may be short."""
    return ["".join(cell.rjust(w) if w > 0 else cell.ljust(-w) for cell, w in zip(row, widths)) for row in rows]  # noqa: B905
