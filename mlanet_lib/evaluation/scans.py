"""One scan judged by pictures drawn of it: draw, reconstruct each picture, lay the shape onto the scan.

`draw_and_reconstruct` serves PRNet's form of the Florence benchmark (`mlanet_lib.evaluation.florence`) and
`evaluate_scan`, which judges a single scan in Deng's form. The number for one head is one head's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mlanet_lib import metrics
from mlanet_lib.data.sets import scans
from mlanet_lib.data.sets.scans import NOSE_TIP, Scan, View
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import scan_metrics
from mlanet_lib.evaluation.systems import as_function, run_batches
from mlanet_lib.geometry.crops import crop_image

SHAPES = ("neutral", "expression")
CROP = (
    "crops from the mean face's 68 points laid onto the scan's landmarks (the truth places the crop, nothing else), "
    "the box times sqrt(2)"
)


@dataclass(frozen=True, eq=False)
class ScanResult:
    """`summary`: JSON-able (see `evaluate_scan`); `views`: the pictures; `shapes`: (N, V, 3) mm, what was read in
    them."""

    summary: dict
    views: list[View]
    shapes: np.ndarray


def evaluate_scan(
    scan: Scan,
    system,
    name: str,
    model=None,
    yaw: Sequence[float] = (-60.0, -30.0, 0.0, 30.0, 60.0),
    pitch: Sequence[float] = (0.0,),
    lit: bool = True,
    shape: str = "neutral",
    weights: str | None = None,
    seed: int = 0,
) -> ScanResult:
    """Deng's protocol (`scan_metrics.florence_deng`) on pictures drawn of one head scan, beside the mean face.

    name: the scan's, for the record; yaw, pitch: degrees, every combination is a picture; lit: see
    `scans.draw_views`; shape, model, weights: as in `evaluate_florence`. Points of the scan that cannot be seen from
    outside (`scans.seen_from_outside`) judge nothing, and are counted. A scan of no head's size (`scans.check_size`) is
    a UserError.

    The summary holds `pictures` (a dict each: yaw, pitch, `rmse_mm`, `mean_mm`, `border_share`, `scale`, `converged`),
    `mean_mm` and `sd_mm` over them (of rmse_mm), `baselines` (the `mean face` through the same crop and ICP),
    `difference` (system minus mean face; 95 % bootstrap over the pictures of this one head, which says nothing of other
    heads), `grid`, `look`, `crop`, `parameters`, `protocol`, `shape`, `weights`.
    """
    model = model if model is not None else system.model
    scan = scans.check_size(scan, model)
    views, shapes = draw_and_reconstruct(scan, system, model, yaw, pitch, lit, shape)
    look, seen = scan.look, scans.seen_from_outside(scan, model)
    from_nose = np.linalg.norm(scan.vertices - scan.landmarks[NOSE_TIP], axis=1)
    scan = replace(scan, vertices=scan.vertices[seen], faces=np.zeros((0, 3), np.int64), uv=None)
    judged = [deng(model, vertices, scan) for vertices in shapes]
    baseline = deng(model, mean_shape(model), scan)
    near = from_nose <= baseline["parameters"]["crop_mm"]
    keys = ("rmse_mm", "mean_mm", "border_share", "scale", "converged")
    rows = [
        {"yaw": view.yaw, "pitch": view.pitch} | {key: result[key] for key in keys}
        for view, result in zip(views, judged, strict=True)
    ]
    errors = np.array([row["rmse_mm"] for row in rows])
    summary = {
        "scan": name,
        "pictures": rows,
        "mean_mm": float(errors.mean()),
        "sd_mm": float(errors.std()),
        "baselines": {"mean face": {**{key: baseline[key] for key in keys}, "uses_the_truth": False}},
        "difference": metrics.paired_difference(errors, np.full(len(errors), baseline["rmse_mm"]), seed),
        "points": baseline["points"],
        "unseen_points_left_out": int((~seen & near).sum()),
        "grid": grid(yaw, pitch),
        "look": look + (", lit by a lamp" if lit else ", as it is"),
        "crop": CROP,
        "parameters": baseline["parameters"],
        "protocol": f"one head scan ({name}), not Florence; {baseline['protocol']}, without the scan's points "
        f"that cannot be seen from outside; {shape} shape",
        "shape": shape,
        "weights": weights or str(getattr(system, "weights", "unnamed")),
    }
    return ScanResult(summary, views, shapes)


def draw_and_reconstruct(
    scan: Scan, system, model, yaw: Sequence[float], pitch: Sequence[float], lit: bool, shape: str
) -> tuple[list[View], np.ndarray]:
    """Pictures of a scan, and the shapes (N, V, 3), mm, that the system reads in them: without expression, or with."""
    if shape not in SHAPES:
        raise UserError(f"unknown shape {shape!r}: {' or '.join(SHAPES)}")
    if not len(yaw) or not len(pitch):
        raise UserError("no picture to draw: name at least one yaw and one pitch")
    views = scans.draw_views(scan, model, yaw, pitch, lit=lit)
    crops = [crop_image(view.image, view.box, system.image_size) for view in views]
    predicted = run_batches(as_function(system), crops, len(crops))
    shapes = predicted.neutral if shape == "neutral" else predicted.vertices
    if shapes is None or shapes.shape[1:] != tuple(model.mean.shape):
        raise UserError("the system under test predicts no vertices of the face model: scans cannot judge it")
    return views, shapes


def mean_shape(model) -> np.ndarray:
    """The mean face, (V, 3) mm, float64."""
    return model.mean.detach().cpu().double().numpy()


def deng(model, vertices: np.ndarray, scan: Scan, **options) -> dict:
    """`scan_metrics.florence_deng` of one predicted shape (V, 3) against a scan."""
    return scan_metrics.florence_deng(*_arguments(model, vertices, scan), **options)


def prnet(model, vertices: np.ndarray, scan: Scan, **options) -> dict:
    """`scan_metrics.florence_prnet` of one predicted shape (V, 3) against a scan. UserError without
    points 36 and 45."""
    if not {36, 45} <= set(scan.landmarks):
        raise UserError("PRNet's form needs the scan's outer eye corners: points 36 and 45 in landmarks.json")
    eyes = np.stack([scan.landmarks[36], scan.landmarks[45]])
    return scan_metrics.florence_prnet(*_arguments(model, vertices, scan), eyes, scan.faces, **options)


def _arguments(model, vertices: np.ndarray, scan: Scan) -> tuple:
    keys = sorted(scan.landmarks)
    points = model.landmarks(torch.as_tensor(vertices)[None].to(model.mean.device))[0, keys].cpu().numpy()
    goal = np.stack([scan.landmarks[key] for key in keys])
    return vertices, model.faces.cpu().numpy(), points, scan.vertices, goal, scan.landmarks[NOSE_TIP]


def grid(yaw: Sequence[float], pitch: Sequence[float]) -> dict:
    """The grid of a benchmark's pictures, for its record."""
    sides, ups = ([float(v) for v in values] for values in (yaw, pitch))
    return {"yaw": sides, "pitch": ups, "pictures_a_scan": len(sides) * len(ups)}


def summary_text(result: ScanResult) -> str:
    """The result as a plain-text table, with its protocol."""
    data = result.summary
    mean_face = data["baselines"]["mean face"]["rmse_mm"]
    lines = [f"{'yaw':>5}{'pitch':>7}{'RMSE mm':>10}{'mean face':>11}{'ICP':>16}"]
    for row in data["pictures"]:
        state = "converged" if row["converged"] else "not converged"
        lines.append(f"{row['yaw']:+5.0f}{row['pitch']:+7.0f}{row['rmse_mm']:10.2f}{mean_face:11.2f}{state:>16}")
    d = data["difference"]
    lines += [
        f"mean {data['mean_mm']:.2f} +- {data['sd_mm']:.2f} mm; mean face {mean_face:.2f} mm",
        f"minus the mean face: {d['difference']:+.2f} mm (95 % over the pictures of this one head {d['low']:+.2f} to "
        f"{d['high']:+.2f}), {d['verdict']}",
        f"weights: {data['weights']}",
        f"drawn with {data['look']}; {data['crop']}",
        f"protocol: {data['protocol']}",
    ]
    return "\n".join(lines)
