"""Random faces of a model and the 68 points that they have in a crop."""

import torch

from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.parameters import FaceParameters


def faces(model, count, seed=0, size=0.5):
    """Random faces of a model, perspective parameters of a crop, yaw up to 75 degrees."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(count, *shape, generator=generator)

    neutral = FaceParameters.neutral(model, count)
    degrees = (torch.rand(count, 3, generator=generator) * 2 - 1) * torch.tensor([25.0, 75.0, 25.0])
    return neutral.replace(
        identity=normal(model.n_identity) * size,
        expression=normal(model.n_expression).abs() * size,
        rotation=euler_to_matrix(degrees),
        translation=neutral.translation * (1 + 0.05 * normal(1)) + normal(3) * torch.tensor([3.0, 3.0, 0.0]),
    )


def drawn(model, parameters, labels="3ddfa"):
    vertices = model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(model.landmarks(vertices, labels), parameters.rotation, parameters.translation)
    return project(camera, parameters.focal, 1, 1)[..., :2].double().numpy()
