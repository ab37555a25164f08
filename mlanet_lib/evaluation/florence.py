"""MICC Florence's benchmark over a folder in its layout, in two forms that are not comparable.

Deng's: one reconstruction a picture of the person, against the scan, RMSE in mm. PRNet's: pictures drawn of the scan
itself at a grid of poses, mean distance in percent of the outer interocular distance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mlanet_lib import metrics
from mlanet_lib.data.sets import florence
from mlanet_lib.data.sets.scans import check_size
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.scans import CROP, SHAPES, deng, draw_and_reconstruct, grid, mean_shape, prnet
from mlanet_lib.evaluation.systems import as_function, detect_box, run_batches
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import crop_image

STAND_IN = "synthetic stand-in in Florence's layout, not Florence; "


@dataclass(frozen=True, eq=False)
class FlorenceResult:
    """`summary`: JSON-able (see the function that made it); `pictures`: one row a picture.

    Columns of Deng's form: subject, condition, name, `rmse_mm`, `rmse_mm mean face`, `border_share`, `scale`,
    `converged`, and `vertex_error_mm` where known; of PRNet's: subject, yaw, pitch, `nme_percent` and
    `surface_nme_percent`, both with their ` mean face`, `scale`, `converged`.
    """

    summary: dict
    pictures: pd.DataFrame


def evaluate_florence(
    folder: str | Path,
    system,
    model=None,
    limit: int | None = None,
    shape: str = "neutral",
    image_size: int | None = None,
    weights: str | None = None,
    stand_in: bool = False,
    seed: int = 0,
    fit_points: int = 4000,
) -> FlorenceResult:
    """Reconstruction against scans, Deng's protocol (`scan_metrics.florence_deng`), beside the mean face.

    folder: see `mlanet_lib.data.sets.florence`; system: see `mlanet_lib.evaluation.systems`. Every picture is
    reconstructed by itself, from the crop of its boxes.json, else from `system.detector`; one without a found face is
    left out and counted in `undetected`. model: the `MorphableModel` whose vertices the system predicts (default
    `system.model`). shape: "neutral", the identity alone (the scans are neutral), or "expression", as the picture has
    it. stand_in: the folder is a synthetic one, as it is where a scan names a face model: the protocol line then says
    so. limit: the first subjects only. A scan of no head's size (`scans.check_size`) is a UserError.

    The summary holds `conditions` (name -> `mean_mm`, `sd_mm`, `pictures`; and `all`), the `mean face` through the same
    crop and ICP, `difference` (system minus mean face, paired, 95 % bootstrap: `over_subjects`, the careful one, since
    pictures of one person are not independent, and `over_pictures`), `vertex_error` where the scans have the model's
    own vertices, `protocol` with ICP's settings, `parameters`, the same by name, `shape`, `weights` and counts.
    """
    if shape not in SHAPES:
        raise UserError(f"unknown shape {shape!r}: {' or '.join(SHAPES)}")
    model = model if model is not None else system.model
    predict, size = as_function(system), image_size or system.image_size
    mean = mean_shape(model)
    rows, undetected, own = [], 0, []
    subjects = florence.read_folder(folder, limit)
    for subject in tqdm(subjects, desc="scans", unit="subject", leave=False):
        scan = check_size(subject.scan(), model)
        stand_in = stand_in or scan.face_model is not None
        known = scan.face_model == model.fingerprint and scan.vertices.shape == mean.shape
        own.append(known)

        crops, pictures = [], []
        for picture in subject.pictures:
            image = read_image(picture.path)
            box = picture.box or _detected(system, image, picture.path)
            if box is not None:
                crops.append(crop_image(image, box, size))
                pictures.append(picture)
        undetected += len(subject.pictures) - len(pictures)
        if not pictures:
            continue
        predicted = run_batches(predict, crops, len(crops))
        shapes = predicted.neutral if shape == "neutral" else predicted.vertices
        if shapes is None or shapes.shape[1:] != mean.shape:
            raise UserError("the system under test predicts no vertices of the face model: scans cannot judge it")
        baseline = deng(model, mean, scan, fit_points=fit_points)
        baseline_error = metrics.vertex_error(mean[None], scan.vertices[None])[0] if known else math.nan
        for picture, vertices in zip(pictures, shapes, strict=True):
            result = deng(model, vertices, scan, fit_points=fit_points)
            row = {"subject": subject.name, "condition": picture.condition, "name": picture.path.name}
            row |= {key: result[key] for key in ("rmse_mm", "mean_mm", "border_share", "scale", "converged")}
            row["rmse_mm mean face"] = baseline["rmse_mm"]
            if known:
                row["vertex_error_mm"] = metrics.vertex_error(vertices[None], scan.vertices[None])[0]
                row["vertex_error_mm mean face"] = baseline_error
            rows.append(row)
    if not rows:
        raise UserError(f"{folder}: no face was found in any picture")
    table = pd.DataFrame(rows)
    protocol = f"{baseline['protocol']}; one reconstruction a picture, {shape} shape"
    summary = {
        "conditions": _by_condition(table, "rmse_mm"),
        "baselines": {"mean face": {"conditions": _by_condition(table, "rmse_mm mean face"), "uses_the_truth": False}},
        "difference": _differences(table, "rmse_mm", seed),
        "border_share": float(table["border_share"].mean()),
        "not_converged": int((~table["converged"]).sum()),
        "protocol": STAND_IN * stand_in + protocol,
        "parameters": baseline["parameters"],
        "shape": shape,
        "weights": weights or str(getattr(system, "weights", "unnamed")),
        "subjects": int(table["subject"].nunique()),
        "pictures": len(table),
        "undetected": undetected,
        "folder": Path(folder).name,
    }
    if all(own):
        summary["vertex_error"] = {
            "conditions": _by_condition(table, "vertex_error_mm"),
            "mean face": _by_condition(table, "vertex_error_mm mean face"),
            "difference": _differences(table, "vertex_error_mm", seed),
            "protocol": metrics.PROTOCOLS["vertex_error"],
        }
    return FlorenceResult(summary, table)


def evaluate_florence_prnet(
    folder: str | Path,
    system,
    model=None,
    yaw: Sequence[float] = (-80.0, -40.0, 0.0, 40.0, 80.0),
    pitch: Sequence[float] = (-15.0, 0.0, 20.0, 25.0),
    limit: int | None = None,
    shape: str = "expression",
    weights: str | None = None,
    stand_in: bool = False,
    seed: int = 0,
    fit_points: int = 4000,
) -> FlorenceResult:
    """Reconstruction against scans, PRNet's protocol (`scan_metrics.florence_prnet`), beside the mean face.

    Every scan is drawn at every yaw and pitch (degrees; published counts are 15 or 20 pictures a subject, so the grid
    is a parameter and is in the record), each picture reconstructed, and judged against the scan it was drawn of. The
    folder's own pictures are not used. A scan with neither texture nor vertex colours is drawn as a grey surface under
    a lamp, and `looks` counts them. shape: "expression", the geometry that the system sees in the picture, as
    published, or "neutral". The other arguments are those of `evaluate_florence`.

    The summary holds `nme_percent` and `surface_nme_percent` (name of the yaw, or `all` -> `mean_percent`,
    `sd_percent`, `pictures`), `baselines` (the `mean face` through the same ICP), `difference` (of `nme_percent`, as in
    `evaluate_florence`), `grid`, `looks`, `crop`, `parameters`, `protocol`, `shape`, `weights` and counts.
    """
    model = model if model is not None else system.model
    rows, looks = [], {}
    subjects = florence.read_folder(folder, limit, need_pictures=False)
    for subject in tqdm(subjects, desc="scans", unit="subject", leave=False):
        scan = check_size(subject.scan(), model)
        views, shapes = draw_and_reconstruct(scan, system, model, yaw, pitch, False, shape)
        baseline = prnet(model, mean_shape(model), scan, fit_points=fit_points)
        looks[scan.look] = looks.get(scan.look, 0) + 1
        stand_in = stand_in or scan.face_model is not None
        for view, vertices in zip(views, shapes, strict=True):
            result = prnet(model, vertices, scan, fit_points=fit_points)
            row = {"subject": subject.name, "condition": f"yaw {view.yaw:+.0f}", "yaw": view.yaw, "pitch": view.pitch}
            for key in ("nme_percent", "surface_nme_percent"):
                row[key], row[f"{key} mean face"] = result[key], baseline[key]
            rows.append(row | {"scale": result["scale"], "converged": result["converged"]})
    table, drawn = pd.DataFrame(rows), grid(yaw, pitch)
    protocol = (
        f"{baseline['protocol']}; {drawn['pictures_a_scan']} pictures a scan: yaw {_degrees(yaw)} x pitch "
        f"{_degrees(pitch)}, one reconstruction a picture, {shape} shape"
    )
    names = {key: _by_condition(table, key, "percent") for key in ("nme_percent", "surface_nme_percent")}
    mean_face = {key: _by_condition(table, f"{key} mean face", "percent") for key in names}
    summary = {
        **names,
        "baselines": {"mean face": {**mean_face, "uses_the_truth": False}},
        "difference": _differences(table, "nme_percent", seed),
        "not_converged": int((~table["converged"]).sum()),
        "protocol": STAND_IN * stand_in + protocol,
        "parameters": baseline["parameters"],
        "grid": drawn,
        "looks": looks,
        "crop": CROP,
        "shape": shape,
        "weights": weights or str(getattr(system, "weights", "unnamed")),
        "subjects": int(table["subject"].nunique()),
        "pictures": len(table),
        "folder": Path(folder).name,
    }
    return FlorenceResult(summary, table)


def summary_text(result: FlorenceResult) -> str:
    """The result of either form as a plain-text table, with its protocol."""
    data, unit = result.summary, "percent" if "grid" in result.summary else "mm"
    key = "nme_percent" if unit == "percent" else "conditions"
    ours, theirs = data[key], data["baselines"]["mean face"][key]
    sign = "%" if unit == "percent" else "mm"
    lines = [f"{sign:<14}{'mean':>8}{'sd':>8}{'mean face':>11}{'pictures':>10}"]
    for name, row in ours.items():
        numbers = f"{row[f'mean_{unit}']:8.2f}{row[f'sd_{unit}']:8.2f}{theirs[name][f'mean_{unit}']:11.2f}"
        lines.append(f"{name:<14}{numbers}{row['pictures']:10d}")
    if unit == "percent":
        lines.append(f"to the scan's surface, all: {data['surface_nme_percent']['all']['mean_percent']:.2f} %")
        lines.append(f"scans drawn by: {', '.join(f'{look} ({count})' for look, count in data['looks'].items())}")
    for over, d in data["difference"].items():
        text = f"{d['difference']:+.2f} ({d['low']:+.2f} to {d['high']:+.2f}), {d['verdict']}"
        lines.append(f"minus the mean face, 95 % {over.replace('_', ' ')}: {text}")
    return "\n".join([*lines, f"weights: {data['weights']}", f"protocol: {data['protocol']}"])


def _degrees(values: Sequence[float]) -> str:
    return "{" + ", ".join(f"{value:g}" for value in values) + "}"


def _detected(system, image: np.ndarray, path: Path):
    detector = getattr(system, "detector", None)
    if detector is None:
        raise UserError(f"{path}: no crop in boxes.json, and no detector to find the face with")
    return detect_box(detector, image)


def _by_condition(table: pd.DataFrame, column: str, unit: str = "mm") -> dict:
    groups = {**dict(list(table.groupby("condition", sort=unit == "mm")[column])), "all": table[column]}
    return {
        name: {f"mean_{unit}": float(v.mean()), f"sd_{unit}": float(v.std(ddof=0)), "pictures": len(v)}
        for name, v in groups.items()
    }


def _differences(table: pd.DataFrame, column: str, seed: int) -> dict:
    """System minus mean face, resampling subjects or pictures."""
    people = table.groupby("subject")[[column, f"{column} mean face"]].mean()
    return {
        "over_subjects": metrics.paired_difference(people[column], people[f"{column} mean face"], seed),
        "over_pictures": metrics.paired_difference(table[column], table[f"{column} mean face"], seed),
    }
