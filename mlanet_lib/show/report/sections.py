"""The report's parts that judge: what came out, in a minute; the ablation; published systems; where it comes from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from mlanet_lib import metrics
from mlanet_lib.evaluation import scan_metrics
from mlanet_lib.evaluation.ablation import FULL
from mlanet_lib.evaluation.likeness_metrics import headline
from mlanet_lib.metrics import NOT_DISTINGUISHABLE, YAW_BINS
from mlanet_lib.show import charts
from mlanet_lib.show.report.page import NOT_RUN, Estimate, Page, Section, number

BIN_TITLES = ("0–30°", "30–60°", "60–90°", "balanced mean")
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


def is_synthetic(summary: Mapping) -> bool:
    """Whether an AFLW2000-layout result is of rendered faces: only those know what is occluded."""
    return "by_occlusion" in summary


def benchmark_name(summary: Mapping) -> str:
    """What to call the benchmark: a stand-in is named as one."""
    return "synthetic faces in AFLW2000-3D's layout" if is_synthetic(summary) else "AFLW2000-3D's layout, real photos"


def interval(entry: Mapping, digits: int = 2) -> str:
    """A paired difference in words: `-1.20 [-1.31, -1.08], lower`."""
    low, high = (f"{entry[key]:+.{digits}f}" for key in ("low", "high"))
    return f"{entry['difference']:+.{digits}f} [{low}, {high}], {entry['verdict']}"


def is_stand_in(florence: Mapping) -> bool:
    """Whether a result in Florence's layout is of scans made here."""
    return florence["protocol"].startswith("synthetic")


def published() -> pd.DataFrame:
    """Published numbers (`published.csv`): method, year, source, benchmark, measure (a key of `metrics.PROTOCOLS`),
    labels, unit, the three yaw bins where they are known, and the mean that the literature calls so."""
    with files(__package__).joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def in_a_minute(aflw, florence, rows, likeness=None) -> list[str]:
    """What came out, in a few sentences made from the numbers."""
    lines = []
    if aflw:
        nme, (low, high) = aflw["sparse_nme"], map(number, aflw["intervals"].get("balanced_mean", (None, None)))
        mean = number(nme["balanced_mean"])
        baselines = " and ".join(
            f"{number(entry['sparse_nme']['balanced_mean'])} % for {name}" for name, entry in aflw["baselines"].items()
        )
        lines.append(
            f"Alignment, {nme['images'][3]} photos ({benchmark_name(aflw)}): the 68 points are {mean} % off (balanced "
            f"NME, 95 % {low} to {high}), against {baselines}."
        )
        bins = [number(nme[key]) for key in YAW_BINS]
        lines.append(f"By yaw: {bins[0]} % up to 30° of yaw, {bins[1]} % to 60°, {bins[2]} % beyond.")
    if florence:
        change = florence["difference"]["over_subjects"]
        word = {"lower": "better than", "higher": "worse than"}.get(change["verdict"], "not distinguishable from")
        name = "synthetic scans" if is_stand_in(florence) else "MICC Florence's scans"
        ours = number(florence["conditions"]["all"]["mean_mm"])
        lines.append(f"Shape: {ours} mm from {name}, {word} the mean face ({interval(change, 3)}).")
    if likeness:
        shape, mouths = likeness["proportions"], likeness["closed_mouths"]
        low, high = map(number, shape["intervals"]["slope"])
        lines.append(
            f"Likeness, {likeness['people']} real people: where a proportion of the face differs by 1, the drawings' "
            f"differs by {number(shape['slope'])} (slope, 95 % {low} to {high}; 0 is one face for everybody); "
            f"{mouths['drawn_open']} of {mouths['closed']} closed mouths are drawn open."
        )
    compared = [row for row in rows or [] if "difference" in row]
    if compared:
        names = {
            verdict: ", ".join(row["name"] for row in compared if row["verdict"] == verdict) or "none"
            for verdict in ("worse", "better", NOT_DISTINGUISHABLE)
        }
        lines.append(
            "Ablation: "
            + "; ".join(f"{verdict}{' from' * (verdict == NOT_DISTINGUISHABLE)}: {n}" for verdict, n in names.items())
            + f" (against the full network, {compared[0]['seeds']} seeds)."
        )
    return lines


