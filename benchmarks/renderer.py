"""How fast the rasterizers that are here draw, what memory that takes, and whether they draw the same.

    python benchmarks/renderer.py [--quick] [--device cuda] [--threads N] [--patience 5]

Each row is one mesh size, picture size and batch of a backend: the share of pixels at which it finds another face than the first backend of the list does; milliseconds a picture (median) to rasterize, to
draw shaded colours, and to draw and differentiate them; and MiB that a batch takes. On a GPU that is what a forward and
backward pass allocates at its peak beyond its inputs; on the CPU, where nothing counts that, what the forward pass
keeps for the backward one, each storage once and inputs left out. Batches that would take a call more than `--patience`
seconds, by the time of the row before, are left out.
"""

import argparse
import time
from itertools import product

import numpy as np
import torch

from mlanet_lib.geometry.camera import project
from mlanet_lib.geometry.lighting import ambient
from mlanet_lib.rasterizer import backends, rasterize
from mlanet_lib.rasterizer.interpolation import vertex_normals
from mlanet_lib.rasterizer.shading import shade_vertices
from mlanet_lib.renderer import render

SLOW = {"pytorch3d": 100_000_000}  # faces x pixels above which a backend's CPU version takes minutes
FOCAL = 4.5  # picture widths
HEAD = ("backend", "faces", "size", "batch", "differ", "raster ms", "forward ms", "fwd+bwd ms", "MiB")


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


def seconds_of(function, device: torch.device, seconds: float) -> float:
    """Median time of a call over so many seconds, at most 50 calls; after one that is not counted."""

    def finished() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    function()
    times, end = [], finished() + seconds
    while not times or (time.perf_counter() < end and len(times) < 50):
        start = finished()
        function()
        times.append(finished() - start)
    return float(np.median(times))


class Scene:
    """A batch of one mesh, ready to be drawn by one backend.

    mesh: as `bumpy_sphere` gives it; size: of the pictures, px.
    """

    def __init__(self, mesh, size: int, batch: int, device: torch.device, backend: str = "auto"):
        vertices, self.faces = (part.to(device) for part in mesh)
        self.size, self.device, self.backend = size, device, backend
        self.vertices = vertices.repeat(batch, 1, 1).requires_grad_()
        self.albedo = torch.full_like(self.vertices, 0.5).requires_grad_()
        self.focal, self.light = torch.full((batch,), FOCAL, device=device), ambient(batch, device=device)
        self.projected = project(self.vertices.detach(), self.focal, size, size)

    def fragments(self, backend: str | None = None):
        """What covers each pixel."""
        return rasterize(self.projected, self.faces, self.size, self.size, backend or self.backend)

    def draw(self):
        """The pictures, with their graph."""
        colours = shade_vertices(self.albedo, vertex_normals(self.vertices, self.faces), self.light)
        return render(self.vertices, self.faces, colours, self.focal, self.size, self.backend)

    def differentiate(self) -> None:
        """Draw, and find the gradients of vertices and albedo."""
        self.vertices.grad = self.albedo.grad = None
        drawing = self.draw()
        (drawing.image.sum() + drawing.mask.sum()).backward()

    def bytes(self) -> int:
        """What a call takes beyond its inputs (see above)."""
        self.vertices.grad = self.albedo.grad = None
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.differentiate()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        kept = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            drawing = self.draw()
        for given in (self.vertices, self.albedo, self.faces, self.focal, self.light):
            kept.pop(given.untyped_storage().data_ptr(), None)
        del drawing  # until here, so that no storage's address is given away twice
        return sum(kept.values())


def measure(scene: Scene, first: str, seconds: float) -> tuple[list[str], float]:
    """One row of the table, and the seconds that the longest call takes."""
    found, expected = (scene.fragments(name).face_index for name in (scene.backend, first))
    with torch.no_grad():
        times = [seconds_of(call, scene.device, seconds) for call in (scene.fragments, scene.draw)]
    times.append(seconds_of(scene.differentiate, scene.device, seconds))
    cells = [f"{(found != expected).float().mean().item():.2e}"]
    cells += [f"{1e3 * value / len(scene.vertices):.3g}" for value in times]
    return [*cells, f"{scene.bytes() / 2**20:.3g}"], max(times)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller sizes only, a tenth of a second each")
    parser.add_argument("--device", default="cpu", help="where the tensors lie; backends that do not work there copy")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU (default: torch's)")
    parser.add_argument("--patience", type=float, default=5.0, metavar="SECONDS", help="the longest call (default: 5)")
    for name, sizes in (("faces", (5_000, 70_000, 500_000)), ("sizes", (112, 224, 512)), ("batches", (1, 16, 64))):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=sizes, help=f"default: {sizes}")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    device, seconds = torch.device(options.device), 0.1 if options.quick else 1.0
    names = backends()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} threads"
    print(f"{device}, {where}, backends {', '.join(names)}, torch {torch.__version__}")
    print("".join(f"{name:>13}" for name in HEAD))
    few = slice(2 if options.quick else None)
    meshes = {faces: bumpy_sphere(faces) for faces in options.faces[few]}
    for faces, size, backend in product(meshes, options.sizes[few], names):
        slowest = 0.0  # seconds a picture of the row before
        for batch in options.batches[few]:
            if device.type == "cpu" and batch * faces * size * size > SLOW.get(backend, np.inf):
                cells = ["slow"]
            elif batch * slowest > options.patience:
                cells = ["impatient"]
            else:
                scene = Scene(meshes[faces], size, batch, device, backend)
                cells, longest = measure(scene, names[0], seconds)
                slowest = longest / batch
            row = (backend, faces, size, batch, *cells)
            print("".join(f"{cell:>13}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
