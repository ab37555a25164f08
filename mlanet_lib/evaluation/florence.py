"""MICC Florence's benchmark over a folder in its layout, in two forms that are not comparable.

Deng's: one reconstruction a picture of the person, against the scan, RMSE in mm. PRNet's: pictures drawn of the scan
itself at a grid of poses, mean distance in percent of the outer interocular distance.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mlanet_lib import metrics
from mlanet_lib.data.sets import florence
from mlanet_lib.data.sets.scans import Scan, check_size
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import scan_metrics
from mlanet_lib.evaluation.scans import CROP, KEYS, deng, draw, grid, mean_shape, prnet, read_shapes
from mlanet_lib.evaluation.summary import MEAN_FACE, in_words, paired_difference, text_table
from mlanet_lib.evaluation.systems import System, detect_box
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import crop_image

STAND_IN = "synthetic stand-in in Florence's layout, not Florence; "
YAW, PITCH = (-80.0, -40.0, 0.0, 40.0, 80.0), (-15.0, 0.0, 20.0, 25.0)


@dataclass(frozen=True, eq=False)
class FlorenceResult:
    """`summary`: JSON-able (see the function that made it); `pictures`: one row a picture.

    Columns of Deng's form: subject, condition, name, `rmse_mm`, `mean_mm`, `border_share`, `scale`, `converged`,
    `rmse_mm mean face`, and `vertex_error_mm` where known; of PRNet's: subject, condition, yaw, pitch, `nme_percent`
    and `surface_nme_percent`, both with their ` mean face`, `scale`, `converged`.
    """

    summary: dict
    pictures: pd.DataFrame


class Case(NamedTuple):
    """A scan, the crops (S, S, 3) uint8 that show it, and each crop's entries in the table."""

    scan: Scan
    crops: list[np.ndarray]
    rows: list[dict]


class Form(NamedTuple):
    """How a case is judged: judge(model, vertices, scan) -> figures, of which `keys` go into the table, and `compared`
    also for the mean face; neutral: the identity alone is judged, without the expression; protocol: its name."""

    judge: Callable[[MorphableModel, np.ndarray, Scan], dict]
    keys: tuple[str, ...]
    compared: tuple[str, ...]
    neutral: bool
    protocol: str


DENG = Form(deng, KEYS, ("rmse_mm",), True, "florence_deng")
PRNET_FIGURES = ("nme_percent", "surface_nme_percent")
PRNET = Form(prnet, (*PRNET_FIGURES, "scale", "converged"), PRNET_FIGURES, False, "florence_prnet")


def evaluate_florence(
    folder: str | Path, system: System, limit: int | None = None, stand_in: bool = False, seed: int = 0
) -> FlorenceResult:
    """Reconstruction against scans, Deng's protocol (`scan_metrics.florence_deng`), beside the mean face.

    folder: see `mlanet_lib.data.sets.florence`. Every picture is reconstructed by itself, from the crop of its
    boxes.json, else from `system.detector`; a picture in which no face is found is left out and counted in
    `undetected`. The identity alone is judged, as the scans are neutral. stand_in: the folder is synthetic (also
    assumed if a scan names a face model); the protocol line then says so. limit: the first subjects only. A scan that
    has not the size of a head (`scans.check_size`) is a UserError.

    The summary holds `conditions` (name -> `mean_mm`, `sd_mm`, `pictures`; and `all`), the `mean face` through the same
    crop and ICP, `difference` (system minus mean face, paired, 95 % bootstrap: `over_subjects`, the careful one, since
    pictures of one person are not independent, and `over_pictures`), `vertex_error` where the scans have the model's
    own vertices, `protocol` with ICP's settings, `parameters`, the same by name, `shape`, `weights` and counts.
    """
    subjects = florence.read_folder(folder, limit)
    cases = (_photographed(subject, system) for subject in _shown(subjects))
    table, facts = _judged(folder, cases, system, DENG)
    stand_in = stand_in or any(scan.face_model is not None for scan in facts)
    summary = {
        "conditions": _by_condition(table, "rmse_mm"),
        "baselines": {MEAN_FACE: {"conditions": _by_condition(table, "rmse_mm mean face"), "uses_the_truth": False}},
        "difference": _differences(table, "rmse_mm", seed),
        "border_share": float(table["border_share"].mean()),
        **_record(table, system, DENG, stand_in, "one reconstruction a picture"),
        "undetected": sum(len(subject.pictures) for subject in subjects) - len(table),
        "folder": Path(folder).name,
    }
    if all(scan.corresponds for scan in facts):
        summary["vertex_error"] = {
            "conditions": _by_condition(table, "vertex_error_mm"),
            MEAN_FACE: _by_condition(table, "vertex_error_mm mean face"),
            "difference": _differences(table, "vertex_error_mm", seed),
            "protocol": metrics.PROTOCOLS["vertex_error"],
        }
    return FlorenceResult(summary, table)


