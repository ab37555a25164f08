"""The rasterizer against a brute-force one written here, on random and on degenerate meshes."""

import multiprocessing
import sys
import threading
import types

import numpy as np
import pytest
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.rasterizer import backends, numba_backend, pytorch3d_backend, rasterize

NAMES = ["numba", "triton", "pytorch3d"]


@pytest.fixture(params=NAMES)
def backend(request):
    if request.param not in backends():
        pytest.skip(f"{request.param} cannot be used here")
    return request.param


def brute_force(vertices, faces, height, width):
    """face_index, barycentric, depth, and which pixels are clear: no edge or other surface within rounding errors.

    Every triangle against every pixel in float64, by solving for the barycentric coordinates.
    """
    vertices = np.asarray(vertices, np.float64)
    y, x = np.mgrid[:height, :width] + 0.5
    index, weights = np.full((height, width), -1), np.zeros((height, width, 3))
    depth, clear = np.full((height, width), np.inf), np.ones((height, width), bool)
    layers = [depth.copy()]
    for number, face in enumerate(np.asarray(faces)):
        corners = vertices[face]
        if not np.isfinite(corners).all() or (corners[:, 2] <= 0).any():
            continue
        sides = corners[1:, :2] - corners[0, :2]
        if sides[0, 0] * sides[1, 1] == sides[0, 1] * sides[1, 0]:
            continue
        v, w = np.linalg.inv(sides.T) @ np.stack([(x - corners[0, 0]).ravel(), (y - corners[0, 1]).ravel()])
        found = np.stack([1 - v - w, v, w], -1).reshape(height, width, 3)
        inside = (found >= 0).all(-1)
        clear &= np.abs(found.min(-1)) > 1e-5
        z = np.where(inside, found @ corners[:, 2], np.inf)
        layers.append(z)
        nearer = z < depth
        depth[nearer], index[nearer], weights[nearer] = z[nearer], number, found[nearer]
    two = np.partition(np.stack([*layers, layers[0]]), 1, axis=0)[:2]
    with np.errstate(invalid="ignore"):
        clear &= ~(two[1] - two[0] < 1e-4)
    return index, weights, depth, clear


def compare(vertices, faces, height, width, backend, least_clear=0.9):
    vertices = torch.as_tensor(vertices)
    found = rasterize(vertices[None], torch.as_tensor(faces), height, width, backend)
    index, weights, depth, clear = brute_force(vertices, faces, height, width)
    assert clear.mean() >= least_clear
    assert found.face_index.dtype == torch.int32 and found.depth.dtype == vertices.dtype
    np.testing.assert_array_equal(found.face_index[0].numpy()[clear], index[clear])
    tolerance = 1e-3 if vertices.dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(found.barycentric[0].numpy()[clear], weights[clear], atol=tolerance)
    np.testing.assert_allclose(found.depth[0].numpy()[clear], depth[clear], rtol=tolerance)
    return found


