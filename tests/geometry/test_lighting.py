"""Spherical harmonics against their definition: orthonormality, and the irradiance integral done numerically."""

import math

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss

from mlanet_lib.geometry.lighting import ambient, directional, irradiance, sh_basis, shade


def sphere(polar: int = 60, around: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions (N, 3) and weights (N,) that integrate over the sphere (Gauss-Legendre in z)."""
    z, weight = leggauss(polar)
    angle = (np.arange(around) + 0.5) * 2 * np.pi / around
    radius = np.sqrt(1 - z**2)
    x, y = radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle)
    directions = np.stack([x, y, np.broadcast_to(z[:, None], x.shape)], -1).reshape(-1, 3)
    return torch.tensor(directions), torch.tensor(np.repeat(weight, around) * 2 * np.pi / around)


def unit(count: int, seed: int) -> torch.Tensor:
    points = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(points, dim=-1)


def test_basis_is_orthonormal():
    directions, weights = sphere()
    basis = sh_basis(directions)
    assert torch.allclose(basis.T @ (weights[:, None] * basis), torch.eye(9, dtype=torch.float64), atol=1e-12)


def test_basis_order_and_signs():
    """The linear bands are y, z, x; the quadratic ones xy, yz, 3zz - 1, xz, xx - yy, all with positive factors."""
    x, y, z = (points := unit(50, 0)).unbind(-1)
    shapes = torch.stack([torch.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], -1)
    ratio = sh_basis(points) / shapes
    assert torch.allclose(ratio, ratio[:1].expand_as(ratio)) and (ratio > 0).all()


def test_white_ambient_light_shows_the_albedo():
    albedo = torch.rand(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normals = torch.stack([unit(50, 1), unit(50, 2)])
    assert torch.allclose(shade(albedo, normals, ambient(2, dtype=torch.float64)), albedo, atol=1e-14)
    assert torch.allclose(shade(albedo, normals, ambient(2, 0.3, dtype=torch.float64)), 0.3 * albedo, atol=1e-14)


def test_irradiance_is_the_cosine_integral_of_the_radiance():
    """E(n) = integral of L(w) max(0, n . w) dw for any light of nine bands."""
    directions, weights = sphere(400, 200)
    lighting = torch.randn(1, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    normals = unit(20, 4)
    radiance = sh_basis(directions) @ lighting[0]
    expected = ((normals @ directions.T).clamp(min=0) * weights) @ radiance / math.pi
    assert torch.allclose(irradiance(normals[None], lighting)[0], expected, atol=2e-4)


def test_directional_light_is_nearly_the_clamped_cosine():
    direction = unit(1, 5)
    normals = sphere(30, 60)[0]
    found = irradiance(normals[None], directional(direction, torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)))[0]
    cosine = (normals @ direction[0]).clamp(min=0)
    assert (found[:, 0] - cosine).abs().max() <= 3 / 32  # at right angles, in closed form
    assert found[:, 0].min() > -0.04
    assert torch.allclose(found[:, 1], found[:, 0] / 2) and torch.equal(found[:, 2], torch.zeros_like(cosine))


def test_shade_gradients():
    generator = torch.Generator().manual_seed(6)
    albedo = torch.rand(2, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    lighting = torch.randn(2, 9, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    normals = torch.stack([unit(3, 7), unit(3, 8)]).requires_grad_()
    assert torch.autograd.gradcheck(shade, (albedo, normals, lighting))
