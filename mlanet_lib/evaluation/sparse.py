"""Benchmarks over a folder: crops -> predictions -> named protocols, beside the two baselines, with intervals.

AFLW2000-3D here, MICC Florence in `mlanet_lib.evaluation.florence`; what a system under test is, in
`mlanet_lib.evaluation.systems`. Results have a `summary` (JSON-able) and a table with a row for every picture.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mlanet_lib import metrics
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import dense
from mlanet_lib.evaluation.dense import DenseJudge, not_computed, why_not_dense
from mlanet_lib.evaluation.florence import FlorenceResult, evaluate_florence
from mlanet_lib.evaluation.labels import read_points, read_reannotated
from mlanet_lib.evaluation.systems import CropPrediction, as_function, cut_crops, detect_box, run_batches
from mlanet_lib.files.records import write_json
from mlanet_lib.geometry.alignment import scaled_orthographic
from mlanet_lib.geometry.camera import matrix_to_euler
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks, from_crop, second_look

__all__ = [
    "AFLWResult",
    "CropPrediction",
    "FlorenceResult",
    "evaluate_aflw2000",
    "evaluate_florence",
    "oracle_pose",
    "summary",
    "write_json",
]
AXES = ("pitch", "yaw", "roll")
CONSTANT, ORACLE = "constant", dense.ORACLE
LABELS = ("original", "reannotated")
BOXES = {
    "truth": "square on the larger side of the ground-truth 68-point box, times sqrt(2) (3DDFA's roi)",
    "detector": "from a face detector, then from the points found there (a second look)",
}


@dataclass(frozen=True, eq=False)
class AFLWResult:
    """`summary`: JSON-able (see `evaluate_aflw2000`); `images`: one row a photo: name, yaw and pose of the truth, `nme`
    of the system and of each baseline, pose errors, occluded and vertex error where known; `predicted`: (N, 68, 2)
    points in the photos' pixels."""

    summary: dict
    images: pd.DataFrame
    predicted: np.ndarray


