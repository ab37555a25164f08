"""AFLW2000-3D judged in 3D: the 68 points with depth, the dense mesh, and the shape itself (SADRNet's protocols).

The dense truth is BFM's mesh from a photo's `Shape_Para`, `Exp_Para` and `Pose_Para`. It can be compared with a
prediction only vertex by vertex: a face model in another topology has no dense number here, and the result says so.
"""

import numpy as np
import torch

from mlanet_lib import metrics
from mlanet_lib.data.sample import Sample
from mlanet_lib.evaluation.systems import CropPrediction, prediction
from mlanet_lib.face_sources.bfm2009.raw import BfmFit, RawBfm
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.geometry.crops import Box, from_crop
from mlanet_lib.parameters import FaceParameters

DENSE = ("dense_nme", "reconstruction_nme")
ORACLE = "oracle-pose mean shape"


class DenseJudge:
    """A system as a function of crops, as `systems.run_batches` wants it, that notes its 3D errors on the way.

    system: with `predict_crops` and `model`, see `mlanet_lib.evaluation.systems`. samples, boxes: the photos in the
    order of the crops. bfm: for the dense numbers, or None. points: indices of BFM's vertices that count, None for all
    of them, neck and ears too where the model has them (PRNet and SADRNet count the face region alone, about 45,000).
    `errors`: by name, a number a photo, in %.
    """

    def __init__(
        self, system, samples: list[Sample], boxes: list[Box], bfm: RawBfm | None, points: np.ndarray | None = None
    ):
        self.system, self.samples, self.boxes, self.bfm = system, samples, boxes, bfm
        self.reason = why_not_dense(system, samples, bfm)
        self.errors: dict[str, list[float]] = {}
        self.offsets: list[float] = []
        self.done = 0
        if self.reason is None:
            index = bfm.correspondence(system.model)
            counted = np.arange(len(index)) if points is None else np.flatnonzero(np.isin(index, points))
            self.ours, self.theirs = counted, index[counted]

    def __call__(self, crops: torch.Tensor) -> CropPrediction:
        """(B, 3, S, S) -> the system's prediction for the next B photos."""
        with torch.no_grad():
            parameters = self.system.predict_crops(crops)
            vertices = self.system.model.vertices(parameters.identity, parameters.expression)
        for k in range(len(crops)):
            self._judge(self.done, vertices[k], parameters[k])
            self.done += 1
        return prediction(self.system.model, parameters)

    def _judge(self, number: int, vertices: torch.Tensor, parameters: FaceParameters) -> None:
        sample, model, box = self.samples[number], self.system.model, self.boxes[number]
        found = {"sparse_3d_nme": np.nan}
        if sample.nearness is not None:
            truth = np.column_stack([sample.landmarks, sample.nearness])
            points = in_photo(model.landmarks(vertices[None]), parameters, box)
            found["sparse_3d_nme"] = metrics.sparse_3d_nme(points[None], truth[None])[0]
        if self.reason is None:
            height = sample.image().shape[0]
            whole = self.bfm.posed(sample.bfm, sample.pose_degrees, height)
            self.offsets.append(np.linalg.norm(whole[self.bfm.landmarks, :2] - sample.landmarks, axis=1).mean())
            truth, eyes = whole[self.theirs][None], whole[self.bfm.landmarks[[36, 45]]][None]
            posed = in_photo(vertices[None], parameters, box)[None, self.ours]
            shape = vertices.cpu().double().numpy()[None, self.ours]
            mean = self.bfm.posed(_mean_shape(sample.bfm), sample.pose_degrees, height)[None, self.theirs]
            for suffix, drawn, solid in (("", posed, shape), (f" {ORACLE}", mean, mean)):
                found[f"dense_nme{suffix}"] = metrics.dense_nme(drawn, truth)[0]
                found[f"reconstruction_nme{suffix}"] = metrics.reconstruction_nme(solid, truth, eyes)[0]
        for name, value in found.items():
            self.errors.setdefault(name, []).append(float(value))

    def results(self, yaw_degrees: np.ndarray, seed: int = 0) -> dict:
        """The summary's `sparse_3d_nme` and `dense`, by the yaw (N,) of all photos' truth.

        `dense`: `computed`, and else the `reason`; `vertices` compared, `label_offset_px`: how far BFM's own points
        land from the labels (pt3d_68), under a pixel where BFM and the conventions are the right ones.
        """
        sparse = None
        if np.isfinite(self.errors["sparse_3d_nme"]).all():
            sparse = _scored("sparse_3d_nme", self.errors, yaw_degrees, seed)
        if self.reason:
            return {"sparse_3d_nme": sparse, "dense": not_computed(self.reason)}
        scored = {name: _scored(name, self.errors, yaw_degrees, seed) for name in DENSE}
        offset = float(np.mean(self.offsets))
        known = {"computed": True, "vertices": len(self.theirs), "label_offset_px": offset}
        return {"sparse_3d_nme": sparse, "dense": known | scored}


