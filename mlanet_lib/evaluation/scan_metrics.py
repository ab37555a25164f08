"""Reconstruction against scans without correspondence, each under a named protocol (see `mlanet_lib.metrics`).

The prediction is laid onto the scan by landmarks and ICP; what is left is a distance between surfaces. It is blind to
how the surfaces slid along each other (arXiv 2505.18025): where correspondence is known, `metrics.vertex_error` is the
truer number.
"""

import numpy as np
from scipy.spatial import cKDTree

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.alignment import IcpResult, Similarity, icp, similarity
from mlanet_lib.geometry.surface import Surface

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


def florence_deng(
    predicted_vertices: np.ndarray,
    faces: np.ndarray,
    predicted_landmarks: np.ndarray,
    scan_points: np.ndarray,
    scan_landmarks: np.ndarray,
    nose_tip: np.ndarray,
    crop_mm: float = 95.0,
    fit_points: int = 4000,
    trim: float = 0.05,
    iterations: int = 60,
) -> dict:
    """Reconstruction error against a scan: Deng et al.'s protocol for MICC Florence.

    predicted_vertices (V, 3), faces (F, 3): the predicted mesh, any unit and pose. predicted_landmarks, scan_landmarks:
    (L, 3), the same L >= 3 points on both. scan_points (P, 3), scan_landmarks, nose_tip (3,): the scan, mm.

    The scan is cropped to `crop_mm` around its nose tip; the prediction is brought onto it by the similarity of the
    landmarks, then by ICP with isotropic scale, at most `iterations` steps, on `fit_points` of the cropped points
    (seeded choice; the farthest `trim` and pairs on the mesh's rim left out of the *fit*). `rmse_mm` is over **all**
    cropped points: distance to the plane of the surface at its nearest point, which is the true distance, also at edges
    and at the rim. Also returns `mean_mm`, `points`, `border_share` (points beyond the mesh's rim: their distance says
    that the mesh ends, not that it is wrong), `scale`, `converged`, `transform` (prediction to scan), `parameters` and
    `protocol`, which says them.
    Landmarks that fit no similarity, or a crop that holds fewer than 100 points, are a UserError.
    """
    chosen, cropped = _cropped(scan_points, nose_tip, crop_mm, fit_points)
    fit = _laid_on(predicted_vertices, faces, predicted_landmarks, chosen, scan_landmarks, trim, iterations)
    distances, border = surface_distances(fit.surface, fit.transform, cropped)
    parameters = _icp_parameters(crop_mm, fit_points, trim, iterations)
    return {
        "rmse_mm": float(np.sqrt((distances**2).mean())),
        "mean_mm": float(distances.mean()),
        "points": len(cropped),
        "border_share": float(border.mean()),
        "scale": float(fit.transform.scale),
        "converged": fit.converged,
        "transform": fit.transform,
        "parameters": parameters,
        "protocol": f"{PROTOCOLS['florence_deng']}; {_said(parameters)}",
    }


