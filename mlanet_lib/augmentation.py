"""Augmentation of a whole batch at once, on the device that holds it, as a pure function of a generator's state.

Two kinds. What moves or colours the *picture* moves its labels with it: shift and zoom change landmarks and
translation, a gain per colour channel changes the light. What spoils only the network's *input* (contrast, blur,
noise, rectangles pasted over the face) leaves labels and the photometric target alone: it is to be seen through.

No mirroring: the left and right modes of a face model would have to change places, and not every model has such pairs.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.parameters import FaceParameters


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches a part off.

    shift: largest shift, crop sides; zoom: largest |log| zoom; gain: standard deviation of the log brightness; tint:
    the same per colour channel; contrast: largest |log| contrast; blur: share of images that are blurred; noise:
    largest standard deviation of pixel noise; erase: share of images with a rectangle pasted in.
    """

    shift: float = 0.04
    zoom: float = 0.06
    gain: float = 0.12
    tint: float = 0.04
    contrast: float = 0.2
    blur: float = 0.3
    noise: float = 0.03
    erase: float = 0.25


@dataclass
class Batch:
    """B samples: what the network sees, and what it is judged by.

    images: (B, 3, S, S) in [0, 1], the input; target: the same without what only spoils the input; landmarks:
    (B, 68, 2) in crop sides; visible: (B, 68) in [0, 1]; confidence: (B, 68) in [0, 1], what a point is worth;
    parameters: labels, meaningless in rows whose kind is not 0; kind: (B,) int64 on the CPU, 0 labelled, 1 landmarked,
    2 unlabelled; lit: (B,) bool on the CPU, labelled rows whose albedo and lighting are known too.
    """

    images: Tensor
    target: Tensor
    landmarks: Tensor
    visible: Tensor
    confidence: Tensor
    parameters: FaceParameters
    kind: Tensor
    lit: Tensor


def augment(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Batch:
    """A new batch, augmented; `generator` lives on the batch's device."""
    size = len(batch.target)

    def normal(*shape):
        return torch.randn(size, *shape, generator=generator, device=batch.target.device)

    def uniform(*shape):
        return torch.rand(size, *shape, generator=generator, device=batch.target.device)

    shift = (uniform(2) * 2 - 1) * config.shift
    zoom = torch.exp((uniform(1) * 2 - 1) * config.zoom)
    target, landmarks, parameters = move(batch.target, batch.landmarks, batch.parameters, shift, zoom)
    gain = torch.exp(normal(1) * config.gain + normal(3) * config.tint)
    target = (target * gain[:, :, None, None]).clamp(0, 1)
    parameters = parameters.replace(lighting=parameters.lighting * gain[:, None, :])

    mean = target.mean((1, 2, 3), keepdim=True)
    images = mean + (target - mean) * torch.exp((uniform(1, 1, 1) * 2 - 1) * config.contrast)
    soft = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = torch.lerp(images, soft, (uniform(1, 1, 1) < config.blur) * uniform(1, 1, 1))
    images = images + normal(*images.shape[1:]) * (uniform(1, 1, 1) * config.noise)
    covered = _rectangles(uniform(4), images.shape[-1]) & (uniform(1, 1, 1) < config.erase)
    images = torch.where(covered, uniform(3, 1, 1), images).clamp(0, 1)
    return replace(batch, images=images, target=target, landmarks=landmarks, parameters=parameters)


def move(images: Tensor, landmarks: Tensor, parameters: FaceParameters, shift: Tensor, zoom: Tensor):
    """Shift and zoom pictures about their centre, x' = zoom (x - 1/2) + 1/2 + shift, and their labels with them.

    images: (B, 3, S, S); landmarks: (B, 68, 2) in crop sides; shift: (B, 2) in crop sides; zoom: (B, 1). Borders are
    continued. Landmarks move exactly; the translation moves so that the plane z = 0 of the face does,

        t_z' = t_z / zoom,   t_xy' = t_xy + shift t_z' / focal

    what lies off that plane by its depth over t_z less exactly (within 0.8 % of the crop in the test).
    """
    theta = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / zoom[:, 0]
    theta[:, :, 2] = -2 * shift / zoom
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    depth = parameters.translation[:, 2:] / zoom
    place = parameters.translation[:, :2] + shift * depth / parameters.focal[:, None]
    landmarks = (landmarks - 0.5) * zoom[:, None] + 0.5 + shift[:, None]
    return moved, landmarks, parameters.replace(translation=torch.cat([place, depth], 1))


def _rectangles(uniform: Tensor, side: int) -> Tensor:
    """(B, 1, side, side) masks of one rectangle each, 0.1 to 0.5 of a side long, from (B, 4) numbers in [0, 1)."""
    centre, half = uniform[:, :2], 0.05 + 0.2 * uniform[:, 2:]
    pixels = (torch.arange(side, device=uniform.device) + 0.5) / side
    inside = (pixels - centre[..., None]).abs() < half[..., None]
    return inside[:, 1, :, None].logical_and(inside[:, 0, None, :])[:, None]
