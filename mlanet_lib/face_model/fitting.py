"""Fitting a face model to 68 points, no network: pose, identity and expression.

    minimise  sum_k w_k |q_k - p_k|^2 / size^2  +  ridge (|a|^2 + |e|^2 / EXPRESSION_VARIANCE)
    q_k = c + (s R x_k(a, e) + o - c)_xy / (1 - kappa (s R x_k)_z)

x_k: the model's point k, z towards the camera; size: sqrt(w h) of the points' box, so that the first sum is in squared
NME and `ridge` is the variance of a point's noise in that unit (1e-4: 1 % of the face), a and e being counted in
standard deviations. kappa = 0 is scaled orthography, kappa = 1 / focal the perspective camera of
`mlanet_lib.geometry.camera` with s = focal / t_z. What a fit leaves is the floor that a model and its definition of
the points put under any network that predicts it.
"""

from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.geometry.alignment import ScaledOrthographic, mean_rotation, rotation_vector, scaled_orthographic
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.geometry.lighting import ambient
from mlanet_lib.parameters import FaceParameters

EXPRESSION_VARIANCE = 0.1
"""Of an activation (ARKit's, in [0, 1]) in photos of all kinds: most are 0, few 1. The ridge of expressions is divided
by it; a model whose expressions are counted in standard deviations (BFM's) has 1."""
BLOCK = 256  # samples fitted at once: bounds memory


class LandmarkFit(NamedTuple):
    """Fits of N faces. pose: s, R, o above (`ScaledOrthographic`; its plane is y-up: a picture's y, negated); identity:
    (N, Ki) and expression: (N, Ke), standard deviations and activations; points: (N, 68, 2), the fitted points, y down;
    focal: of the camera, or None."""

    pose: ScaledOrthographic
    identity: np.ndarray
    expression: np.ndarray
    points: np.ndarray
    focal: float | None

    def parameters(self, model: MorphableModel) -> FaceParameters:
        """The fits as parameters of a picture (perspective fits only); albedo is the mean's, light is ambient."""
        scale, rotation, offset = self.pose
        place = (offset - [0.5, -0.5]) / scale[:, None] * [1, -1]
        arrays = (self.identity, self.expression, np.zeros((len(scale), model.n_albedo)), rotation)
        arrays += (np.column_stack([place, self.focal / scale]),)
        tensors = [torch.as_tensor(array, dtype=torch.float32) for array in arrays]
        return FaceParameters(*tensors, ambient(len(scale)), torch.full((len(scale),), self.focal))


def fit_landmarks(
    model: MorphableModel,
    points: np.ndarray,
    weights: np.ndarray | None = None,
    ridge: float = 1e-4,
    iterations: int = 15,
    focal: float | None = None,
    coefficients: np.ndarray | None = None,
    progress: bool = False,
    labels: str = "3ddfa",
    variance: float = EXPRESSION_VARIANCE,
) -> LandmarkFit:
    """Fit pose, identity and expression to points (N, 68, 2), y down; weights: (N, 68) >= 0.

    labels: the definition that the points follow, one of `face_model.LABEL_SETS`; the fitted points follow it too.
    variance: of activations, where the model's expressions are ARKit's.
    focal: None for scaled orthography, in any pixels; else the camera's in picture widths, and the points are in
    picture widths too, [0, 1] inside. coefficients: (N, Ki + Ke) where the shapes are known: then the pose alone is
    fitted. Starts from the mean shape's best orthographic pose, then Gauss-Newton on everything at once. Points that
    are not finite or span no box are a ValueError.
    """
    points = np.asarray(points, np.float64)
    size = np.sqrt(np.ptp(points, axis=1).prod(1))
    if points.shape[1:] != (68, 2) or not (np.isfinite(points).all() and (size > 0).all()):
        raise ValueError("points are (N, 68, 2), finite, and span a box each")
    weights = np.ones(points.shape[:2]) if weights is None else np.broadcast_to(weights, points.shape[:2])
    mean, basis = landmark_basis(model, labels)
    shapes = np.broadcast_to(mean, (len(points), 68, 3))
    if coefficients is not None:
        shapes = mean + np.einsum("kcm,nm->nkc", basis, coefficients)
        basis = basis[..., :0]
    ridge = np.full(basis.shape[2], float(ridge))
    if coefficients is None and "jawOpen" in model.expression_names:
        ridge[model.n_identity :] /= variance
    blocks = []
    for i in tqdm(range(0, len(points), BLOCK), "fitting", unit="block", disable=not progress):
        at = slice(i, i + BLOCK)
        blocks.append(fit_points(shapes[at], basis, points[at] * [1, -1], weights[at], ridge, iterations, focal))
    pose = ScaledOrthographic(*(np.concatenate(column) for column in zip(*(b[0] for b in blocks), strict=True)))
    found, fitted = (np.concatenate([b[k] for b in blocks]) for k in (1, 2))
    coefficients = found if coefficients is None else np.asarray(coefficients, np.float64)
    return LandmarkFit(pose, *np.split(coefficients, [model.n_identity], 1), fitted * [1, -1], focal)


def landmark_basis(model: MorphableModel, labels: str = "3ddfa") -> tuple[np.ndarray, np.ndarray]:
    """The 68 points of the mean face where the label set `labels` has them, (68, 3) mm, and what each coefficient adds,
    (68, 3, Ki + Ke)."""
    fields = (model.mean, model.identity_basis, model.expression_basis)
    mean, *bases = (model.landmarks(field[None], labels)[0].detach().cpu().double().numpy() for field in fields)
    return mean, np.concatenate(bases, 2)