def likeness_section(page: Page, likeness: Mapping | None, portraits: Path | None = None) -> None:
    """Does it look like the person: the figures of `evaluation_likeness` with their intervals, every distance, and a
    picture of the people and their drawings."""
    section = page.section("Likeness: real people")
    if not likeness:
        section.not_run("Likeness to real people")
        return
    rows = [
        [name, None if value is None else Estimate(value, *(bounds or ())), best]
        for name, value, bounds, best in headline(likeness)
    ]
    protocol = " ".join(
        f"{name.replace('_', ' ').capitalize()}: {text}." for name, text in likeness["protocol"].items()
    )
    section.table(
        ["figure", "MLANet", "at best"],
        rows,
        f"{likeness['people']} people ({likeness['folder']}). Brackets: 95 % bootstrap interval over people. Crop: "
        f"{likeness['crop']}; {likeness['undetected']} photos without a detected face were taken whole. Points of the "
        f"drawing: {likeness['points']}. Weights: {likeness['weights']}. {protocol}",
    )
    if not likeness["recognisable"]["run"]:
        section.not_run("Recognisable", likeness["recognisable"]["why"])
    floor = likeness["baselines"]["mean face"]["proportions"]
    changes = ", ".join(f"{name} {_change(likeness, name)}" for name in ("r", "slope"))
    section.text(
        f"The mean face in the same poses: r {number(floor['r'])}, slope {number(floor['slope'])}; MLANet minus this, "
        f"95 % interval over people: {changes}."
    )
    if portraits is not None:
        caption = (
            "Photos, and below each what was read from it: shape and skin under the photo's light, no texture taken "
            "from it. Face Research Lab London Set (DeBruine and Jones 2017, CC BY 4.0; changed: cut and scaled)."
        )
        section.figure(portraits, caption, "Portraits, and below each its reconstruction")
    by_distance = likeness["proportions"]["by_distance"].items()
    section.table(
        ["distance, over the outer eye corners'", "r", "slope", "true, mean", "drawn, mean"],
        [[name, *(row[key] for key in ("r", "slope", "truth", "drawn"))] for name, row in by_distance],
        "Photos: Face Research Lab London Set (DeBruine and Jones 2017, CC BY 4.0); nothing here learned from these.",
    )


def _change(likeness: Mapping, name: str) -> str:
    change = likeness["proportions"]["difference"][name]
    return f"{change['difference']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]"


def ablation_section(page: Page, rows: Sequence[Mapping] | None) -> None:
    """Every variant's error, difference to the full network and cost; `rows` of `ablation.judge`, with `cost.costs`."""
    section = page.section("Ablation")
    if not rows:
        section.not_run("Ablation")
        return
    if compared := [row for row in rows if "difference" in row]:
        caption = "Difference to the full model; grey: not distinguishable."
        section.figure(charts.forest(compared), caption, "Forest plot of the ablation")
    table = []
    for row in sorted(rows, key=lambda row: row["name"] != FULL):
        seeds = f"{number(row['balanced_mean'])} ± {number(row['seed_sd'])}"
        change = interval(row) if "difference" in row else "–"
        table.append([row["name"], *(row["bins"][key] for key in YAW_BINS), seeds, change])
    section.table(
        ["variant", *BIN_TITLES[:3], "balanced mean ± sd of seeds", "difference to full"],
        table,
        f"Sparse NME in %, {rows[0]['seeds']} seeds, {rows[0]['images']} images of the benchmark above, at the "
        "ablation's smaller training size. Differences are paired by image and by seed; intervals resample both, at "
        "95 % for all the comparisons together (Bonferroni). The variants are this project's reading, not the paper's.",
        ours=[0],
    )
    priced = [row for row in rows if "images_per_second" in row]
    if not priced:
        section.not_run("Cost of the variants")
        return
    section.heading("What accuracy costs")
    caption = "Error against the time of one picture; the line joins the variants that no other beats in both."
    section.figure(charts.pareto(priced), caption, "Pareto plot: error against milliseconds a picture")
    full = next((row for row in priced if row["name"] == FULL), priced[0])
    cells = [
        [
            row["name"],
            row["parameters"] / 1e6,
            1000 * row["gmacs"],
            row["images_per_second"],
            row["images_per_second"] / full["images_per_second"],
            row["balanced_mean"],
        ]
        for row in sorted(priced, key=lambda row: row["name"] != FULL)
    ]
    section.table(
        ["variant", "parameters, 10⁶", "multiply-adds, 10⁶", "pictures a second", "of the full network's", "NME, %"],
        cells,
        "Of encoding one picture; pictures a second in batches of 32, float32 on this CPU, the variants in turns: the "
        "ratios are worth more than the numbers. What a variant learns from does not change its cost.",
        ours=[0],
    )


