"""Reconstruction against scans without correspondence, each under a named protocol (see `mlanet_lib.metrics`).

The prediction is laid onto the scan by landmarks and ICP; what is left is a distance between surfaces. It is blind to
how the surfaces slid along each other (arXiv 2505.18025): where correspondence is known, `metrics.vertex_error` is the
truer number. The papers give neither PRNet's crop nor ICP's settings; ours are named in the result.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.alignment import IcpResult, Similarity, icp, similarity
from mlanet_lib.geometry.surface import Surface

CROP_MM, FIT_POINTS, TRIM, ITERATIONS = 95.0, 4000, 0.05, 60
FEWEST = 100
"""Scan points that a crop holds at least."""
PARAMETERS = {
    "crop_mm": CROP_MM,
    "scale": "isotropic",
    "icp_points": FIT_POINTS,
    "icp_trim": TRIM,
    "icp_rim_pairs": "left out of the fit",
    "icp_iterations": ITERATIONS,
}
SETTINGS = (
    f"here: crop {CROP_MM:g} mm, scale isotropic, ICP on at most {FIT_POINTS:,} points, farthest {100 * TRIM:g} % and "
    f"pairs on the mesh's rim left out of the fit, at most {ITERATIONS} iterations"
)
PROTOCOLS = {
    "florence_deng": (
        "MICC Florence (Deng et al. 2019): scan cropped to 95 mm around the nose tip, similarity from landmarks, ICP "
        "with isotropic scale, point-to-plane distance from scan vertices to the predicted surface, RMSE in mm"
    ),
    "florence_prnet": (
        "MICC Florence (PRNet, Feng et al. 2018, after Jackson et al. 2017): scan rendered at a grid of yaw and pitch, "
        "similarity from landmarks, ICP with isotropic scale, mean distance from the predicted vertices to the nearest "
        "scan points / 3D outer interocular distance of the scan (points 36 and 45), %"
    ),
}


class Mesh(NamedTuple):
    """A mesh with landmarks: vertices (V, 3), faces (F, 3) (none: a cloud), landmarks (L, 3), the same L >= 3 points on
    both meshes that are compared."""

    vertices: np.ndarray
    faces: np.ndarray
    landmarks: np.ndarray


def florence_deng(predicted: Mesh, scan: Mesh, nose_tip: np.ndarray) -> dict:
    """Reconstruction error against a scan: Deng et al.'s protocol for MICC Florence.

    predicted: in any unit and pose; scan, nose_tip (3,): mm. The scan is cropped to 95 mm around its nose tip; the
    prediction is brought onto it by the similarity of the landmarks, then by ICP with isotropic scale on a seeded
    choice of the cropped points (the farthest ones and pairs on the mesh's rim left out of the *fit*). `rmse_mm` is
    over **all** cropped points: distance to the plane of the surface at its nearest point, which is the true distance,
    also at edges and at the rim. Also returns `mean_mm`, `points`, `border_share` (points beyond the mesh's rim: their
    distance says that the mesh ends, not that it is wrong), `scale`, `converged`, `transform` (prediction to scan),
    `parameters` and `protocol`, which holds them in words. Landmarks that fit no similarity, or a crop that holds fewer
    than 100 points, are a UserError.
    """
    cropped = _cropped(scan.vertices, nose_tip)
    fit = _laid_on(predicted, cropped, scan.landmarks)
    distances, border = surface_distances(fit.surface, fit.transform, cropped)
    found = {
        "rmse_mm": float(np.sqrt((distances**2).mean())),
        "mean_mm": float(distances.mean()),
        "points": len(cropped),
        "border_share": float(border.mean()),
    }
    return found | _record(fit, "florence_deng")


def florence_prnet(predicted: Mesh, scan: Mesh, nose_tip: np.ndarray, outer_eyes: np.ndarray) -> dict:
    """Reconstruction error against a scan: PRNet's protocol for MICC Florence. Not comparable with Deng's.

    Arguments as in `florence_deng`; outer_eyes (2, 3): the scan's points 36 and 45, mm. The prediction is laid onto the
    scan as there; its vertices within 95 mm of the scan's nose tip are judged (the published meshes are faces; a head's
    back and neck are not). `nme_percent` is their mean distance to the nearest **point** of the scan over the distance
    of the outer eye corners, as published. It depends on the spacing of the scan's points; `surface_nme_percent`, to
    the nearest point of the scan's **surface**, does not (NaN for a cloud). Also returns `points` (vertices judged),
    `interocular_mm`, `scale`, `converged`, `transform`, `parameters`, `protocol`.
    """
    fit = _laid_on(predicted, _cropped(scan.vertices, nose_tip), scan.landmarks)
    judged = fit.transform.apply(predicted.vertices)
    judged = judged[np.linalg.norm(judged - np.asarray(nose_tip), axis=1) <= CROP_MM]
    if not len(judged):
        raise UserError(f"no vertex of the prediction lies within {CROP_MM:g} mm of the scan's nose tip")
    apart = float(np.linalg.norm(np.subtract(*np.asarray(outer_eyes, np.float64))))
    if not apart > 0:
        raise UserError("the scan's outer eye corners (points 36 and 45) lie in one place")
    nearest = cKDTree(np.asarray(scan.vertices, np.float64)).query(judged)[0].mean()
    surface = Surface(scan.vertices, scan.faces).closest(judged).distances.mean() if len(scan.faces) else np.nan
    found = {
        "nme_percent": float(100 * nearest / apart),
        "surface_nme_percent": float(100 * surface / apart),
        "points": len(judged),
        "interocular_mm": apart,
    }
    return found | _record(fit, "florence_prnet")


def _cropped(points: np.ndarray, nose_tip: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    cropped = points[np.linalg.norm(points - np.asarray(nose_tip), axis=1) <= CROP_MM]
    if len(cropped) < FEWEST:
        raise UserError(f"only {len(cropped)} scan points within {CROP_MM:g} mm of the nose tip: is the scan in mm?")
    return cropped


def _laid_on(predicted: Mesh, points: np.ndarray, landmarks: np.ndarray) -> IcpResult:
    """The prediction laid onto scan points (P, 3): landmark start, then ICP with isotropic scale."""
    if len(points) > FIT_POINTS:
        points = points[np.random.default_rng(0).choice(len(points), FIT_POINTS, replace=False)]
    try:
        start = similarity(predicted.landmarks, landmarks)
        mesh = predicted.vertices, predicted.faces
        return icp(*mesh, points, start, trim=TRIM, iterations=ITERATIONS, tolerance=1e-5)
    except ValueError as error:
        raise UserError(f"the prediction cannot be laid onto the scan: {error}") from error


def _record(fit: IcpResult, protocol: str) -> dict:
    return {
        "scale": float(fit.transform.scale),
        "converged": fit.converged,
        "transform": fit.transform,
        "parameters": PARAMETERS,
        "protocol": f"{PROTOCOLS[protocol]}; {SETTINGS}",
    }


def surface_distances(surface: Surface, transform: Similarity, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances (P,) from points to a mesh moved by `transform`, in the points' unit, and which end on its rim."""
    closest = surface.closest(transform.inverse().apply(points))
    return closest.distances * float(transform.scale), surface.on_border(closest)