def triangles(count, size, spread, seed, dtype=np.float64):
    """Separate triangles of about `size` pixels anywhere in and around a picture of `spread` pixels."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-0.2 * spread, 1.2 * spread, (count, 1, 3))
    corners = centre + rng.normal(scale=size, size=(count, 3, 3))
    corners[..., 2] = rng.uniform(800, 1200, (count, 3))
    return corners.reshape(-1, 3).astype(dtype), np.arange(3 * count).reshape(-1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("count", "size"), [(300, 1.0), (120, 6.0), (30, 60.0)])
def test_random_triangles(count, size, dtype, backend):
    compare(*triangles(count, size, 40, seed=count, dtype=dtype), 37, 46, backend, least_clear=0.8)


def test_random_connected_mesh(backend):
    rng = np.random.default_rng(1)
    vertices = np.concatenate([rng.uniform(-5, 45, (60, 2)), rng.uniform(900, 1100, (60, 1))], 1)
    compare(vertices, rng.integers(0, 60, (150, 3)), 40, 40, backend, least_clear=0.9)


def test_both_windings_are_drawn(backend):
    vertices, faces = triangles(40, 8.0, 32, seed=2)
    one, other = (
        rasterize(torch.tensor(vertices)[None], torch.tensor(f), 32, 32, backend)
        for f in (faces, faces[:, ::-1].copy())
    )
    assert torch.equal(one.face_index, other.face_index) and (one.face_index >= 0).any()
    assert torch.allclose(one.barycentric, other.barycentric.flip(-1))


def test_equal_depth_goes_to_the_lowest_face(backend):
    """Coplanar duplicates, also with their corners in another order, facing the camera.

    pytorch3d rounds the depths of triangles whose corners differ, or come in another order, each in its own way: there
    it is one of the faces at that pixel, and of the two with the same corners in the same order (1 and 4) the lower.
    """
    vertices = torch.tensor([[[2.0, 2.0, 5.0], [28.0, 3.0, 5.0], [14.0, 29.0, 5.0], [0.0, 16.0, 5.0]]])
    faces = torch.tensor([[0, 1, 3], [0, 1, 2], [1, 2, 0], [0, 2, 1], [0, 1, 2]])
    found = rasterize(vertices, faces, 32, 32, backend).face_index
    alone = rasterize(vertices, faces[1:2], 32, 32, backend).face_index
    first = rasterize(vertices, faces[:1], 32, 32, backend).face_index
    assert (first[found == 0] == 0).all() and (alone[found > 0] == 0).all()
    assert torch.equal(found >= 0, (first == 0) | (alone == 0)) and not (found == 4).any()
    if backend != "pytorch3d":
        expected = torch.where(first == 0, 0, torch.where(alone == 0, 1, -1)).int()
        assert torch.equal(found, expected)
        assert set(found.unique().tolist()) == {-1, 0, 1}


def test_identical_sloped_duplicates_go_to_the_lowest_face(backend):
    vertices, faces = triangles(60, 5.0, 40, seed=3, dtype=np.float32)
    doubled = torch.tensor(np.concatenate([faces, faces]))
    found = rasterize(torch.tensor(vertices)[None], doubled, 40, 40, backend)
    assert found.face_index.max() < 60
    assert torch.equal(
        found.face_index, rasterize(torch.tensor(vertices)[None], doubled[:60], 40, 40, backend).face_index
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shared_edges_leave_no_holes(dtype, backend):
    """A jittered grid, and one whose edges run exactly through pixel centres, cover every pixel inside."""
    n = 40
    generator = torch.Generator().manual_seed(4)
    row, column = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    index = torch.arange(n * n).reshape(n, n)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack(f, -1).reshape(-1, 3) for f in ((a, b, d), (a, d, c))])
    grid = torch.stack([column + 0.5, row + 0.5, torch.full((n, n), 900.0)], -1).reshape(1, -1, 3).to(dtype)
    for seed in range(5):
        moved = grid.clone()
        if seed:
            moved[..., :2] += (torch.rand(1, n * n, 2, generator=generator, dtype=dtype) - 0.5) * 0.3
        covered = rasterize(moved, faces, n, n, backend).face_index[0] >= 0
        assert covered[1:-1, 1:-1].all()


def test_pixel_centres_and_inclusive_edges():
    """A square with corners on pixel centres covers them all, and nothing beyond."""
    vertices = torch.tensor([[[2.5, 1.5, 1.0], [5.5, 1.5, 1.0], [5.5, 3.5, 1.0], [2.5, 3.5, 1.0]]])
    found = rasterize(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), 8, 9, "numba")
    expected = torch.zeros(8, 9, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert torch.equal(found.face_index[0] >= 0, expected)
    assert torch.isinf(found.depth[0][~expected]).all() and (found.barycentric[0][~expected] == 0).all()
    moved = vertices + torch.tensor([0.01, 0.01, 0.0])
    expected[1], expected[:, 2] = False, False
    assert torch.equal(
        rasterize(moved, torch.tensor([[0, 1, 2], [0, 2, 3]]), 8, 9, "numba").face_index[0] >= 0, expected
    )


def test_degenerate_and_impossible_triangles_are_left_out(backend):
    nan, inf = float("nan"), float("inf")
    good = [[3.0, 3.0, 9.0], [27.0, 5.0, 9.0], [12.0, 27.0, 9.0]]
    bad = [nan, 5.0, 5.0], [5.0, nan, 5.0], [5.0, 5.0, nan], [inf, 5.0, 5.0], [5.0, -inf, 5.0], [5.0, 5.0, inf]
    bad += [5.0, 5.0, 0.0], [5.0, 5.0, -3.0]
    vertices = torch.tensor(good + list(bad))
    faces = [[0, 1, k] for k in range(3, len(vertices))] + [[k, 2, 1] for k in range(3, len(vertices))]
    faces += [[0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 1, 2]]
    found = rasterize(vertices[None], torch.tensor(faces), 32, 32, backend)
    assert set(found.face_index.unique().tolist()) == {-1, len(faces) - 1}
    assert torch.isfinite(found.barycentric).all() and not found.depth.isnan().any()


def test_collinear_triangles_draw_nothing():
    vertices = torch.tensor([[[1.5, 1.5, 5.0], [8.5, 8.5, 5.0], [12.5, 12.5, 5.0]]])
    assert (rasterize(vertices, torch.tensor([[0, 1, 2]]), 16, 16, "numba").face_index == -1).all()


def test_huge_and_far_off_triangles(backend):
    """Coordinates far outside the picture: a triangle around it covers it, one beside it does not."""
    around = torch.tensor([[[-4e4, -3e4, 7.0], [5e4, -3e4, 7.0], [0.0, 6e4, 7.0]]])
    assert (rasterize(around, torch.tensor([[0, 1, 2]]), 20, 30, backend).face_index == 0).all()
    beside = around + torch.tensor([2e5, 0.0, 0.0])
    assert (rasterize(beside, torch.tensor([[0, 1, 2]]), 20, 30, backend).face_index == -1).all()


def test_empty_meshes_and_batches(backend):
    nothing = rasterize(torch.zeros(2, 4, 3), torch.zeros(0, 3, dtype=torch.int64), 5, 6, backend)
    assert nothing.face_index.shape == (2, 5, 6) and (nothing.face_index == -1).all()
    assert rasterize(torch.zeros(0, 4, 3), torch.tensor([[0, 1, 2]]), 5, 6, backend).depth.shape == (0, 5, 6)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_and_threads_change_nothing(batch, backend, monkeypatch):
    meshes = [triangles(3000, 2.0, 64, seed=seed, dtype=np.float32) for seed in range(batch)]
    vertices, faces = torch.tensor(np.stack([mesh[0] for mesh in meshes])), torch.tensor(meshes[0][1])
    together = rasterize(vertices, faces, 64, 48, backend)
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(numba_backend, "WORTH_THREADS", 0)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for n in range(batch):
                alone = rasterize(vertices[n : n + 1], faces, 64, 48, backend)
                assert all(torch.equal(a[0], b[n]) for a, b in zip(alone, together, strict=True))
    finally:
        torch.set_num_threads(before)


def _draw_in_child(queue):
    vertices, faces = triangles(3000, 2.0, 64, seed=0, dtype=np.float32)
    queue.put(
        int((rasterize(torch.tensor(vertices)[None], torch.tensor(faces), 64, 64, "numba").face_index >= 0).sum())
    )


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_in_a_forked_child_and_in_many_threads():
    """As in DataLoader workers and notebook kernels, after the parent's threads have run."""
    vertices, faces = triangles(3000, 2.0, 64, seed=0, dtype=np.float32)
    vertices, faces = torch.tensor(vertices)[None].repeat(4, 1, 1), torch.tensor(faces)
    expected = rasterize(vertices, faces, 64, 64, "numba").face_index
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_draw_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == int((expected[0] >= 0).sum())
    child.join(timeout=60)
    assert child.exitcode == 0
    results = []
    callers = [
        threading.Thread(target=lambda: results.append(rasterize(vertices, faces, 64, 64, "numba").face_index))
        for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 6 and all(torch.equal(result, expected) for result in results)


def _stand_in_for_pytorch3d():
    """Modules with the two names that the backend imports, drawing by brute force with pytorch3d's documented frame."""

    class Meshes:
        def __init__(self, verts, faces):
            self.verts, self.faces = verts, faces

    def rasterize_meshes(meshes, image_size, faces_per_pixel, perspective_correct, cull_backfaces, **_):
        assert faces_per_pixel == 1 and not perspective_correct and not cull_backfaces
        height, width = image_size
        found, first = torch.full((len(meshes.verts), height, width, 1), -1), 0
        for n, (points, faces) in enumerate(zip(meshes.verts, meshes.faces, strict=True)):
            extent = np.array([max(width / height, 1.0), max(height / width, 1.0)])
            # its pixel (0, 0) is the one at +x, +y: the picture is turned half around
            pixels = points.double().numpy().copy()
            pixels[:, :2] = (pixels[:, :2] / extent + 1) / 2 * [width, height]
            index = brute_force(pixels, faces, height, width)[0][::-1, ::-1].copy()
            found[n, ..., 0] = torch.where(torch.tensor(index) >= 0, torch.tensor(index) + first, -1)
            first += len(faces)
        return found, None, None, None

    renderer, structures = types.ModuleType("pytorch3d.renderer.mesh"), types.ModuleType("pytorch3d.structures")
    renderer.rasterize_meshes, structures.Meshes = rasterize_meshes, Meshes
    names = ("pytorch3d", "pytorch3d.renderer")
    parents = {name: types.ModuleType(name) for name in names}
    return {**parents, renderer.__name__: renderer, structures.__name__: structures}


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 33), (33, 20)])
def test_pytorch3d_conversion_against_a_stand_in(monkeypatch, height, width):
    """Frame, batch-wide face numbers and left-out triangles, also where the package itself is not installed."""
    meshes = [triangles(40, 5.0, 26, seed=seed) for seed in (5, 6)]
    vertices, faces = torch.tensor(np.stack([mesh[0] for mesh in meshes])), torch.tensor(meshes[0][1])
    vertices[0, 4, 2], vertices[1, 10, 0] = -1.0, float("nan")
    expected = rasterize(vertices, faces, height, width, "numba")
    for name, module in _stand_in_for_pytorch3d().items():
        monkeypatch.setitem(sys.modules, name, module)
    found = pytorch3d_backend.rasterize(vertices, faces, height, width)
    differ = found[0] != expected.face_index  # float32 inside: at edges
    assert differ.float().mean() < 0.002 and (found[0] >= 0).float().mean() > 0.3
    assert torch.allclose(found[1][~differ], expected.barycentric[~differ])
    assert torch.equal(torch.isinf(found[2]), found[0] < 0)
    same = ~differ & (found[0] >= 0)
    assert torch.allclose(found[2][same], expected.depth[same])


