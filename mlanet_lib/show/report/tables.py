"""Rows of the report's tables. A cell is a str, int, float, `Estimate` or None (not run)."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import pandas as pd

from mlanet_lib import metrics
from mlanet_lib.evaluation import scan_metrics
from mlanet_lib.evaluation.ablation import FULL
from mlanet_lib.evaluation.likeness_metrics import headline
from mlanet_lib.metrics import YAW_BINS
from mlanet_lib.show.report.page import Estimate, change, number

Row = list[Any]
BIN_TITLES = ("0–30°", "30–60°", "60–90°", "balanced mean")
PACKAGES = ("mlanet", "torch", "timm", "numpy", "scipy", "numba", "opencv-python-headless")
MEASURES = {
    "sparse_nme": "sparse NME",
    "dense_nme": "dense NME",
    "reconstruction_nme": "reconstruction NME",
    "pose_mae": "head pose",
    "florence_prnet": "PRNet's protocol",
    "florence_deng": "Deng et al.'s protocol",
}
WHOLE = 2000
"""Photos of AFLW2000-3D: published numbers are of all of them."""


def is_synthetic(aflw: Mapping) -> bool:
    """Whether a result in AFLW2000-3D's layout is of rendered faces: only those know what is occluded."""
    return "by_occlusion" in aflw


def is_stand_in(florence: Mapping) -> bool:
    """Whether a result in Florence's layout is of scans made here."""
    return florence["protocol"].startswith("synthetic")


def nme_rows(aflw: Mapping) -> list[Row]:
    """The network beside other systems and baselines, one row each, with the paired differences."""
    pose = aflw.get("pose_mae")
    error = Estimate(pose["mean"], *aflw["intervals"].get("pose_mae_mean", (None, None))) if pose else None
    rows: list[Row] = [["MLANet", *_nme_cells(aflw, aflw["intervals"]), error, "–"]]
    others = aflw.get("others", {})
    for name, entry in (others | aflw["baselines"]).items():
        pose = entry.get("pose_mae")
        kind = "uses the truth" if entry["uses_the_truth"] else "sees no picture"
        label = f"{name} (measured here, {entry['note']})" if name in others else f"{name} ({kind})"
        difference = change(entry["difference"]["sparse_nme"])
        rows.append([label, *_nme_cells(entry, {}), pose["mean"] if pose else None, difference])
    return rows


def _nme_cells(entry: Mapping, intervals: Mapping) -> list[Estimate]:
    keys = (*YAW_BINS, "balanced_mean", "image_mean")
    return [Estimate(entry["sparse_nme"][key], *intervals.get(key, (None, None))) for key in keys]


def occlusion_rows(by_occlusion: Mapping) -> list[Row]:
    """Errors of free and of occluded faces."""
    names = {"free": "nothing before the face", "occluded": "something before the face"}
    keys = (*YAW_BINS, "balanced_mean")
    return [[names.get(name, name), *map(part.get, keys), part["images"][3]] for name, part in by_occlusion.items()]


def ablation_rows(ablation: Sequence[Mapping]) -> list[Row]:
    """Every variant's error and its difference to the full network, which comes first."""
    rows = []
    for row in sorted(ablation, key=lambda row: row["name"] != FULL):
        seeds = f"{number(row['balanced_mean'])} ± {number(row['seed_sd'])}"
        difference = change(row) if "difference" in row else "–"
        rows.append([row["name"], *(row["bins"][key] for key in YAW_BINS), seeds, difference])
    return rows


def cost_rows(priced: Sequence[Mapping]) -> list[Row]:
    """What encoding one picture costs with each variant; the full network comes first."""
    ordered = sorted(priced, key=lambda row: row["name"] != FULL)
    full = ordered[0]["images_per_second"] if ordered else 1
    return [
        [
            row["name"],
            row["parameters"] / 1e6,
            1000 * row["gmacs"],
            row["images_per_second"],
            row["images_per_second"] / full,
            row["balanced_mean"],
        ]
        for row in ordered
    ]


def published() -> pd.DataFrame:
    """Published numbers (`published.csv`): method, year, source, benchmark, measure (a key of `metrics.PROTOCOLS`),
    labels, unit, the three yaw bins where they are known, and the mean that the literature calls so."""
    with files(__package__).joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


