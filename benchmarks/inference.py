"""How long a face takes with the trained weights: network alone, photo to landmarks, photo to mesh, mesh to file.

    python benchmarks/inference.py [--quick] [--weights W] [--photo FILE]

Milliseconds a face, the least (a busy machine only adds) and in brackets the median, after a warm-up, at 1 and 32 faces
and 1 and 2 threads; the ways of one block take turns. Photos have 450 px and are in memory: --photo, else noise; but
the last row begins with a JPEG file of --photo, enlarged to 1350 px, and the detector. The network is run as torch's
modules and, as `Predictor.load` does it, as the graph that was shipped with it; beside it the network of 3DDFA_V2 (Guo
et al. 2020, mb05: MobileNet at half width, 120 px, 62 parameters) with random weights, both ways.
"""

import argparse
import copy
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import nn

from mlanet_lib.drawing.textures import albedo_texture, cut
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.geometry.crops import Box
from mlanet_lib.predictor import Predictor
from mlanet_lib.predictor.engine import session
from mlanet_lib.predictor.graph import GraphNetwork, find_graph
from mlanet_lib.predictor.mesh_files import write_glb
from mlanet_lib.predictor.weights import shipped_folder

SIDE, WHOLE, PEER_SIZE = 450, 1350, 120
COLUMNS = [(faces, threads) for threads in (1, 2) for faces in (1, 32)]


def timed(ways: dict[str, Callable], seconds: float) -> dict[str, tuple[float, float]]:
    """Least and median milliseconds of a call of each way, in turns, for about so many seconds each."""
    times = {name: [] for name in ways}
    for way in ways.values():
        way(), way()
    end = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < end or len(times[next(iter(ways))]) < 3:
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: (1e3 * min(values), 1e3 * float(np.median(values))) for name, values in times.items()}


def peer() -> nn.Module:
    """The network of 3DDFA_V2's mb05: MobileNet (Howard et al. 2017) at half width, without its weights."""

    def block(inside: int, outside: int, stride: int) -> nn.Sequential:
        layers = [nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU()]
        layers += [nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        return nn.Sequential(*layers)

    widths = [16, 32, 64, 64, 128, 128, *6 * [256], 512, 512]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    blocks = [block(a, b, stride) for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True)]
    first = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 62)).eval()


def export(network: nn.Module, path: Path) -> Path:
    """Write the peer's network as an ONNX file for any number of images; returns the path."""
    sizes = {"input": {0: torch.export.Dim("batch")}}
    images = (torch.rand(2, 3, PEER_SIZE, PEER_SIZE),)
    torch.onnx.export(network, images, path, input_names=["images"], dynamic_shapes=sizes, verbose=False)
    return path


def network_ways(predictor: Predictor, other: nn.Module, onnx: Path, faces: int, threads: int) -> dict[str, Callable]:
    """The network alone, crops in, parameters out; "modules" have torch's own layout."""
    images, others = (torch.rand(faces, 3, size, size) for size in (predictor.image_size, PEER_SIZE))
    plain = copy.deepcopy(predictor.network).to(memory_format=torch.contiguous_format)
    last, arrays = images.contiguous(memory_format=torch.channels_last), {"images": others.numpy()}
    theirs, encoder = session(onnx, threads=threads), predictor.encoder
    ways = {"modules": lambda: plain.encode(images), "modules, channels_last": lambda: predictor.network.encode(last)}
    if isinstance(encoder, GraphNetwork):
        ways["graph, the default"] = lambda: encoder.encode(images)
    return ways | {"3DDFA_V2's, modules": lambda: other(others), "3DDFA_V2's, ONNX": lambda: theirs.run(None, arrays)}


