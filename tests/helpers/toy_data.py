"""Small training sets of toy faces, drawn with the project's renderer."""

from pathlib import Path

import numpy as np
import torch

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face


def striped(model: MorphableModel) -> MorphableModel:
    """The toy face with a pattern on it: on its plain skin a pose could hardly be seen."""
    pattern = 0.7 + 0.3 * torch.sign(torch.sin(model.mean[:, :2] / 12)).prod(1, keepdim=True)
    return model.replace(albedo_mean=model.albedo_mean * pattern, name="striped")


def toy_parameters(model, count: int, seed: int) -> FaceParameters:
    """Random faces around the neutral framing: yaw up to 40 degrees, light of random strength and tint."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(count, *shape, generator=generator)

    neutral = FaceParameters.neutral(model, count)
    degrees = (torch.rand(count, 3, generator=generator) * 2 - 1) * torch.tensor([20.0, 40.0, 20.0])
    offset = normal(2) * 0.03 * neutral.translation[:, 2:] / neutral.focal[:, None]
    depth = neutral.translation[:, 2:] * torch.exp(normal(1) * 0.05)
    return neutral.replace(
        identity=normal(model.n_identity),
        expression=torch.rand(count, model.n_expression, generator=generator),
        albedo=normal(model.n_albedo),
        rotation=euler_to_matrix(degrees),
        translation=torch.cat([neutral.translation[:, :2] + offset, depth], 1),
        lighting=neutral.lighting * torch.exp(normal(1, 1) * 0.2 + normal(1, 3) * 0.05),
    )


def write_toy_split(model, folder: Path, count: int, seed: int = 0, size: int = 32, kinds=(0,)) -> Path:
    """`images.npy` and `labels.npz` of `count` toy faces before a grey ramp, kinds taken in turn; the folder."""
    parameters = toy_parameters(model, count, seed)
    vertices = model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(model.landmarks(vertices), parameters.rotation, parameters.translation)
    landmarks = project(camera, parameters.focal, 1, 1)[..., :2]
    with torch.no_grad():
        drawing = render_face(model, parameters, size)
    ramp = torch.linspace(0.1, 0.6, size).expand(count, 3, size, size)
    pictures = torch.where(drawing.mask.bool(), drawing.image, ramp).clamp(0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy())
    labels = {name: value.numpy() for name, value in parameters.as_tensors().items()}
    visible = np.ones((count, 68), np.float32)
    kind = np.resize(np.array(kinds, np.int64), count)
    np.savez(folder / "labels.npz", landmarks=landmarks.numpy(), visible=visible, kind=kind, **labels)
    return folder
