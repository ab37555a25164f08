"""How good a network is on held-out samples, while it is trained."""

import numpy as np
import torch

from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.metrics import pose_mae, sparse_nme
from mlanet_lib.network import MLANet
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.training.data import Kind, TrainingData
from mlanet_lib.training.processes import Processes


@torch.no_grad()
def validate(network: MLANet, data: TrainingData, shape: SparseShape, team: Processes) -> dict[str, float]:
    """Figures of a network on labelled and landmarked samples, none of them augmented.

    val_nme: mean over samples of the landmarks' NME, %, by the definition of each sample's labels, over photos (samples
    without known light) if there are any. Of the others, whose parameters are known and not fitted (of the fitted ones,
    where there are no others): val_pose_mae, mean of pitch, yaw and roll, degrees; val_vertices: mean distance in mm,
    turned but not translated; val_identity, val_albedo (sd) and val_expression (activation): root mean square, albedo
    where it is known. team: processes that share the samples; each of them returns the figures of all.
    """
    parts = []
    for rows in team.mine(torch.arange(len(data))).split(128):
        batch = data.batch(rows)
        found = network.eval().encode(batch.images)
        turned = shape.turned(found)
        distance = shape.vertices(turned - shape.turned(batch.parameters)).norm(dim=2).mean(1)
        parts.append(found.as_tensors() | {"marks": shape.landmarks(turned, found, batch.points_set), "mm": distance})
    whole = {name: team.in_order(torch.cat([part[name] for part in parts]), len(data)) for name in parts[0]}
    found, known = FaceParameters.from_tensors(whole), FaceParameters.from_tensors(data.labels)
    nme = sparse_nme(*(side.double().cpu().numpy() for side in (whole["marks"], data.labels["landmarks"])))
    photos = (~data.lit).numpy()
    figures = {"val_nme": np.mean(nme[photos] if photos.any() else nme)}
    lit = torch.nonzero(data.lit).flatten()
    labelled = lit if len(lit) else torch.nonzero(data.kind == Kind.LABELLED).flatten()
    if len(labelled):
        pose = (side.pose_degrees()[labelled].double().cpu().numpy() for side in (found, known))
        figures["val_pose_mae"] = pose_mae(*pose)["mean"]
        figures["val_vertices"] = whole["mm"][labelled].mean()
    for name, rows in (("identity", labelled), ("expression", labelled), ("albedo", lit)):
        if len(rows):
            squares = (getattr(found, name) - getattr(known, name))[rows].square()
            figures[f"val_{name}"] = squares.mean().sqrt()
    return {name: float(value) for name, value in figures.items()}