def evaluate_aflw2000(
    folder: str | Path,
    system,
    box: str | Mapping[str, Sequence[float]] = "truth",
    limit: int | None = None,
    model=None,
    constant: Mapping | None = None,
    image_size: int | None = None,
    weights: str | None = None,
    seed: int = 0,
    labels: str = "original",
    reannotated: str | Path | None = None,
    names: Sequence[str] | str | Path | None = None,
    bfm=None,
    others: Mapping[str, str | Path] | Sequence[tuple[str, str | Path]] = (),
) -> AFLWResult:
    """AFLW2000-3D's sparse alignment and head pose over a folder in its layout, beside the two baselines.

    system: see `mlanet_lib.evaluation.systems`. box: "truth", "detector" (the system's own,
    `system.detector.detect(photo)`, and then a second look from the system's points there), or crop boxes by the
    photo's name in pixels; a photo without a detected face is taken whole, and counted in `undetected`: nothing is
    left out. model: for the oracle baseline and the per-vertex error, and for the frame that poses are turned from
    (`bfm_rotation`); constant: {"landmarks": (68, 2) crop sides, "pose_degrees": (3,) in BFM's frame} of the training
    set; image_size; weights: their name. All four default to what the system has (`model`, `metadata["constant"]`,
    `image_size`, `weights`).

    labels: "original" (`pt3d_68`) or "reannotated", from the file `reannotated` whose rows follow `names` (see
    `read_reannotated`); crops and yaw bins stay those of the original labels, as in 3DDFA's script. bfm: a `RawBfm`,
    for the dense and reconstruction errors of a system whose face model is BFM (`mlanet_lib.evaluation.dense`). others:
    stored points of other systems by their name (`read_points`), judged alike on the same photos; a name that is there
    twice, or is a baseline's or the system's, is a UserError, as are photos whose labels lie outside them.

    The summary holds `sparse_nme` (see `metrics.by_yaw`), `pose_mae`, `baselines` and `others` (name -> the same,
    `uses_the_truth`, and `difference`: system minus this, balanced, paired), `intervals` (95 % bootstrap over images,
    within bins for the balanced mean), `by_occlusion` and `vertex_error` where the files know, `dense`,
    `sparse_3d_nme` (None: not known), `bfm_rotation_degrees` (R0 as pitch, yaw, roll), `protocol`, `labels`, `box`,
    `weights`, `images`.
    """
    if labels not in LABELS or (labels == "reannotated") != (reannotated is not None):
        raise UserError(f"labels are one of {', '.join(LABELS)}, the second with a file of them and the first without")
    samples = aflw2000.read_folder(folder, limit)
    truth = np.stack([sample.landmarks for sample in samples])
    if reannotated is not None:
        truth = read_reannotated(reannotated, folder, samples, names)
    weights = weights or str(getattr(system, "weights", "unnamed"))
    stored = {name: read_points(path, samples) for name, path in _named(others, weights).items()}
    model = model if model is not None else getattr(system, "model", None)
    constant = constant or getattr(system, "metadata", {}).get("constant")
    size = image_size or system.image_size
    boxes, detected = _boxes(samples, system, box)
    crops = cut_crops(samples, boxes, size)
    if isinstance(box, str) and box == "detector":  # as a user's photo is looked at: `Predictor.faces`
        boxes = second_look(run_batches(as_function(system), crops, len(samples)).landmarks, boxes)
        crops = cut_crops(samples, boxes, size)
    shapes = all(sample.truth is not None for sample in samples)
    judge = None if callable(system) else DenseJudge(system, samples, boxes, bfm)
    result = run_batches(judge or as_function(system), crops, len(samples), shapes=shapes)
    pose = np.stack([sample.pose_degrees for sample in samples])
    bins = metrics.yaw_bin(pose[:, 1])
    predicted = _to_photo(result.landmarks, boxes)
    rows = pd.DataFrame({"name": [s.name for s in samples], "yaw": pose[:, 1], "bin": bins})
    rows["nme"] = metrics.sparse_nme(predicted, truth)
    baselines = {}
    if constant and constant.get("landmarks") is not None:
        points = np.broadcast_to(np.asarray(constant["landmarks"], np.float64), truth.shape)
        angles = constant.get("pose_degrees")
        angles = None if angles is None else np.broadcast_to(np.asarray(angles, np.float64), pose.shape)
        baselines[CONSTANT] = (_to_photo(points, boxes), angles, "the training set's mean; sees no picture", False)
    if model is not None:
        points, angles = oracle_pose(model, truth)
        baselines[ORACLE] = (points, angles, "mean shape in the pose that fits the ground truth best", True)
    baselines |= {name: (points, None, "another system's stored points", False) for name, points in stored.items()}
    summary = {
        "sparse_nme": metrics.by_yaw(rows["nme"], pose[:, 1]),
        "pose_mae": None if result.pose_degrees is None else metrics.pose_mae(result.pose_degrees, pose),
        "intervals": _intervals(rows["nme"].to_numpy(), result.pose_degrees, pose, seed),
        "baselines": {},
        "others": {},
    }
    _pose_columns(rows, "", result.pose_degrees, pose)
    for name, (points, angles, note, cheats) in baselines.items():
        rows[f"nme {name}"] = nme = metrics.sparse_nme(points, truth)
        _pose_columns(rows, f" {name}", angles, pose)
        difference = {"sparse_nme": metrics.paired_difference(rows["nme"], nme, seed, strata=bins)}
        if angles is not None and result.pose_degrees is not None:
            kept = metrics.pose_counted(pose)
            ours, theirs = rows["pose error"][kept], rows[f"pose error {name}"][kept]
            difference["pose_mae"] = metrics.paired_difference(ours, theirs, seed)
        summary["others" if name in stored else "baselines"][name] = {
            "sparse_nme": metrics.by_yaw(nme, pose[:, 1]),
            "pose_mae": None if angles is None else metrics.pose_mae(angles, pose),
            "difference": difference,
            "note": note,
            "uses_the_truth": cheats,
        }
    summary |= _known_truth(samples, result, model, rows, pose, seed)
    if judge is not None:
        summary |= judge.results(pose[:, 1], seed)
        for name, errors in judge.errors.items():
            rows[name.replace("_", " ")] = errors
    else:
        summary |= {"sparse_3d_nme": None, "dense": not_computed(why_not_dense(system, samples, bfm))}
    sparse = metrics.PROTOCOLS["sparse_nme" if labels == "original" else "sparse_nme_reannotated"]
    summary |= {
        "protocol": {"sparse_nme": sparse, "pose_mae": f"{metrics.PROTOCOLS['pose_mae']}; {frame_note(model)}"},
        "bfm_rotation_degrees": None if model is None else _bfm_angles(model),
        "labels": labels,
        "box": BOXES[box] if isinstance(box, str) else "given by the caller",
        "undetected": int((~detected).sum()),
        "weights": weights,
        "images": len(samples),
        "folder": Path(folder).name,
    }
    return AFLWResult(summary, rows, predicted)


