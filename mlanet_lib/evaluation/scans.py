"""One scan judged by pictures drawn of it: draw, reconstruct each picture, lay the shape onto the scan.

`draw` serves PRNet's form of the Florence benchmark (`mlanet_lib.evaluation.florence`) and `evaluate_scan`, which
judges a single scan in Deng's form. The result holds for that head only.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mlanet_lib.data.sets import scans
from mlanet_lib.data.sets.scans import NOSE_TIP, Scan, View
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.scan_metrics import Mesh, florence_deng, florence_prnet
from mlanet_lib.evaluation.summary import MEAN_FACE, paired_difference, text_table
from mlanet_lib.evaluation.systems import System, face_parameters
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.crops import crop_image

CROP = (
    "crops from the mean face's 68 points laid onto the scan's landmarks (the truth places the crop, nothing else), "
    "the box times sqrt(2)"
)
KEYS = ("rmse_mm", "mean_mm", "border_share", "scale", "converged")


def evaluate_scan(
    scan: Scan, system: System, name: str, yaw: Sequence[float], pitch: Sequence[float] = (0.0,), lit: bool = True
) -> dict:
    """Deng's protocol (`scan_metrics.florence_deng`) on pictures drawn of one head scan, beside the mean face.

    name: the scan's, for the record; yaw, pitch: degrees, every combination is a picture; lit: see `scans.draw_views`.
    The shape is judged without its expression. Points of the scan that cannot be seen from outside
    (`scans.seen_from_outside`) are not judged, but counted. A scan that has not the size of a head (`scans.check_size`)
    is a UserError.

    Returns the summary: `pictures` (a dict each: yaw, pitch, `rmse_mm`, `mean_mm`, `border_share`, `scale`,
    `converged`), `mean_mm` and `sd_mm` over them (of rmse_mm), `baselines` (the `mean face` through the same crop and
    ICP), `difference` (system minus mean face; 95 % bootstrap over the pictures of this one head, which does not apply
    to other heads), `grid`, `look`, `crop`, `parameters`, `protocol`, `shape`, `weights`.
    """
    model = system.model
    scan = scans.check_size(scan, model)
    views, crops = draw(scan, system, yaw, pitch, lit)
    look, seen = scan.look, scans.seen_from_outside(scan, model)
    from_nose = np.linalg.norm(scan.vertices - scan.landmarks[NOSE_TIP], axis=1)
    scan = replace(scan, vertices=scan.vertices[seen], faces=np.zeros((0, 3), np.int64), uv=None)
    baseline = deng(model, mean_shape(model), scan)
    rows = []
    for view, vertices in zip(views, read_shapes(system, crops, neutral=True), strict=True):
        result = deng(model, vertices, scan)
        rows.append({"yaw": view.yaw, "pitch": view.pitch} | {key: result[key] for key in KEYS})
    errors = np.array([row["rmse_mm"] for row in rows])
    near = from_nose <= baseline["parameters"]["crop_mm"]
    return {
        "scan": name,
        "pictures": rows,
        "mean_mm": float(errors.mean()),
        "sd_mm": float(errors.std()),
        "baselines": {MEAN_FACE: {**{key: baseline[key] for key in KEYS}, "uses_the_truth": False}},
        "difference": paired_difference(errors, np.full(len(errors), baseline["rmse_mm"])),
        "points": baseline["points"],
        "unseen_points_left_out": int((~seen & near).sum()),
        "grid": grid(yaw, pitch),
        "look": look + (", lit by a lamp" if lit else ", as it is"),
        "crop": CROP,
        "parameters": baseline["parameters"],
        "protocol": f"one head scan ({name}), not Florence; {baseline['protocol']}, without the scan's points "
        "that cannot be seen from outside; neutral shape",
        "shape": "neutral",
        "weights": system.weights,
    }


def draw(
    scan: Scan, system: System, yaw: Sequence[float], pitch: Sequence[float], lit: bool
) -> tuple[list[View], list[np.ndarray]]:
    """Pictures of a scan at every yaw and pitch, degrees, and the crops (S, S, 3) uint8 of them for the system."""
    if not len(yaw) or not len(pitch):
        raise UserError("no picture to draw: name at least one yaw and one pitch")
    views = scans.draw_views(scan, system.model, yaw, pitch, lit=lit)
    return views, [crop_image(view.image, view.box, system.image_size) for view in views]


@torch.no_grad()
def read_shapes(system: System, crops: Sequence[np.ndarray], neutral: bool) -> np.ndarray:
    """The shapes (N, V, 3), mm, that the system reads in crops (S, S, 3) uint8, without expression or with it."""
    found = face_parameters(system, crops, batch_size=32)
    expression = torch.zeros_like(found.expression) if neutral else found.expression
    return system.model.vertices(found.identity, expression).numpy()


def mean_shape(model: MorphableModel) -> np.ndarray:
    """The mean face, (V, 3) mm, float64."""
    return model.mean.detach().cpu().double().numpy()


def deng(model: MorphableModel, vertices: np.ndarray, scan: Scan) -> dict:
    """`scan_metrics.florence_deng` of one predicted shape (V, 3) against a scan."""
    return florence_deng(*_meshes(model, vertices, scan), scan.landmarks[NOSE_TIP])


def prnet(model: MorphableModel, vertices: np.ndarray, scan: Scan) -> dict:
    """`scan_metrics.florence_prnet` of one predicted shape (V, 3) against a scan, which has landmarks 36 and 45."""
    if not {36, 45} <= set(scan.landmarks):
        raise UserError("PRNet's form needs the scan's outer eye corners: points 36 and 45 in landmarks.json")
    eyes = np.stack([scan.landmarks[36], scan.landmarks[45]])
    return florence_prnet(*_meshes(model, vertices, scan), scan.landmarks[NOSE_TIP], eyes)


def _meshes(model: MorphableModel, vertices: np.ndarray, scan: Scan) -> tuple[Mesh, Mesh]:
    keys = sorted(scan.landmarks)
    points = model.landmarks(torch.as_tensor(vertices)[None].to(model.mean.device))[0, keys].cpu().numpy()
    goal = np.stack([scan.landmarks[key] for key in keys])
    return Mesh(vertices, model.faces.cpu().numpy(), points), Mesh(scan.vertices, scan.faces, goal)


def grid(yaw: Sequence[float], pitch: Sequence[float]) -> dict:
    """The grid of a benchmark's pictures, for its record."""
    return {"yaw": [*map(float, yaw)], "pitch": [*map(float, pitch)], "pictures_a_scan": len(yaw) * len(pitch)}


def summary_text(data: dict) -> str:
    """The summary as a plain-text table, with its protocol."""
    mean_face = data["baselines"][MEAN_FACE]["rmse_mm"]
    table = [["yaw", "pitch", "RMSE mm", "mean face", "ICP"]]
    for row in data["pictures"]:
        numbers = f"{row['yaw']:+.0f}", f"{row['pitch']:+.0f}", f"{row['rmse_mm']:.2f}", f"{mean_face:.2f}"
        table.append([*numbers, "converged" if row["converged"] else "not converged"])
    d = data["difference"]
    lines = [
        *text_table(table, (5, 7, 10, 11, 16)),
        f"mean {data['mean_mm']:.2f} +- {data['sd_mm']:.2f} mm; mean face {mean_face:.2f} mm",
        f"minus the mean face: {d['difference']:+.2f} mm (95 % over the pictures of this one head {d['low']:+.2f} to "
        f"{d['high']:+.2f}), {d['verdict']}",
        f"weights: {data['weights']}",
        f"drawn with {data['look']}; {data['crop']}",
        f"protocol: {data['protocol']}",
    ]
    return "\n".join(lines)
