"""How the landmark error grows as the face is covered, and with the strength of the expression. Our own protocols.

Photos and crops are those of the AFLW2000-3D benchmark (`mlanet_lib.evaluation.sparse`, crops from the ground truth's
box). Occluders have the texture of the synthetic faces' backgrounds, not that of `occlude` in training.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.spatial import ConvexHull, QhullError
from tqdm.auto import tqdm

from mlanet_lib import metrics
from mlanet_lib.data.synthetic import faces, scenes
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.sparse import BOXES
from mlanet_lib.evaluation.summary import (
    CONSTANT,
    bootstrap_interval,
    constant_baseline,
    paired_difference,
    text_table,
    yaw_figures,
)
from mlanet_lib.evaluation.systems import LabelledPhotos, PointSystem, System, read_crops

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
KINDS = ("ellipse", "box", "band", "side")
TERCILES = ("weak", "medium", "strong")
FINE = 256  # pixels along a crop's side in which covered shares are counted
_NME = "NME over sqrt(w*h) of the true points' box, %; 95 % bootstrap over images, the balanced mean's within yaw bins"
PROTOCOLS = {
    "covered": (
        "error against the covered share (this project's): the convex hull of the 68 labelled points is the face; one "
        "opaque thing a photo (ellipse, box, band, or all beyond a line; seeded by the photo's name) grows until it "
        f"covers 0, 10, ..., 50 % of the face's area; all 68 points count, covered or not; {_NME}"
    ),
    "expression": (
        "error against the strength of the expression (this project's): of the labelled points, root of the summed "
        "squares of mouth opening (62-66), mouth width (48-54) beyond the set's median share of the outer eyes' "
        "distance (36-45), and mean distance of brow and eye (19-37, 24-44) beyond the set's median, each over the "
        f"nose's length (27-33); terciles within each yaw bin, so that poses are alike in all three; {_NME}"
    ),
}


class Covered(NamedTuple):
    """A crop with the K `SHARES` covered: images (K, S, S, 3) uint8; shares (K,) measured, in [0, 1]; points (K, 68)
    bool, whether a labelled point lies under the occluder; kind: one of `KINDS`."""

    images: np.ndarray
    shares: np.ndarray
    points: np.ndarray
    kind: str


def evaluate_robustness(folder: str | Path, system: System | PointSystem, limit: int | None = None) -> dict:
    """Sparse NME of a system over a folder in AFLW2000-3D's layout, by covered share and by expression.

    limit: the first photos only. Returns the summary: `covered`, a dict for each of `SHARES`: `share`, `measured`
    (lowest and highest over the photos), `sparse_nme` (see `metrics.by_yaw`), `intervals` of its two means,
    `difference` (to the uncovered photos, paired, over images) and the errors of `free_points` and `covered_points`
    alone; `expression`, a dict for each of `TERCILES`: `name`, `strength` (its mean), `sparse_nme`, `intervals`;
    `baselines` (`constant`, which sees no picture); `kinds` (photos by kind of occluder), `protocol`, `box`,
    `weights`, `images`, `folder`.
    """
    photos = LabelledPhotos.read(folder, limit)
    names, truth, yaw = [sample.name for sample in photos.samples], photos.in_crops(), photos.pose[:, 1]
    crops = tqdm(photos.crops(system.image_size), "predicting", len(names), unit="photo", leave=False)
    found, laid = [], []
    for crop, points, name in zip(crops, truth, names, strict=True):
        covered = cover(crop, points, faces.stream(0, "robustness", name))
        found.append(read_crops(system, list(covered.images)).landmarks)
        laid.append(covered._replace(images=covered.images[:0]))  # they are many
    nme, far = _errors(np.stack(found), truth)
    kinds = [one.kind for one in laid]
    return {
        "covered": _by_share(laid, nme, far, yaw),
        "expression": _by_expression(expression_strength(truth), nme[:, 0], yaw),
        "baselines": _constant(system, truth, yaw),
        "kinds": {kind: kinds.count(kind) for kind in KINDS},
        "protocol": PROTOCOLS,
        "box": BOXES["truth"],
        "weights": system.weights,
        "images": len(names),
        "folder": Path(folder).name,
    }


def _constant(system: System | PointSystem, truth: np.ndarray, yaw: np.ndarray) -> dict:
    baseline = constant_baseline(system.metadata, len(truth))
    if baseline is None:
        return {}
    about = {"note": baseline.note, "uses_the_truth": baseline.uses_the_truth}
    return {CONSTANT: yaw_figures(metrics.sparse_nme(baseline.landmarks, truth), yaw) | about}


def _by_share(laid: Sequence[Covered], nme: np.ndarray, far: np.ndarray, yaw: np.ndarray) -> list[dict]:
    shares, under = np.stack([one.shares for one in laid]), np.stack([one.points for one in laid])
    entries = []
    for k, share in enumerate(SHARES):
        points = {"free_points": ~under[:, k], "covered_points": under[:, k]}
        entries.append(
            {"share": share, "measured": [float(shares[:, k].min()), float(shares[:, k].max())]}
            | yaw_figures(nme[:, k], yaw)
            | {"difference": paired_difference(nme[:, k], nme[:, 0])}
            | {name: _mean_over(far[:, k], chosen) for name, chosen in points.items()}
        )
    return entries


def _by_expression(strength: np.ndarray, nme: np.ndarray, yaw: np.ndarray) -> list[dict]:
    entries, third = [], terciles(strength, metrics.yaw_bin(yaw))
    for k, name in enumerate(TERCILES):
        own = third == k
        mean = float(strength[own].mean()) if own.any() else math.nan
        entries.append({"name": name, "strength": mean} | yaw_figures(nme[own], yaw[own]))
    return entries


def cover(crop: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Covered:
    """A crop (S, S, 3) uint8, with one occluder that grows over its face. points: (68, 2) labels, crop sides."""
    size, centres = len(crop), (np.arange(FINE) + 0.5) / FINE
    grid = np.stack(np.meshgrid(centres, centres), -1)  # (FINE, FINE, 2), x and y
    face = in_hull(grid, points)
    kind = str(rng.choice(KINDS))
    distance = occluder(kind, rng, grid[face])
    texture = np.asarray(Image.fromarray(scenes.background(rng, FINE)).resize((size, size)), np.float32)
    far, images, shares, under = distance(grid), [], [], []
    for share, edge in zip(SHARES, np.quantile(far[face], SHARES), strict=True):
        edge = edge if share else -np.inf  # what is beyond a line lies before the background even at its least
        mask = Image.fromarray((far < edge).astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
        image = crop + np.asarray(mask)[..., None] * (texture - crop)
        images.append(image.round().astype(np.uint8))
        shares.append((far < edge)[face].mean())
        under.append(distance(points) < edge)
    return Covered(np.stack(images), np.array(shares), np.stack(under), kind)


def in_hull(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which places (..., 2) lie in the convex hull of the points (P, 2): (...) bool."""
    try:
        facets = ConvexHull(points).equations  # outward normal and offset of each side
    except QhullError as error:
        raise UserError("the landmarks lie on one line: they span no face") from error
    return (places @ facets[:, :2].T + facets[:, 2] <= 0).all(-1)