def photo_ways(predictor: Predictor, photo: np.ndarray, faces: int) -> dict[str, Callable]:
    """From a photo in memory: landmarks, vertices of the mesh, and the overlay of the mesh (of one face)."""
    side = 0.55 * SIDE
    boxes = [Box(0.2 * SIDE + k, 0.2 * SIDE + k, side, side) for k in range(faces)]
    model = predictor.model

    def vertices():
        found = predictor.faces(photo, boxes)
        return [model.vertices(face.parameters.identity, face.parameters.expression) for face in found]

    ways = {"photo -> landmarks, box given": lambda: predictor.faces(photo, boxes), "photo -> vertices": vertices}
    if faces == 1:
        ways["photo -> overlay"] = lambda: predictor.overlay(photo, predictor.faces(photo, boxes)[0])
    return ways


def mesh_ways(predictor: Predictor, photo: np.ndarray, folder: Path) -> dict[str, Callable]:
    """One face's textured mesh as a GLB file, the texture's baking included and not."""
    model = predictor.model
    parameters = predictor.faces(photo, [Box(0, 0, SIDE, SIDE)])[0].parameters
    texture = albedo_texture(model, parameters)

    def write(texture):
        vertices = model.vertices(parameters.identity, parameters.expression)
        source, faces, uv = cut(model.uv, model.faces)
        normals = model.normals(vertices)[0].numpy()[source]
        write_glb(folder / "face.glb", vertices[0].numpy()[source], faces, uv, texture, normals)

    return {
        "parameters -> GLB": lambda: write(texture),
        "parameters -> GLB, albedo baked": lambda: write(albedo_texture(model, parameters)),
    }


def portrait(path: Path | None, side: int = SIDE) -> np.ndarray:
    """(side, side, 3) uint8: the photo, or noise (the detector then has nothing to find)."""
    if path is None:
        return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(read_photo(path)).resize((side, side), Image.Resampling.LANCZOS))


def rows_of(predictor: Predictor, photo: np.ndarray, whole: Path | None, seconds: float, scratch: Path) -> dict:
    """Row -> (faces, threads) -> least and median milliseconds a face."""
    table: dict[str, dict] = {}
    folders = [Path(predictor.path).parent, shipped_folder()]
    other = peer()
    onnx = export(other, scratch / "peer.onnx")
    for faces, threads in COLUMNS:
        torch.set_num_threads(threads)
        predictor.encoder = find_graph(predictor.network, folders) or predictor.network  # with so many threads
        blocks = [network_ways(predictor, other, onnx, faces, threads), photo_ways(predictor, photo, faces)]
        blocks += [mesh_ways(predictor, photo, scratch)] if faces == 1 else []
        if whole and (faces, threads) == (1, 2):
            blocks.append({f"JPEG of {WHOLE} px -> faces": lambda: predictor.faces(whole)})
        for name, (least, median) in (row for block in blocks for row in timed(block, seconds).items()):
            table.setdefault(name, {})[faces, threads] = least / faces, median / faces
    return table


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of a second a figure instead of two")
    parser.add_argument("--weights", default="auto", metavar="W", help="a checkpoint (default: the shipped one)")
    parser.add_argument("--photo", type=Path, metavar="FILE", help="a portrait, for the row with the detector")
    options = parser.parse_args()
    predictor, photo = Predictor.load(options.weights), portrait(options.photo)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "photo.jpg" if options.photo else None
        if whole:
            Image.fromarray(portrait(options.photo, WHOLE)).save(whole, quality=92)
        table = rows_of(predictor, photo, whole, 0.25 if options.quick else 2.0, Path(folder))
    config = predictor.network.config
    print(f"{predictor.weights}, {config.backbone} at {config.image_size} px, {predictor.model.n_vertices:,} vertices")
    print(f"{platform.machine()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}; ms a face")
    print(f"{'':32}" + "".join(f"{f'{faces} x, {threads} thr':>18}" for faces, threads in COLUMNS))
    for name, row in table.items():
        cells = (f"{row[key][0]:.2f} ({row[key][1]:.2f})" if key in row else "" for key in COLUMNS)
        print(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
