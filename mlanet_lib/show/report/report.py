"""The study's report: one HTML file from the stages' results. Every number stands beside its protocol.

What a result does not hold is said to be not run; nothing is filled in. A stand-in is never called by the name of the
data set whose layout it has.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from mlanet_lib.metrics import YAW_BINS
from mlanet_lib.show import charts
from mlanet_lib.show.gallery import Gallery
from mlanet_lib.show.report.page import Estimate, Page, commit, number, read_json, read_table
from mlanet_lib.show.report.sections import (
    BIN_TITLES,
    ablation_section,
    benchmark_name,
    comparison_section,
    in_a_minute,
    interval,
    is_stand_in,
    is_synthetic,
    likeness_section,
    provenance,
)

PACKAGES = ("mlanet", "torch", "timm", "numpy", "scipy", "numba", "opencv-python-headless")


@dataclass
class Inputs:
    """What a report is made from; each piece may be missing (None), be a path, or be the value itself.

    aflw2000: the JSON summary of `evaluate_aflw2000`; images: its table, a row a photo (CSV); florence: the summary of
    `evaluate_florence`; ablation: the rows of `ablation.judge` (JSON list, or a dict with them under "variants");
    history: the training's CSV; params: params.yaml as a mapping; gallery: pictures of faces
    (`mlanet_lib.show.gallery`); others: further AFLW2000-layout summaries by name (real photos, say); lock: dvc.lock,
    for the hashes of the data; likeness: the summary of `evaluate_likeness`; portraits: a picture of its people and
    their drawings.
    """

    aflw2000: Mapping | Path | None = None
    images: pd.DataFrame | Path | None = None
    florence: Mapping | Path | None = None
    ablation: Sequence[Mapping] | Mapping | Path | None = None
    history: pd.DataFrame | Path | None = None
    params: Mapping | None = None
    gallery: Gallery | None = None
    others: Mapping[str, Mapping | Path] = field(default_factory=dict)
    lock: Mapping | None = None
    likeness: Mapping | Path | None = None
    portraits: Path | None = None


def build(inputs: Inputs, output: str | Path, title: str = "Hierarchical MLANet: report") -> Path:
    """Write the report to `output` (one file, under 10 MB, opens offline) and return its path.

    Raises UserError where an input is named but is not there or not readable.
    """
    aflw, florence, likeness = (read_json(value) for value in (inputs.aflw2000, inputs.florence, inputs.likeness))
    ablation, images, history = read_json(inputs.ablation), read_table(inputs.images), read_table(inputs.history)
    others = {name: read_json(value) for name, value in inputs.others.items()}
    rows = ablation.get("variants", []) if isinstance(ablation, Mapping) else ablation
    profile = (inputs.params or {}).get("profile", "")
    page = Page(
        title,
        "Multi-level attention for 3D face reconstruction from single images (after arXiv 2509.10024): "
        "what this run measured.",
        _warning(aflw, florence),
        f"Profile {profile or 'unknown'}; {commit()}. Made by mlanet_lib.show.report.report.",
    )
    _headline(page, aflw, florence, others, rows, likeness)
    _gallery_sections(page, inputs.gallery)
    _by_yaw(page, aflw, images)
    _on_the_face(page, inputs.gallery)
    ablation_section(page, rows)
    comparison_section(page, aflw)
    _florence(page, florence)
    likeness_section(page, likeness, inputs.portraits)
    _training(page, history, inputs.gallery)
    _configuration(page, inputs, {"aflw2000": aflw, "florence": florence, "likeness": likeness})
    _missing(page, aflw, florence, rows, history, inputs, others)
    return page.write(output)


def _warning(aflw, florence) -> str:
    names = []
    if aflw and is_synthetic(aflw):
        names.append("AFLW2000-3D")
    if florence and is_stand_in(florence):
        names.append("MICC Florence")
    if not names:
        return ""
    return (
        f"Synthetic stand-ins: the faces judged here were rendered by the project and only have the file layout of "
        f"{' and '.join(names)}. No number on them is a result on those data sets, nor comparable with published ones."
    )


def _headline(page: Page, aflw, florence, others, rows, likeness) -> None:
    section = page.section("Headline")
    cards = []
    if aflw:
        nme, (low, high) = aflw["sparse_nme"]["balanced_mean"], aflw["intervals"]["balanced_mean"]
        note = f"balanced sparse NME [{number(low)}, {number(high)}], {benchmark_name(aflw)}"
        cards.append((f"{number(nme)} %", note))
        if pose := aflw.get("pose_mae"):
            cards.append((f"{number(pose['mean'])}°", f"head-pose error, {pose['images']} images"))
        if error := aflw.get("vertex_error"):
            note = f"per-vertex error after similarity (mean face: {number(error['mean_face_mm'])})"
            cards.append((f"{number(error['mean_mm'])} mm", note))
    if florence:
        name = "synthetic scans in Florence's layout" if is_stand_in(florence) else "MICC Florence"
        rmse = number(florence["conditions"]["all"]["mean_mm"])
        cards.append((f"{rmse} mm", f"point-to-plane RMSE, {name}"))
    section.cards(cards)
    section.points(in_a_minute(aflw, florence, rows, likeness))
    if not aflw:
        section.not_run("Sparse alignment and head pose")
        return
    _nme_table(section, aflw)
    for name, other in others.items():
        section.heading(name)
        if other:
            _nme_table(section, other)
        else:
            section.not_run(name)


def _nme_table(section, summary: Mapping) -> None:
    """The system beside its baselines, one row each, with the paired differences."""
    pose = summary.get("pose_mae")
    error = Estimate(pose["mean"], *summary["intervals"].get("pose_mae_mean", (None, None))) if pose else None
    rows = [["MLANet", *_nme_cells(summary, summary["intervals"]), error, "–"]]
    for name, entry in (summary.get("others", {}) | summary["baselines"]).items():
        pose = entry.get("pose_mae")
        kind = "uses the truth" if entry["uses_the_truth"] else "sees no picture"
        label = f"{name} (measured here, {entry['note']})" if name in summary.get("others", {}) else f"{name} ({kind})"
        difference = interval(entry["difference"]["sparse_nme"])
        rows.append([label, *_nme_cells(entry, {}), pose["mean"] if pose else None, difference])
    *bins, images = summary["sparse_nme"]["images"]
    section.table(
        ["sparse NME, %", *BIN_TITLES, "image mean", "pose error, °", "MLANet minus this, NME"],
        rows,
        f"On {benchmark_name(summary)} ({summary['folder']}): {images} images, {' / '.join(map(str, bins))} by yaw. "
        f"Crop: {summary['box']}{_undetected(summary)}. {summary['protocol']['sparse_nme']}. "
        f"{summary['protocol'].get('pose_mae', '')}. Brackets: 95 % bootstrap interval over images; differences are "
        f"paired by image, balanced over the bins. Weights: {summary['weights']}.",
        ours=[0],
    )


def _undetected(summary: Mapping) -> str:
    missed = summary.get("undetected")
    return f"; no face was detected in {missed}, which were taken whole" if missed else ""


def _nme_cells(entry: Mapping, intervals: Mapping) -> list[Estimate]:
    keys = (*YAW_BINS, "balanced_mean", "image_mean")
    return [Estimate(entry["sparse_nme"][key], *intervals.get(key, (None, None))) for key in keys]


def _gallery_sections(page: Page, gallery: Gallery | None) -> None:
    section = page.section("Reconstructions")
    if gallery is None:
        section.not_run("Pictures of reconstructions")
        return
    for title, figure, caption in gallery.rows:
        section.heading(title).figure(figure, caption, f"{title}: {caption}", "webp")
    if gallery.viewer is not None:
        section.heading("Turn it").viewer(gallery.viewer, gallery.viewer_caption)


def _by_yaw(page: Page, aflw, images: pd.DataFrame | None) -> None:
    section = page.section("Errors by head pose and occlusion")
    if not aflw:
        section.not_run("Errors by pose")
        return
    systems = {"MLANet": aflw["sparse_nme"]}
    systems |= {name: entry["sparse_nme"] for name, entry in aflw["baselines"].items()}
    figure = charts.yaw_bars(systems, {"MLANet": aflw["intervals"]})
    caption = "Bars: mean NME of the bin; whiskers: 95 % bootstrap interval over images."
    section.figure(figure, caption, "Bar chart of NME by yaw bin")
    if images is not None:
        columns = {"MLANet": "nme"} | {name: f"nme {name}" for name in aflw["baselines"]}
        errors = {name: images[column].to_numpy() for name, column in columns.items() if column in images}
        alt = "Cumulative distribution of the images' NME"
        section.figure(charts.cumulative_error(errors), "Share of images with at most that NME.", alt)
    if "by_occlusion" in aflw:
        names = {"free": "nothing before the face", "occluded": "something before the face"}
        keys = (*YAW_BINS, "balanced_mean")
        parts = aflw["by_occlusion"].items()
        rows = [[names.get(name, name), *(part[key] for key in keys), part["images"][3]] for name, part in parts]
        columns = ["occlusion", *BIN_TITLES, "images"]
        section.table(columns, rows, f"Sparse NME in %, {aflw['protocol']['sparse_nme']}.")
    else:
        section.not_run("Occluded against free faces", "these files do not say what is occluded")


def _on_the_face(page: Page, gallery: Gallery | None) -> None:
    section = page.section("Where it errs")
    if gallery is None or not (gallery.errors or gallery.failures):
        section.not_run("Errors on the face, and the worst ten")
        return
    for title, figure, caption in gallery.errors + gallery.failures:
        section.heading(title).figure(figure, caption, f"{title}: {caption}", "webp")


def _florence(page: Page, florence) -> None:
    suffix = ": synthetic stand-in in Florence's layout" if florence and is_stand_in(florence) else ""
    section = page.section(f"Reconstruction against scans{suffix}")
    if not florence:
        section.not_run("Reconstruction against scans in MICC Florence's layout")
        return
    baseline = florence["baselines"]["mean face"]["conditions"]
    rows = []
    for name, entry in florence["conditions"].items():
        other = baseline[name]
        cells = [f"{number(e['mean_mm'])} ± {number(e['sd_mm'])}" for e in (entry, other)]
        rows.append([name, *cells, entry["pictures"]])
    section.table(
        ["condition", "MLANet, RMSE mm (± sd)", "mean face, RMSE mm (± sd)", "pictures"],
        rows,
        f"{florence['protocol']}. {florence['subjects']} subjects. The mean face goes through the same crop and ICP.",
    )
    change = interval(florence["difference"]["over_subjects"], 3)
    section.text(f"MLANet minus mean face, mm, 95 % interval over subjects: {change}.")
    if error := florence.get("vertex_error"):
        ours, mean = (number(error[key]["all"]["mean_mm"]) for key in ("conditions", "mean face"))
        change = interval(error["difference"]["over_subjects"], 3)
        section.text(f"Known correspondence: {ours} mm, mean face {mean} mm, difference {change}. {error['protocol']}.")


def _training(page: Page, history: pd.DataFrame | None, gallery: Gallery | None) -> None:
    section = page.section("Training and attention")
    if history is None or history.empty:
        section.not_run("Training curves")
    else:
        caption = "Mean losses since the last validation, and the validation split's figures; numbers: the lowest."
        section.figure(charts.training_curves(history), caption, "Curves of losses and validation errors over steps")
    if gallery is None or gallery.attention is None:
        section.not_run("Attention maps")
    else:
        caption = "Energy of each level's features after attention and fusion, on the same photos."
        section.figure(gallery.attention, caption, "Attention maps per level beside the photos", "webp")
    if gallery is not None and gallery.level_weights:
        caption = "How much each group of parameters reads from each level; each row sums to 1."
        figure = charts.level_weights(gallery.level_weights, gallery.levels)
        section.figure(figure, caption, "Heat map of learned level weights")


def _configuration(page: Page, inputs: Inputs, results: Mapping[str, Mapping | None]) -> None:
    section = page.section("Configuration and versions")
    versions = [["python", platform.python_version()], *([name, version(name)] for name in PACKAGES)]
    section.table(["package", "version"], versions, f"{platform.system()} {platform.machine()}; {commit()}.")
    provenance(section, inputs.params, inputs.lock)
    if inputs.params is not None:
        section.details("params.yaml, the whole effective configuration", dict(inputs.params))
    for name, value in results.items():
        if value:
            section.details(f"{name}: the whole result as JSON", value)


def _dense(aflw) -> bool:
    return bool(aflw and (aflw.get("dense") or {}).get("computed"))


def _missing(page: Page, aflw, florence, rows, history, inputs: Inputs, others) -> None:
    section = page.section("What was not run")
    real = [value for value in (aflw, *others.values()) if value and not is_synthetic(value)]
    missing = {
        "AFLW2000-3D, real photos": not real,
        "MICC Florence's scans (gated)": not florence or is_stand_in(florence),
        "Dense and reconstruction protocols of AFLW2000-3D (they need BFM and its correspondence)": not _dense(aflw),
        "PRNet's protocol for Florence (mlanet evaluate florence --form prnet)": True,
        "Likeness to real people": inputs.likeness is None,
        "Sparse alignment": not aflw,
        "Ablation": not rows,
        "Training curves": history is None,
        "Pictures": inputs.gallery is None,
    }
    for name, absent in missing.items():
        if absent:
            section.not_run(name)
    section.text("Nothing here claims a number of the paper: its tables could not be had.")
