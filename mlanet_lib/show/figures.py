"""Figures made of pictures: grids, contact sheets, landmarks, attention, error maps; and the charts under one name.

Every function returns a matplotlib figure, closed, so that a notebook shows it once. Pictures are (H,W,3) uint8, as
`mlanet_lib.drawing.views` makes them; interactive meshes are in `mlanet_lib.show.viewer`.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from scipy.optimize import isotonic_regression

from mlanet_lib.drawing.views import LANDMARK_CHAINS, coloured, framed, panels, textured
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.show.charts import (
    COLOURS,
    INK,
    axes_grid,
    cumulative_error,
    forest,
    level_weights,
    pareto,
    plain,
    styled,
    training_curves,
    yaw_bars,
)

ERROR_MAP = "magma"
__all__ = [
    "attention_levels",
    "colour_of",
    "covered_curve",
    "cumulative_error",
    "error_map",
    "forest",
    "image_grid",
    "landmarks_overlay",
    "level_weights",
    "loss_shares",
    "modes_sheet",
    "pareto",
    "reconstructions",
    "sample_sheet",
    "training_curves",
    "validation_curves",
    "with_scale",
    "yaw_bars",
]


@styled
def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: str = "",
    cell: float = 1.55,
) -> Figure:
    """Pictures (H,W,3) or (H,W) in rows, with column titles above and row labels at the left. `cell`: inches each."""
    count = max(len(row) for row in rows)
    left = 0.9 if any(labels) else 0.0
    figure, axes = axes_grid(
        left + cell * count,
        cell * len(rows) + 0.3 * bool(columns) + 0.25 * bool(title),
        len(rows),
        count,
        squeeze=False,
    )
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    for i, row in enumerate(rows):
        for j in range(count):
            axis = axes[i, j]
            _bare(axis)
            if j < len(row):
                axis.imshow(row[j], interpolation="lanczos", cmap="gray", aspect="equal")
            if i == 0 and j < len(columns):
                axis.set_title(columns[j], fontsize=8.5, fontweight="normal", loc="center", pad=3)
        if i < len(labels):
            axes[i, 0].set_ylabel(plain(labels[i]), rotation=0, ha="right", va="center", fontsize=8.5, labelpad=5)
    if title:
        figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    return figure


def _bare(axis) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


@styled
def sample_sheet(images: Sequence[np.ndarray], columns: int = 8, labels: Sequence[str] = (), title: str = "") -> Figure:
    """A contact sheet of pictures, each with its own small label underneath where `labels` has one."""
    count = -(-len(images) // columns)
    figure, axes = axes_grid(
        1.2 * columns, (1.2 + 0.18 * bool(labels)) * count + 0.3 * bool(title), count, columns, squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    for k, axis in enumerate(axes.flat):
        _bare(axis)
        if k < len(images):
            axis.imshow(images[k], interpolation="lanczos")
            if k < len(labels):
                axis.set_xlabel(plain(labels[k]), fontsize=7.5, labelpad=2)
    if title:
        figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def landmarks_overlay(
    image: np.ndarray, points: np.ndarray, truth: np.ndarray | None = None, title: str = ""
) -> Figure:
    """68 points (68,2) in the picture's pixels over it, the true ones (if given) in orange beside the predicted."""
    figure, axis = axes_grid(3.6, 3.6)
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    _bare(axis)
    sets = [(points, COLOURS[2], "predicted")] + ([(truth, COLOURS[4], "true")] if truth is not None else [])
    for values, colour, name in sets:
        for chain, closed in LANDMARK_CHAINS:
            line = [*chain, *([chain[0]] if closed else [])]
            axis.plot(values[line, 0], values[line, 1], color=colour, linewidth=1)
        axis.scatter(*values[:, :2].T, s=5, color="white", edgecolor=colour, linewidth=0.7, label=name, zorder=3)
    if truth is not None:
        axis.legend(loc="lower right", labelcolor="white")
    axis.set_title(title)
    return figure


