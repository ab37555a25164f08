"""AFLW2000-3D over a folder: sparse alignment and head pose in named protocols, beside baselines, with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from mlanet_lib import metrics
from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import dense
from mlanet_lib.evaluation.dense import ORACLE
from mlanet_lib.evaluation.labels import Reannotated, read_points, read_reannotated
from mlanet_lib.evaluation.summary import (
    CONSTANT,
    Baseline,
    bootstrap_interval,
    constant_baseline,
    in_words,
    paired_difference,
    text_table,
    yaw_figures,
)
from mlanet_lib.evaluation.systems import LabelledPhotos, PointSystem, System, detect_boxes, read_all
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009.raw import RawBfm
from mlanet_lib.geometry.alignment import scaled_orthographic
from mlanet_lib.geometry.camera import matrix_to_euler
from mlanet_lib.geometry.crops import Box, from_crop, second_look
from mlanet_lib.parameters import FaceParameters

AXES = ("pitch", "yaw", "roll")
BOXES = {
    "truth": "square on the larger side of the ground-truth 68-point box, times sqrt(2) (3DDFA's roi)",
    "detector": "from a face detector, then from the points found there (a second look)",
}
BATCH = 64
"""Faces whose meshes are held at once."""


@dataclass(frozen=True, eq=False)
class AFLWResult:
    """`summary`: JSON-able (see `evaluate_aflw2000`); `images`: one row a photo: name, yaw and pose of the truth, `nme`
    of the system and of each baseline, pose errors, occluded and vertex error where known; `predicted`: (N, 68, 2)
    landmarks in the photos' pixels."""

    summary: dict
    images: pd.DataFrame
    predicted: np.ndarray


def evaluate_aflw2000(
    folder: str | Path,
    system: System | PointSystem,
    box: str = "truth",
    limit: int | None = None,
    seed: int = 0,
    reannotated: Reannotated | None = None,
    bfm: RawBfm | None = None,
    others: Iterable[tuple[str, str | Path]] = (),
) -> AFLWResult:
    """AFLW2000-3D's sparse alignment and head pose over a folder in its layout, beside the two baselines.

    box: "truth", or "detector" (the system's own, and then a second look from the landmarks found there); without a
    detected face, the whole photo is taken and counted in `undetected`. limit: the first photos only. reannotated: the
    second label set, instead of `pt3d_68`; crops and yaw bins stay those of the original labels, as in 3DDFA's script.
    bfm: for the dense and reconstruction errors of a system whose face model is BFM (`mlanet_lib.evaluation.dense`).
    others: (name, file) of other systems' stored points (`read_points`), judged on the same photos; UserErrors: a name
    that is used twice or is that of a baseline or of the system, and a photo whose labels lie outside it.

    The summary holds `sparse_nme` (see `metrics.by_yaw`), `pose_mae`, `baselines` and `others` (name -> the same,
    `uses_the_truth`, and `difference`: system minus this, balanced, paired), `intervals` (95 % bootstrap over images,
    within bins for the balanced mean), `by_occlusion` and `vertex_error` where the files know, `dense`,
    `sparse_3d_nme` (None: not known), `bfm_rotation_degrees` (R0 as pitch, yaw, roll), `protocol`, `labels`, `box`,
    `weights`, `images`.
    """
    photos = LabelledPhotos.read(folder, limit)
    samples, truth = photos.samples, photos
    if reannotated is not None:
        truth = photos._replace(landmarks=read_reannotated(reannotated, folder, samples))
    stored = {name: read_points(path, samples) for name, path in _named(others, system.weights).items()}
    photos, undetected = _placed(photos, system, box)
    found = read_all(system, photos.crops(system.image_size), len(samples))
    if box == "detector":  # as a user's photo is looked at: `Predictor.faces`
        photos = photos._replace(boxes=second_look(found.landmarks, photos.boxes))
        found = read_all(system, photos.crops(system.image_size), len(samples))
    predicted = _to_photo(found.landmarks, photos.boxes)
    baselines = _baselines(system, truth.landmarks, photos.boxes, stored)
    summary, rows = _compare(predicted, found.pose_degrees, truth, baselines, seed)
    summary["others"] = {name: summary["baselines"].pop(name) for name in stored}
    rows.insert(0, "name", [sample.name for sample in samples])
    summary |= _known_truth(samples, system.model, found.parameters, rows, seed)
    if system.model is None or found.parameters is None:
        summary |= {"sparse_3d_nme": None, "dense": dense.not_computed(dense.POINTS_ALONE)}
    else:
        errors = dense.judge(system.model, found.parameters, photos, bfm)
        summary |= dense.figures(errors, truth.pose[:, 1], seed)
        for name, values in errors.by_name.items():
            rows[name.replace("_", " ")] = values
    summary |= _protocol(system.model, "original" if reannotated is None else "reannotated") | {
        "box": BOXES[box],
        "undetected": undetected,
        "weights": system.weights,
        "images": len(samples),
        "folder": Path(folder).name,
    }
    return AFLWResult(summary, rows, predicted)