def _named(others, weights: str) -> dict[str, str | Path]:
    """Files by the name of the system that they are of, none of which may stand for another row of the table."""
    found: dict[str, str | Path] = {}
    for name, path in others.items() if isinstance(others, Mapping) else others or ():
        if name in found or name in (CONSTANT, ORACLE, weights):
            raise UserError(f"another system cannot be called {name!r}: a row of the table has that name already")
        found[name] = path
    return found


def _boxes(samples, system, box) -> tuple[list[Box], np.ndarray]:
    """A crop for every photo, and (N,) bool: it was found."""
    if isinstance(box, str) and box not in BOXES:
        raise UserError(f"unknown box {box!r}: one of {', '.join(BOXES)}")
    if box == "truth":
        return [crop_box_from_landmarks(sample.landmarks) for sample in samples], np.ones(len(samples), bool)
    boxes, found = [], np.ones(len(samples), bool)
    for i, sample in enumerate(tqdm(samples, desc="detecting", unit="photo", leave=False)):
        if isinstance(box, str):
            image = sample.image()
            crop = detect_box(system.detector, image)
            found[i] = crop is not None
            height, width = image.shape[:2]
            boxes.append(crop or Box(0.0, 0.0, width, height))
        elif sample.name not in box:
            raise UserError(f"no crop box was given for {sample.name}")
        else:
            boxes.append(Box(*map(float, box[sample.name])))
    return boxes, found


def _to_photo(points: np.ndarray, boxes: list[Box]) -> np.ndarray:
    return np.stack([from_crop(p, b) for p, b in zip(np.asarray(points, np.float64), boxes, strict=True)])


def frame_note(model) -> str:
    """Whose frame the compared angles are those of, in words for the protocol; model: a `MorphableModel`, or None."""
    if model is None:
        return "angles in BFM's frame, as the system gives them"
    turn = ", ".join(f"{axis} {value:.2f}" for axis, value in zip(AXES, _bfm_angles(model), strict=True))
    if not any(_bfm_angles(model)):
        return f"the frame of the face model is taken for BFM's, in which the labels are (R0: {turn} degrees)"
    return (
        "angles in BFM's frame, in which the labels are: those of R R0, R the pose of the face model and R0 its fixed "
        f"rotation to that frame, measured on training photos ({turn} degrees)"
    )


def _bfm_angles(model) -> list[float]:
    return (matrix_to_euler(model.bfm_rotation.detach().cpu().double()) + 0.0).tolist()  # + 0.0: no minus before a zero


