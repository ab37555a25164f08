"""Faces of a model, drawn at random, and their points."""

import torch
from torch.nn.functional import normalize

from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.lighting import ambient, directional
from mlanet_lib.parameters import FaceParameters


def some_faces(model, count: int = 3) -> FaceParameters:
    generator = torch.Generator().manual_seed(4)

    def normal(*shape):
        return torch.randn(count, *shape, generator=generator)

    lamp = directional(normalize(torch.tensor([[0.8, 0.3, 0.5]]), dim=-1).repeat(count, 1), torch.full((count, 3), 0.5))
    neutral = FaceParameters.neutral(model, count)
    return neutral.replace(
        identity=normal(model.n_identity),
        expression=0.5 * normal(model.n_expression).abs(),
        albedo=normal(model.n_albedo),
        rotation=euler_to_matrix(torch.tensor([[10.0, 30.0, 8.0]]).repeat(count, 1)),
        translation=neutral.translation + torch.tensor([6.0, -4.0, 0.0]),
        lighting=ambient(count, 0.5) + lamp + 0.05 * normal(9, 3),
    )
