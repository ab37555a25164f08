"""How long a face takes with the trained weights: network alone, photo to landmarks, photo to mesh, mesh to file.

    python benchmarks/inference.py [--quick] [--weights W] [--photo FILE] [--peer-ms MS]

Milliseconds a face, medians after a warm-up, at 1 and 32 faces and 1 and 2 threads; the ways of one block take turns,
so that a busy machine slows all alike. The photo has 450 px and is in memory: --photo, else noise (no detector's row).
--peer-ms: a published system's network alone at one face and 2 threads, e.g. 3DDFA_V2 mb05 in PyTorch at 120 px.
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

from mlanet_lib.drawing.textures import albedo_texture, cut
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.geometry.crops import Box
from mlanet_lib.predictor import Predictor
from mlanet_lib.predictor.encoder_export import export_encoder
from mlanet_lib.predictor.mesh_files import write_glb

SIDE = 450
PEER = ("eager", 1, 2)
"""The row, faces and threads that --peer-ms is compared with."""


def medians(ways: dict[str, Callable], seconds: float) -> dict[str, float]:
    """Median milliseconds of a call of each way, in turns, for about so many seconds each."""
    times = {name: [] for name in ways}
    for way in ways.values():
        way(), way()
    end = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < end or len(times[next(iter(ways))]) < 3:
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


def network_ways(predictor: Predictor, onnx: Path, faces: int, threads: int) -> dict[str, Callable]:
    """The network alone, crops in, parameters out: the predictor's layout is channels_last, "eager" is torch's own."""
    size = predictor.image_size
    images = torch.rand(faces, 3, size, size, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(predictor.network).to(memory_format=torch.contiguous_format)
    last, arrays = images.contiguous(memory_format=torch.channels_last), {"images": images.numpy()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

    def bfloat16():
        with torch.autocast("cpu", torch.bfloat16):
            predictor.network.encode(last)

    return {
        "eager": lambda: plain.encode(images),
        "channels_last": lambda: predictor.network.encode(last),
        "channels_last, bfloat16": bfloat16,
        "onnxruntime, with landmarks": lambda: session.run(None, arrays),
    }


def photo_ways(predictor: Predictor, photo: np.ndarray, faces: int, detect: bool) -> dict[str, Callable]:
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
        if detect:
            ways["photo -> landmarks, with detector"] = lambda: predictor.faces(photo)
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


def portrait(path: Path | None) -> np.ndarray:
    """(450, 450, 3) uint8: the photo, or noise (the detector then has nothing to find)."""
    if path is None:
        return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(read_photo(path)).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of a second a figure instead of two")
    parser.add_argument("--weights", default="auto", metavar="W", help="a checkpoint (default: the shipped one)")
    parser.add_argument("--photo", type=Path, metavar="FILE", help="a portrait, for the row with the detector")
    parser.add_argument("--peer-ms", type=float, metavar="MS", help="a peer's network, one face, 2 threads")
    options = parser.parse_args()
    seconds = 0.25 if options.quick else 2.0
    predictor, photo = Predictor.load(options.weights), portrait(options.photo)
    detect = options.photo is not None and len(predictor.faces(photo)) > 0
    columns = [(faces, threads) for threads in (1, 2) for faces in (1, 32)]
    table: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        onnx = Path(scratch) / "encoder.onnx"
        export_encoder(predictor.network, predictor.model, onnx)
        for faces, threads in columns:
            torch.set_num_threads(threads)
            blocks = [network_ways(predictor, onnx, faces, threads), photo_ways(predictor, photo, faces, detect)]
            blocks += [mesh_ways(predictor, photo, Path(scratch))] if faces == 1 else []
            for name, value in (row for block in blocks for row in medians(block, seconds).items()):
                table.setdefault(name, {})[faces, threads] = value / faces
    config = predictor.network.config
    print(f"{predictor.weights}, {config.backbone} at {config.image_size} px, {predictor.model.n_vertices:,} vertices")
    print(f"{platform.machine()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}; ms a face")
    heads = [f"{faces} x, {threads} thr" for faces, threads in columns]
    print(f"{'':36}" + "".join(f"{head:>16}" for head in heads))
    for name, row in table.items():
        print(f"{name:36}" + "".join(f"{row[key]:16.2f}" if key in row else f"{'':16}" for key in columns))
    if options.peer_ms:
        name, *key = PEER
        own = {way: table[way][tuple(key)] for way in (name, "channels_last", "onnxruntime, with landmarks")}
        ratios = ", ".join(f"{way} {value / options.peer_ms:.2f}" for way, value in own.items())
        print(f"network alone over the peer's {options.peer_ms:.2f} ms (1 face, 2 threads): {ratios}")


if __name__ == "__main__":
    main()
