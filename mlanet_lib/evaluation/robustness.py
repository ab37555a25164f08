"""How the landmark error grows as the face is covered, and with the strength of the expression. Our own protocols.

Photos and crops are those of the AFLW2000-3D benchmark (`mlanet_lib.evaluation.sparse`, crops from the ground truth's
box). What is laid over them has the texture that synthetic faces have as a background, not that of training's
`occlude`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.spatial import ConvexHull, QhullError

from mlanet_lib import metrics
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.data.synthetic import faces, scenes
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.systems import as_function, cut_crops, run_batches
from mlanet_lib.geometry.crops import crop_box_from_landmarks, to_crop

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


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """`summary`: JSON-able (see `evaluate_robustness`); `images`: one row a photo: name, yaw, strength and tercile of
    the expression, kind of the occluder, and for every share, in %, `nme 10`, `covered 10` (the measured share, %)."""

    summary: dict
    images: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Covered:
    """A crop with the K `SHARES` covered: images (K, S, S, 3) uint8; shares (K,) measured, in [0, 1]; points (K, 68)
    bool, whether a labelled point lies under the occluder; kind: one of `KINDS`."""

    images: np.ndarray
    shares: np.ndarray
    points: np.ndarray
    kind: str


def evaluate_robustness(
    folder: str | Path,
    system,
    limit: int | None = None,
    constant: Mapping | None = None,
    image_size: int | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> RobustnessResult:
    """Sparse NME of a system over a folder in AFLW2000-3D's layout, by covered share and by expression.

    system, limit, constant, image_size, weights: as in `evaluation.evaluate_aflw2000`.

    The summary holds `covered`, a dict for each of `SHARES`: `share`, `measured` (lowest and highest over the photos),
    `sparse_nme` (see `metrics.by_yaw`), `intervals` of its two means, `difference` (to the uncovered photos, paired,
    over images) and the errors of `free_points` and `covered_points` alone; `expression`, a dict for each of
    `TERCILES`: `name`, `strength` (its mean), `sparse_nme`, `intervals`; `baselines` (`constant`, which sees no
    picture); `kinds` (photos by kind of occluder), `protocol`, `box`, `weights`, `images`, `folder`.
    """
    samples = aflw2000.read_folder(folder, limit)
    boxes = [crop_box_from_landmarks(sample.landmarks) for sample in samples]
    truth = np.stack([to_crop(s.landmarks, box) for s, box in zip(samples, boxes, strict=True)])
    yaw = np.array([sample.pose_degrees[1] for sample in samples])
    size, laid = image_size or system.image_size, []

    def crops():
        for sample, crop, points in zip(samples, cut_crops(samples, boxes, size), truth, strict=True):
            covered = cover(crop, points, faces.stream(seed, "robustness", sample.name))
            laid.append((covered.shares, covered.points, covered.kind))  # without the pictures: they are many
            yield from covered.images

    predicted = run_batches(as_function(system), crops(), len(samples) * len(SHARES), shapes=False).landmarks
    nme, far = _errors(predicted.reshape(len(samples), len(SHARES), 68, 2), truth)
    shares, under, kinds = map(np.stack, zip(*laid, strict=True))
    strength = expression_strength(truth)
    tercile = terciles(strength, metrics.yaw_bin(yaw))
    covered = []
    for k, share in enumerate(SHARES):
        points = {"free_points": ~under[:, k], "covered_points": under[:, k]}
        covered.append(
            {"share": share, "measured": [float(shares[:, k].min()), float(shares[:, k].max())]}
            | _figures(nme[:, k], yaw, seed)
            | {"difference": metrics.paired_difference(nme[:, k], nme[:, 0], seed)}
            | {name: _mean_over(far[:, k], chosen, seed) for name, chosen in points.items()}
        )
    expression = [
        {"name": name, "strength": float(strength[tercile == k].mean()) if (tercile == k).any() else math.nan}
        | _figures(nme[tercile == k, 0], yaw[tercile == k], seed)
        for k, name in enumerate(TERCILES)
    ]
    columns = {"name": [s.name for s in samples], "yaw": yaw, "kind": kinds}
    columns |= {"strength": strength, "expression": np.array(TERCILES)[tercile]}
    for k, share in enumerate(SHARES):
        columns |= {f"nme {100 * share:.0f}": nme[:, k], f"covered {100 * share:.0f}": 100 * shares[:, k]}
    summary = {
        "covered": covered,
        "expression": expression,
        "baselines": _constant(constant or getattr(system, "metadata", {}).get("constant"), truth, yaw, seed),
        "kinds": {kind: int((kinds == kind).sum()) for kind in KINDS},
        "protocol": PROTOCOLS,
        "box": "square on the larger side of the ground-truth 68-point box, times sqrt(2) (3DDFA's roi)",
        "weights": weights or str(getattr(system, "weights", "unnamed")),
        "images": len(samples),
        "folder": Path(folder).name,
    }
    return RobustnessResult(summary, pd.DataFrame(columns))


def cover(crop: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Covered:
    """A crop (S, S, 3) uint8, its face covered ever more by one growing thing. points: (68, 2) labels, crop sides."""
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
    """A growing thing as a function of places (..., 2): at the size s it covers those where its value lies below s.

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

    The medians are those of the N faces. Widths are compared with the eyes' and not with the nose: of two pairs that
    lie alike, left and right, a turn of the head shortens both by the same factor.
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


