"""The Triton backend against numba's, and its gradients against the reference.

The tests named `same` run on the GPU where there is one. Elsewhere one test runs them all in a process of its own in
Triton's interpreter, which TRITON_INTERPRET=1 switches on and which has to be chosen before Triton is imported.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from paths import ROOT

from mlanet_lib import rasterizer
from mlanet_lib.errors import UserError
from mlanet_lib.rasterizer import backends, choose, interpolation, rasterize

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA or INTERPRETED, reason="no CUDA device")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture
def device():
    if "triton" not in backends():
        pytest.skip("no CUDA device: test_in_the_interpreter runs this one")
    return "cpu" if INTERPRETED else "cuda"


def hard_mesh(seed: int) -> np.ndarray:
    """Vertices (204, 3) for pictures of about 20 pixels: three for each of the first `HARD_FACES`."""
    rng = np.random.default_rng(seed)
    size = np.repeat([0.7, 3.0, 20.0, 1e5], [50, 12, 4, 2])[:, None, None]
    corners = rng.uniform(-3, 24, (68, 1, 3)) + rng.normal(size=(68, 3, 3)) * size
    corners[..., 2] = rng.uniform(5, 1000, (68, 3)) + (size[..., 0] > 100) * 2000
    corners[0:6, seed % 3] = [[np.nan, 5, 5], [5, np.inf, 5], [5, 5, np.nan], [5, 5, 0], [5, 5, -2], [-np.inf, 2, 9]]
    corners[6] = [[1.5, 1.5, 5], [8.5, 8.5, 5], [12.5, 12.5, 5]]  # collinear
    corners[50:54, :, :2] = np.round(corners[50:54, :, :2]) + 0.5  # corners on pixel centres
    corners[54:58, :, 2] = corners[54:58, :1, 2]  # facing the camera
    return corners.reshape(-1, 3)


HARD_FACES = np.arange(204).reshape(-1, 3)
# some once more, also in other orders of their corners and with a corner twice: ties with faces of another block
HARD_FACES = np.concatenate(
    [HARD_FACES, HARD_FACES[45:60], HARD_FACES[50:64][:, [1, 2, 0]], HARD_FACES[50:55][:, [0, 0, 2]]]
)


def grid(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sheet of n x n vertices on the centres of the pixels: (n * n, 3), and its faces."""
    row, column = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    index = torch.arange(n * n).reshape(n, n)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack(f, -1).reshape(-1, 3) for f in ((a, b, d), (a, d, c))])
    return torch.stack([column + 0.5, row + 0.5, 900 + row * 0.1], -1).reshape(-1, 3), faces


def assert_same(vertices, faces, height, width, device):
    """All three outputs, bit for bit."""
    found = rasterize(vertices.to(device), faces.to(device), height, width, "triton")
    expected = rasterize(vertices, faces, height, width, "numba")
    assert found.depth.dtype == vertices.dtype and found.face_index.dtype == torch.int32
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.cpu(), other)
    return expected


@pytest.mark.parametrize(("dtype", "batch"), [(torch.float32, 3), (torch.float64, 1)])
def test_same_on_hard_triangles(dtype, batch, device):
    """Small, large and huge ones, ties, impossible and degenerate ones, corners on centres; two tiles of pixels."""
    vertices = torch.tensor(np.stack([hard_mesh(seed) for seed in range(batch)])).to(dtype)
    found = assert_same(vertices, torch.tensor(HARD_FACES), 14, 21, device)
    assert len(found.face_index.unique()) > 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_where_rounded_depths_are_not_positive(dtype, device):
    """Depths of 1e17 and 1e-6 in one triangle, which round to 0 and below near the second, in front of a sheet.

    The same once more at twice the depth: of two depths below 0 the greater one in size is nearer.
    """
    corners = [[13.2, 10.2, 1e17], [12.5, 12, 1e-6], [12.5, 2.6, 1e-3], [0, 0, 1e-7], [40, 0, 1e-7], [0, 40, 1e-7]]
    vertices = torch.tensor([corners + corners[:3]], dtype=dtype)
    vertices[:, 6:, 2] *= 2
    faces = torch.tensor([[3, 4, 5], [0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [6, 7, 8]])
    found = assert_same(vertices, faces, 16, 16, device)
    assert 5 in found.face_index[found.depth < 0] and (found.depth == 0).any() and (found.face_index == 0).any()


@pytest.mark.parametrize(("index", "dtype"), [(torch.int32, torch.float64), (torch.int64, torch.float32)])
def test_same_on_a_sheet_without_holes(index, dtype, device):
    """Shared edges through pixel centres, where the lowest face must win, then jittered; 128 faces are two blocks."""
    vertices, faces = grid(9)
    vertices = torch.stack([vertices, vertices])
    vertices[1, :, :2] += (torch.rand(81, 2, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.3
    found = assert_same(vertices.to(dtype), faces.to(index), 9, 9, device).face_index
    assert (found[0] >= 0).all() and (found[1, 1:-1, 1:-1] >= 0).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1)])
