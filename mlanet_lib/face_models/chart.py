"""Smooth interpolation over the head's chart, the unit sphere, on which every point of the skin has one place."""

import numpy as np
from scipy.linalg import lu_factor, lu_solve
from scipy.spatial.distance import cdist

MIRROR = np.array([-1.0, 1.0, 1.0])


class ChartInterpolator:
    """Polyharmonic spline (kernel r^3 plus a linear polynomial; Wahba 1990) through values at points of the chart.

    `points (N,3)` unit vectors, `values (N,C)` of any unit; calling it with `(M,3)` unit vectors gives `(M,C)`.
    """

    def __init__(self, points: np.ndarray, values: np.ndarray):
        self.points = points
        n = len(points)
        tail = np.concatenate([np.ones((n, 1)), points], 1)
        system = np.zeros((n + 4, n + 4))
        system[:n, :n] = _cubed(cdist(points, points))
        system[:n, n:] = tail
        system[n:, :n] = tail.T
        right = np.concatenate([values, np.zeros((4, values.shape[1]))])
        self.weights = lu_solve(lu_factor(system), right)

    def __call__(self, queries: np.ndarray) -> np.ndarray:
        n = len(self.points)
        return (
            _cubed(cdist(queries, self.points)) @ self.weights[:n] + self.weights[n] + queries @ self.weights[n + 1 :]
        )


def _cubed(distance: np.ndarray) -> np.ndarray:
    return distance * distance * distance  # far quicker than ** 3


def mirrored(chart: np.ndarray, left: np.ndarray, right: np.ndarray, midline: np.ndarray):
    """A left half `chart (N,3)`, `left (N,3,C)` and the mirror image of what stands on the right, `right (N,3,C)`,
    joined to a whole head: `(M,3)`, `(M,3,C)`. Points where `midline (N,) bool` holds are not doubled."""
    side = ~midline
    return (
        np.concatenate([chart, chart[side] * MIRROR]),
        np.concatenate([left, right[side] * MIRROR[:, None]]),
    )
