"""The fused shading and projection of vertices against the plain ones: values, and gradients for all that goes in."""

import pytest
import torch
from torch.nn.functional import normalize

from mlanet_lib.geometry.camera import project
from mlanet_lib.geometry.lighting import shade
from mlanet_lib.rasterizer import numba_backend
from mlanet_lib.rasterizer.shading import project_vertices, shade_vertices


def inputs(dtype, batch: int = 3, size: int = 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    albedo, normals, lighting = (
        torch.randn(batch, *shape, generator=generator, dtype=dtype) for shape in ((size, 3), (size, 3), (9, 3))
    )
    return [tensor.requires_grad_() for tensor in (albedo, normalize(normals, dim=-1), lighting)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_equals_the_plain_formula(dtype, batch):
    tensors = inputs(dtype, batch)
    weight = torch.randn(batch, 40, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found, expected = (
        (colours := function(*tensors), *torch.autograd.grad((colours * weight).sum(), tensors))
        for function in (shade_vertices, shade)
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype and torch.allclose(one, other, rtol=tolerance, atol=10 * tolerance)


def test_gradcheck():
    assert torch.autograd.gradcheck(shade_vertices, inputs(torch.float64, 2, 5))


def test_threads_change_nothing(monkeypatch):
    tensors, before = inputs(torch.float32, 1), torch.get_num_threads()
    try:
        found = []
        monkeypatch.setattr(numba_backend, "WORTH_THREADS", 0)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(shade_vertices(*tensors))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_projection_equals_the_plain_formula(dtype, batch):
    """Points behind the camera, and one without depth, as there."""
    generator = torch.Generator().manual_seed(2)
    vertices = torch.randn(batch, 40, 3, generator=generator, dtype=dtype) * 100 + torch.tensor([0.0, 0, 150])
    vertices[:, 0, 2], vertices[:, 1, 2] = 0.0, -3.0
    tensors = [
        vertices.to(dtype).requires_grad_(),
        (torch.rand(batch, generator=generator, dtype=dtype) + 3).requires_grad_(),
    ]
    weight = torch.randn(batch, 40, 3, generator=generator, dtype=dtype)
    found, expected = (
        (points := function(*tensors, 30, 50), *torch.autograd.grad((points * weight).sum(), tensors))
        for function in (project_vertices, project)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert torch.allclose(one, other, rtol=1e-4 if dtype == torch.float32 else 1e-12)
    with torch.no_grad():
        tensors[0][:, 2, 2] = float("nan")
        assert project_vertices(*tensors, 30, 50)[:, 2, :2].isfinite().all()


def test_projection_gradcheck():
    vertices, focal = inputs(torch.float64, 2, 5)[0].detach() + torch.tensor([0.0, 0, 9]), torch.tensor([3.0, 4.0])
    tensors = vertices.requires_grad_(), focal.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, f: project_vertices(v, f, 3, 4), tensors)