def test_same_on_narrow_pictures(height, width, device):
    vertices = torch.tensor([[[-4.0, -3.0, 7.0], [15.0, -3.0, 9.0], [0.0, 16.0, 8.0]]])
    assert (assert_same(vertices, torch.tensor([[0, 1, 2]]), height, width, device).face_index == 0).all()


def test_same_on_nothing(device):
    vertices, faces = torch.zeros(2, 4, 3), torch.zeros(0, 3, dtype=torch.int64)
    assert_same(vertices, faces, 5, 6, device)
    assert_same(vertices[:0], torch.tensor([[0, 1, 2]]), 5, 6, device)
    assert_same(vertices[:, :0], faces, 5, 6, device)
    found = torch.full((2, 5, 6), -1, dtype=torch.int32, device=device)
    normals, image, gradients = differentiate(vertices.to(device), faces.to(device), vertices.to(device), found)
    assert not normals.any() and not image.any() and not any(gradient.any() for gradient in gradients)


def differentiate(vertices, faces, attributes, face_index, reference=False):
    """Normals, image with depth, and the gradients of both, by the Triton kernels or by the reference."""
    from mlanet_lib.rasterizer import triton_kernels

    vertices, attributes = vertices.clone().requires_grad_(), attributes.clone().requires_grad_()
    if reference:
        normals = interpolation.vertex_normals_reference(vertices, faces)
        image, depth = interpolation.interpolate_reference(vertices, faces, attributes, face_index)
    else:
        normals = interpolation._Normals.apply(triton_kernels, vertices, faces)
        image, depth = interpolation._Interpolate.apply(triton_kernels, vertices, faces, attributes, face_index)
    drawn = torch.cat([image, torch.where(face_index >= 0, depth, 0.0)[:, None]], 1)
    # weights of which no two are alike; the sum over channels makes the gradient that comes back an expanded one
    weight = torch.linspace(-1, 1, face_index.numel(), dtype=vertices.dtype, device=vertices.device)
    total = (drawn.sum(1) * weight.reshape(face_index.shape)).sum() + (normals * vertices.detach().sin()).sum()
    return normals.detach(), drawn.detach(), torch.autograd.grad(total, (vertices, attributes))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-11)])