def _figures(nme: np.ndarray, yaw: np.ndarray, seed: int) -> dict:
    bins = metrics.yaw_bin(yaw)
    whole = len(np.unique(bins)) == len(metrics.YAW_BINS)
    balanced = metrics.bootstrap_interval(nme, seed=seed, strata=bins) if whole else (math.nan, math.nan)
    intervals = {"balanced_mean": balanced, "image_mean": metrics.bootstrap_interval(nme, seed=seed)}
    return {"sparse_nme": metrics.by_yaw(nme, yaw), "intervals": intervals}


def _mean_over(errors: np.ndarray, chosen: np.ndarray, seed: int) -> dict:
    """The mean over images of the mean error (N, 68) of the `chosen` (N, 68) points, of those images that have some."""
    some = chosen.any(1)
    values = (errors * chosen)[some].sum(1) / chosen[some].sum(1)
    mean = float(values.mean()) if len(values) else math.nan
    return {"mean": mean, "interval": metrics.bootstrap_interval(values, seed=seed), "images": len(values)}


def _constant(constant: Mapping | None, truth: np.ndarray, yaw: np.ndarray, seed: int) -> dict:
    if not constant or constant.get("landmarks") is None:
        return {}
    points = np.broadcast_to(np.asarray(constant["landmarks"], np.float64), truth.shape)
    figures = _figures(metrics.sparse_nme(points, truth), yaw, seed)
    return {"constant": figures | {"note": "the training set's mean; sees no picture", "uses_the_truth": False}}


def summary_text(result: RobustnessResult) -> str:
    """The result as plain-text tables, with their protocols."""
    data = result.summary

    def line(title: str, entry: Mapping, *more: str) -> str:
        nme = entry["sparse_nme"]
        means = "".join(f"{nme[key]:9.2f}" for key in (*metrics.YAW_BINS, "balanced_mean", "image_mean"))
        interval = "{:.2f} to {:.2f}".format(*entry["intervals"]["image_mean"])
        return f"{title:<12}{means}{interval:>16}{nme['images'][3]:>8}" + "".join(more)

    names = "".join(f"{name:>9}" for name in ("0-30", "30-60", "60-90", "balanced", "images"))
    head = f"{names}{'95 % (images)':>16}{'photos':>8}"
    lines = [f"{'covered':<12}{head}{'rise':>8}{'95 % (paired)':>16}{'free':>7}{'under':>7}"]
    for entry in data["covered"]:
        rise = entry["difference"]
        interval = f"{rise['low']:+.2f} to {rise['high']:+.2f}"
        points = (f"{entry[name]['mean']:7.2f}" for name in ("free_points", "covered_points"))
        lines.append(
            line(f"{100 * entry['share']:.0f} %", entry, f"{rise['difference']:+8.2f}", f"{interval:>16}", *points)
        )
    lines += [line(name, entry) for name, entry in data["baselines"].items()]
    lines += ["", f"{'expression':<12}{head}", *(line(entry["name"], entry) for entry in data["expression"])]
    lines += [f"weights: {data['weights']}", f"crop: {data['box']}"]
    return "\n".join([*lines, *(f"protocol: {text}" for text in data["protocol"].values())])