def test_wrong_input_is_named():
    vertices, faces = torch.ones(1, 4, 3), torch.tensor([[0, 1, 2]])
    with pytest.raises(UserError, match=r"'cuda_magic' is unknown; present: .*numba"):
        rasterize(vertices, faces, 8, 8, "cuda_magic")
    with pytest.raises(ValueError, match=r"\(B, V, 3\)"):
        rasterize(vertices[0], faces, 8, 8)
    with pytest.raises(ValueError, match="0 to 4 of 4"):
        rasterize(vertices, torch.tensor([[0, 1, 4]]), 8, 8)
    with pytest.raises(ValueError, match="-1 to 2"):
        rasterize(vertices, torch.tensor([[0, -1, 2]]), 8, 8)
    with pytest.raises(ValueError, match="integers"):
        rasterize(vertices, faces.float(), 8, 8)
    with pytest.raises(ValueError, match="0 x 8"):
        rasterize(vertices, faces, 0, 8)


@pytest.mark.skipif("pytorch3d" in backends(), reason="pytorch3d is installed here")
def test_absent_backend_is_named():
    with pytest.raises(UserError, match="'pytorch3d' is not installed; present: numba"):
        rasterize(torch.ones(1, 4, 3), torch.tensor([[0, 1, 2]]), 8, 8, "pytorch3d")
