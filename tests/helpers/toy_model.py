"""A small ellipsoid 'face', for tests of everything but face models."""

import numpy as np
import torch

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import euler_to_matrix


def build() -> MorphableModel:
    """(mm) with 5 identity, 4 expression and 3 albedo modes."""
    rows, columns = 17, 21
    theta, height = np.meshgrid(np.linspace(-1.3, 1.3, columns), np.linspace(-1.2, 1.2, rows))
    mean = np.stack(
        [70 * np.sin(theta) * np.cos(height), 100 * np.sin(height), 80 * np.cos(theta) * np.cos(height)], -1
    )
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    mean = mean.reshape(-1, 3)
    rng = np.random.default_rng(0)
    phase = mean / 60
    basis = np.stack([np.sin(phase @ rng.normal(size=(3, 3)) + k) * 3 for k in range(9)], -1)
    colour = np.stack([np.cos(phase @ rng.normal(size=(3, 3)) + k) * 0.05 for k in range(3)], -1)
    return MorphableModel(
        mean=torch.tensor(mean, dtype=torch.float32),
        identity_basis=torch.tensor(basis[..., :5], dtype=torch.float32),
        expression_basis=torch.tensor(basis[..., 5:], dtype=torch.float32),
        albedo_mean=torch.full((len(mean), 3), 0.6),
        albedo_basis=torch.tensor(colour, dtype=torch.float32),
        faces=torch.tensor(faces),
        uv=torch.tensor(np.stack([theta / 2.6 + 0.5, height / 2.4 + 0.5], -1).reshape(-1, 2), dtype=torch.float32),
        landmark_index=torch.tensor(np.linspace(0, len(mean) - 1, 68).astype(np.int64)),
        expression_names=["jawOpen", "mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft"],
        name="toy",
    )


def with_ibug(model: MorphableModel, degrees: tuple[float, float, float] = (4.5, 0.0, 0.0)) -> MorphableModel:
    """The model with iBUG points of their own, 8 mm lower where the skin is, and the pose of BFM's frame in its own."""
    places = model.landmarks(model.mean[None])[0] - torch.tensor([0.0, 8.0, 0.0])
    index = torch.cdist(places, model.mean).topk(3, largest=False).indices
    turn = euler_to_matrix(torch.tensor(degrees, dtype=torch.float64))
    weights = np.full((68, 3), 1 / 3)
    return model.replace(ibug_index=index, ibug_weights=weights, bfm_rotation=turn, name=f"{model.name} with ibug")