def test_same_gradients_as_the_reference(dtype, tolerance, device):
    """Perspective, two meshes, several channels, background, a vertex without faces, pixels in two blocks."""
    generator = torch.Generator().manual_seed(1)
    vertices, faces = grid(7)
    vertices = torch.cat([vertices * torch.tensor([3.0, 2.5, 0.01]), torch.ones(1, 3)]).to(dtype).repeat(2, 1, 1)
    vertices += torch.randn(vertices.shape, generator=generator, dtype=dtype) * 0.3
    attributes = torch.randn(2, len(vertices[0]), 5, generator=generator, dtype=dtype)
    face_index = rasterize(vertices, faces, 17, 20, "numba").face_index
    assert 0.5 < (face_index >= 0).float().mean() < 0.95
    given = [tensor.to(device) for tensor in (vertices, faces, attributes, face_index)]
    found, expected = differentiate(*given), differentiate(*given, reference=True)
    for one, other in zip((*found[:2], *found[2]), (*expected[:2], *expected[2]), strict=True):
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(CUDA or INTERPRETED, reason="the tests run on the device, or in the interpreter already")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "same", __file__]
    root = ROOT
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert re.search(r"\d+ passed", run.stdout) and "skipped" not in run.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
def test_kernels_compile_without_fused_or_approximate_arithmetic(tmp_path, monkeypatch):
    """Down to machine code, which needs no GPU: what the interpreter takes, the compiler might not."""
    import triton
    from triton.backends import backends as targets
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mlanet_lib.rasterizer import triton_backend, triton_kernels

    if "nvidia" not in targets:
        pytest.skip("Triton was built without CUDA")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    integers = dict.fromkeys(("faces", "nearest", "winner", "large", "listed"), "*i64") | {"face_index": "*i32"}
    integers |= dict.fromkeys(("count", "triangles", "channels", "height", "width"), "i32")

    def compiled(kernel, real, **constants):
        names = kernel.arg_names
        signature = {name: integers.get(name, real) for name in names} | dict.fromkeys(constants, "constexpr")
        positions = {(names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=positions)
        result = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=triton_backend.LAUNCH)
        assert result.asm["cubin"]
        return result.asm["ptx"]

    texts = [
        compiled(triton_backend._draw_small, "*fp32", PASS="key", SMALL=64, BLOCK=128),
        compiled(triton_backend._draw_small, "*fp64", PASS="depth", SMALL=64, BLOCK=128),
        compiled(triton_backend._draw_large, "*fp64", PASS="face", BLOCK=128),
        compiled(triton_backend._resolve, "*fp32", BLOCK=128),
        compiled(triton_kernels._interpolate, "*fp32", BLOCK=128),
        compiled(triton_kernels._interpolate_backward, "*fp32", BLOCK=128),
        compiled(triton_kernels._sum_normals, "*fp32", BLOCK=128),
        compiled(triton_kernels._sum_normals_backward, "*fp32", BLOCK=128),
    ]
    for text in texts:
        assert re.search(r"mul\S*\.f(32|64)", text)  # the pattern of the instructions is this one
        assert not re.search(r"(fma|mad)\S*\.f(32|64)", text) and not re.search(r"div\.(full|approx)", text)
    assert all("relaxed.min.s64" in text for text in texts[:3])