def oracle_pose(model, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `oracle-pose mean shape` baseline; uses the truth.

    The mean face's 68 points under the scaled orthographic pose that fits the ground-truth points (N, 68, 2), pixels,
    best. Returns its points (N, 68, 2) and that pose's angles (N, 3) in degrees, in BFM's frame.
    """
    shape = model.landmarks(model.mean[None])[0].detach().cpu().double().numpy()
    fit = scaled_orthographic(shape, truth * [1, -1])
    rotation = torch.from_numpy(fit.rotation) @ model.bfm_rotation.detach().cpu().double()
    return fit.apply(shape) * [1, -1], matrix_to_euler(rotation).numpy()


def _pose_columns(rows: pd.DataFrame, suffix: str, predicted: np.ndarray | None, truth: np.ndarray) -> None:
    if predicted is not None:
        rows[f"pose error{suffix}"] = np.abs(predicted - truth).mean(1)


def _intervals(nme: np.ndarray, predicted: np.ndarray | None, pose: np.ndarray, seed: int) -> dict:
    bins = metrics.yaw_bin(pose[:, 1])
    intervals = {name: metrics.bootstrap_interval(nme[bins == k], seed=seed) for k, name in enumerate(metrics.YAW_BINS)}
    empty = len(np.unique(bins)) < 3
    balanced = metrics.bootstrap_interval(nme, seed=seed, strata=bins)
    intervals["balanced_mean"] = (math.nan, math.nan) if empty else balanced
    intervals["image_mean"] = metrics.bootstrap_interval(nme, seed=seed)
    if predicted is not None:
        errors = np.abs(predicted - pose)[metrics.pose_counted(pose)].mean(1)
        intervals["pose_mae_mean"] = metrics.bootstrap_interval(errors, seed=seed)
    return intervals


def _known_truth(samples, result: CropPrediction, model, rows: pd.DataFrame, pose: np.ndarray, seed: int) -> dict:
    """What only synthetic faces know: occlusion, and the shape itself where the face model is the same."""
    if any(sample.truth is None for sample in samples):
        return {}
    known = {}
    rows["occluded"] = [sample.truth.occluded for sample in samples]
    known["by_occlusion"] = {
        name: metrics.by_yaw(rows["nme"][rows["occluded"] == flag], pose[rows["occluded"] == flag, 1])
        for name, flag in (("free", False), ("occluded", True))
    }
    same = model is not None and all(sample.truth.face_model == model.fingerprint for sample in samples)
    if same and result.vertices is not None:
        identity, expression = (
            torch.from_numpy(np.stack([getattr(s.truth, name) for s in samples])).to(model.mean)
            for name in ("identity", "expression")
        )
        errors, mean_errors = [], []
        mean = model.mean.detach().cpu().double().numpy()[None]
        for start in range(0, len(samples), 64):
            part = slice(start, start + 64)
            truth = model.vertices(identity[part], expression[part]).detach().cpu().double().numpy()
            errors.append(metrics.vertex_error(result.vertices[part], truth))
            mean_errors.append(metrics.vertex_error(np.broadcast_to(mean, truth.shape), truth))
        rows["vertex error"], rows["vertex error mean face"] = np.concatenate(errors), np.concatenate(mean_errors)
        known["vertex_error"] = {
            "mean_mm": float(rows["vertex error"].mean()),
            "interval": metrics.bootstrap_interval(rows["vertex error"], seed=seed),
            "mean_face_mm": float(rows["vertex error mean face"].mean()),
            "difference": metrics.paired_difference(rows["vertex error"], rows["vertex error mean face"], seed),
            "protocol": metrics.PROTOCOLS["vertex_error"],
        }
    return known


def summary(result: AFLWResult) -> str:
    """The result as a plain-text table, with its protocol."""
    data, lines = result.summary, []
    systems = [(data["weights"], data), *data["others"].items(), *data["baselines"].items()]
    wide = max(len(name) for name, _ in systems) + 4
    lines.append(f"{'NME %':<{wide}}{'0-30':>8}{'30-60':>8}{'60-90':>8}{'balanced':>10}{'images':>8}{'pose deg':>10}")
    for name, entry in systems:
        nme, pose = entry["sparse_nme"], entry["pose_mae"]
        label = f"{name} *" if entry.get("uses_the_truth") else name
        numbers = "".join(f"{nme[key]:8.2f}" for key in metrics.YAW_BINS)
        angle = "" if pose is None else f"{pose['mean']:10.2f}"
        lines.append(f"{label:<{wide}}{numbers}{nme['balanced_mean']:10.2f}{nme['image_mean']:8.2f}{angle}")
    low, high = data["intervals"]["balanced_mean"]
    lines.append(f"balanced mean, 95 % interval over images: {low:.2f} to {high:.2f}; {data['images']} images")
    for name, entry in (data["others"] | data["baselines"]).items():
        d = entry["difference"]["sparse_nme"]
        lines.append(f"minus {name}: {d['difference']:+.2f} ({d['low']:+.2f} to {d['high']:+.2f}), {d['verdict']}")
    if any(entry["uses_the_truth"] for entry in data["baselines"].values()):
        lines.append("* uses the truth")
    lines += dense.lines(data)
    return "\n".join(
        [
            *lines,
            f"labels: {data['labels']}",
            f"crop: {data['box']}",
            f"protocol: {data['protocol']['sparse_nme']}",
            f"protocol of the pose: {data['protocol']['pose_mae']}",
        ]
    )