def evaluate_florence_prnet(
    folder: str | Path,
    system: System,
    yaw: Sequence[float] = YAW,
    pitch: Sequence[float] = PITCH,
    limit: int | None = None,
) -> FlorenceResult:
    """Reconstruction against scans, PRNet's protocol (`scan_metrics.florence_prnet`), beside the mean face.

    Every scan is drawn at every yaw and pitch (degrees; published counts are 15 or 20 pictures a subject, so the grid
    is a parameter and is in the record), each picture reconstructed, and judged against the scan it was drawn of, with
    the expression that the system sees, as published. The folder's own pictures are not used. A scan with neither
    texture nor vertex colours is drawn as a grey surface under a lamp, and `looks` counts them.

    The summary holds `nme_percent` and `surface_nme_percent` (name of the yaw, or `all` -> `mean_percent`,
    `sd_percent`, `pictures`), `baselines` (the `mean face` through the same ICP), `difference` (of `nme_percent`, as in
    `evaluate_florence`), `grid`, `looks`, `crop`, `parameters`, `protocol`, `shape`, `weights` and counts.
    """
    subjects = florence.read_folder(folder, limit, need_pictures=False)
    cases = (_drawn(subject, system, yaw, pitch) for subject in _shown(subjects))
    table, facts = _judged(folder, cases, system, PRNET)
    stand_in = any(scan.face_model is not None for scan in facts)
    drawn = grid(yaw, pitch)
    poses = f"{drawn['pictures_a_scan']} pictures a scan: yaw {_degrees(yaw)} x pitch {_degrees(pitch)}"
    mean_face = {key: _by_condition(table, f"{key} mean face", "percent") for key in PRNET_FIGURES}
    summary = {
        **{key: _by_condition(table, key, "percent") for key in PRNET_FIGURES},
        "baselines": {MEAN_FACE: {**mean_face, "uses_the_truth": False}},
        "difference": _differences(table, "nme_percent", 0),
        **_record(table, system, PRNET, stand_in, f"{poses}, one reconstruction a picture"),
        "grid": drawn,
        "looks": dict(Counter(scan.look for scan in facts)),
        "crop": CROP,
        "folder": Path(folder).name,
    }
    return FlorenceResult(summary, table)


def _shown(subjects: Sequence[florence.Subject]) -> Iterable[florence.Subject]:
    return tqdm(subjects, desc="scans", unit="subject", leave=False)


def _photographed(subject: florence.Subject, system: System) -> Case:
    """The subject's scan and the crops of its pictures, without those where no face is found."""
    scan = check_size(subject.scan(), system.model)
    crops, rows = [], []
    for picture in subject.pictures:
        image, box = read_image(picture.path), picture.box
        box = box or detect_box(system.detector, image)
        if box is not None:
            crops.append(crop_image(image, box, system.image_size))
            rows.append({"subject": subject.name, "condition": picture.condition, "name": picture.path.name})
    return Case(scan, crops, rows)


def _drawn(subject: florence.Subject, system: System, yaw: Sequence[float], pitch: Sequence[float]) -> Case:
    """The subject's scan and crops of pictures that are drawn of it."""
    scan = check_size(subject.scan(), system.model)
    views, crops = draw(scan, system, yaw, pitch, lit=False)
    rows = [{"condition": f"yaw {view.yaw:+.0f}", "yaw": view.yaw, "pitch": view.pitch} for view in views]
    return Case(scan, crops, [{"subject": subject.name} | row for row in rows])


