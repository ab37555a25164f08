"""AFLW2000-3D judged in 3D: the 68 landmarks with depth, the dense mesh, and the shape itself (SADRNet's protocols).

The dense truth is BFM's mesh from a photo's `Shape_Para`, `Exp_Para` and `Pose_Para`. It can be compared with a
prediction only vertex by vertex. For a face model with another topology there is no dense number, and the result says
why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mlanet_lib import metrics
from mlanet_lib.data.sample import Sample
from mlanet_lib.evaluation.summary import bootstrap_interval, in_words, paired_difference
from mlanet_lib.evaluation.systems import LabelledPhotos
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009.raw import BfmFit, RawBfm
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.geometry.crops import Box, from_crop
from mlanet_lib.parameters import FaceParameters

DENSE = ("dense_nme", "reconstruction_nme")
ORACLE = "oracle-pose mean shape"
POINTS_ALONE = "the system gives points, not the parameters of a face model"


@dataclass(frozen=True, eq=False)
class Errors:
    """3D errors of N photos: `by_name` (N,), in %, NaN where not known; reason: why there are none of the dense mesh,
    or None; vertices: how many were compared; label_offset_px: how far BFM's own landmarks land from the labels."""

    by_name: dict[str, np.ndarray]
    reason: str | None
    vertices: int
    label_offset_px: float


@torch.no_grad()
def judge(model: MorphableModel, parameters: FaceParameters, photos: LabelledPhotos, bfm: RawBfm | None) -> Errors:
    """The 3D errors of predicted parameters of N faces, each in its photo's crop; bfm: for the dense ones.

    All vertices of BFM that the face model has are counted, also neck and ears (PRNet and SADRNet count only the face
    region, about 45,000).
    """
    reason = why_not_dense(model, photos.samples, bfm)
    index = None if bfm is None or reason else bfm.correspondence(model)
    rows, offsets = [], []
    for k, (sample, box) in enumerate(zip(photos.samples, photos.boxes, strict=True)):
        one = parameters[k]
        vertices = model.vertices(one.identity, one.expression)
        row = {"sparse_3d_nme": np.nan}
        if sample.nearness is not None:
            truth = np.column_stack([photos.landmarks[k], sample.nearness])
            points = in_photo(model.landmarks(vertices), one, box)
            row["sparse_3d_nme"] = metrics.sparse_3d_nme(points[None], truth[None])[0]
        if bfm is not None and index is not None and sample.bfm is not None:
            height = sample.image().shape[0]
            whole, mean = (bfm.posed(fit, photos.pose[k], height) for fit in (sample.bfm, _mean_shape(sample.bfm)))
            offsets.append(np.linalg.norm(whole[bfm.landmarks, :2] - sample.landmarks, axis=1).mean())
            posed, shape = in_photo(vertices, one, box), vertices[0].cpu().double().numpy()
            eyes = whole[bfm.landmarks[[36, 45]]]
            row |= _dense_errors(posed, shape, whole[index], eyes)
            oracle = _dense_errors(mean[index], mean[index], whole[index], eyes)
            row |= {f"{name} {ORACLE}": value for name, value in oracle.items()}
        rows.append(row)
    by_name = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return Errors(by_name, reason, 0 if index is None else len(index), float(np.mean(offsets or [np.nan])))


def _dense_errors(posed: np.ndarray, shape: np.ndarray, truth: np.ndarray, eyes: np.ndarray) -> dict[str, float]:
    """`DENSE` of one face, (V, 3) each: posed in the photo, its shape in any pose; eyes: (2, 3), the truth's."""
    errors = (
        metrics.dense_nme(posed[None], truth[None]),
        metrics.reconstruction_nme(shape[None], truth[None], eyes[None]),
    )
    return {name: error[0] for name, error in zip(DENSE, errors, strict=True)}