def frame_differences(
    model: MorphableModel,
    points: np.ndarray,
    rotations: np.ndarray,
    ridge: float = 1e-3,
    focal: float | None = DEFAULT_FOCAL,
) -> np.ndarray:
    """(N, 3, 3): for each face the rotation R_model^T R_BFM between the model's pose and a known one in BFM's frame.

    points: (N, 68, 2) by 3DDFA's definition, y down, in sides of the crop that shows the face, [0, 1] inside;
    rotations: (N, 3, 3) the poses R_BFM of the same faces, y up, as `camera` has it (3DDFA's R). R_model is the pose of
    the face model fitted to the points: ridge and focal are those with which training labels are made
    (`datasets.sources`), since the pose that a network learns is that of such fits.
    """
    fitted = fit_landmarks(model, points, ridge=ridge, focal=focal).pose.rotation
    return np.swapaxes(fitted, 1, 2) @ np.asarray(rotations, np.float64)


def bfm_rotation(model: MorphableModel, points: np.ndarray, rotations: np.ndarray, **options) -> np.ndarray:
    """(3, 3) R0, the fixed rotation from a face model's frame to that of the Basel Face Model: R_BFM = R_model R0.

    The mean of `frame_differences` over faces (arguments and options as there), for `MorphableModel(bfm_rotation=...)`.
    It is to be taken from training photos, never from a benchmark's.
    """
    return mean_rotation(frame_differences(model, points, rotations, **options))


def _project(pose, shape, focal):
    """Points (N, K, 2), y up, of shapes (N, K, 3); the turned and scaled shapes; their divisors (N, K, 1)."""
    placed_shape = pose.scale[:, None, None] * (shape @ np.swapaxes(pose.rotation, 1, 2))
    if focal is None:
        return placed_shape[..., :2] + pose.offset[:, None], placed_shape, np.ones((*shape.shape[:2], 1))
    centre, divisor = np.array([0.5, -0.5]), 1 - placed_shape[..., 2:] / focal
    return centre + (placed_shape[..., :2] + pose.offset[:, None] - centre) / divisor, placed_shape, divisor


def fit_points(
    mean: np.ndarray,
    basis: np.ndarray,
    goal: np.ndarray,
    weights: np.ndarray,
    ridge: float | np.ndarray,
    iterations: int = 15,
    focal: float | None = None,
) -> tuple[ScaledOrthographic, np.ndarray, np.ndarray]:
    """Pose and coefficients (N, M) for any K points of a shape, and the fitted points (N, K, 2), y up.

    mean: (K, 3) mm, or (N, K, 3) one for each; basis: (K, 3, M); goal: (N, K, 2), y up; weights: (N, K); ridge: one, or
    (M,) one for each coefficient; the rest as in `fit_landmarks`.
    """
    (count, number), modes = goal.shape[:2], basis.shape[2]
    size = np.sqrt(np.ptp(goal, axis=1).prod(1))
    pose = scaled_orthographic(mean.mean(0) if mean.ndim == 3 else mean, goal)
    coefficients = np.zeros((count, modes))
    root = (np.sqrt(weights) / size[:, None])[..., None]
    ridge = np.broadcast_to(ridge, modes)
    penalty = np.diag(np.concatenate([np.full(6, 1e-9), ridge]))
    for _ in range(iterations):
        fitted, turned, divisor = _project(pose, mean + np.einsum("kcm,nm->nkc", basis, coefficients), focal)
        moved = np.zeros((count, number, 3, 6 + modes))  # how s R x + o moves
        x, y, z = np.moveaxis(turned, -1, 0)
        moved[:, :, 0, 1], moved[:, :, 0, 2] = z, -y  # a turn about the camera's axes: w x (s R x)
        moved[:, :, 1, 0], moved[:, :, 1, 2] = -z, x
        moved[:, :, 2, 0], moved[:, :, 2, 1] = y, -x
        moved[..., 3] = turned  # the log scale
        moved[:, :, 0, 4] = moved[:, :, 1, 5] = size[:, None]  # the offset, in face sizes
        moved[..., 6:] = np.einsum("nij,kjm->nkim", pose.scale[:, None, None] * pose.rotation, basis)
        jacobian = moved[:, :, :2] / divisor[..., None]
        if focal is not None:
            jacobian += ((fitted - [0.5, -0.5]) / (focal * divisor))[..., None] * moved[:, :, 2:]
        jacobian = (jacobian * root[..., None]).reshape(count, 2 * number, -1)
        transposed = np.swapaxes(jacobian, 1, 2)
        gradient = transposed @ ((goal - fitted) * root).reshape(count, 2 * number, 1)
        gradient[:, 6:, 0] -= ridge * coefficients
        step = np.linalg.solve(transposed @ jacobian + penalty, gradient)[..., 0]
        step *= np.minimum(1, 0.5 / np.abs(step[:, :4]).max(1).clip(1e-12))[:, None]  # no more than 30 degrees at once
        pose = ScaledOrthographic(
            pose.scale * np.exp(step[:, 3]),
            rotation_vector(step[:, :3]) @ pose.rotation,
            pose.offset + step[:, 4:6] * size[:, None],
        )
        coefficients = coefficients + step[:, 6:]
    return pose, coefficients, _project(pose, mean + np.einsum("kcm,nm->nkc", basis, coefficients), focal)[0]