def occluder(kind: str, rng: np.random.Generator, face: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A distance field over places (..., 2): an occluder of size s covers the places whose value is below s.

    It grows from one of the places `face` (P, 2), turned by any angle, up to twice as long as wide; "side" grows
    without a centre, behind a line.
    """
    angle, longer = rng.uniform(0, 2 * np.pi), rng.uniform(1, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = face[rng.integers(len(face))]

    def distance(places: np.ndarray) -> np.ndarray:
        along, across = np.moveaxis((places - centre) @ turn, -1, 0)
        if kind == "side":
            return across
        if kind == "band":
            return np.abs(across)
        sides = np.stack([np.abs(along) / longer, np.abs(across)])
        return np.hypot(*sides) if kind == "ellipse" else sides.max(0)

    return distance


def expression_strength(points: np.ndarray) -> np.ndarray:
    """Strength of the expression in labelled points (N, 68, 2), any scale: (N,), see `PROTOCOLS["expression"]`.

    The medians are taken over the N faces. The width of the mouth is compared with the distance of the eyes, not with
    the nose: when the head turns, both shorten by the same factor.
    """

    def length(first: int, second: int) -> np.ndarray:
        return np.linalg.norm(points[:, first] - points[:, second], axis=1)

    nose, eyes = length(27, 33), length(36, 45)
    width, brow = length(48, 54), (length(19, 37) + length(24, 44)) / (2 * nose)
    stretch = (width - np.median(width / eyes) * eyes) / nose
    return np.sqrt((length(62, 66) / nose) ** 2 + stretch**2 + (brow - np.median(brow)) ** 2)


def terciles(strength: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(N,) 0, 1, 2: the third of its bin (N,) that a face's strength (N,) lies in."""
    third = np.zeros(len(strength), int)
    for k in np.unique(bins):
        third[bins == k] = np.searchsorted(np.quantile(strength[bins == k], [1 / 3, 2 / 3]), strength[bins == k])
    return third


def _errors(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NME (N, K) of K predictions (N, K, 68, 2) of each face (N, 68, 2), and that of each point (N, K, 68), in %."""
    nme = np.stack([metrics.sparse_nme(predicted[:, k], truth) for k in range(predicted.shape[1])], 1)
    box = np.sqrt(np.ptp(truth, axis=1).prod(1))
    return nme, 100 * np.linalg.norm(predicted - truth[:, None], axis=-1) / box[:, None, None]


def _mean_over(errors: np.ndarray, chosen: np.ndarray) -> dict:
    """The mean error (N, 68) of each image's `chosen` (N, 68) points, averaged over the images that have such
    points."""
    some = chosen.any(1)
    values = (errors * chosen)[some].sum(1) / chosen[some].sum(1)
    mean = float(values.mean()) if len(values) else math.nan
    return {"mean": mean, "interval": bootstrap_interval(values), "images": len(values)}


def summary_text(data: dict) -> str:
    """The summary as plain-text tables, with their protocols."""

    def cells(title: str, entry: Mapping, *more: str) -> list[str]:
        nme = entry["sparse_nme"]
        means = (f"{nme[key]:.2f}" for key in (*metrics.YAW_BINS, "balanced_mean", "image_mean"))
        interval = "{:.2f} to {:.2f}".format(*entry["intervals"]["image_mean"])
        return [title, *means, interval, str(nme["images"][3]), *more]

    names = ["0-30", "30-60", "60-90", "balanced", "images", "95 % (images)", "photos"]
    table = [["covered", *names, "rise", "95 % (paired)", "free", "under"]]
    for entry in data["covered"]:
        rise = entry["difference"]
        points = (f"{entry[name]['mean']:.2f}" for name in ("free_points", "covered_points"))
        more = f"{rise['difference']:+.2f}", f"{rise['low']:+.2f} to {rise['high']:+.2f}", *points
        table.append(cells(f"{100 * entry['share']:.0f} %", entry, *more))
    table += [cells(name, entry) for name, entry in data["baselines"].items()]
    table += [[], ["expression", *names], *(cells(entry["name"], entry) for entry in data["expression"])]
    lines = text_table(table, (-12, 9, 9, 9, 9, 9, 16, 8, 8, 16, 7, 7))
    lines += [f"weights: {data['weights']}", f"crop: {data['box']}"]
    return "\n".join([*lines, *(f"protocol: {text}" for text in data["protocol"].values())])