def test_a_backend_is_chosen_by_device_and_by_what_is_there(monkeypatch):
    """Which packages are there, and whether there is a GPU, are made up here."""
    cpu, cuda, other = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    packages, gpu = {"numba", "triton", "pytorch3d"}, True
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(rasterizer, "find_spec", lambda name: name if name in packages else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert backends() == ["numba", "triton", "pytorch3d"]
    assert [choose("auto", device) for device in (cpu, cuda, other)] == ["numba", "triton", "numba"]
    packages = {"triton", "pytorch3d"}
    assert [choose("auto", device) for device in (cpu, cuda)] == ["pytorch3d", "triton"]
    packages = {"triton"}
    assert choose("auto", cpu) == "triton"  # on copies
    packages = {"numba", "pytorch3d"}
    assert choose("auto", cuda) == "pytorch3d"
    with pytest.raises(UserError, match="'triton' is not installed; present: numba, pytorch3d"):
        choose("triton", cuda)
    packages, gpu = {"numba", "triton"}, False
    assert backends() == ["numba"]
    with pytest.raises(UserError, match="'triton' needs a CUDA device; present: numba"):
        choose("triton", cpu)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("triton", cpu) == "triton" and choose("auto", cpu) == "numba"
    monkeypatch.delenv("TRITON_INTERPRET")
    packages = {"triton"}
    with pytest.raises(UserError, match="install numba"):
        choose("auto", cpu)
    assert interpolation.kernels_for(cpu) is None and interpolation.kernels_for(other) is None


def test_neither_numba_nor_triton_is_needed():
    """As on a bare GPU machine, or where there is no Triton: the modules fall back on tensor operations."""
    program = """
import sys
sys.modules["numba"] = sys.modules["triton"] = None
import torch
from mlanet_lib.rasterizer import backends
from mlanet_lib.rasterizer.interpolation import interpolate, vertex_normals
vertices, faces = torch.tensor([[[0., 0, 1], [4, 0, 1], [0, 4, 1]]]), torch.tensor([[0, 1, 2]])
assert "numba" not in backends() and "triton" not in backends()
assert vertex_normals(vertices, faces)[0, :, 2].tolist() == [1, 1, 1]
image, depth = interpolate(vertices, faces, vertices, torch.zeros(1, 1, 1, dtype=torch.int32))
assert image.flatten().tolist() == [0.5, 0.5, 1]
"""
    root = ROOT
    run = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


@needs_triton
def test_pictures_beyond_the_offsets_are_refused():
    from mlanet_lib.rasterizer import triton_backend

    with pytest.raises(ValueError, match="32769 x 32768 has more than 1073741824 pixels"):
        triton_backend.rasterize(torch.ones(1, 3, 3), torch.tensor([[0, 1, 2]]), 32769, 32768)


def test_faces_on_a_device_are_looked_through_once():
    """Until they change in place; a tensor here says of itself that it is on a device."""

    class Elsewhere(torch.Tensor):
        device = property(lambda self: torch.device("cuda"))

    contents = np.array([[0, 1, 2], [2, 1, 3]])
    faces = torch.from_numpy(contents).as_subclass(Elsewhere)
    assert rasterizer._extent(faces) == (0, 3)
    contents[1, 2] = 9  # behind torch's back
    assert rasterizer._extent(faces) == (0, 3)
    faces[0, 0] = 5
    assert rasterizer._extent(faces) == (1, 9)
    known = len(rasterizer._extents)
    del faces
    assert len(rasterizer._extents) == known - 1


def bumpy_sphere(rows: int, columns: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A head-sized closed surface in pixels of a picture of 224, turned differently in each mesh; float32."""
    polar, around = np.meshgrid(
        np.linspace(0.02, np.pi - 0.02, rows), np.linspace(0, 2 * np.pi, columns), indexing="ij"
    )
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, d), (a, d, c))])
    meshes = []
    for n in range(batch):
        radius = 90 + 5 * np.sin(7 * polar + n) * np.cos(9 * around)
        turned = around + 0.1 * n
        shape = [np.sin(polar) * np.cos(turned) * 0.8, np.cos(polar), np.sin(polar) * np.sin(turned)]
        meshes.append(np.stack([radius * part for part in shape], -1).reshape(-1, 3) + np.array([112.3, 111.6, 1000]))
    return torch.tensor(np.stack(meshes), dtype=torch.float32), torch.tensor(faces)


@needs_cuda
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_whole_heads_as_numba_draws_it(dtype):
    vertices, faces = bumpy_sphere(188, 188, 32)
    assert len(faces) > 69_000
    found = rasterize(vertices.to("cuda", dtype), faces.cuda(), 224, 224, "triton")
    expected = rasterize(vertices.to(dtype), faces, 224, 224, "numba")
    same = found.face_index.cpu() == expected.face_index
    assert same.double().mean() >= 0.9999
    assert torch.equal(found.face_index.cpu() >= 0, expected.face_index >= 0)
    assert torch.allclose(found.depth.cpu()[same], expected.depth[same])


@needs_cuda
@needs_triton
def test_gradients_of_whole_heads_as_numba_computes_them():
    vertices, faces = bumpy_sphere(188, 188, 4)
    attributes = torch.rand(*vertices.shape[:2], 3, generator=torch.Generator().manual_seed(2))
    face_index = rasterize(vertices, faces, 224, 224, "numba").face_index
    results = []
    for device in ("cpu", "cuda"):
        points, colours = (tensor.to(device).requires_grad_() for tensor in (vertices, attributes))
        image, _ = interpolation.interpolate(points, faces.to(device), colours, face_index.to(device))
        normals = interpolation.vertex_normals(points, faces.to(device))
        total = (image.square().sum() + (normals * colours).sum()) / 1000
        results.append([image, normals, *torch.autograd.grad(total, (points, colours))])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(other.cpu(), one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


@needs_cuda
@needs_triton
def test_nothing_waits_for_the_device():
    vertices, faces = (tensor.cuda() for tensor in bumpy_sphere(40, 40, 3))
    colours = vertices.sin().requires_grad_()
    vertices.requires_grad_()

    def step():
        found = rasterize(vertices, faces, 64, 48)
        image, depth = interpolation.interpolate(vertices, faces, colours, found.face_index)
        normals = interpolation.vertex_normals(vertices, faces)
        covered = found.face_index >= 0
        total = image.sum() + torch.where(covered, depth, 0.0).sum() + normals[..., 2].sum()
        return torch.autograd.grad(total, (vertices, colours))

    step()  # compiles, and looks through the faces
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