def comparison_section(page: Page, aflw) -> None:
    """Published numbers, measure by measure, and ours beside those of the same protocol and photos only."""
    section = page.section("Published systems")
    real = bool(aflw) and not is_synthetic(aflw)
    if not real:
        section.text("This run judged synthetic faces: no number of it belongs into these tables.")
    elif aflw["images"] != WHOLE:
        section.text(
            f"This run judged {aflw['images']} of the {WHOLE:,} photos: its numbers are not those of the whole set, "
            "and do not stand in these tables. Systems measured on the same photos are in the headline's."
        )
    for (benchmark, measure, labels), group in published().groupby(["benchmark", "measure", "labels"], sort=False):
        # the bins, where anybody published them, and the mean
        keys = [key for key in YAW_BINS if group[key].notna().any()] + ["mean"]
        rows = [
            [f"{row['method']} ({row['year']})", *(_known(row[key]) for key in keys), row["source"]]
            for _, row in group.iterrows()
        ]
        same = real and aflw["images"] == WHOLE and labels == aflw["labels"] and benchmark == "AFLW2000-3D"
        ours = _ours(aflw, measure) if same else None
        if ours:
            rows.insert(0, ["MLANet (this run)", *(ours[key] for key in keys), aflw["weights"]])
        titles = dict(zip(YAW_BINS, BIN_TITLES[:3], strict=True)) | {"mean": f"mean, {group['unit'].iloc[0]}"}
        section.heading(f"{benchmark}: {MEASURES[measure]}" + (f", {labels} labels" if labels != "scans" else ""))
        section.table(
            ["method", *(titles[key] for key in keys), "source"],
            rows,
            f"{(metrics.PROTOCOLS | scan_metrics.PROTOCOLS)[measure]}. Numbers as published, not run again here.",
            ours=[0] if ours else [],
        )


def _known(value: float) -> float | str:
    return "" if pd.isna(value) else float(value)


def _ours(aflw: Mapping, measure: str) -> dict[str, float] | None:
    """This run's figures for a measure of AFLW2000-3D: the bins and the mean; None where it has none."""
    if measure == "sparse_nme":
        return {key: aflw["sparse_nme"][key] for key in YAW_BINS} | {"mean": aflw["sparse_nme"]["balanced_mean"]}
    if measure == "pose_mae" and aflw.get("pose_mae"):
        return {"mean": aflw["pose_mae"]["mean"]}
    return None


def provenance(section: Section, params: Mapping | None, lock: Mapping | None) -> None:
    """Which data and which parameters: hashes of params.yaml's values, and of files as dvc.lock has them."""
    if params is not None:
        digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()
        section.text(
            f"Parameters: sha256 {digest[:16]} (the values below, as sorted JSON); seed {params.get('seed', NOT_RUN)}."
        )
    stages = (lock or {}).get("stages", {})
    found = {}
    for stage in stages.values():
        for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
            if entry["path"].endswith((".npz", ".safetensors", "manifest.json")) or entry["path"].count("/") <= 1:
                found[entry["path"]] = entry
    kept = [
        e
        for path, e in sorted(found.items())
        if path.startswith(("data/", "outputs/data", "outputs/train", "licensed/"))
    ]
    if not kept:
        section.not_run("Hashes of the data", "no dvc.lock")
        return
    rows = [[entry["path"], entry.get("md5", entry.get("hash", "")), entry.get("size")] for entry in kept]
    section.table(
        ["file or folder", "md5", "bytes"], rows, "As dvc.lock has them: what this run learned from and made."
    )
