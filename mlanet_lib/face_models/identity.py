"""Identity modes: a Gaussian-process prior over the head's surface, conditioned on named anthropometric measures.

Luethi et al. (2018), Gaussian process morphable models. The first modes are one standard deviation each of the named
measures (decorrelated symmetrically, so that every mode stays nearest to the measure that it is called after), with the
least deformation that the prior allows; the rest is what the prior still leaves open once all measures are fixed.
"""

import numpy as np
from scipy.linalg import block_diag, cho_factor, cho_solve, eigh
from scipy.spatial.distance import cdist

from mlanet_lib.face_models.chart import MIRROR
from mlanet_lib.face_models.measures import MEASURES, measure_matrix
from mlanet_lib.face_models.semilandmarks import read_table

# amplitude (mm) and length (mm) of the prior's smooth deformations, from the whole head down to a nostril
SCALES = ((4.5, 110.0), (2.4, 45.0), (1.2, 20.0), (0.4, 9.0))
ASYMMETRY = 0.35  # amplitude of the lopsided part relative to the symmetric one
N_SYMMETRIC, N_ASYMMETRIC = 12, 4


def mode_names() -> list[str]:
    """Names of the identity modes, in their order."""
    rest = [f"symmetric_{k}" for k in range(N_SYMMETRIC)] + [f"asymmetric_{k}" for k in range(N_ASYMMETRIC)]
    return [*MEASURES, *rest]


def _correlations(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prior covariance (mm^2) of one coordinate at points a (N,3) and b (M,3), and at a and the mirror images of b."""

    def covariance(other):
        squared = cdist(a, other, "sqeuclidean")
        return sum(amplitude**2 * np.exp(squared / (-2 * length**2)) for amplitude, length in SCALES)

    return covariance(b), covariance(b * MIRROR)


class _Prior:
    """Mirror-symmetric (sign +1) or opposite (sign -1) deformations of `points (N,3)`, seen at the vertices
    `sites (S,)` and conditioned on linear functions of the displacement there, `functions (M,S,3)`."""

    def __init__(self, points: np.ndarray, sites: np.ndarray, functions: np.ndarray, sign: float):
        direct, across = _correlations(points, points[sites])
        self.to_sites = [direct + sign * MIRROR[axis] * across for axis in range(3)]
        self.within = [part[sites] for part in self.to_sites]
        self.spread = [part @ functions[:, :, axis].T for axis, part in enumerate(self.to_sites)]
        covariance = sum(functions[:, :, axis] @ self.spread[axis][sites] for axis in range(3))
        self.factor = cho_factor(covariance + 1e-4 * np.diag(np.diag(covariance)))
        self.sites = sites

    def least(self, values: np.ndarray) -> np.ndarray:
        """(N,3,K): the likeliest deformations in which the functions take the `values (M,K)`."""
        weights = cho_solve(self.factor, values)
        return np.stack([part @ weights for part in self.spread], 1)

    def residual_modes(self, count: int, weight: np.ndarray) -> np.ndarray:
        """(N,3,count): leading modes, one standard deviation each, of what is left where all functions are 0;
        `weight (S,)` says how much each site counts."""
        size = len(self.sites)
        at_sites = np.concatenate([part[self.sites] for part in self.spread])
        covariance = block_diag(*self.within) - at_sites @ cho_solve(self.factor, at_sites.T)
        root = np.sqrt(np.tile(weight, 3))[:, None]
        covariance = root * (covariance + covariance.T) / 2 * root.T
        values, vectors = eigh(covariance, subset_by_index=(3 * size - count, 3 * size - 1))
        values, vectors = values[::-1], vectors[:, ::-1]
        sign = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
        vectors = root * vectors * sign / np.sqrt(values)
        correction = cho_solve(self.factor, at_sites.T @ vectors)
        parts = vectors.reshape(3, size, count)
        return np.stack([self.to_sites[k] @ parts[k] - self.spread[k] @ correction for k in range(3)], 1)


def _rigid(points: np.ndarray) -> np.ndarray:
    """(6,N,3): mean displacement along, and rotation about, each axis, as functions of the displacement of the face:
    a face model must not move the head as a whole, that is the pose's part."""
    weight = np.clip((points[:, 2] - 20) / 40, 0, 1)
    weight = weight / weight.sum()
    arm = (points - weight @ points) / 60.0
    shifts = np.eye(3)[:, None, :] * weight[:, None]
    turns = np.cross(np.eye(3)[:, None, :], arm[None]) * weight[:, None]
    return np.concatenate([shifts, turns])


def measured_statistics() -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations (M,) in mm and correlations (M,M) of the measures, from `measures.csv`."""
    header, *rows = read_table("measures.csv")
    if header[3:] != list(MEASURES) or [row[0] for row in rows] != list(MEASURES):
        raise ValueError("measures.csv does not list the measures of measures.py in their order")
    return np.array([float(row[2]) for row in rows]), np.array([[float(value) for value in row[3:]] for row in rows])


def identity_modes(points: np.ndarray, twin: np.ndarray, labels: dict[str, int], subset: np.ndarray) -> np.ndarray:
    """(N,3,K) mm per standard deviation over skin `points (N,3)`, in the order of `mode_names`; `subset` are vertices
    spread over the surface, at which the residual modes are solved."""
    measures = measure_matrix(labels, twin, len(points))
    measured = np.flatnonzero(np.abs(measures).sum((0, 2)))
    sites = np.union1d(measured, subset)
    spread_out = np.isin(sites, subset)
    rigid = np.zeros((6, len(sites), 3))
    weight = 0.05 + np.clip((points[sites, 2] - 25) / 35, 0, 1) * spread_out
    rigid[:, spread_out] = _rigid(points[sites[spread_out]])
    still, lopsided = rigid[[1, 2, 3]], rigid[[0, 4, 5]]  # the symmetric and the other rigid motions

    sd, correlation = measured_statistics()
    values, vectors = np.linalg.eigh(correlation)
    root = sd[:, None] * (vectors * np.sqrt(values.clip(0))) @ vectors.T
    symmetric = _Prior(points, sites, np.concatenate([measures[:, sites], still]), 1.0)
    opposite = _Prior(points, sites, lopsided, -1.0)
    return np.concatenate(
        [
            symmetric.least(np.concatenate([root, np.zeros((3, len(sd)))])),
            symmetric.residual_modes(N_SYMMETRIC, weight),
            ASYMMETRY * opposite.residual_modes(N_ASYMMETRIC, weight),
        ],
        2,
    )
