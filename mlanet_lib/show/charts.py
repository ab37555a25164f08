"""Charts of results: bars with intervals, distributions, the ablation's forest plot, learned level weights.

One look for all figures: white paper, thin grey axes, Okabe and Ito's colour-blind-safe colours. Every function returns
a matplotlib figure, closed, so that a notebook shows it once. Charts name their protocol in an axis label.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
INK, FAINT = "#22262b", "#d9dde2"
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#9aa1a9",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "grid.color": "#eceff2",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "font.size": 9,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "mlanet",
}
BINS = (("bin_0_30", "0–30°"), ("bin_30_60", "30–60°"), ("bin_60_90", "60–90°"), ("balanced_mean", "balanced\nmean"))


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """The function with matplotlib in the project's style while it draws."""

    @functools.wraps(function)
    def draw(*arguments: P.args, **options: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            return function(*arguments, **options)

    return draw


def plain(text: str) -> str:
    """A name from outside as matplotlib shows it letter by letter: a pair of dollar signs is no formula."""
    return text.replace("$", r"\$")


def axes_grid(
    width: float, height: float, rows: int = 1, columns: int = 1, layout: Any = "constrained", **options: Any
) -> tuple[Figure, Any]:
    """A closed figure of `width` x `height` inches and its axes (call it from a `styled` function)."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout=layout, **options)
    plt.close(figure)
    return figure, axes


def note(axis: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """A text beside a place of the axis, `offset` points away."""
    axis.annotate(text, place, offset, textcoords="offset points", **style)


@styled
def yaw_bars(
    results: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Figure:
    """Sparse NME by yaw bin, a bar a system. results: of `metrics.by_yaw`; intervals[system][bin]: 95 %."""
    figure, axis = axes_grid(1.6 + 1.35 * len(BINS) + 0.15 * len(results) * len(BINS), 3.1)
    width = 0.8 / len(results)
    top = 0.0
    for k, (name, values) in enumerate(results.items()):
        heights = np.array([values.get(key, np.nan) for key, _ in BINS], float)
        places = np.arange(len(BINS)) + (k - (len(results) - 1) / 2) * width
        axis.bar(places, heights, width * 0.92, color=COLOURS[k % len(COLOURS)], label=name)
        found = (intervals or {}).get(name, {})
        limits = np.array([found.get(key, (np.nan, np.nan)) for key, _ in BINS], float)
        axis.errorbar(
            places, heights, np.abs(limits.T - heights), fmt="none", ecolor=INK, elinewidth=1, capsize=2.5, capthick=1
        )
        upper = np.where(np.isfinite(limits[:, 1]), limits[:, 1], heights)
        for place, height, above in zip(places, heights, upper, strict=True):
            if np.isfinite(height):
                note(axis, f"{height:.2f}", (place, above), (0, 2), ha="center", fontsize=7.5)
        top = np.nanmax([top, *upper])
    axis.set_xticks(np.arange(len(BINS)), [label for _, label in BINS])
    axis.grid(axis="x", visible=False)
    axis.set(ylabel="sparse NME, %", ylim=(0, top * 1.14))
    axis.axvline(len(BINS) - 1.5, color=FAINT, linewidth=1)
    axis.set_title("68 points in 2D, over sqrt(w·h) of the true points' box", fontweight="normal", fontsize=8.5)
    figure.legend(loc="outside upper left", ncols=min(3, len(results)))
    return figure


@styled
def cumulative_error(
    errors: Mapping[str, np.ndarray], limit: float = 10.0, xlabel: str = "NME of an image, %"
) -> Figure:
    """Share of images with at most that error, per system; the legend gives the share under `limit`."""
    figure, axis = axes_grid(4.6, 2.7 + 0.2 * len(errors))
    for k, (name, values) in enumerate(errors.items()):
        ordered = np.sort(np.asarray(values, float))
        share = np.arange(1, len(ordered) + 1) / len(ordered) * 100
        under = (ordered <= limit).mean() * 100
        axis.step(
            np.r_[0, ordered],
            np.r_[0, share],
            where="post",
            color=COLOURS[k % len(COLOURS)],
            label=f"{name}: {under:.0f} % within {limit:g}",
        )
    axis.set(xlim=(0, limit), ylim=(0, 100), xlabel=xlabel, ylabel="images with at most that error, %")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


@styled
def forest(rows: Sequence[Mapping]) -> Figure:
    """Ablation, a line a variant: {"name", "difference", "low", "high"} (95 %); grey where the interval holds 0."""
    figure, axis = axes_grid(6.2, 0.9 + 0.32 * len(rows))
    for k, row in enumerate(rows):
        unclear = row["low"] <= 0 <= row["high"]
        colour = COLOURS[6] if unclear else COLOURS[1] if row["difference"] > 0 else COLOURS[2]
        axis.plot([row["low"], row["high"]], [k, k], color=colour, solid_capstyle="round")
        axis.plot(row["difference"], k, "s", color=colour, markersize=6)
        note = "not distinguishable" if unclear else f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        axis.annotate(note, (1.01, k), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_yticks(range(len(rows)), [plain(row["name"]) for row in rows])
    xlabel = "difference to the full model, NME percentage points (positive: worse)"
    axis.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="y", visible=False)
    return figure


@styled
def level_weights(weights: Mapping[str, Sequence[float]], levels: Sequence[int]) -> Figure:
    """Heat map of the levels' weights: weights[group] (L,), rows sum to 1; columns are the levels, fine to coarse."""
    values = np.array([list(map(float, row)) for row in weights.values()])
    figure, axis = axes_grid(1.8 + 0.85 * len(levels), 0.9 + 0.36 * len(weights))
    shown = axis.imshow(values, cmap="Blues", vmin=0, vmax=max(0.5, values.max()), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        dark = np.dot(shown.to_rgba(value)[:3], (0.2126, 0.7152, 0.0722)) < 0.45
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axis.set_xticks(range(len(levels)), [f"level {k}\nstride {2 ** (k + 1)}" for k in levels])
    axis.set_yticks(range(len(weights)), list(weights))
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return figure


@styled
def pareto(rows: Sequence[Mapping]) -> Figure:
    """Accuracy against cost, a dot a variant: {"name", "balanced_mean", "seed_sd", "images_per_second"}, the last as
    milliseconds a picture. The line joins those that no other beats in both."""
    figure, axis = axes_grid(6.2, 3.4)
    cost = np.array([1000 / row["images_per_second"] for row in rows])
    error = np.array([row["balanced_mean"] for row in rows])
    order = np.lexsort((error, cost))
    front = [k for n, k in enumerate(order) if error[k] < error[order[:n]].min(initial=np.inf)]
    axis.plot(cost[front], error[front], color=FAINT, linewidth=2, zorder=1)
    for k, row in enumerate(rows):
        colour = INK if row["name"] == "full" else COLOURS[0] if k in front else COLOURS[6]
        axis.errorbar(cost[k], error[k], row["seed_sd"], fmt="o", color=colour, elinewidth=1, capsize=2.5, markersize=5)
        note(axis, plain(row["name"]), (cost[k], error[k]), (5, 4), fontsize=7.5, color=colour)
    axis.set(xlabel="milliseconds a picture", ylabel="balanced NME, % (± sd of seeds)")
    axis.margins(x=0.18, y=0.15)
    return figure


@styled
def landmark_errors(points: np.ndarray, errors: np.ndarray) -> Figure:
    """Mean error (68,) of each landmark, as colour and size on the points (68,2), x right, y up."""
    figure, axis = axes_grid(4.6, 3.3)
    shown = axis.scatter(*points.T, c=errors, s=30 + 120 * errors / errors.max(), cmap="viridis", edgecolor=INK, lw=0.5)
    for k in np.argsort(errors)[-3:]:
        note(axis, f"{errors[k]:.1f}", points[k], (0, 8), ha="center", fontsize=7.5)
    axis.set_aspect("equal")
    axis.margins(0.12)
    axis.axis("off")
    figure.colorbar(shown, ax=axis, shrink=0.75, label="mean error, %").outline.set_visible(False)
    return figure