def _named(others: Iterable[tuple[str, str | Path]], weights: str) -> dict[str, str | Path]:
    """Files by the name of their system; a name must not be that of another row of the table."""
    found: dict[str, str | Path] = {}
    for name, path in others:
        if name in found or name in (CONSTANT, ORACLE, weights):
            raise UserError(f"another system cannot be called {name!r}: a row of the table has that name already")
        found[name] = path
    return found


def _placed(photos: LabelledPhotos, system: System | PointSystem, box: str) -> tuple[LabelledPhotos, int]:
    """The photos with the crops asked for, and how many of them without a found face are taken whole."""
    if box not in BOXES:
        raise UserError(f"unknown box {box!r}: one of {', '.join(BOXES)}")
    if box == "truth":
        return photos, 0
    samples = tqdm(photos.samples, desc="detecting", unit="photo", leave=False)
    boxes, undetected = detect_boxes(system.detector, (sample.image() for sample in samples))
    return photos._replace(boxes=boxes), undetected


def _to_photo(points: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    return np.stack([from_crop(p, b) for p, b in zip(np.asarray(points, np.float64), boxes, strict=True)])


def _baselines(
    system: System | PointSystem, truth: np.ndarray, boxes: Sequence[Box], stored: Mapping[str, np.ndarray]
) -> dict[str, Baseline]:
    """The two baselines, where the system has what they need, and the stored points of other systems."""
    found = {}
    if constant := constant_baseline(system.metadata, len(boxes)):
        placed = _to_photo(constant.landmarks, boxes)
        found[CONSTANT] = Baseline(placed, constant.pose_degrees, constant.note)
    if system.model is not None:
        note = "mean shape in the pose that fits the ground truth best"
        found[ORACLE] = Baseline(*oracle_pose(system.model, truth), note, uses_the_truth=True)
    return found | {name: Baseline(points, None, "another system's stored points") for name, points in stored.items()}


def oracle_pose(model: MorphableModel, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `oracle-pose mean shape` baseline; uses the truth.

    The mean face's 68 landmarks under the scaled orthographic pose that fits the ground-truth landmarks (N, 68, 2),
    pixels, best. Returns its landmarks (N, 68, 2) and that pose's angles (N, 3) in degrees, in BFM's frame.
    """
    shape = model.landmarks(model.mean[None])[0].detach().cpu().double().numpy()
    fit = scaled_orthographic(shape, truth * [1, -1])
    rotation = torch.from_numpy(fit.rotation) @ model.bfm_rotation.detach().cpu().double()
    return fit.apply(shape) * [1, -1], matrix_to_euler(rotation).numpy()


def _compare(
    predicted: np.ndarray,
    angles: np.ndarray | None,
    truth: LabelledPhotos,
    baselines: Mapping[str, Baseline],
    seed: int,
) -> tuple[dict, pd.DataFrame]:
    """The errors of predicted landmarks (N, 68, 2), pixels, and angles (N, 3), degrees, beside those of baselines: the
    summary, and a row a photo."""
    yaw, counted = truth.pose[:, 1], metrics.pose_counted(truth.pose)
    bins, nme = metrics.yaw_bin(yaw), metrics.sparse_nme(predicted, truth.landmarks)
    turned = None if angles is None else np.abs(angles - truth.pose).mean(1)
    own = yaw_figures(nme, yaw, seed)
    intervals = {name: bootstrap_interval(nme[bins == k], seed=seed) for k, name in enumerate(metrics.YAW_BINS)}
    intervals |= own["intervals"]
    rows = pd.DataFrame({"yaw": yaw, "bin": bins, "nme": nme})
    if turned is not None:
        rows["pose error"] = turned
        intervals["pose_mae_mean"] = bootstrap_interval(turned[counted], seed=seed)
    entries = {}
    for name, baseline in baselines.items():
        rows[f"nme {name}"] = theirs = metrics.sparse_nme(baseline.landmarks, truth.landmarks)
        difference = {"sparse_nme": paired_difference(nme, theirs, seed, strata=bins)}
        if baseline.pose_degrees is not None:
            rows[f"pose error {name}"] = off = np.abs(baseline.pose_degrees - truth.pose).mean(1)
            if turned is not None:
                difference["pose_mae"] = paired_difference(turned[counted], off[counted], seed)
        entries[name] = {
            "sparse_nme": metrics.by_yaw(theirs, yaw),
            "pose_mae": _pose_mae(baseline.pose_degrees, truth.pose),
            "difference": difference,
            "note": baseline.note,
            "uses_the_truth": baseline.uses_the_truth,
        }
    pose = _pose_mae(angles, truth.pose)
    summary = {"sparse_nme": own["sparse_nme"], "pose_mae": pose, "intervals": intervals, "baselines": entries}
    return summary, rows


def _pose_mae(angles: np.ndarray | None, truth: np.ndarray) -> dict | None:
    return None if angles is None else metrics.pose_mae(angles, truth)


def _known_truth(
    samples: Sequence[Sample],
    model: MorphableModel | None,
    parameters: FaceParameters | None,
    rows: pd.DataFrame,
    seed: int,
) -> dict:
    """What is known of synthetic faces only: occlusion, and the true shape if the face model is the same."""
    truths = [sample.truth for sample in samples if sample.truth is not None]
    if len(truths) < len(samples):
        return {}
    rows["occluded"] = hidden = np.array([truth.occluded for truth in truths])
    groups = {"free": rows[~hidden], "occluded": rows[hidden]}
    found: dict = {"by_occlusion": {name: metrics.by_yaw(group["nme"], group["yaw"]) for name, group in groups.items()}}
    if model is None or parameters is None or any(truth.face_model != model.fingerprint for truth in truths):
        return found
    errors, mean_errors = [], []
    mean = model.mean.detach().cpu().double().numpy()
    for start in range(0, len(truths), BATCH):
        part, own = truths[start : start + BATCH], parameters[slice(start, start + BATCH)]
        coefficients = (np.stack([getattr(truth, name) for truth in part]) for name in ("identity", "expression"))
        true = _vertices(model, *(torch.from_numpy(values).to(model.mean) for values in coefficients))
        errors.append(metrics.vertex_error(_vertices(model, own.identity, own.expression), true))
        mean_errors.append(metrics.vertex_error(np.broadcast_to(mean, true.shape), true))
    rows["vertex error"] = ours = np.concatenate(errors)
    rows["vertex error mean face"] = mean_face = np.concatenate(mean_errors)
    found["vertex_error"] = {
        "mean_mm": float(ours.mean()),
        "interval": bootstrap_interval(ours, seed=seed),
        "mean_face_mm": float(mean_face.mean()),
        "difference": paired_difference(ours, mean_face, seed),
        "protocol": metrics.PROTOCOLS["vertex_error"],
    }
    return found


@torch.no_grad()
def _vertices(model: MorphableModel, identity: torch.Tensor, expression: torch.Tensor) -> np.ndarray:
    return model.vertices(identity, expression).cpu().double().numpy()


def _protocol(model: MorphableModel | None, labels: str) -> dict:
    """The meaning of the numbers: the labels, the frame of the angles, and both protocols in words."""
    sparse = metrics.PROTOCOLS["sparse_nme" if labels == "original" else "sparse_nme_reannotated"]
    angles = None
    if model is None:
        frame = "angles in BFM's frame, as the system gives them"
    else:
        rotation = model.bfm_rotation.detach().cpu().double()
        angles = (matrix_to_euler(rotation) + 0.0).tolist()  # + 0.0: no minus before a zero
        turn = ", ".join(f"{axis} {value:.2f}" for axis, value in zip(AXES, angles, strict=True))
        frame = f"the frame of the face model is taken for BFM's, in which the labels are (R0: {turn} degrees)"
        if any(angles):
            frame = (
                "angles in BFM's frame, in which the labels are: those of R R0, R the pose of the face model and R0 "
                f"its fixed rotation to that frame, measured on training photos ({turn} degrees)"
            )
    return {
        "protocol": {"sparse_nme": sparse, "pose_mae": f"{metrics.PROTOCOLS['pose_mae']}; {frame}"},
        "bfm_rotation_degrees": angles,
        "labels": labels,
    }


def summary_text(data: dict) -> str:
    """The summary as a plain-text table, with its protocol."""
    systems = [(data["weights"], data), *data["others"].items(), *data["baselines"].items()]
    table = [["NME %", "0-30", "30-60", "60-90", "balanced", "images", "pose deg", "turn deg"]]
    for name, entry in systems:
        nme, pose = entry["sparse_nme"], entry["pose_mae"]
        numbers = [nme[key] for key in (*metrics.YAW_BINS, "balanced_mean", "image_mean")]
        numbers += [] if pose is None else [pose["mean"], pose["geodesic"]]
        table.append([f"{name} *" if entry.get("uses_the_truth") else name, *(f"{number:.2f}" for number in numbers)])
    wide = max(len(name) for name, _ in systems) + 4
    low, high = data["intervals"]["balanced_mean"]
    lines = [
        *text_table(table, (-wide, 8, 8, 8, 10, 8, 10, 10)),
        f"balanced mean, 95 % interval over images: {low:.2f} to {high:.2f}; {data['images']} images",
    ]
    for name, entry in (data["others"] | data["baselines"]).items():
        lines.append(f"minus {name}: {in_words(entry['difference']['sparse_nme'])}")
    if any(entry["uses_the_truth"] for entry in data["baselines"].values()):
        lines.append("* uses the truth")
    lines += [
        *dense.lines(data),
        f"labels: {data['labels']}",
        f"crop: {data['box']}",
        f"protocol: {data['protocol']['sparse_nme']}",
        f"protocol of the pose: {data['protocol']['pose_mae']}",
    ]
    return "\n".join(lines)