@styled
def attention_levels(
    images: Sequence[np.ndarray], maps: Sequence[Sequence[np.ndarray]], levels: Sequence[int]
) -> Figure:
    """Where each level looks. images: N of (S,S,3); maps[n][l]: (h,w) in [0,1]; level k has stride 2^(k+1)."""
    figure, axes = axes_grid(
        1.5 * (1 + len(levels)) + 0.5, 1.5 * len(images) + 0.3, len(images), 1 + len(levels), squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    for row, image, found in zip(axes, images, maps, strict=True):
        side = image.shape[0]
        row[0].imshow(image)
        for axis, attention in zip(row[1:], found, strict=True):
            axis.imshow(np.asarray(image).mean(-1), cmap="gray", vmin=-60, vmax=330, extent=(0, side, side, 0))
            shown = axis.imshow(
                attention,
                cmap=ERROR_MAP,
                alpha=0.62,
                vmin=0,
                vmax=1,
                extent=(0, side, side, 0),
                interpolation="bilinear",
            )
        for axis in row:
            _bare(axis)
    for axis, name in zip(axes[0], ["photo", *(f"level {k} (stride {2 ** (k + 1)})" for k in levels)], strict=True):
        axis.set_title(name, fontsize=8.5, fontweight="normal", loc="center", pad=3)
    figure.colorbar(
        shown, ax=axes, shrink=0.6, pad=0.01, label="energy, share of the map's largest"
    ).outline.set_visible(False)
    return figure


def colour_of(values: np.ndarray, limit: float, colourmap: str = ERROR_MAP) -> np.ndarray:
    """Values (V,) in [0, limit] as colours (V,3) in [0,1]."""
    return plt.get_cmap(colourmap)(np.clip(np.asarray(values) / limit, 0, 1) * 0.92 + 0.06)[:, :3]


@styled
def with_scale(rows, columns: Sequence[str], limit: float, label: str, labels: Sequence[str] = ()) -> Figure:
    """An image grid of pictures coloured by `colour_of`, with its colour bar from 0 to `limit` (unit: `label`)."""
    figure = image_grid(rows, columns, labels, cell=1.8)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + 0.8, height)
    colours = plt.get_cmap(ERROR_MAP)(np.linspace(0.06, 0.98, 256))
    part = ListedColormap(colours).with_extremes(over=colours[-1])
    scale = plt.cm.ScalarMappable(plt.Normalize(0, limit), part)
    bar = figure.colorbar(scale, ax=figure.axes, shrink=0.75, pad=0.02, label=label, extend="max")
    bar.outline.set_visible(False)
    return figure


