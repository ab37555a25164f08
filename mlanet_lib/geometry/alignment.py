"""Putting one shape onto another: similarity with known correspondences, pose from 2D points, ICP without.

All in NumPy float64. Shapes are in any unit and frame; results are new arrays, arguments stay as they are.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mlanet_lib.geometry.camera import nearest_rotations
from mlanet_lib.geometry.surface import Surface

_ROUNDS = 50  # of Levenberg-Marquardt, at most


@dataclass(frozen=True, eq=False)
class Similarity:
    """x -> scale * R x + t. scale: (...,); rotation: (..., 3, 3), proper; translation: (..., 3)."""

    scale: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """(..., N, 3) points -> the same shape, moved."""
        turned = np.asarray(points, np.float64) @ np.swapaxes(self.rotation, -1, -2)
        return np.asarray(self.scale)[..., None, None] * turned + np.asarray(self.translation)[..., None, :]

    def inverse(self) -> "Similarity":
        """The similarity that undoes this one."""
        scale, rotation = 1 / np.asarray(self.scale), np.swapaxes(self.rotation, -1, -2)
        moved = (rotation @ np.asarray(self.translation)[..., None])[..., 0]
        return Similarity(scale, rotation, -scale[..., None] * moved)


def similarity(source: np.ndarray, target: np.ndarray, scale: bool = True) -> Similarity:
    """The similarity (or, without `scale`, the rigid motion) that brings `source` nearest to `target`.

    Minimises sum_i |target_i - (s R source_i + t)|^2 in closed form (Umeyama 1991, equations 39-43), never with a
    reflection. source, target: (..., N, 3), corresponding; leading dimensions are a batch.
    Points that are not finite, or that lie on one line and so leave the rotation open, are a ValueError.
    """
    source, target = np.broadcast_arrays(np.asarray(source, np.float64), np.asarray(target, np.float64))
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("points must be finite")
    weight = 1 / source.shape[-2]
    source_mean, target_mean = (weight * source).sum(-2, keepdims=True), (weight * target).sum(-2, keepdims=True)
    a, b = source - source_mean, target - target_mean
    u, spread, vt = np.linalg.svd(np.swapaxes(b, -1, -2) @ (weight * a))
    if (spread[..., 1] <= 1e-12 * np.sqrt((weight * a**2).sum((-1, -2)) * (weight * b**2).sum((-1, -2)))).any():
        raise ValueError("the points lie on one line: the rotation is not determined")
    sign = np.ones_like(spread)
    sign[..., 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation = (u * sign[..., None, :]) @ vt
    factor = (spread * sign).sum(-1) / (weight * a**2).sum((-1, -2)) if scale else np.ones(spread.shape[:-1])
    moved = factor[..., None] * (rotation @ np.swapaxes(source_mean, -1, -2))[..., 0]
    return Similarity(factor, rotation, target_mean[..., 0, :] - moved)


class ScaledOrthographic(NamedTuple):
    """x -> scale * (R x)[:2] + offset, in a y-up plane. scale: (N,); rotation: (N, 3, 3); offset: (N, 2)."""

    scale: np.ndarray
    rotation: np.ndarray
    offset: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """(L, 3) points -> (N, L, 2)."""
        return self.scale[:, None, None] * (points @ np.swapaxes(self.rotation, 1, 2))[..., :2] + self.offset[:, None]


def scaled_orthographic(points: np.ndarray, image_points: np.ndarray) -> ScaledOrthographic:
    """The pose under scaled orthographic projection that fits 2D points best, in squared distance.

    points: (L, 3), not in one plane; image_points: (N, L, 2) with y **up** (negate a picture's y). Starts from the
    linear affine camera (its rows made orthonormal: POS, DeMenthon and Davis 1995), then Levenberg-Marquardt on
    rotation, scale and offset, all N at once.
    """
    points, image_points = np.asarray(points, np.float64), np.asarray(image_points, np.float64)
    centre = points.mean(0)
    x, goal = points - centre, image_points - image_points.mean(1, keepdims=True)
    affine = np.swapaxes(goal, 1, 2) @ np.linalg.pinv(x).T
    u, singular, vt = np.linalg.svd(affine, full_matrices=False)
    rows = u @ vt
    pose = ScaledOrthographic(
        singular.mean(1), np.concatenate([rows, np.cross(rows[:, :1], rows[:, 1:])], 1), np.zeros((len(goal), 2))
    )
    damping, error = np.full(len(goal), 1e-3), ((goal - pose.apply(x)) ** 2).sum((1, 2))
    for _ in range(_ROUNDS):
        candidate = _damped_step(pose, x, goal, damping)
        trial = ((goal - candidate.apply(x)) ** 2).sum((1, 2))
        better = trial < error
        gained = (error - trial)[better] > 1e-12 * error[better]
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, 1e9)
        pose = ScaledOrthographic(
            *(np.where(better.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(pose, candidate, strict=True))
        )
        error = np.where(better, trial, error)
        if better.any() and not gained.any():
            break
    shift = pose.scale[:, None] * (pose.rotation @ centre)[:, :2]
    return pose._replace(offset=pose.offset + image_points.mean(1) - shift)


def _damped_step(pose: ScaledOrthographic, x: np.ndarray, goal: np.ndarray, damping: np.ndarray) -> ScaledOrthographic:
    """A step of Levenberg and Marquardt, from poses of points x (L, 3) towards goal (N, L, 2); damping: (N,)."""
    turned = x @ np.swapaxes(pose.rotation, 1, 2)
    scale = pose.scale[:, None]
    jacobian = np.zeros((*goal.shape, 6))
    jacobian[..., 0, 1], jacobian[..., 0, 2] = scale * turned[..., 2], -scale * turned[..., 1]
    jacobian[..., 1, 0], jacobian[..., 1, 2] = -scale * turned[..., 2], scale * turned[..., 0]
    jacobian[..., 3] = scale[..., None] * turned[..., :2]
    jacobian[..., 0, 4] = jacobian[..., 1, 5] = 1
    jacobian = jacobian.reshape(len(goal), -1, 6)
    normal = np.swapaxes(jacobian, 1, 2) @ jacobian
    gradient = np.swapaxes(jacobian, 1, 2) @ (goal - pose.apply(x)).reshape(len(goal), -1, 1)
    diagonal = np.einsum("nii->ni", normal)
    step = np.linalg.solve(normal + damping[:, None, None] * diagonal[:, None] * np.eye(6), gradient)[..., 0]
    return ScaledOrthographic(
        pose.scale * np.exp(step[:, 3]), rotation_vector(step[:, :3]) @ pose.rotation, pose.offset + step[:, 4:]
    )


def rotation_vector(vector: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3), radians (Rodrigues' formula)."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    cross = np.zeros((*vector.shape[:-1], 3, 3))
    cross[..., [2, 0, 1], [1, 2, 0]], cross[..., [1, 2, 0], [2, 0, 1]] = vector, -vector
    sinc, versine = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi)) ** 2 / 2
    return np.eye(3) + sinc * cross + versine * (cross @ cross)


def mean_rotation(rotations: np.ndarray) -> np.ndarray:
    """The chordal mean (3, 3) of rotations (N, 3, 3): the one with the least sum of squared distances |R - R_n|_F^2.

    It is the rotation nearest to their arithmetic mean. Rotations that point every way and so have no mean are a
    ValueError.
    """
    mean = np.asarray(rotations, np.float64).mean(0)
    singular = np.linalg.svd(mean, compute_uv=False)
    if not singular[1] + np.sign(np.linalg.det(mean)) * singular[2] > 1e-9:
        raise ValueError("the rotations have no mean")
    return nearest_rotations(mean)


@dataclass(frozen=True, eq=False)
class IcpResult:
    """transform: source to target; rmse: of the points that the fit kept, in the target's unit; kept: their share;
    converged: the last step was below the tolerance; iterations: steps made; surface: the source, for further queries.
    """

    transform: Similarity
    rmse: float
    kept: float
    converged: bool
    iterations: int
    surface: Surface


def icp(
    source_vertices: np.ndarray,
    source_faces: np.ndarray,
    target_points: np.ndarray,
    initial: Similarity,
    trim: float = 0.0,
    iterations: int = 60,
    tolerance: float = 1e-7,
) -> IcpResult:
    """Iterative closest point: moves a mesh onto a point cloud, from `initial`, with isotropic scale.

    Every target point is paired with its exact nearest point of the mesh's surface; the step minimises the distances
    along the pairs' directions (point-to-plane, Chen and Medioni 1992; linearised rotation, log scale, translation;
    slightly damped). Distances are in the target's unit, so that the mesh cannot shrink its error away. Pairs on the
    mesh's open rim are left out: points beyond the mesh have no partner.

    trim: share of the farthest pairs left out of each step (outliers; trimmed ICP, Chetverikov 2002). tolerance:
    largest relative step at which the search ends. Fewer than 10 usable pairs are a ValueError.
    """
    surface = Surface(source_vertices, source_faces)
    points = np.asarray(target_points, np.float64)
    transform, converged = initial, False
    for done in range(iterations):  # noqa: B007
        pairs = _pairs(surface, points, transform, trim)
        step = _point_to_plane_step(pairs)
        transform = step.after(transform)
        if step.size < tolerance:
            converged = True
            break
    pairs = _pairs(surface, points, transform, trim)
    rmse = float(np.sqrt((pairs.gaps**2).mean()))
    return IcpResult(transform, rmse, len(pairs.gaps) / len(points), converged, done + 1, surface)


class _Pairs(NamedTuple):
    """on: (M, 3) points of the moved mesh; directions: (M, 3) unit; gaps: (M,) signed, target minus mesh."""

    on: np.ndarray
    directions: np.ndarray
    gaps: np.ndarray


def _pairs(surface: Surface, points: np.ndarray, transform: Similarity, trim: float) -> _Pairs:
    closest = surface.closest(transform.inverse().apply(points))
    usable = ~surface.on_border(closest)
    distances = closest.distances * float(transform.scale)
    if trim and usable.any():
        usable &= distances <= np.quantile(distances[usable], 1 - trim)
    if usable.sum() < 10:
        raise ValueError(f"ICP has only {int(usable.sum())} pairs left: the shapes do not overlap")
    on = transform.apply(closest.points[usable])
    gaps, distances = points[usable] - on, distances[usable]
    normals = surface.normals(closest.face_index[usable]) @ transform.rotation.T
    # the direction of the gap is the gradient of the distance; where there is no gap to speak of, the face's normal is
    apart = distances > 1e-9 * np.abs(on).max()
    directions = np.where(apart[:, None], gaps / np.where(apart, distances, 1)[:, None], normals)
    return _Pairs(on, directions, np.where(apart, distances, 0.0))


@dataclass(frozen=True, eq=False)
class _Step:
    centre: np.ndarray
    turn: np.ndarray
    log_scale: float
    shift: np.ndarray
    size: float

    def after(self, before: Similarity) -> Similarity:
        factor, rotation = np.exp(self.log_scale), rotation_vector(self.turn)
        translation = factor * rotation @ (before.translation - self.centre) + self.centre + self.shift
        return replace(
            before,
            scale=np.asarray(before.scale * factor),
            rotation=rotation @ before.rotation,
            translation=translation,
        )


def _point_to_plane_step(pairs: _Pairs) -> _Step:
    centre = pairs.on.mean(0)
    arm = pairs.on - centre
    radius = float(np.sqrt((arm**2).sum(1).mean()))
    arm = arm / radius
    along = (arm * pairs.directions).sum(1, keepdims=True)
    jacobian = np.concatenate([np.cross(arm, pairs.directions), pairs.directions, along], 1)
    normal = jacobian.T @ jacobian / len(jacobian)
    damped = normal + 1e-6 * np.trace(normal) * np.eye(len(normal))  # surfaces of revolution leave directions open
    solved = np.linalg.solve(damped, jacobian.T @ (pairs.gaps / radius) / len(jacobian))
    size = float(np.abs(solved).max())
    solved = solved * min(1.0, 0.3 / size) if size > 0 else solved
    return _Step(centre, solved[:3], float(solved[6]), solved[3:6] * radius, size)
