"""The front of the face: what hair, ears and clothes seldom cover, and photos are compared with."""

import torch
from scipy.spatial import Delaunay
from torch import Tensor

from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.face_model.points import JAW

FOREHEAD = 0.25
"""How far the forehead reaches above the brows, as a share of the height from the chin to the brows."""


def front_faces(model: MorphableModel) -> Tensor:
    """(F,) bool: the triangles of the face's front, on the model's device.

    They lie within the outline of jaw and forehead as one sees the mean face from before, and are turned to the viewer.
    The forehead is the brows' points, raised by `FOREHEAD`. A triangle counts if two of its corners do.
    """
    mean = model.mean.detach()
    points = model.landmarks(mean[None])[0, :, :2]
    jaw, brows = points[:JAW], points[JAW:27]
    raised = brows.clone()
    raised[:, 1] += FOREHEAD * (brows[:, 1].mean() - jaw[:, 1].min())
    outline = Delaunay(torch.cat([jaw, raised]).cpu().double().numpy())
    within = torch.from_numpy(outline.find_simplex(mean[:, :2].cpu().double().numpy()) >= 0).to(mean.device)
    vertices = within & (model.normals(mean[None])[0, :, 2] > 0)
    return vertices[model.faces.long()].sum(1) >= 2
