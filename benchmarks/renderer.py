"""How fast the rasterizers that are installed draw, and whether they draw the same.

    python benchmarks/renderer.py [--quick] [--threads N]

Each row is one mesh size, picture size and batch: the share of pixels at which a backend finds another face than
numba does, milliseconds a picture (median) to rasterize, to draw shaded colours, and to draw and differentiate them.
"""

import argparse
import time

import numpy as np
import torch

from mlanet_lib.lighting import ambient, shade
from mlanet_lib.rasterizer import backends, rasterize
from mlanet_lib.rasterizer.interpolation import vertex_normals
from mlanet_lib.renderer import render

SLOW = {"pytorch3d": 100_000_000}  # faces x pixels above which a backend's CPU version takes minutes


def bumpy_sphere(faces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A head-sized mesh of about so many faces: vertices (V, 3) mm in the camera's frame, faces (F, 3)."""
    n = int((faces / 2) ** 0.5)
    polar, around = np.meshgrid(np.linspace(0.02, np.pi - 0.02, n + 1), np.linspace(0, 2 * np.pi, n + 1), indexing="ij")
    radius = 90 + 5 * np.sin(7 * polar) * np.cos(9 * around)
    shape = [np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)]
    index = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    triangles = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, d), (a, d, c))])
    vertices = np.stack([radius * part for part in shape], -1).reshape(-1, 3) + np.array([0, 0, 1000])
    return torch.tensor(vertices, dtype=torch.float32), torch.tensor(triangles)


def milliseconds(function, pictures: int, seconds: float) -> float:
    """Median time of a call, a picture; after one call that is not counted."""
    function()
    times, end = [], time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < 50):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times)) / pictures


def measure(backend: str, mesh, size: int, batch: int, seconds: float) -> list[str]:
    """One row of the table: disagreement with numba, and the three times."""
    vertices, faces = mesh
    vertices = vertices.repeat(batch, 1, 1).requires_grad_()
    focal, light = torch.full((batch,), 4.5), ambient(batch)
    albedo = torch.full_like(vertices, 0.5).requires_grad_()
    scale = torch.tensor([4.5 * size, 4.5 * size, 1.0])
    with torch.no_grad():
        pixels = torch.cat([vertices[..., :2] / vertices[..., 2:], vertices[..., 2:]], -1) * scale
        pixels[..., :2] += size / 2
        found, expected = (rasterize(pixels, faces, size, size, name).face_index for name in (backend, "numba"))

    def draw():
        colours = shade(albedo, vertex_normals(vertices, faces), light)
        return render(vertices, faces, colours, focal, size, backend).image

    def backward():
        vertices.grad = albedo.grad = None
        draw().sum().backward()

    with torch.no_grad():
        times = [milliseconds(lambda: rasterize(pixels, faces, size, size, backend), batch, seconds)]
        times.append(milliseconds(draw, batch, seconds))
    times.append(milliseconds(backward, batch, seconds))
    return [f"{(found != expected).float().mean().item():.2e}", *(f"{value:.2f}" for value in times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller sizes only, a tenth of a second each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU (default: torch's)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds = 0.1 if options.quick else 1.0
    print(f"threads {options.threads}, backends {', '.join(backends())}, torch {torch.__version__}")
    head = ["backend", "faces", "size", "batch", "differ", "raster ms", "forward ms", "fwd+bwd ms"]
    print("".join(f"{name:>12}" for name in head))
    for faces in (5_000, 70_000) if options.quick else (5_000, 70_000, 500_000):
        mesh = bumpy_sphere(faces)
        for size in (112, 224) if options.quick else (112, 224, 512):
            for batch in (1, 16):
                for backend in backends():
                    too_slow = batch * faces * size * size > SLOW.get(backend, np.inf)
                    row = ["slow"] * 4 if too_slow else measure(backend, mesh, size, batch, seconds)
                    print("".join(f"{value:>12}" for value in (backend, faces, size, batch, *row)), flush=True)


if __name__ == "__main__":
    main()
