"""Figures made of pictures: grids, contact sheets, landmarks, attention, error maps.

Every function returns a matplotlib figure, closed, so that a notebook shows it once. Pictures are (H,W,3) uint8, as
`mlanet_lib.drawing.views` makes them; interactive meshes are in `mlanet_lib.show.viewer`.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mlanet_lib.drawing.views import LANDMARK_CHAINS, coloured, framed, panels
from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.show.charts import COLOURS, axes_grid, plain, styled

ERROR_MAP = "magma"


@styled
def image_grid(
    rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str] = (), labels: Sequence[str] = (), cell: float = 1.55
) -> Figure:
    """Pictures (H,W,3) or (H,W) in rows, with column titles above and row labels at the left. `cell`: inches each."""
    count = max(len(row) for row in rows)
    width, height = (0.9 if any(labels) else 0.0) + cell * count, cell * len(rows) + 0.3 * bool(columns)
    figure, axes = _bare_grid(width, height, len(rows), count)
    for i, row in enumerate(rows):
        for axis, picture in zip(axes[i], row, strict=False):
            axis.imshow(picture, interpolation="lanczos", cmap="gray", aspect="equal")
    for axis, title in zip(axes[0], columns, strict=False):
        axis.set_title(title, fontsize=8.5, fontweight="normal", loc="center", pad=3)
    for axis, label in zip(axes[:, 0], labels, strict=False):
        axis.set_ylabel(plain(label), rotation=0, ha="right", va="center", fontsize=8.5, labelpad=5)
    return figure


def _bare_grid(width: float, height: float, rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """A figure of `width` x `height` inches and its axes (rows, columns), close together, without ticks and frames."""
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    figure, axes = axes_grid(width, height, rows, columns, layout, squeeze=False)
    for axis in axes.flat:
        _bare(axis)
    return figure, axes


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


@styled
def sample_sheet(images: Sequence[np.ndarray], columns: int = 8, labels: Sequence[str] = ()) -> Figure:
    """A contact sheet of pictures, each with its own small label underneath where `labels` has one."""
    count = -(-len(images) // columns)
    figure, axes = _bare_grid(1.2 * columns, (1.2 + 0.18 * bool(labels)) * count, count, columns)
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image, interpolation="lanczos")
    for axis, label in zip(axes.flat, labels, strict=False):
        axis.set_xlabel(plain(label), fontsize=7.5, labelpad=2)
    return figure


@styled
def landmarks_overlay(image: np.ndarray, points: np.ndarray) -> Figure:
    """The 68 landmarks (68,2), in the photo's pixels, over it."""
    figure, axis = axes_grid(3.6, 3.6)
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    _bare(axis)
    for chain, closed in LANDMARK_CHAINS:
        line = [*chain, *([chain[0]] if closed else [])]
        axis.plot(points[line, 0], points[line, 1], color=COLOURS[2], linewidth=1)
    axis.scatter(*points.T, s=5, color="white", edgecolor=COLOURS[2], linewidth=0.7, zorder=3)
    return figure


@styled
def attention_levels(
    images: Sequence[np.ndarray], maps: Sequence[Sequence[np.ndarray]], levels: Sequence[int]
) -> Figure:
    """Where each level looks. images: N of (S,S,3); maps[n][l]: (h,w) in [0,1]; level k has stride 2^(k+1)."""
    width, height = 1.5 * (1 + len(levels)) + 0.5, 1.5 * len(images) + 0.3
    figure, axes = _bare_grid(width, height, len(images), 1 + len(levels))
    for row, image, found in zip(axes, images, maps, strict=True):
        extent = (0, len(image), len(image), 0)
        row[0].imshow(image)
        for axis, attention in zip(row[1:], found, strict=True):
            axis.imshow(np.asarray(image).mean(-1), cmap="gray", vmin=-60, vmax=330, extent=extent)
            style = {"cmap": ERROR_MAP, "alpha": 0.62, "interpolation": "bilinear"}
            shown = axis.imshow(attention, vmin=0, vmax=1, extent=extent, **style)
    for axis, name in zip(axes[0], ["photo", *(f"level {k} (stride {2 ** (k + 1)})" for k in levels)], strict=True):
        axis.set_title(name, fontsize=8.5, fontweight="normal", loc="center", pad=3)
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, pad=0.01, label="energy, share of the map's largest")
    bar.outline.set_visible(False)
    return figure


def colour_of(values: np.ndarray, limit: float) -> np.ndarray:
    """Values (V,) in [0, limit] as colours (V,3) in [0,1]."""
    return plt.get_cmap(ERROR_MAP)(np.clip(np.asarray(values) / limit, 0, 1) * 0.92 + 0.06)[:, :3]


def reconstructions(
    model: MorphableModel, crops: Sequence[np.ndarray], parameters: FaceParameters, labels: Sequence[str] = ()
) -> Figure:
    """Rows of photo, overlay, mesh, side view, albedo. crops: N of (S,S,3) uint8; parameters: batch of N."""
    found = [panels(model, parameters[k], crop, 224) for k, crop in enumerate(crops)]
    return image_grid([list(row.values()) for row in found], list(found[0]), labels)


@styled
def error_map(model: MorphableModel, parameters: FaceParameters, errors: np.ndarray, limit: float) -> Figure:
    """A per-vertex error (V,), mm, on the mesh, from the front and from both sides, with its scale up to `limit`."""
    colours = colour_of(errors, limit)
    views = [
        coloured(model, framed(model, parameters, yaw=yaw, whole=True), 260, colours) for yaw in (45.0, 0.0, -45.0)
    ]
    figure = image_grid([views], ["its left side", "front", "its right side"], cell=1.8)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + 0.8, height)
    shades = plt.get_cmap(ERROR_MAP)(np.linspace(0.06, 0.98, 256))
    scale = plt.cm.ScalarMappable(plt.Normalize(0, limit), ListedColormap(shades).with_extremes(over=shades[-1]))
    bar = figure.colorbar(scale, ax=figure.axes, shrink=0.75, pad=0.02, label="mean error, mm", extend="max")
    bar.outline.set_visible(False)
    return figure
