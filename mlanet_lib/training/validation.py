"""How good a network is on held-out samples, while it is trained."""

import numpy as np
import torch

from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.metrics import pose_mae, sparse_nme
from mlanet_lib.network import MLANet
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.training.data import TrainingData
from mlanet_lib.training.processes import Processes


@torch.no_grad()
def validate(
    network: MLANet, data: TrainingData, shape: SparseShape, batch_size: int = 128, team: Processes | None = None
) -> dict[str, float]:
    """Figures of a network on labelled and landmarked samples, none of them augmented.

    nme: mean over samples of the 68 points' NME, %, by the definition that each sample's labels follow, photos alone
    where there are any (samples whose light nobody knows). Of the others, whose parameters are known and not fitted (of
    the fitted ones, where there are no others): pose_mae, mean of pitch, yaw and roll, degrees; vertices: mean distance
    in mm, turned but not translated; identity, albedo (sd) and expression (activation): root mean square, albedo where
    it is known.
    team: processes that share the samples; each of them returns the figures of all.
    """
    team = team or Processes(0, 1, data.images.device)
    predicted, marks, distance = [], [], []
    for rows in team.mine(torch.arange(len(data))).split(batch_size):
        batch = data.batch(rows)
        found = network.eval().encode(batch.images)
        turned = shape.turned(found)
        marks.append(shape.landmarks(turned, found, batch.points_set))
        distance.append(shape.vertices(turned - shape.turned(batch.parameters)).norm(dim=2).mean(1))
        predicted.append(found)
    found = FaceParameters.cat(predicted).map(lambda share: team.in_order(share, len(data)))
    distance, marks = (team.in_order(torch.cat(share), len(data)) for share in (distance, marks))
    known = FaceParameters.from_tensors(data.labels)
    nme = sparse_nme(*(side.double().cpu().numpy() for side in (marks, data.labels["landmarks"])))
    photos = (~data.lit).numpy()
    figures = {"val_nme": np.mean(nme[photos] if photos.any() else nme)}
    labelled = torch.nonzero(data.lit if data.lit.any() else data.kind == 0).flatten()
    if len(labelled):
        pose = (side.pose_degrees()[labelled].double().cpu().numpy() for side in (found, known))
        figures["val_pose_mae"] = pose_mae(*pose)["mean"]
        figures["val_vertices"] = distance[labelled].mean()
    for name, rows in (("identity", labelled), ("expression", labelled), ("albedo", torch.nonzero(data.lit).flatten())):
        if len(rows):
            squares = (getattr(found, name) - getattr(known, name))[rows].square()
            figures[f"val_{name}"] = squares.mean().sqrt()
    return {name: float(value) for name, value in figures.items()}
