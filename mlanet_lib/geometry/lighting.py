"""Lighting with the nine lowest real spherical harmonics (Ramamoorthi & Hanrahan 2001).

A distant environment of radiance L(w) = sum_lm L_lm Y_lm(w) lights a convex Lambertian surface with the irradiance
E(n) = sum_lm A_l L_lm Y_lm(n), A = pi, 2 pi / 3, pi / 4 for l = 0, 1, 2, and the surface shows albedo * E / pi.
Directions and normals are unit vectors in the y-up frame of the camera (x to the image's right, y up, z towards the
camera: `R n` for a normal n of the model). Coefficients are ordered (l, m) = 00, 1-1, 10, 11, 2-2, 2-1, 20, 21, 22.

Assumption: all colours are display-encoded values in [0, 1] (as photos store them) and this linear model is applied to
them directly. Nothing is clamped, so that gradients reach every pixel: clamp a picture before showing it.
"""

import math

import torch
from torch import Tensor

from mlanet_lib.geometry.device import constant

BANDS = 9
_Y0 = 0.5 / math.sqrt(math.pi)
_Y1 = math.sqrt(3) * _Y0
_Y2 = math.sqrt(15) * _Y0
# Y_lm over its polynomial in x, y, z, per coefficient: 1, y, z, x, xy, yz, 3 zz - 1, xz, xx - yy
_NORM = (_Y0, _Y1, _Y1, _Y1, _Y2, _Y2, _Y2 / (2 * math.sqrt(3)), _Y2, _Y2 / 2)
# A_l / pi, per coefficient: what turns radiance coefficients into those of irradiance / pi
REFLECTED = (1.0,) + (2 / 3,) * 3 + (1 / 4,) * 5


def sh_basis(normals: Tensor) -> Tensor:
    """The nine real spherical harmonics Y_lm, orthonormal on the sphere, at unit vectors: (..., 3) -> (..., 9)."""
    x, y, z = normals.unbind(-1)
    polynomials = [torch.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y]
    return torch.stack(polynomials, -1) * constant(_NORM, normals)


def irradiance_polynomial(lighting: Tensor) -> Tensor:
    """(B, 9, 3) radiance coefficients -> (B, 9, 3), those of 1, y, z, x, xy, yz, 3 zz - 1, xz, xx - yy in E / pi."""
    factors = tuple(norm * reflected for norm, reflected in zip(_NORM, REFLECTED, strict=True))
    return lighting * constant(factors, lighting)[:, None]


def irradiance(normals: Tensor, lighting: Tensor) -> Tensor:
    """Irradiance over pi, the factor between albedo and colour: (B, V, 3) and (B, 9, 3) -> (B, V, 3) RGB."""
    reflected = lighting * constant(REFLECTED, lighting)[:, None]
    return torch.bmm(sh_basis(normals), reflected)


def shade(albedo: Tensor, normals: Tensor, lighting: Tensor) -> Tensor:
    """Lambertian colours: albedo * E(n) / pi.

    albedo: (B, V, 3) RGB in [0, 1]; normals: (B, V, 3) unit, y-up camera frame; lighting: (B, 9, 3) radiance
    coefficients for R, G and B. Returns (B, V, 3), not clamped.
    """
    return albedo * irradiance(normals, lighting)


def ambient(
    batch: int,
    intensity: float = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """White light from everywhere, (batch, 9, 3): with intensity 1 a surface shows exactly its albedo."""
    lighting = torch.zeros(batch, BANDS, 3, device=device, dtype=dtype)
    lighting[:, 0] = intensity / _Y0
    return lighting


def directional(direction: Tensor, colour: Tensor) -> Tensor:
    """A distant lamp, cut to nine bands: L_lm = pi * colour * Y_lm(direction).

    direction: (B, 3) unit vectors *towards* the lamp, y-up camera frame; colour: (B, 3) RGB. Returns (B, 9, 3). A
    surface that faces the lamp shows 1.06 times albedo * colour; the nine bands differ from the clamped cosine by at
    most 3/32 (at grazing light) and leave at most -0.04 on the far side. Lights add up: `ambient(...) +
    directional(...)`.
    """
    return math.pi * sh_basis(direction)[..., None] * colour[:, None]


def rolled(lighting: Tensor, angle: Tensor) -> Tensor:
    """Light turned with the picture, clockwise about the camera's axis: (B, 9, 3) and (B,) radians -> (B, 9, 3).

    E'(T n) = E(n) for the turn T of a normal. Bands (l, m) and (l, -m) turn into one another by m times the angle.
    """
    bands = list(lighting.unbind(1))
    for cosine_band, sine_band, order in ((3, 1, 1), (7, 5, 1), (8, 4, 2)):
        turn = -order * angle[:, None]  # clockwise is the negative direction in the y-up frame
        one, other = bands[cosine_band], bands[sine_band]
        bands[cosine_band] = torch.cos(turn) * one - torch.sin(turn) * other
        bands[sine_band] = torch.sin(turn) * one + torch.cos(turn) * other
    return torch.stack(bands, 1)


def mirrored(lighting: Tensor) -> Tensor:
    """Light of the mirrored picture, x -> -x: (B, 9, 3) -> (B, 9, 3). Bands that are odd in x change their sign."""
    signs = tuple(-1.0 if band in (3, 4, 7) else 1.0 for band in range(BANDS))  # x, xy, xz
    return lighting * constant(signs, lighting)[:, None]