def florence_prnet(
    predicted_vertices: np.ndarray,
    faces: np.ndarray,
    predicted_landmarks: np.ndarray,
    scan_points: np.ndarray,
    scan_landmarks: np.ndarray,
    nose_tip: np.ndarray,
    outer_eyes: np.ndarray,
    scan_faces: np.ndarray | None = None,
    crop_mm: float = 95.0,
    fit_points: int = 4000,
    trim: float = 0.05,
    iterations: int = 60,
) -> dict:
    """Reconstruction error against a scan: PRNet's protocol for MICC Florence. Not comparable with Deng's.

    Arguments as in `florence_deng`; outer_eyes (2, 3): the scan's points 36 and 45, mm; scan_faces (F, 3) or None.

    The prediction is laid onto the scan as in `florence_deng`; its vertices within `crop_mm` of the scan's nose tip are
    judged (the published meshes are faces; a head's back and neck are not). `nme_percent` is their mean distance to the
    nearest **point** of the scan over the distance of the outer eye corners, as published. A coarse scan's spacing is
    in it; `surface_nme_percent`, to the nearest point of the scan's **surface**, is free of that (NaN for a cloud).
    Also returns `points` (vertices judged), `interocular_mm`, `scale`, `converged`, `transform`,
    `parameters`, `protocol`.
    The papers print neither the crop nor ICP's settings: those here are ours, and named.
    """
    chosen, _ = _cropped(scan_points, nose_tip, crop_mm, fit_points)
    fit = _laid_on(predicted_vertices, faces, predicted_landmarks, chosen, scan_landmarks, trim, iterations)
    judged = fit.transform.apply(predicted_vertices)
    judged = judged[np.linalg.norm(judged - np.asarray(nose_tip), axis=1) <= crop_mm]
    if not len(judged):
        raise UserError(f"no vertex of the prediction lies within {crop_mm:g} mm of the scan's nose tip")
    apart = float(np.linalg.norm(np.subtract(*np.asarray(outer_eyes, np.float64))))
    if not apart > 0:
        raise UserError("the scan's outer eye corners (points 36 and 45) lie in one place")
    nearest = cKDTree(np.asarray(scan_points, np.float64)).query(judged)[0].mean()
    meshed = scan_faces is not None and len(scan_faces)
    surface = Surface(scan_points, scan_faces).closest(judged).distances.mean() if meshed else np.nan
    parameters = _icp_parameters(crop_mm, fit_points, trim, iterations)
    return {
        "nme_percent": float(100 * nearest / apart),
        "surface_nme_percent": float(100 * surface / apart),
        "points": len(judged),
        "interocular_mm": apart,
        "scale": float(fit.transform.scale),
        "converged": fit.converged,
        "transform": fit.transform,
        "parameters": parameters,
        "protocol": f"{PROTOCOLS['florence_prnet']}; {_said(parameters)}",
    }


def _cropped(points: np.ndarray, nose_tip: np.ndarray, crop_mm: float, fit_points: int) -> tuple[np.ndarray, ...]:
    """The points that the fit uses, and all within the crop."""
    points = np.asarray(points, np.float64)
    cropped = points[np.linalg.norm(points - np.asarray(nose_tip), axis=1) <= crop_mm]
    if len(cropped) < 100:
        raise UserError(f"only {len(cropped)} scan points within {crop_mm:g} mm of the nose tip: is the scan in mm?")
    if len(cropped) <= fit_points:
        return cropped, cropped
    return cropped[np.random.default_rng(0).choice(len(cropped), fit_points, replace=False)], cropped


def _laid_on(vertices, faces, landmarks, points, scan_landmarks, trim: float, iterations: int) -> IcpResult:
    """Landmark start, then ICP with isotropic scale."""
    try:
        initial = similarity(landmarks, scan_landmarks)
        return icp(vertices, faces, points, initial, trim=trim, iterations=iterations, tolerance=1e-5)
    except ValueError as error:
        raise UserError(f"the prediction cannot be laid onto the scan: {error}") from error


def _icp_parameters(crop_mm: float, fit_points: int, trim: float, iterations: int) -> dict:
    return {
        "crop_mm": crop_mm,
        "scale": "isotropic",
        "icp_points": fit_points,
        "icp_trim": trim,
        "icp_rim_pairs": "left out of the fit",
        "icp_iterations": iterations,
    }


def _said(parameters: dict) -> str:
    return (
        f"here: crop {parameters['crop_mm']:g} mm, scale {parameters['scale']}, ICP on at most "
        f"{parameters['icp_points']:,} points, farthest {100 * parameters['icp_trim']:g} % and pairs on the mesh's rim "
        f"{parameters['icp_rim_pairs']}, at most {parameters['icp_iterations']} iterations"
    )


def surface_distances(surface: Surface, transform: Similarity, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances (P,) from points to a mesh moved by `transform`, in the points' unit, and which end on its rim."""
    closest = surface.closest(transform.inverse().apply(points))
    return closest.distances * float(transform.scale), surface.on_border(closest)