def why_not_dense(model: MorphableModel, samples: Sequence[Sample], bfm: RawBfm | None) -> str | None:
    """The reason why dense and reconstruction errors cannot be computed; None if they can."""
    if bfm is None:
        return "no BFM is given (3DDFA's Model_Shape.mat and Model_Exp.mat), from which the dense truth is made"
    if any(sample.truth is not None for sample in samples):
        return "the photos are synthetic faces, whose files carry no fit of BFM"
    if any(sample.bfm is None for sample in samples):
        return "a photo has no Shape_Para and Exp_Para"
    if bfm.correspondence(model) is None:
        return (
            f"the face model {model.name} ({model.n_vertices:,} vertices) has no known correspondence to "
            f"BFM's {len(bfm.mean):,}"
        )
    return None


def in_photo(vertices: torch.Tensor, parameters: FaceParameters, box: Box) -> np.ndarray:
    """(1, N, 3) mm in the model frame -> (N, 3) in the photo: x, y in pixels and depth in the same unit, smaller is
    nearer; perspective in x and y, the depth scaled as pixels are at the points' mean distance."""
    camera = to_camera(vertices, parameters.rotation, parameters.translation)
    posed = project(camera, parameters.focal, 1, 1)[0].detach().cpu().double().numpy()
    scale = float(parameters.focal[0]) * np.sqrt(box.w * box.h) / posed[:, 2].mean()
    return np.column_stack([from_crop(posed[:, :2], box), posed[:, 2] * scale])


def _mean_shape(fit: BfmFit) -> BfmFit:
    return BfmFit(np.zeros_like(fit.shape), np.zeros_like(fit.expression), fit.translation, fit.scale)


def not_computed(reason: str) -> dict:
    """The summary's `dense` where there is none."""
    return {"computed": False, "reason": reason}


def figures(errors: Errors, yaw: np.ndarray, seed: int = 0) -> dict:
    """The summary's `sparse_3d_nme` and `dense`, by the yaw (N,) of the truth, degrees.

    `dense`: whether it was `computed`, and if not the `reason`; `vertices` compared, `label_offset_px`: under a pixel
    where BFM and the conventions are the right ones.
    """
    known = np.isfinite(errors.by_name["sparse_3d_nme"]).all()
    sparse = _scored("sparse_3d_nme", errors.by_name, yaw, seed) if known else None
    if errors.reason:
        return {"sparse_3d_nme": sparse, "dense": not_computed(errors.reason)}
    scored = {name: _scored(name, errors.by_name, yaw, seed) for name in DENSE}
    about = {"computed": True, "vertices": errors.vertices, "label_offset_px": errors.label_offset_px}
    return {"sparse_3d_nme": sparse, "dense": about | scored}


def _scored(name: str, errors: Mapping[str, np.ndarray], yaw: np.ndarray, seed: int) -> dict:
    values, strata = errors[name], metrics.yaw_bin(yaw)
    score = {
        "by_yaw": metrics.by_yaw(values, yaw),
        "interval": bootstrap_interval(values, seed=seed, strata=strata),
        "protocol": metrics.PROTOCOLS[name],
    }
    mean = errors.get(f"{name} {ORACLE}")
    if mean is not None:
        score |= {ORACLE: metrics.by_yaw(mean, yaw), "difference": paired_difference(values, mean, seed, strata)}
    return score


def lines(data: Mapping) -> list[str]:
    """The 3D part of a summary as lines of text."""
    scores, dense = {"sparse 3D": data["sparse_3d_nme"]}, data["dense"]
    if dense["computed"]:
        scores |= {"dense 3D": dense["dense_nme"], "reconstruction": dense["reconstruction_nme"]}
    text = []
    for name, score in scores.items():
        if score is None:
            continue
        nme = score["by_yaw"]
        bins = " / ".join(f"{nme[key]:.2f}" for key in metrics.YAW_BINS)
        means = f"balanced {nme['balanced_mean']:.2f}, over images {nme['image_mean']:.2f}"
        text.append(f"{name} NME %: {bins}, {means} ({nme['images'][-1]} images)")
        if "difference" in score:
            text.append(f"  minus {ORACLE} (uses the truth): {in_words(score['difference'])}")
    if not dense["computed"]:
        text.append(f"dense and reconstruction NME: not computed: {dense['reason']}")
    return text