def not_computed(reason: str) -> dict:
    """The summary's `dense` where there is none."""
    return {"computed": False, "reason": reason}


def why_not_dense(system, samples: list[Sample], bfm: RawBfm | None) -> str | None:
    """The reason why dense and reconstruction errors cannot be had; None where they can."""
    if callable(system):
        return "the system gives points, not the parameters of a face model"
    if bfm is None:
        return "no BFM is given (3DDFA's Model_Shape.mat and Model_Exp.mat), from which the dense truth is made"
    if any(sample.truth is not None for sample in samples):
        return "the photos are synthetic faces, whose files carry no fit of BFM"
    if any(sample.bfm is None for sample in samples):
        return "a photo has no Shape_Para and Exp_Para"
    if bfm.correspondence(system.model) is None:
        return (
            f"the face model {system.model.name} ({system.model.n_vertices:,} vertices) has no known correspondence to "
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


def lines(data: dict) -> list[str]:
    """The 3D part of a summary as lines of text."""
    scores = {"sparse 3D": data.get("sparse_3d_nme")}
    dense = data["dense"]
    if dense["computed"]:
        scores |= {"dense 3D": dense["dense_nme"], "reconstruction": dense["reconstruction_nme"]}
    text = []
    for name, score in scores.items():
        if score is not None:
            bins = " / ".join(f"{score['by_yaw'][key]:.2f}" for key in metrics.YAW_BINS)
            means = f"balanced {score['by_yaw']['balanced_mean']:.2f}, over images {score['by_yaw']['image_mean']:.2f}"
            text.append(f"{name} NME %: {bins}, {means} ({score['by_yaw']['images'][-1]} images)")
            if "difference" in score:
                d = score["difference"]
                change = f"{d['difference']:+.2f} ({d['low']:+.2f} to {d['high']:+.2f}), {d['verdict']}"
                text.append(f"  minus {ORACLE} (uses the truth): {change}")
    if not dense["computed"]:
        text.append(f"dense and reconstruction NME: not computed: {dense['reason']}")
    return text


def _mean_shape(fit: BfmFit) -> BfmFit:
    return BfmFit(np.zeros_like(fit.shape), np.zeros_like(fit.expression), fit.translation, fit.scale)


def _scored(name: str, errors: dict[str, list[float]], yaw: np.ndarray, seed: int) -> dict:
    values, strata = np.array(errors[name]), metrics.yaw_bin(yaw)
    score = {
        "by_yaw": metrics.by_yaw(values, yaw),
        "interval": metrics.bootstrap_interval(values, seed=seed, strata=strata),
        "protocol": metrics.PROTOCOLS[name],
    }
    if mean := errors.get(f"{name} {ORACLE}"):
        score[ORACLE] = metrics.by_yaw(np.array(mean), yaw)
        score["difference"] = metrics.paired_difference(values, np.array(mean), seed, strata=strata)
    return score
