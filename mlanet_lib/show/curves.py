"""Curves of trainings: losses and validation errors against the step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from scipy.optimize import isotonic_regression

from mlanet_lib.errors import UserError
from mlanet_lib.show.charts import COLOURS, INK, axes_grid, note, styled

Colour = str | tuple[float, ...]
Label = tuple[float, float, str, Colour]
"""Where a line ends (x, y), the text there, and its colour."""
VALIDATION = {
    "val_nme": "validation NME, % (68 points, 2D)",
    "val_pose_mae": "validation pose error, degrees",
    "val_vertices": "validation vertex error, mm",
}


@styled
def training_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Training losses on a log axis, and beside them the validation figures with their lowest value marked.

    history: columns by name (a dict or a DataFrame), as `training.loop.fit` writes them: step, the losses, and `val_*`.
    """
    columns = {name: np.asarray(history[name], float) for name in history}
    step = columns["step"]
    losses = [n for n in columns if n not in ("step", "epoch", "lr", "seconds") and not n.startswith("val_")]
    checks = [name for name in VALIDATION if name in columns]
    figure, axes = axes_grid(1.6 + 3.1 * (1 + len(checks)), 3.0, 1, 1 + len(checks), squeeze=False)
    for k, name in enumerate(sorted(losses, key=lambda name: name != "total")):
        main = name == "total"
        style = {"color": INK if main else COLOURS[(k - 1) % len(COLOURS)], "linewidth": 1.2 + main}
        values = np.where(columns[name] > 0, columns[name], np.nan)
        axes[0, 0].plot(step, values, label=name, linestyle="--" if k > len(COLOURS) else "-", **style)
    axes[0, 0].set(xlabel="step", title="training losses", yscale="log")
    if losses:
        figure.legend(loc="outside left upper", fontsize=7, handlelength=1.4)
    for axis, name, colour in zip(axes[0, 1:], checks, COLOURS, strict=False):
        values = columns[name]
        axis.plot(step, values, color=colour, marker="o", markersize=2.5)
        axis.set(xlabel="step")
        axis.set_title(VALIDATION[name], fontsize=8.5)
        if np.isfinite(values).any():
            best = int(np.nanargmin(values))
            note(axis, f"{values[best]:.2f}", (step[best], values[best]), (0, 7), ha="right")
    return figure


@styled
def validation_curves(
    curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], panels: Mapping[str, Sequence[str]]
) -> Figure:
    """Validation NME against the step, a line a variant: mean over the seeds, in a band from their least to their most.

    curves[variant]: a history a seed, as `training.loop.fit` writes it; panels[title]: the variants that are drawn
    beside `full`, which is black. A label at a line's end says the last mean. UserError where a variant's seeds were
    validated at different steps.
    """
    panels = {title: names for title, names in panels.items() if names} or {"": ()}
    figure, axes = axes_grid(4.9 * len(panels), 3.4, 1, len(panels), squeeze=False, sharey=True)
    ends: list[list[Label]] = []
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        ends.append([])
        for k, name in enumerate(("full", *names)):
            step, *others = (np.asarray(seed["step"], float) for seed in curves[name])
            if any(not np.array_equal(step, other) for other in others):
                raise UserError(f"the seeds of variant {name} were validated at different steps: run dvc repro")
            nme = np.array([seed["val_nme"] for seed in curves[name]], float)
            mean, colour = nme.mean(0), COLOURS[(k - 1) % len(COLOURS)] if k else INK
            band = {"facecolor": (colour, 0.15), "edgecolor": (colour, 0.4), "linewidth": 0.6}
            axis.fill_between(step, nme.min(0), nme.max(0), clip_on=False, **band)
            style = {"linestyle": "-" if k <= len(COLOURS) else "--", "zorder": 3 - bool(k), "clip_on": False}
            axis.plot(step, mean, color=colour, marker="o", markersize=2.5, linewidth=1.4, label=name, **style)
            ends[-1].append((step[-1], mean[-1], f"{name}  {mean[-1]:.2f}", colour))
        axis.set(xlabel="step", title=title, yscale="log")
        axis.grid(which="both")
    axes[0, 0].set_ylabel("validation NME, % (68 points, 2D)")
    for axis, labels in zip(axes[0], ends, strict=True):
        axis.set(xlim=(0, max(x for x, *_ in labels)), ylim=axis.get_ylim())
        for scale in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            scale(ScalarFormatter())
        _label_ends(axis, labels)
    return figure


@styled
def loss_shares(history: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> Figure:
    """Each loss term in percent of the total, stacked, the greatest lowest; bars reach from validation to validation.

    history: columns by name, as `training.loop.fit` writes them: step, total, and the terms unweighted, means since the
    validation before (0 for a step without such samples); weights: of the terms. Those of weight 0 are left out.
    """
    step, total = (np.asarray(history[name], float) for name in ("step", "total"))
    shares = {
        name: 100 * weight * np.nan_to_num(np.asarray(history[name], float)) / total
        for name, weight in weights.items()
        if weight and name in history
    }
    shades: list[Colour] = [*COLOURS, *(tuple(0.5 + 0.5 * np.array(to_rgb(colour))) for colour in COLOURS)]
    begun, bottom = np.r_[0, step[:-1]], np.zeros(len(step))
    ends: list[Label] = []
    figure, axis = axes_grid(6.4, 3.6)
    for k, name in enumerate(sorted(shares, key=lambda name: -shares[name].mean())):
        share, colour = shares[name], shades[k % len(shades)]
        style = {"align": "edge", "color": colour, "edgecolor": "white", "linewidth": 0.4}
        axis.bar(begun, share, step - begun, bottom, label=name, **style)
        ends.append((step[-1], bottom[-1] + share[-1] / 2, f"{name}  {share[-1]:.1f} %", colour))
        bottom = bottom + share
    axis.set(xlim=(0, step[-1]), ylim=(0, 100), xlabel="step", ylabel="share of the total loss, %")
    _label_ends(axis, ends)
    return figure


def _label_ends(axis: Axes, labels: Sequence[Label]) -> None:
    """Texts right of an axis whose limits are set: (x, y, text, colour) each, a line from (x, y) to the text.

    They are moved as little as keeps them apart (least squares: isotonic regression) and beside the axis.
    """
    labels, size = sorted(labels, key=lambda label: label[1]), 7.5  # points
    heights = (axis.transScale + axis.transLimits).transform([label[:2] for label in labels])[:, 1]  # of the axis
    inches = axis.get_figure(root=True).get_figheight()  # type: ignore[union-attr]
    rows = 1.3 * size / (72 * 0.8 * inches) * np.arange(len(labels))
    places = np.clip(isotonic_regression(heights - rows).x, 0, 1 - rows[-1]) + rows
    for (x, y, text, colour), place in zip(labels, places, strict=True):
        line: dict[str, Any] = {
            "arrowstyle": "-",
            "color": colour,
            "linewidth": 1,
            "relpos": (0, 0.5),
            "shrinkA": 0,
            "shrinkB": 0,
        }
        style: dict[str, Any] = {"va": "center", "fontsize": size, "annotation_clip": False, "arrowprops": line}
        axis.annotate(text, (x, y), (1.07, place), textcoords="axes fraction", **style)
