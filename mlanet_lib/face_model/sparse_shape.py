"""The 68 points of a face model as a linear function of its coefficients, without the rest of the mesh."""

import torch
from torch import Tensor

from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.face_model.points import LABEL_SETS
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.geometry.device import on_device
from mlanet_lib.parameters import FaceParameters


class SparseShape:
    """The 68 landmarks and `count` evenly spread vertices of a face model: all of the shape that the losses need.

    Decoding these few hundred points instead of all vertices makes the supervised losses nearly free. The landmarks are
    held by each definition in `LABEL_SETS`, the vertices after them; where a model has one definition for all, once.
    """

    def __init__(self, model: MorphableModel, count: int):
        index = model.subset_index(count)
        bases = torch.cat([model.identity_basis, model.expression_basis], 2)
        alike = torch.equal(model.ibug_index, model.landmark_index)
        alike = alike and torch.equal(model.ibug_weights, model.landmark_weights)
        held = LABEL_SETS[:1] if alike else LABEL_SETS
        self.first = {name: 68 * held.index(name) if name in held else 0 for name in LABEL_SETS}
        self.points = 68 * len(held)
        self.mean = torch.cat([*(model.landmarks(model.mean[None], name)[0] for name in held), model.mean[index]])
        self.bases = torch.cat([*(model.landmarks(bases[None], name)[0] for name in held), bases[index]])

    def turned(self, parameters: FaceParameters) -> Tensor:
        """(B, points + count, 3) mm: all points in the camera's axes, turned by the pose but not translated; `points`
        is 68, or 136 for a model with two definitions of the landmarks."""
        coefficients = torch.cat([parameters.identity, parameters.expression], 1)
        points = self.mean + (coefficients @ self.bases.flatten(0, 1).T).unflatten(1, self.mean.shape)
        return to_camera(points, parameters.rotation, torch.zeros_like(parameters.translation))

    def landmarks(self, turned: Tensor, parameters: FaceParameters, labels: str | Tensor = "3ddfa") -> Tensor:
        """(B, 68, 2) in crop sides, from the result of `turned`.

        labels: whose definition of the points is asked for, one of `LABEL_SETS`; or (B,) int64 on the CPU, for each row
        an index into them (`Batch.points_set`).
        """
        first = self.first[labels if isinstance(labels, str) else LABEL_SETS[0]]
        points = turned[:, first : first + 68]
        if isinstance(labels, Tensor):
            for number, name in enumerate(LABEL_SETS):
                if self.first[name] != first and (labels == number).any():
                    chosen = on_device(labels == number, turned.device)[:, None, None]
                    points = torch.where(chosen, turned[:, self.first[name] : self.first[name] + 68], points)
        return project(points + parameters.translation[:, None], parameters.focal, 1, 1)[..., :2]

    def vertices(self, turned: Tensor) -> Tensor:
        """(B, count, 3) mm: the vertices, from the result of `turned`."""
        return turned[:, self.points :]
