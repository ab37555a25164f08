"""Augmentation of a whole batch at once, on the device that holds it, as a pure function of some random numbers.

Two kinds. What moves or colours the *picture* moves its labels with it: shift, zoom and turn change landmarks,
translation, rotation and light, a gain per colour channel changes the light. What spoils only the network's *input*
(contrast, blur, noise, things laid over the face) leaves labels and the photometric target alone, so that the network
learns to ignore it. Mirroring needs a face model that is symmetric (`mirror.py`).
"""

import math
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.face_model.mirror import Mirror
from mlanet_lib.geometry.camera import roll_in_picture
from mlanet_lib.geometry.lighting import rolled
from mlanet_lib.limits import SHARE, Range, check_fields
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.training.data import Batch

_LYING = 120.0  # degrees
_PLACES = 256  # along each side of the sheet that noise is cut from
_LOG = Range(0, 5)  # of the logarithm of a factor: e^5 is 148


Chance = namedtuple("Chance", "shift zoom turn gain tint contrast blur noise erase mirror occlude lying")
"""What the uniform random numbers of B samples are for, (B, n) each."""
Occluder = namedtuple("Occluder", "centre turn width slimness edge source tint swap chosen")
"""What the numbers of `Chance.occlude` are for."""
_CHANCES = (2, 1, 1, 1, 3, 1, 2, 3, 8, 1, 13, 1)  # how many numbers each field of `Chance` has
_DRAWS = (23, 13, 1)  # drawn one after another, so that the first ones are what they were before there were the later
_OCCLUDER = (2, 1, 1, 1, 1, 2, 3, 1, 1)


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches a part off.

    shift: largest shift, crop sides; zoom: largest |log| zoom; turn: largest turn in the picture, degrees; lying: share
    of heads that are turned by anything up to 120 degrees instead; gain: standard deviation of the log brightness;
    tint: the same per colour channel; contrast: largest |log| contrast; blur: share of images that are blurred; noise:
    largest standard deviation of pixel noise; erase: share of images with a rectangle pasted in; mirror: share of
    images that are mirrored; occlude: share of images in which a textured ellipse or band covers part of the face.
    """

    shift: Annotated[float, Range(0, 1)] = 0.04
    zoom: Annotated[float, _LOG] = 0.06
    turn: Annotated[float, Range(0, 180)] = 0.0
    lying: Annotated[float, SHARE] = 0.0
    gain: Annotated[float, _LOG] = 0.12
    tint: Annotated[float, _LOG] = 0.04
    contrast: Annotated[float, _LOG] = 0.2
    blur: Annotated[float, SHARE] = 0.3
    noise: Annotated[float, Range(0, 1)] = 0.03
    erase: Annotated[float, SHARE] = 0.25
    mirror: Annotated[float, SHARE] = 0.0
    occlude: Annotated[float, SHARE] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def weak(self) -> "AugmentConfig":
        """The same without what spoils only the input, but for a little blur and noise: the statistics of the pictures
        that the network will see."""
        return replace(
            self, contrast=0.0, blur=self.blur / 3, noise=self.noise / 3, erase=0.0, occlude=self.occlude / 3
        )


def random_numbers(count: int, generator: torch.Generator) -> Tensor:
    """The random numbers that augment `count` samples: uniform in [0, 1), one row for each sample, on the generator's
    device. Rows are independent, so a process may take just those of its own samples."""
    return torch.cat([torch.rand(count, n, generator=generator, device=generator.device) for n in _DRAWS], 1)


def augment(batch: Batch, config: AugmentConfig, numbers: Tensor, mirror: Mirror | None = None) -> Batch:
    """A new batch, augmented by its rows of `random_numbers`, which lie on the batch's device.

    mirror: of the face model that the labels belong to, needed where `config.mirror` is not 0.
    """
    chance = Chance(*numbers.split(_CHANCES, 1))
    either = Chance(*(value * 2 - 1 for value in chance))  # in [-1, 1)
    if config.mirror:
        if mirror is None:
            raise ValueError("config.mirror is not 0: the labels' face model is needed as a Mirror")
        batch = _mirrored(batch, chance.mirror[:, 0] < config.mirror, mirror)
    zoom = torch.exp(either.zoom * config.zoom)
    angle = either.turn[:, 0] * config.turn
    if config.lying:
        lying = chance.lying[:, 0]
        angle = torch.where(lying < config.lying, (2 * lying / config.lying - 1) * _LYING, angle)
    target, landmarks, parameters = move(
        batch.target, batch.landmarks, batch.parameters, either.shift * config.shift, zoom, torch.deg2rad(angle)
    )
    gain = torch.exp(_normal(either.gain) * config.gain + _normal(either.tint) * config.tint)
    rows = _to_rows(target).mul_(_colours(gain, target.shape[-1])).clamp_(0, 1)
    parameters = parameters.replace(lighting=parameters.lighting * gain[:, None, :])
    images, target = _to_images(_spoiled(rows, config, chance)), _to_images(rows)
    return replace(batch, images=images, target=target, landmarks=landmarks, parameters=parameters)


def _spoiled(rows: Tensor, config: AugmentConfig, chance: Chance) -> Tensor:
    """Rows of images after the changes that only the network's input gets.

    Operations on two tensors are fast if one is broadcast; operations on three (lerp, addcmul) are not.
    """
    side, mean = rows.shape[1], rows.mean((1, 2), keepdim=True)
    contrast = torch.exp((chance.contrast * 2 - 1) * config.contrast)
    spoiled = (rows - mean).mul_(contrast[..., None]).add_(mean)
    if config.occlude:
        _occlude(spoiled, chance.occlude, config.occlude)
    chosen, strength = chance.blur.split(1, 1)
    softer = _box_blur(spoiled).sub_(spoiled)
    spoiled = spoiled.add_(softer.mul_(((chosen < config.blur) * strength)[..., None]))
    place, strength = chance.noise.split([2, 1], 1)
    spoiled = spoiled.add_(_noise(place, side).mul_(strength[..., None] * config.noise))
    where, chosen, colour = chance.erase.split([4, 1, 3], 1)
    covered = _rectangles(where, chosen < config.erase, side)
    return torch.where(covered, _colours(colour, side), spoiled).clamp_(0, 1)


def _mirrored(batch: Batch, chosen: Tensor, mirror: Mirror) -> Batch:
    """A batch in which the `chosen` (B,) samples are mirrored, x -> 1 - x, labels with them."""

    def pick(other: Tensor, same: Tensor) -> Tensor:
        return torch.where(chosen.reshape(-1, *[1] * (same.ndim - 1)), other, same)

    flipped = mirror.parameters(batch.parameters)
    points = batch.landmarks[:, mirror.twins]
    points = torch.stack([1 - points[..., 0], points[..., 1]], -1)
    return replace(
        batch,
        target=pick(batch.target.flip(3), batch.target),
        landmarks=pick(points, batch.landmarks),
        visible=pick(batch.visible[:, mirror.twins], batch.visible),
        confidence=pick(batch.confidence[:, mirror.twins], batch.confidence),
        known=pick(mirror.known(batch.known), batch.known),
        parameters=FaceParameters.from_tensors(
            {name: pick(getattr(flipped, name), value) for name, value in batch.parameters.as_tensors().items()}
        ),
    )


def move(
    images: Tensor, landmarks: Tensor, parameters: FaceParameters, shift: Tensor, zoom: Tensor, angle: Tensor
) -> tuple[Tensor, Tensor, FaceParameters]:
    """Turn, zoom and shift pictures, x' = zoom T (x - 1/2) + 1/2 + shift, and their labels with them.

    images: (B, 3, S, S); landmarks: (B, 68, 2) in crop sides; shift: (B, 2) in crop sides; zoom: (B, 1); angle: (B,)
    radians, clockwise, of the turn T about the centre. Borders are continued. Landmarks move exactly. So do the
    parameters with the turn, which turns the camera about its axis. Shift and zoom move the translation such that they
    are exact for the plane z = 0 of the face,

        t_z' = t_z / zoom,   t_xy' = t_xy + shift t_z' / focal

    and less exact for points off that plane (within 0.8 % of the crop in the test).
    """
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)  # (B, 2, 2), y down
    # grid_sample asks where a pixel comes from, in a frame from -1 to 1: T' (x' - shift) / zoom, written out since
    # affine_grid multiplies small matrices, which takes twice the time of the sampling
    side = images.shape[-1]
    centres = (torch.arange(side, device=images.device, dtype=images.dtype) * 2 + 1) / side - 1
    inverse = turn.mT / zoom[..., None]
    start = -2 * (inverse @ shift[..., None])[..., 0]
    along, across = inverse[..., :1] * centres + start[..., None], inverse[..., 1:] * centres  # (B, 2, S) each
    grid = torch.stack([along[:, k, None, :] + across[:, k, :, None] for k in (0, 1)], -1)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    landmarks = ((landmarks - 0.5) @ turn.mT) * zoom[:, None] + 0.5 + shift[:, None]
    rotation, translation = roll_in_picture(parameters.rotation, parameters.translation, angle)
    depth = translation[:, 2:] / zoom
    place = translation[:, :2] + shift * depth / parameters.focal[:, None]
    parameters = parameters.replace(
        rotation=rotation,
        translation=torch.cat([place, depth], 1),
        lighting=rolled(parameters.lighting, angle),
    )
    return moved, landmarks, parameters


def _normal(either: Tensor) -> Tensor:
    """Normally distributed numbers from ones that are uniform in [-1, 1), cut at 4 standard deviations."""
    return math.sqrt(2) * torch.erfinv(either.clamp(-0.99993, 0.99993))


# Rows: B images as (B, S, 3 S), a row of pixels as one long dimension. An operation on dimensions of 1 or 3 numbers
# takes several times as long.


def _to_rows(images: Tensor) -> Tensor:
    """(B, 3, S, S) images as a new tensor of rows."""
    return images.permute(0, 2, 3, 1).flatten(2)


def _to_images(rows: Tensor) -> Tensor:
    """The inverse of `_to_rows`: (B, 3, S, S), channels last in memory, as the network wants them."""
    return rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


def _colours(values: Tensor, side: int) -> Tensor:
    """(B, 3) colours as (B, 1, 3 S), to be broadcast over rows."""
    return values.repeat(1, side)[:, None]


def _for_channels(pixels: Tensor) -> Tensor:
    """(..., S) values of pixels as (..., 3 S), the same for all three channels."""
    return pixels.repeat_interleave(3, -1, output_size=3 * pixels.shape[-1])


def _box_blur(rows: Tensor) -> Tensor:
    """The mean over 3 x 3 pixels, borders continued; faster here than pooling."""
    for dim, step in ((1, 1), (2, 3)):
        last, summed = rows.shape[dim] - step, rows.clone()
        summed.narrow(dim, 0, last).add_(rows.narrow(dim, step, last))
        summed.narrow(dim, step, last).add_(rows.narrow(dim, 0, last))
        for border in (0, last):
            summed.narrow(dim, border, step).add_(rows.narrow(dim, border, step))
        rows = summed
    return rows.mul_(1 / 9)


@lru_cache(maxsize=4)
def _noise_sheet(side: int, device: torch.device) -> Tensor:
    """(side, side, 3) normally distributed numbers, always the same ones."""
    return torch.randn(side, side, 3, generator=torch.Generator().manual_seed(0)).to(device)


def _noise(place: Tensor, side: int) -> Tensor:
    """Rows of standard normal noise: squares of one sheet, each at its `place` (B, 2) in [0, 1).

    Drawing fresh numbers for each pixel took as long as the rest of the augmentation.
    """
    sheet = _noise_sheet(side + _PLACES - 1, place.device)
    windows = sheet.unfold(0, side, 1).unfold(1, side, 1).permute(0, 1, 3, 4, 2)
    row, column = (place * _PLACES).long().unbind(1)
    return windows[row, column].flatten(2)


def _rectangles(uniform: Tensor, chosen: Tensor, side: int) -> Tensor:
    """Rows of masks of one rectangle each, 0.1 to 0.5 of a side long, from (B, 4) numbers in [0, 1); empty where not
    `chosen` (B, 1)."""
    centre, half = uniform[:, :2], (0.05 + 0.2 * uniform[:, 2:]) * chosen
    pixels = (torch.arange(side, device=uniform.device) + 0.5) / side
    inside = (pixels - centre[..., None]).abs() < half[..., None]
    return inside[:, 1, :, None] & _for_channels(inside[:, 0])[:, None]


def _occlude(rows: Tensor, uniform: Tensor, share: float) -> None:
    """Lay an occluder over a `share` of images, in place, with random numbers `uniform` (B, 13) in [0, 1).

    An occluder is an ellipse or, in a third of the cases, a band, 0.08 to 0.45 of a side wide, turned by any angle,
    with an edge from hard to 0.15 of a side soft. It shows a quarter of the image itself, upside down, enlarged twice,
    its colours tinted and partly exchanged: the texture is real, and a process needs only its own samples.
    """
    chosen = (uniform[:, -1] < share).nonzero()[:, 0]
    if not len(chosen):
        return
    side, laid = rows.shape[1], Occluder(*uniform[chosen].split(_OCCLUDER, 1))
    pixels = (torch.arange(side, device=rows.device) + 0.5) / side - (0.1 + 0.8 * laid.centre[..., None])  # (n, 2, S)
    cosine, sine = (f(math.pi * laid.turn)[..., None] for f in (torch.cos, torch.sin))
    x, y = pixels[:, 0, None, :], pixels[:, 1, :, None]
    along, across = x * cosine + y * sine, y * cosine - x * sine  # (n, S, S), crop sides
    distance = torch.hypot(along * (1.5 * laid.slimness[..., None] - 0.5).clamp(min=0), across)
    inside = (0.04 + 0.185 * laid.width)[..., None] - distance
    opacity = (inside / (1 / side + 0.15 * laid.edge**3)[..., None] + 0.5).clamp_(0, 1)

    half = (side + 1) // 2
    row, column = (laid.source * (side - half + 1)).long().unbind(1)
    windows = rows.view(-1, side, side, 3).unfold(1, half, 1).unfold(2, half, 1).permute(0, 1, 2, 4, 5, 3)
    shown = windows[chosen, row, column].flip(1)  # (n, half, half, 3)
    shown = (shown + (shown.flip(3) - shown) * laid.swap[..., None, None]) * (0.4 + laid.tint)[:, None, None]
    shown = _to_rows(F.interpolate(shown.permute(0, 3, 1, 2), (side, side), mode="bilinear"))
    rows[chosen] = torch.lerp(rows[chosen], shown, _for_channels(opacity))
