"""Mirrored faces: how a face's parameters and landmarks change when its picture is mirrored.

A face model whose mesh is its own mirror image, and whose modes span the mirrored modes too, turns a mirrored face
into one of its own: coefficients c become M c, with M from least squares over the vertices. Left and right expressions
change places that way, whatever they are called, and asymmetric identity modes change their sign.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.face_model.points import landmark_twins
from mlanet_lib.geometry.camera import nearest_rotations
from mlanet_lib.geometry.device import constant
from mlanet_lib.geometry.lighting import mirrored as mirrored_light
from mlanet_lib.parameters import FaceParameters

_TWIN_DISTANCE = 2.0  # mm: how far a vertex of the mean face may lie from the mirror image of its twin
_STRAY = 0.01  # share of the vertices that may lie farther away: a model may keep others of its gums on either side
_EXACT, _MOST = 0.1, 0.9  # mm: where so large a share of the vertices has a twin so near, the others have no say
_RESIDUAL = 0.1  # of a mode's length: how much of it the mirrored modes may miss, root mean square over the modes


@dataclass(frozen=True, eq=False)
class Mirror:
    """maps: for identity, expression and albedo the matrix (K, K) that coefficients, as rows, are multiplied with;
    twins: (68,) for each landmark the one on the other side."""

    maps: dict[str, Tensor]
    twins: Tensor

    @classmethod
    def of(cls, model: MorphableModel) -> "Mirror":
        """The mirror of a face model, on its device; UserError if the model has no such symmetry."""
        mean = model.mean.detach().cpu().double().numpy()
        flip = np.array([-1.0, 1.0, 1.0])
        from scipy.spatial import cKDTree  # here, since it takes a tenth of a second

        distance, twin = cKDTree(mean).query(mean * flip)
        if (far := np.quantile(distance, 1 - _STRAY)) > _TWIN_DISTANCE:
            raise UserError(
                f"face model {model.name!r} is not symmetric (vertices lie {far:.1f} mm from their mirror images'): "
                "train without mirroring (train.augment.mirror: 0)"
            )
        exact = distance <= _EXACT
        chosen = exact if exact.mean() > _MOST else np.ones(len(mean), bool)
        maps = {}
        for name, sign in (("identity", flip), ("expression", flip), ("albedo", np.ones(3))):
            basis = getattr(model, f"{name}_basis").detach().cpu().double().numpy()
            flat = basis[chosen].reshape(-1, basis.shape[2])
            target = (basis[twin[chosen]] * sign[:, None]).reshape(flat.shape)
            gram = flat.T @ flat
            matrix = np.linalg.lstsq(gram, flat.T @ target, rcond=1e-10)[0]
            missed = np.linalg.norm(flat @ matrix - target) / np.linalg.norm(target)
            if missed > _RESIDUAL:
                raise UserError(
                    f"face model {model.name!r} cannot show a mirrored {name} ({missed:.0%} of it is missed): train "
                    "without mirroring (train.augment.mirror: 0)"
                )
            maps[name] = torch.from_numpy(matrix.T.copy()).to(model.mean)
        return cls(maps, torch.from_numpy(landmark_twins()).to(model.mean.device))

    def known(self, shares: Tensor) -> Tensor:
        """(B, Ki + Ke) shares of the variance of identity and expression coefficients, of the mirrored faces."""
        identity, expression = shares.split([len(self.maps["identity"]), len(self.maps["expression"])], 1)
        parts = identity @ self.maps["identity"].square(), expression @ self.maps["expression"].square()
        return torch.cat(parts, 1).clamp(0, 1)

    def parameters(self, parameters: FaceParameters) -> FaceParameters:
        """The parameters of the mirrored photos, x -> width - x."""
        turned = ((1.0, -1.0, -1.0), (-1.0, 1.0, 1.0), (-1.0, 1.0, 1.0))  # S R S, S = diag(-1, 1, 1)
        return parameters.replace(
            **{name: getattr(parameters, name) @ matrix for name, matrix in self.maps.items()},
            rotation=parameters.rotation * constant(turned, parameters.rotation),
            translation=parameters.translation * constant((-1.0, 1.0, 1.0), parameters.translation),
            lighting=mirrored_light(parameters.lighting),
        )


def mean_of(one: FaceParameters, other: FaceParameters) -> FaceParameters:
    """Two readings of the same faces, averaged; rotations: the nearest to their mean (the chordal mean)."""
    pairs = zip(one.as_tensors().items(), other.as_tensors().values(), strict=True)
    mean = {name: (first + second) / 2 for (name, first), second in pairs}
    rotation = nearest_rotations(mean["rotation"].detach().cpu().numpy())
    return FaceParameters.from_tensors(mean | {"rotation": torch.from_numpy(rotation).to(mean["rotation"])})
