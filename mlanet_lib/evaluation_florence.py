"""MICC Florence's benchmark over a folder in its layout: one reconstruction a picture, against the subject's scan."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mlanet_lib import metrics
from mlanet_lib.datasets import florence
from mlanet_lib.datasets.sample import crop_image, read_image
from mlanet_lib.errors import UserError
from mlanet_lib.systems import as_function, detect_box, run_batches


@dataclass(frozen=True, eq=False)
class FlorenceResult:
    """`summary`: JSON-able (see `evaluate_florence`); `pictures`: one row a picture: subject, condition, name,
    `rmse_mm`, `rmse_mm mean face`, `border_share`, `scale`, `converged`, and `vertex_error_mm` where known."""

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
    """Reconstruction against scans, Deng's protocol (`metrics.florence_deng`), beside the mean face.

    folder: see `mlanet_lib.datasets.florence`; system: see `mlanet_lib.systems`. Every picture is reconstructed by
    itself, from the crop of its boxes.json, else from `system.detector`; one without a found face is left out and
    counted in `undetected`. model: the `MorphableModel` whose vertices the system predicts (default `system.model`).
    shape: "neutral", the identity alone (the scans are neutral), or "expression", as the picture has it. stand_in:
    the folder is a synthetic one: the protocol line then says so. limit: the first subjects only.

    The summary holds `conditions` (name -> `mean_mm`, `sd_mm`, `pictures`; and `all`), the `mean face` through the same
    crop and ICP, `difference` (system minus mean face, paired, 95 % bootstrap: `over_subjects`, the careful one, since
    pictures of one person are not independent, and `over_pictures`), `vertex_error` where the scans have the model's
    own vertices, `protocol`, `shape`, `weights` and counts.
    """
    if shape not in ("neutral", "expression"):
        raise UserError(f"unknown shape {shape!r}: neutral or expression")
    model = model if model is not None else system.model
    predict, size = as_function(system), image_size or system.image_size
    faces = model.faces.cpu().numpy()
    mean = model.mean.detach().cpu().double().numpy()
    rows, undetected, own = [], 0, []
    subjects = florence.read_folder(folder, limit)
    for subject in tqdm(subjects, desc="scans", unit="subject", leave=False):
        scan = subject.scan()
        keys = sorted(scan.landmarks)
        goal = np.stack([scan.landmarks[key] for key in keys])
        known = scan.face_model == model.fingerprint and scan.vertices.shape == mean.shape
        own.append(known)

        def judge(vertices: np.ndarray, scan=scan, keys=keys, goal=goal) -> dict:
            points = model.landmarks(torch.as_tensor(vertices)[None].to(model.mean.device))[0, keys].cpu().numpy()
            arguments = vertices, faces, points, scan.vertices, goal, scan.landmarks[florence.NOSE_TIP]
            return metrics.florence_deng(*arguments, fit_points=fit_points)

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
        baseline = judge(mean)
        baseline_error = metrics.vertex_error(mean[None], scan.vertices[None])[0] if known else math.nan
        for picture, vertices in zip(pictures, shapes, strict=True):
            result = judge(vertices)
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
    protocol = metrics.PROTOCOLS["florence_deng"] + f"; one reconstruction a picture, {shape} shape"
    summary = {
        "conditions": _by_condition(table, "rmse_mm"),
        "baselines": {"mean face": {"conditions": _by_condition(table, "rmse_mm mean face"), "uses_the_truth": False}},
        "difference": _differences(table, "rmse_mm", seed),
        "border_share": float(table["border_share"].mean()),
        "not_converged": int((~table["converged"]).sum()),
        "protocol": ("synthetic stand-in in Florence's layout, not Florence; " if stand_in else "") + protocol,
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


def _detected(system, image: np.ndarray, path: Path):
    detector = getattr(system, "detector", None)
    if detector is None:
        raise UserError(f"{path}: no crop in boxes.json, and no detector to find the face with")
    return detect_box(detector, image)


def _by_condition(table: pd.DataFrame, column: str) -> dict:
    groups = {**dict(list(table.groupby("condition")[column])), "all": table[column]}
    return {
        name: {"mean_mm": float(v.mean()), "sd_mm": float(v.std(ddof=0)), "pictures": len(v)}
        for name, v in groups.items()
    }


def _differences(table: pd.DataFrame, column: str, seed: int) -> dict:
    """System minus mean face, resampling subjects or pictures."""
    people = table.groupby("subject")[[column, f"{column} mean face"]].mean()
    return {
        "over_subjects": metrics.paired_difference(people[column], people[f"{column} mean face"], seed),
        "over_pictures": metrics.paired_difference(table[column], table[f"{column} mean face"], seed),
    }
