"""Fitting a face model to 68 points, no network: pose, identity and expression.

    minimise  sum_k w_k |q_k - p_k|^2 / size^2  +  ridge (|a|^2 + |e|^2 / EXPRESSION_VARIANCE)
    q_k = c + (s R x_k(a, e) + o - c)_xy / (1 - kappa (s R x_k)_z)

x_k: the model's point k, z towards the camera; size: sqrt(w h) of the points' box, so that the first sum is in squared
NME and `ridge` is the variance of a point's noise in that unit (1e-4: 1 % of the face), a and e being counted in
standard deviations. kappa = 0 is scaled orthography, kappa = 1 / focal the perspective camera of
`mlanet_lib.geometry.camera` with s = focal / t_z. The error of a fit is the least that a network predicting this model
can reach on such landmarks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.geometry.alignment import ScaledOrthographic, rotation_vector, scaled_orthographic
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.geometry.lighting import ambient
from mlanet_lib.parameters import FaceParameters

EXPRESSION_VARIANCE = 0.1
"""Of an activation (ARKit's, in [0, 1]) in photos of all kinds: most are 0, few 1. The ridge of expressions is divided
by it; a model whose expressions are counted in standard deviations (BFM's) has 1."""
TURN_ERROR = 1.0
"""Degrees, about each axis, that a rotation known from elsewhere is uncertain by."""
BLOCK = 256  # samples fitted at once: bounds memory
TURN, SCALE, OFFSET, MODES = slice(0, 3), 3, slice(4, 6), slice(6, None)
"""Columns of the unknowns: a rotation vector, the log of the scale, the offset in face sizes, the coefficients."""
_CENTRE = np.array([0.5, -0.5])  # of a picture of side 1, y up


class LandmarkFit(NamedTuple):
    """Fits of N faces. pose: s, R, o above (`ScaledOrthographic`; its plane is y-up: a picture's y, negated); identity:
    (N, Ki) and expression: (N, Ke), standard deviations and activations; points: (N, 68, 2), the fitted points, y down;
    known: (N, Ki + Ke) in [0, 1], how much of a coefficient the points tell (`fit_points`), 1 where it was
    given; focal: of the camera, or None."""

    pose: ScaledOrthographic
    identity: np.ndarray
    expression: np.ndarray
    points: np.ndarray
    known: np.ndarray
    focal: float | None

    def parameters(self, model: MorphableModel) -> FaceParameters:
        """The fits as parameters of a picture; albedo is the mean's, light is ambient. Fits without a focal length are
        a ValueError."""
        if self.focal is None:
            raise ValueError("an orthographic fit has no distance")
        scale, rotation, offset = self.pose
        place = (offset - _CENTRE) / scale[:, None] * [1, -1]
        identity, expression, albedo, turn, translation = (
            torch.as_tensor(array, dtype=torch.float32)
            for array in (
                self.identity,
                self.expression,
                np.zeros((len(scale), model.n_albedo)),
                rotation,
                np.column_stack([place, self.focal / scale]),
            )
        )
        focal = torch.full((len(scale),), self.focal)
        return FaceParameters(identity, expression, albedo, turn, translation, ambient(len(scale)), focal)


@dataclass(frozen=True)
class FitSettings:
    """How a face model is fitted. ridge, variance: of a point's noise and of activations, where the model's expressions
    are ARKit's (`ridge` and EXPRESSION_VARIANCE above). iterations: of Gauss-Newton. focal: None for scaled
    orthography, in any pixels; else the camera's in picture widths, and the points are in picture widths too, [0, 1]
    inside. labels: the definition that the landmarks follow, one of `face_model.points.LABEL_SETS`. turn: standard
    deviation of known rotations about each axis, degrees."""

    ridge: float = 1e-4
    iterations: int = 15
    focal: float | None = None
    labels: str = "3ddfa"
    variance: float = EXPRESSION_VARIANCE
    turn: float = TURN_ERROR


_USUAL = FitSettings()


def fit_landmarks(
    model: MorphableModel,
    points: np.ndarray,
    weights: np.ndarray | None = None,
    settings: FitSettings = _USUAL,
    coefficients: np.ndarray | None = None,
    progress: bool = False,
    rotations: np.ndarray | None = None,
) -> LandmarkFit:
    """Fit pose, identity and expression to landmarks (N, 68, 2), y down; weights: (N, 68) >= 0.

    coefficients: (N, Ki + Ke) if the shapes are known; then only the pose is fitted. rotations: (N, 3, 3), what another
    source says of them, uncertain by `settings.turn`: nearly frontal points hardly tell a turn from a shape. Starts
    from the mean shape's best orthographic pose, then Gauss-Newton on everything at once. The fitted landmarks follow
    the same definition as the given ones. Landmarks that are not finite or span no box are a ValueError.
    """
    points = np.asarray(points, np.float64)
    size = np.sqrt(np.ptp(points, axis=1).prod(1))
    if points.shape[1:] != (68, 2) or not (np.isfinite(points).all() and (size > 0).all()):
        raise ValueError("points are (N, 68, 2), finite, and span a box each")
    weights = np.ones(points.shape[:2]) if weights is None else np.broadcast_to(weights, points.shape[:2])
    mean, basis = landmark_basis(model, settings.labels)
    shapes = np.broadcast_to(mean, (len(points), 68, 3))
    if coefficients is not None:
        shapes = mean + np.einsum("kcm,nm->nkc", basis, coefficients)
        basis = basis[..., :0]
    ridge = np.full(basis.shape[2], float(settings.ridge))
    if coefficients is None and "jawOpen" in model.expression_names:
        ridge[model.n_identity :] /= settings.variance
    hold = settings.ridge / np.deg2rad(settings.turn) ** 2
    blocks = []
    for i in tqdm(range(0, len(points), BLOCK), "fitting", unit="block", disable=not progress):
        at = slice(i, i + BLOCK)
        goal = points[at] * [1, -1]
        known_turns = None if rotations is None else (rotations[at], hold)
        blocks.append(
            fit_points(shapes[at], basis, goal, weights[at], ridge, settings.iterations, settings.focal, known_turns)
        )
    pose = ScaledOrthographic(*(np.concatenate(column) for column in zip(*(b[0] for b in blocks), strict=True)))
    found, fitted, known = (np.concatenate([b[k] for b in blocks]) for k in (1, 2, 3))
    if coefficients is not None:
        found = np.asarray(coefficients, np.float64)
        known = np.ones_like(found)
    identity, expression = np.split(found, [model.n_identity], 1)
    return LandmarkFit(pose, identity, expression, fitted * [1, -1], known, settings.focal)


def landmark_basis(model: MorphableModel, labels: str = "3ddfa") -> tuple[np.ndarray, np.ndarray]:
    """The 68 landmarks of the mean face where the label set `labels` has them, (68, 3) mm, and what each coefficient
    adds, (68, 3, Ki + Ke)."""
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

    Their `alignment.mean_rotation` is R0, the fixed rotation from the model's frame to BFM's, R_BFM = R_model R0, for
    `MorphableModel(bfm_rotation=...)`. Compute it from training photos, never from those of a benchmark.

    points: (N, 68, 2) by 3DDFA's definition, y down, in sides of the crop that shows the face, [0, 1] inside;
    rotations: (N, 3, 3) the poses R_BFM of the same faces, y up, as `camera` has it (3DDFA's R). R_model is the pose of
    the face model fitted to the points: ridge and focal are those with which training labels are made
    (`data.sources`), since the pose that a network learns is that of such fits.
    """
    fitted = fit_landmarks(model, points, settings=FitSettings(ridge=ridge, focal=focal)).pose.rotation
    return np.swapaxes(fitted, 1, 2) @ np.asarray(rotations, np.float64)


def fit_points(
    mean: np.ndarray,
    basis: np.ndarray,
    goal: np.ndarray,
    weights: np.ndarray,
    ridge: float | np.ndarray,
    iterations: int = 15,
    focal: float | None = None,
    known_turns: tuple[np.ndarray, float] | None = None,
) -> tuple[ScaledOrthographic, np.ndarray, np.ndarray, np.ndarray]:
    """Pose and coefficients (N, M) for any K points of a shape, the fitted points (N, K, 2), y up, and how much of each
    coefficient the points tell (N, M).

    mean: (K, 3) mm, or (N, K, 3) one for each; basis: (K, 3, M); goal: (N, K, 2), y up; weights: (N, K); ridge: one, or
    (M,) one for each coefficient; known_turns: rotations (N, 3, 3) and the ridge that pulls the pose to them, in the
    first sum's unit per radian^2; the rest as in `FitSettings`.

    Gauss-Newton: with J the derivative of q by the unknowns (`TURN`, `SCALE`, `OFFSET`, `MODES`), both weighted by
    sqrt(w) / size, D the ridge on the coefficients c and nearly nothing on the pose, each step d solves
    (J^T J + D) d = J^T (p - q) - D c. No step turns or scales by more than 0.5. The
    posterior covariance of the unknowns is (J^T J + D)^-1 in units in which the ridge is a prior's inverse variance; so
    1 - D_m (J^T J + D)^-1_mm is the share of a coefficient's prior variance that the points take away: the fit finds
    about that share of the true coefficient, the rest is the prior's pull to the mean.
    """
    count, modes = len(goal), basis.shape[2]
    size = np.sqrt(np.ptp(goal, axis=1).prod(1))
    pose = scaled_orthographic(mean.mean(0) if mean.ndim == 3 else mean, goal)
    coefficients = np.zeros((count, modes))
    root = (np.sqrt(weights) / size[:, None])[..., None]
    ridge = np.broadcast_to(ridge, modes)
    goals, hold = known_turns or (None, 1e-9)
    penalty = np.diag(np.concatenate([np.full(3, hold), np.full(3, 1e-9), ridge]))
    for _ in range(iterations):
        fitted, jacobian = _derivative(pose, mean + np.einsum("kcm,nm->nkc", basis, coefficients), basis, size, focal)
        jacobian = (jacobian * root[..., None]).reshape(count, -1, 6 + modes)
        transposed = np.swapaxes(jacobian, 1, 2)
        gradient = transposed @ ((goal - fitted) * root).reshape(count, -1, 1)
        gradient[:, MODES, 0] -= ridge * coefficients
        if goals is not None:
            gradient[:, TURN, 0] += hold * Rotation.from_matrix(goals @ np.swapaxes(pose.rotation, 1, 2)).as_rotvec()
        step = np.linalg.solve(transposed @ jacobian + penalty, gradient)[..., 0]
        step *= np.minimum(1, 0.5 / np.abs(step[:, : SCALE + 1]).max(1).clip(1e-12))[:, None]
        pose = ScaledOrthographic(
            pose.scale * np.exp(step[:, SCALE]),
            rotation_vector(step[:, TURN]) @ pose.rotation,
            pose.offset + step[:, OFFSET] * size[:, None],
        )
        coefficients = coefficients + step[:, MODES]
    spread = np.linalg.inv(transposed @ jacobian + penalty).diagonal(axis1=1, axis2=2)[:, MODES]
    fitted = _project(pose, mean + np.einsum("kcm,nm->nkc", basis, coefficients), focal)[0]
    return pose, coefficients, fitted, (1 - ridge * spread).clip(0, 1)


def _project(
    pose: ScaledOrthographic, shape: np.ndarray, focal: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, K, 2), y up, of shapes (N, K, 3); the turned and scaled shapes; their divisors (N, K, 1)."""
    placed = pose.scale[:, None, None] * (shape @ np.swapaxes(pose.rotation, 1, 2))
    if focal is None:
        return placed[..., :2] + pose.offset[:, None], placed, np.ones((*shape.shape[:2], 1))
    divisor = 1 - placed[..., 2:] / focal
    return _CENTRE + (placed[..., :2] + pose.offset[:, None] - _CENTRE) / divisor, placed, divisor


def _derivative(
    pose: ScaledOrthographic, shape: np.ndarray, basis: np.ndarray, size: np.ndarray, focal: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, K, 2) of shapes (N, K, 3), and their derivative (N, K, 2, 6 + M) by the unknowns."""
    points, placed, divisor = _project(pose, shape, focal)
    moved = np.zeros((*shape.shape, 6 + basis.shape[2]))  # how s R x + o moves
    turn = moved[..., TURN]
    x, y, z = np.moveaxis(placed, -1, 0)
    turn[:, :, 0, 1], turn[:, :, 0, 2] = z, -y  # w x (s R x), w about the camera's axes
    turn[:, :, 1, 0], turn[:, :, 1, 2] = -z, x
    turn[:, :, 2, 0], turn[:, :, 2, 1] = y, -x
    moved[..., SCALE] = placed
    moved[:, :, :2, OFFSET] = size[:, None, None, None] * np.eye(2)
    moved[..., MODES] = np.einsum("nij,kjm->nkim", pose.scale[:, None, None] * pose.rotation, basis)
    jacobian = moved[:, :, :2] / divisor[..., None]
    if focal is not None:
        jacobian += ((points - _CENTRE) / (focal * divisor))[..., None] * moved[:, :, 2:]
    return points, jacobian