class _Facts(NamedTuple):
    """Of a judged scan: the face model that it is made of, or None; whether it is the system's; how it is drawn."""

    face_model: str | None
    corresponds: bool
    look: str


def _judged(folder: str | Path, cases: Iterable[Case], system: System, form: Form) -> tuple[pd.DataFrame, list[_Facts]]:
    """The table, one row for each crop, and facts about the scans."""
    model, rows, facts = system.model, [], []
    mean = mean_shape(model)
    for scan, crops, titles in cases:
        corresponds = scan.face_model == model.fingerprint and scan.vertices.shape == mean.shape
        facts.append(_Facts(scan.face_model, corresponds, scan.look))
        if not crops:
            continue
        baseline = form.judge(model, mean, scan)
        for title, vertices in zip(titles, read_shapes(system, crops, form.neutral), strict=True):
            result = form.judge(model, vertices, scan)
            row = title | {key: result[key] for key in form.keys}
            row |= {f"{key} {MEAN_FACE}": baseline[key] for key in form.compared}
            if corresponds:
                for key, shape in (("vertex_error_mm", vertices), (f"vertex_error_mm {MEAN_FACE}", mean)):
                    row[key] = metrics.vertex_error(shape[None], scan.vertices[None])[0]
            rows.append(row)
    if not rows:
        raise UserError(f"{folder}: no face was found in any picture")
    return pd.DataFrame(rows), facts


def _record(table: pd.DataFrame, system: System, form: Form, stand_in: bool, how: str) -> dict:
    shape = "neutral" if form.neutral else "expression"
    protocol = f"{scan_metrics.PROTOCOLS[form.protocol]}; {scan_metrics.SETTINGS}; {how}, {shape} shape"
    return {
        "not_converged": int((~table["converged"]).sum()),
        "protocol": STAND_IN * stand_in + protocol,
        "parameters": scan_metrics.PARAMETERS,
        "shape": shape,
        "weights": system.weights,
        "subjects": int(table["subject"].nunique()),
        "pictures": len(table),
    }


def _degrees(values: Sequence[float]) -> str:
    return "{" + ", ".join(f"{value:g}" for value in values) + "}"


def _by_condition(table: pd.DataFrame, column: str, unit: str = "mm") -> dict:
    groups = {**dict(list(table.groupby("condition", sort=unit == "mm")[column])), "all": table[column]}
    return {
        name: {f"mean_{unit}": float(v.mean()), f"sd_{unit}": float(v.std(ddof=0)), "pictures": len(v)}
        for name, v in groups.items()
    }


def _differences(table: pd.DataFrame, column: str, seed: int) -> dict:
    """System minus mean face, resampling subjects or pictures."""
    people = table.groupby("subject")[[column, f"{column} {MEAN_FACE}"]].mean()
    return {
        over: paired_difference(rows[column], rows[f"{column} {MEAN_FACE}"], seed)
        for over, rows in (("over_subjects", people), ("over_pictures", table))
    }


def summary_text(data: dict) -> str:
    """The summary of either form as a plain-text table, with its protocol."""
    prnet_form = "grid" in data
    key, unit, sign = ("nme_percent", "percent", "%") if prnet_form else ("conditions", "mm", "mm")
    theirs = data["baselines"][MEAN_FACE][key]
    table = [[sign, "mean", "sd", MEAN_FACE, "pictures"]]
    for name, row in data[key].items():
        numbers = (row[f"mean_{unit}"], row[f"sd_{unit}"], theirs[name][f"mean_{unit}"])
        table.append([name, *(f"{number:.2f}" for number in numbers), str(row["pictures"])])
    lines = text_table(table, (-14, 8, 8, 11, 10))
    if prnet_form:
        lines.append(f"to the scan's surface, all: {data['surface_nme_percent']['all']['mean_percent']:.2f} %")
        lines.append(f"scans drawn by: {', '.join(f'{look} ({count})' for look, count in data['looks'].items())}")
    for over, difference in data["difference"].items():
        lines.append(f"minus the mean face, 95 % {over.replace('_', ' ')}: {in_words(difference)}")
    return "\n".join([*lines, f"weights: {data['weights']}", f"protocol: {data['protocol']}"])
