"""The study's report: one HTML file from the stages' results. Every number stands beside its protocol.

Missing results are marked "not run"; nothing is filled in. A stand-in is never called by the name of the data set whose
layout it has. The words are in `report.html`.
"""

import hashlib
import json
import platform
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from mlanet_lib.show import charts, curves
from mlanet_lib.show.gallery import Gallery
from mlanet_lib.show.report import tables
from mlanet_lib.show.report.page import render, write_page


@dataclass
class Inputs:
    """What a report is made from; each piece may be missing.

    aflw2000: the summary of `evaluate_aflw2000`; images: its table, a row a photo; florence: the summary of
    `evaluate_florence`; ablation: the rows of `ablation.judge`; history: the training's curves; params: params.yaml;
    gallery: pictures of faces; lock: dvc.lock, for the hashes of the data; likeness: the summary of
    `evaluate_likeness`; portraits: the file of a picture of its people and their drawings.
    """

    aflw2000: Mapping | None = None
    images: pd.DataFrame | None = None
    florence: Mapping | None = None
    ablation: Sequence[Mapping] | None = None
    history: pd.DataFrame | None = None
    params: Mapping | None = None
    gallery: Gallery | None = None
    lock: Mapping | None = None
    likeness: Mapping | None = None
    portraits: Path | None = None


def build(inputs: Inputs, output: str | Path) -> Path:
    """Write the report to `output` (one file, under 10 MB, opens offline) and return its path."""
    aflw, florence, params, gallery = inputs.aflw2000, inputs.florence, inputs.params, inputs.gallery
    real_photos = bool(aflw) and not tables.is_synthetic(aflw or {})
    real_scans = florence is not None and not tables.is_stand_in(florence)
    made_here = {"AFLW2000-3D": bool(aflw) and not real_photos, "MICC Florence": bool(florence) and not real_scans}
    values = {
        "aflw": aflw,
        "florence": florence,
        "ablation": inputs.ablation,
        "compared": _with("difference", inputs.ablation),
        "likeness": inputs.likeness,
        "gallery": gallery,
        "portraits": inputs.portraits,
        "params": None if params is None else dict(params),
        "profile": (params or {}).get("profile", ""),
        "digest": hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()[:16],
        "real_photos": real_photos,
        "real_scans": real_scans,
        "stand_ins": [name for name, made in made_here.items() if made],
        "benchmark": "AFLW2000-3D's layout, real photos" if real_photos else "synthetic faces in AFLW2000-3D's layout",
        "dense": bool(((aflw or {}).get("dense") or {}).get("computed")),
        "bins": list(tables.BIN_TITLES),
        "whole": tables.WHOLE,
        "published": tables.published_tables(aflw),
        "rows": _rows(inputs),
        "charts": _charts(inputs),
        "machine": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
        "plotly": get_plotlyjs() if gallery and gallery.viewer else "",
    }
    return write_page(render("report.html", **values), output)


def _with(key: str, ablation: Sequence[Mapping] | None) -> list[Mapping]:
    """The variants that have "difference" (to the full network), or "images_per_second" (their cost was measured)."""
    return [row for row in ablation or () if key in row]


def _rows(inputs: Inputs) -> dict[str, list[tables.Row]]:
    aflw, florence, likeness = inputs.aflw2000, inputs.florence, inputs.likeness
    return {
        "nme": tables.nme_rows(aflw) if aflw else [],
        "occlusion": tables.occlusion_rows(aflw.get("by_occlusion", {})) if aflw else [],
        "ablation": tables.ablation_rows(inputs.ablation or ()),
        "costs": tables.cost_rows(_with("images_per_second", inputs.ablation)),
        "florence": tables.florence_rows(florence) if florence else [],
        "likeness": tables.likeness_rows(likeness) if likeness else [],
        "distances": tables.distance_rows(likeness) if likeness else [],
        "versions": tables.version_rows(),
        "data": tables.data_rows(inputs.lock),
    }


def _charts(inputs: Inputs) -> dict[str, Figure | None]:
    """The report's charts by name, None if there is nothing to draw."""
    aflw, images, gallery, history = inputs.aflw2000, inputs.images, inputs.gallery, inputs.history
    made: dict[str, Figure | None] = defaultdict(lambda: None)
    if aflw:
        systems = {"MLANet": aflw} | aflw["baselines"]
        errors = {name: entry["sparse_nme"] for name, entry in systems.items()}
        made["yaw"] = charts.yaw_bars(errors, {"MLANet": aflw["intervals"]})
        columns = {name: "nme" if name == "MLANet" else f"nme {name}" for name in systems}
        if images is not None:
            found = {name: images[column].to_numpy() for name, column in columns.items() if column in images}
            made["errors"] = charts.cumulative_error(found)
    if compared := _with("difference", inputs.ablation):
        made["forest"] = charts.forest(compared)
    if priced := _with("images_per_second", inputs.ablation):
        made["pareto"] = charts.pareto(priced)
    if history is not None and not history.empty:
        made["training"] = curves.training_curves(history)
    if gallery and gallery.level_weights:
        made["levels"] = charts.level_weights(gallery.level_weights, gallery.levels)
    return made


def _commit() -> str:
    """The commit of the checkout we stand in, in words."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"
    return f"commit {done.stdout.strip()}"