@styled
def covered_curve(results: Mapping[str, Sequence[Mapping]], mean: str = "balanced_mean") -> Figure:
    """NME against the covered share of the face, with its 95 % band, a line a system: results[system] is `covered` of
    `evaluation_robustness`. mean: "balanced_mean", NaN where a yaw bin is empty, or "image_mean"."""
    figure, axis = axes_grid(4.6, 2.8 + 0.2 * len(results))
    for k, (name, entries) in enumerate(results.items()):
        shares = [100 * entry["share"] for entry in entries]
        low, high = np.array([entry["intervals"][mean] for entry in entries], float).T
        values = [entry["sparse_nme"][mean] for entry in entries]
        colour = COLOURS[k % len(COLOURS)]
        axis.fill_between(shares, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.plot(shares, values, color=colour, marker="o", markersize=3.5, label=name)
    axis.set(xlabel="covered share of the face, %", ylabel=f"sparse NME, %, {mean.replace('_', ' ')}", ylim=(0, None))
    figure.legend(loc="outside upper left", ncols=1)
    return figure


@styled
def validation_curves(
    curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], panels: Mapping[str, Sequence[str]]
) -> Figure:
    """Validation NME against the step, a line a variant: mean over the seeds, in a band from their least to their most.

    curves[variant]: a history a seed, as `training.fit` writes it; panels[title]: the variants that are drawn beside
    `full`, which is black. A label at a line's end says the last mean. UserError where a variant's seeds were
    validated at different steps.
    """
    panels = {title: names for title, names in panels.items() if names} or {"": ()}
    figure, axes = axes_grid(4.9 * len(panels), 3.4, 1, len(panels), squeeze=False, sharey=True)
    ends = []
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

    history: columns by name, as `training.fit` writes them: step, total, and the terms unweighted, means since the
    validation before (0 for a step without such samples); weights: of the terms. Those of weight 0 are left out.
    """
    step, total = (np.asarray(history[name], float) for name in ("step", "total"))
    shares = {
        name: 100 * weight * np.nan_to_num(np.asarray(history[name], float)) / total
        for name, weight in weights.items()
        if weight and name in history
    }
    shades = [*COLOURS, *(tuple(0.5 + 0.5 * np.array(to_rgb(colour))) for colour in COLOURS)]
    begun, bottom, ends = np.r_[0, step[:-1]], np.zeros(len(step)), []
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


def _label_ends(axis, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Texts right of an axis whose limits are set: (x, y, text, colour) each, a line from (x, y) to the text.

    They are moved as little as keeps them apart (least squares: isotonic regression) and beside the axis.
    """
    labels, size = sorted(labels, key=lambda label: label[1]), 7.5  # points
    heights = (axis.transScale + axis.transLimits).transform([label[:2] for label in labels])[:, 1]  # of the axis
    rows = 1.3 * size / (72 * 0.8 * axis.figure.get_figheight()) * np.arange(len(labels))
    places = np.clip(isotonic_regression(heights - rows).x, 0, 1 - rows[-1]) + rows
    for (x, y, text, colour), place in zip(labels, places, strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 1, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 0}
        style = {"va": "center", "fontsize": size, "annotation_clip": False, "arrowprops": line}
        axis.annotate(text, (x, y), (1.07, place), textcoords="axes fraction", **style)


def reconstructions(
    model: MorphableModel, crops: Sequence[np.ndarray], parameters: FaceParameters, labels: Sequence[str] = (), size=224
) -> Figure:
    """Rows of photo, overlay, mesh, side view, albedo. crops: N of (S,S,3) uint8; parameters: batch of N."""
    found = [panels(model, parameters[k], crop, size) for k, crop in enumerate(crops)]
    return image_grid([list(row.values()) for row in found], list(found[0]), labels)


def error_map(
    model: MorphableModel, parameters: FaceParameters, errors: np.ndarray, limit: float = 4.0, label: str = "error, mm"
) -> Figure:
    """A per-vertex error (V,) on the mesh, from the front and from both sides, with its scale up to `limit`."""
    colours = colour_of(errors, limit)
    views = [
        coloured(model, framed(model, parameters, yaw=yaw, whole=True), 260, colours) for yaw in (45.0, 0.0, -45.0)
    ]
    return with_scale([views], ["its left side", "front", "its right side"], limit, label)


def modes_sheet(model: MorphableModel, size: int = 160, columns: int = 8) -> dict[str, Figure]:
    """What the face model can do, a figure each: identity and albedo modes at +-2 sd, expressions in full."""
    neutral = FaceParameters.neutral(model, 1)

    def drawn(draw, **values) -> np.ndarray:
        return draw(model, neutral.replace(**values), size)

    def modes(draw, name: str, count: int) -> list[list[np.ndarray]]:
        rows = []
        for sign in (-2.0, 2.0):
            eye = sign * torch.eye(getattr(neutral, name).shape[1])[:count]
            rows.append([drawn(draw, **{name: row[None]}) for row in eye])
        return rows

    heads = [f"mode {k + 1}" for k in range(columns)]
    signs = ("−2 sd", "+2 sd")
    activations = torch.eye(model.n_expression)
    return {
        "identity": image_grid(modes(coloured, "identity", columns), heads[: model.n_identity], signs),
        "expression": sample_sheet(
            [drawn(coloured, expression=row[None]) for row in activations], columns, model.expression_names
        ),
        "albedo": image_grid(modes(textured, "albedo", columns), heads[: model.n_albedo], signs),
    }
