"""Metrics, each under a named protocol. NumPy; arguments may be tensors and are never changed.

A number means nothing without its protocol: the label set, the kind of mean, the alignment and the number of images.
Every docstring names the protocol of its function, and results carry the line of it from `PROTOCOLS`. NME is the
normalised mean error: a mean distance of points in percent of a size of the face.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.alignment import similarity

_BINS = (
    "bins by |yaw| of Pose_Para: <=30, (30,60], >60 degrees; balanced_mean = unweighted mean of the three bins, "
    "image_mean = mean over images"
)
_SPARSE = (
    "AFLW2000-3D sparse alignment (3DDFA): 68 points in 2D, mean distance / sqrt(w*h) of the tight box around the "
    f"ground-truth points, %; {_BINS}"
)
PROTOCOLS = {
    "sparse_nme": f"{_SPARSE}; original labels (pt3d_68)",
    "sparse_nme_reannotated": f"{_SPARSE}; reannotated labels (3DDFA's AFLW2000-3D-Reannotated.pts68)",
    "sparse_3d_nme": (
        "AFLW2000-3D sparse alignment in 3D (SADRNet): 68 points, mean 3D distance after subtracting the mean depth "
        f"from both / sqrt(w*h) of the ground-truth 68-point box, %; {_BINS}; original labels (pt3d_68)"
    ),
    "dense_nme": (
        "AFLW2000-3D dense alignment (SADRNet): vertices of BFM in known correspondence, mean 3D distance after "
        "subtracting the mean depth from both / sqrt(w*h) of the tight box around the dense ground truth, %; "
        f"ground truth from Shape_Para, Exp_Para, Pose_Para with BFM; {_BINS}"
    ),
    "reconstruction_nme": (
        "AFLW2000-3D reconstruction (SADRNet): vertices of BFM in known correspondence, similarity alignment with "
        "scale (no ICP), mean 3D distance / 3D outer-eye distance (points 36 and 45) of the ground truth, %; ground "
        f"truth from Shape_Para, Exp_Para, Pose_Para with BFM; {_BINS}"
    ),
    "pose_mae": (
        "AFLW2000-3D head pose: mean absolute error of pitch, yaw, roll in degrees (3DDFA's R = Rx Ry Rz) and their "
        "mean; geodesic: mean angle of the turn from the predicted to the true head; images with a ground-truth angle "
        "beyond 99 degrees left out"
    ),
    "vertex_error": (
        "per-vertex error: known correspondence, similarity alignment with scale over all vertices, mean Euclidean "
        "distance in mm of the ground truth"
    ),
}
YAW_EDGES = (30.0, 60.0)
YAW_BINS = ("bin_0_30", "bin_30_60", "bin_60_90")
LARGEST_ANGLE = 99.0
NOT_DISTINGUISHABLE = "not distinguishable"


def sparse_nme(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Sparse alignment error in percent, (N,): 3DDFA's protocol for AFLW2000-3D.

    predicted, truth: (N, 68, 2) in the same pixels (any crop or scale with the same factor for both axes). The mean
    distance of the landmarks over sqrt(w * h), the sides of the tight box around the ground-truth landmarks. A face
    whose true landmarks span no box (all on one horizontal or vertical line) is a UserError.
    """
    predicted, truth = _alike(predicted, truth, 2)
    return 100 * np.linalg.norm(predicted - truth, axis=2).mean(1) / _size(truth)