class Published(NamedTuple):
    """One table of published numbers. ours: numbers of the rows that are of this run."""

    heading: str
    columns: list[str]
    rows: list[Row]
    ours: list[int]
    protocol: str


def published_tables(aflw: Mapping | None) -> list[Published]:
    """Published numbers, measure by measure, and ours beside those of the same protocol and photos only."""
    whole = aflw if aflw and not is_synthetic(aflw) and aflw["images"] == WHOLE else None
    tables = []
    for (benchmark, measure, labels), group in published().groupby(["benchmark", "measure", "labels"], sort=False):
        # the bins, where anybody published them, and the mean
        keys = [*(key for key in YAW_BINS if group[key].notna().any()), "mean"]
        rows: list[Row] = [
            [
                f"{row['method']} ({row['year']})",
                *("" if pd.isna(row[key]) else float(row[key]) for key in keys),
                row["source"],
            ]
            for _, row in group.iterrows()
        ]
        same = whole is not None and labels == whole["labels"] and benchmark == "AFLW2000-3D"
        ours = _ours(whole, measure) if whole is not None and same else None
        if whole is not None and ours:
            rows.insert(0, ["MLANet (this run)", *(ours[key] for key in keys), whole["weights"]])
        titles = dict(zip(YAW_BINS, BIN_TITLES[:3], strict=True)) | {"mean": f"mean, {group['unit'].iloc[0]}"}
        heading = f"{benchmark}: {MEASURES[measure]}" + (f", {labels} labels" if labels != "scans" else "")
        columns = ["method", *(titles[key] for key in keys), "source"]
        protocol = (metrics.PROTOCOLS | scan_metrics.PROTOCOLS)[measure]
        tables.append(Published(heading, columns, rows, [0] if ours else [], protocol))
    return tables


def _ours(aflw: Mapping, measure: str) -> dict[str, float] | None:
    """This run's figures for a measure of AFLW2000-3D: the bins and the mean; None if it has none."""
    if measure == "sparse_nme":
        return {key: aflw["sparse_nme"][key] for key in YAW_BINS} | {"mean": aflw["sparse_nme"]["balanced_mean"]}
    if measure == "pose_mae" and aflw.get("pose_mae"):
        return {"mean": aflw["pose_mae"]["mean"]}
    return None


def florence_rows(florence: Mapping) -> list[Row]:
    """Distance to the scans in each condition, of the network and of the mean face."""
    baseline = florence["baselines"]["mean face"]["conditions"]
    return [
        [name, *(f"{number(e['mean_mm'])} ± {number(e['sd_mm'])}" for e in (entry, baseline[name])), entry["pictures"]]
        for name, entry in florence["conditions"].items()
    ]


def likeness_rows(likeness: Mapping) -> list[Row]:
    """The figures of `evaluate_likeness` with their intervals over people."""
    found = headline(dict(likeness))
    return [
        [name, None if value is None else Estimate(value, *(bounds or ())), best] for name, value, bounds, best in found
    ]


def distance_rows(likeness: Mapping) -> list[Row]:
    """How each distance of the face is drawn."""
    by_distance = likeness["proportions"]["by_distance"].items()
    return [[name, *(row[key] for key in ("r", "slope", "truth", "drawn"))] for name, row in by_distance]


def version_rows() -> list[Row]:
    """Python and the packages that make the numbers."""
    return [["python", platform.python_version()], *([name, version(name)] for name in PACKAGES)]


def data_rows(lock: Mapping | None) -> list[Row]:
    """Hashes of the data, as dvc.lock has them."""
    stages = (lock or {}).get("stages", {}).values()
    entries = {e["path"]: e for stage in stages for e in (*stage.get("deps", ()), *stage.get("outs", ()))}
    folders, endings = (
        ("data/", "outputs/data", "outputs/train", "licensed/"),
        (".npz", ".safetensors", "manifest.json"),
    )
    return [
        [path, entry.get("md5", entry.get("hash", "")), entry.get("size")]
        for path, entry in sorted(entries.items())
        if path.startswith(folders) and (path.endswith(endings) or path.count("/") <= 1)
    ]