def sparse_3d_nme(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Sparse alignment error in 3D in percent, (N,): `dense_nme` of (N, 68, 3) landmarks, SADRNet's protocol."""
    if np.shape(truth)[1:2] != (68,):
        raise ValueError(f"sparse_3d_nme compares 68 points, not {np.shape(truth)[1:2]}")
    return dense_nme(predicted, truth)


def dense_nme(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dense alignment error in percent, (N,): SADRNet's protocol for AFLW2000-3D.

    predicted, truth: (N, V, 3) corresponding vertices: x, y and depth, all in the same pixels. Each side's mean depth
    over the vertices is subtracted, then the mean 3D distance is taken over sqrt(w * h), the sides of the tight box
    around all ground-truth vertices; one without area is a UserError.
    """
    predicted, truth = _alike(predicted, truth, 3)
    difference = predicted - truth
    difference[..., 2] -= difference[..., 2].mean(1, keepdims=True)
    return 100 * np.linalg.norm(difference, axis=2).mean(1) / _size(truth[..., :2])


def reconstruction_nme(predicted: np.ndarray, truth: np.ndarray, outer_eyes: np.ndarray) -> np.ndarray:
    """Reconstruction error in percent, (N,): SADRNet's protocol for AFLW2000-3D.

    predicted, truth: (N, V, 3) corresponding vertices, each in any unit and pose. The `vertex_error` over the distance
    of the outer eye corners. outer_eyes: (N, 2, 3), points 36 and 45 of the truth.
    """
    apart = np.linalg.norm(np.diff(np.asarray(outer_eyes, np.float64), axis=1)[:, 0], axis=1)
    return 100 * vertex_error(predicted, truth) / apart


def vertex_error(predicted: np.ndarray, truth: np.ndarray, scale: bool = True) -> np.ndarray:
    """Per-vertex reconstruction error in mm, (N,): correspondence known, similarity alignment (rigid without `scale`).

    predicted, truth: (N, V, 3) vertices of one topology, mm. Each prediction is brought onto its truth over all
    vertices (Umeyama: no reflection, no ICP), then the mean Euclidean distance is taken. The alignment takes position,
    rotation and size away: only shape is judged.
    """
    predicted, truth = _alike(predicted, truth, 3)
    return np.linalg.norm(similarity(predicted, truth, scale=scale).apply(predicted) - truth, axis=-1).mean(-1)


def _size(truth: np.ndarray) -> np.ndarray:
    """(N,) sqrt(w * h) of the boxes around true points (N, P, 2); a UserError that names the first of no area."""
    area = np.ptp(truth, axis=1).prod(1)
    if len(flat := np.flatnonzero(area == 0)):
        text = f"the true points of face {flat[0]} span no box, so no error can be given in percent of its size"
        raise UserError(f"{text} ({len(flat)} of {len(area)} faces)")
    return np.sqrt(area)


def _alike(predicted: np.ndarray, truth: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64; a ValueError unless they are corresponding points of N faces, (N, P, axes)."""
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != axes:
        raise ValueError(f"corresponding points are (N, P, {axes}) twice, not {predicted.shape} and {truth.shape}")
    return predicted, truth


def yaw_bin(yaw_degrees: np.ndarray) -> np.ndarray:
    """(N,) index of the protocol's bin by |yaw| in degrees: 0 for <= 30, 1 for (30, 60], 2 for > 60."""
    return np.searchsorted(YAW_EDGES, np.abs(np.asarray(yaw_degrees, np.float64)), side="left")


def by_yaw(nme: np.ndarray, yaw_degrees: np.ndarray) -> dict:
    """Summary of (N,) errors by head yaw (N,) in degrees, 3DDFA's protocol.

    Returns `bin_0_30`, `bin_30_60`, `bin_60_90`, `balanced_mean` (unweighted mean of the three, the literature's
    "mean"), `image_mean` (over images, lower where frontal faces prevail), and `images`: the counts of the three bins
    and of all. The mean of an empty bin, and with it the balanced mean, is NaN.
    """
    nme, bins = np.asarray(nme, np.float64), yaw_bin(yaw_degrees)
    groups = [nme[bins == k] for k in range(3)]
    means = [float(group.mean()) if len(group) else float("nan") for group in groups]
    return {
        **dict(zip(YAW_BINS, means, strict=True)),
        "balanced_mean": float(np.mean(means)),
        "image_mean": float(nme.mean()) if len(nme) else float("nan"),
        "images": [*map(len, groups), len(nme)],
    }


def pose_mae(predicted_degrees: np.ndarray, truth_degrees: np.ndarray) -> dict:
    """Head-pose error: mean absolute error in degrees of `pitch`, `yaw`, `roll`, their `mean`, the mean angle of the
    turn that leads from the predicted head to the true one (`geodesic`), and `images` counted.

    predicted_degrees, truth_degrees: (N, 3) Euler angles pitch, yaw, roll with 3DDFA's signs, of one frame: data sets'
    labels are those of BFM's (`MorphableModel.bfm_rotation` leads there). Images with any
    ground-truth angle beyond 99 degrees are left out (1,969 of AFLW2000-3D remain). Angles are compared as numbers,
    as published work does: an error of 350 counts as 350, and near a yaw of 90, where pitch and roll turn about nearly
    one axis, a small turn changes both by much. `geodesic` has neither fault. Without an image left, all errors are
    NaN.
    """
    keep = pose_counted(truth_degrees)
    found, true = (np.asarray(side, np.float64)[keep] for side in (predicted_degrees, truth_degrees))
    errors = np.column_stack([np.abs(found - true), _turn_between(found, true)])
    means = errors.mean(0) if len(errors) else np.full(4, np.nan)
    axes = dict(zip(("pitch", "yaw", "roll"), map(float, means), strict=False))
    return {**axes, "mean": float(means[:3].mean()), "geodesic": float(means[3]), "images": int(keep.sum())}


def _turn_between(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(N,) degrees: the angle of the rotation between two poses (N, 3), Euler angles in 3DDFA's order."""
    one, other = (Rotation.from_euler("XYZ", -side, degrees=True) for side in (found, true))
    return np.degrees((one.inv() * other).magnitude())


def pose_counted(truth_degrees: np.ndarray) -> np.ndarray:
    """(N,) bool: images that the head-pose protocol counts, no ground-truth angle beyond 99 degrees."""
    return np.all(np.abs(np.asarray(truth_degrees, np.float64)) <= LARGEST_ANGLE, axis=1)
