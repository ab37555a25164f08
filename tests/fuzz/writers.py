"""Every writer of the library against a full disk, a missing permission, SIGTERM and SIGKILL; `fuzz.run` calls it.

    python tests/fuzz/writers.py [--writer NAME] [--most 20]

strace refuses or breaks off one system call after the other, from the first that could change the disk to the last.
Right is: afterwards every visible file is byte for byte the old or the new one, what was refused left all files as
they were, and the next write succeeds and leaves nothing hidden. "mixed": of several files that belong together a kill
between two renames leaves some old and some new, each whole.
"""

import argparse
import copy
import dataclasses
import functools
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "helpers"))

import numpy as np
import torch
import toy_model
from fuzz.faults import Tally, Writer, available, hunt
from oracle import Motion, Oracle, write_clip

from mlanet_lib.data import manifest, packing
from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000, florence, scans
from mlanet_lib.files import obj
from mlanet_lib.files.records import write_json
from mlanet_lib.geometry.crops import Box
from mlanet_lib.network import MLANet, NetworkConfig, checkpoint
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import encoder_export, mesh_files
from mlanet_lib.show.report import page
from mlanet_lib.study.notebook_file import write_notebook
from mlanet_lib.study.profiles import use_profile
from mlanet_lib.training import resume
from mlanet_lib.training.optimizer import adamw
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.output import reconstruct_clip

ROOT = Path(__file__).resolve().parent.parent.parent
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (2, 60, 60, 3), np.uint8)
POINTS = np.column_stack([RNG.uniform(10, 50, (68, 2)), RNG.uniform(900, 1000, 68)])


def of_a_training(model) -> Writer:
    config = NetworkConfig(backbone="test_efficientnet", levels=(4,), image_size=32, width=4, pool=1)
    network = MLANet(model, config)
    optimizer, average = adamw(network, 1e-3, 0.0), copy.deepcopy(network)
    network.encode(torch.rand(2, 3, 32, 32)).identity.sum().backward()
    optimizer.step()

    def write(folder: Path, version: int) -> None:
        history = [{"step": k, "val_nme": 3.0 - k} for k in range(version + 1)]
        state = resume.State(network, average, optimizer, version, history)
        resume.save(folder, {"history": history, "step": version}, state, True)

    return Writer(write, apart=True)


def of_a_scan(model) -> Writer:
    marks = {k: POINTS[k] for k in (30, 36, 45)}

    def write(folder: Path, version: int) -> None:
        scan = scans.Scan(model.mean.double().numpy() + version, model.faces.numpy(), marks)
        pictures = [("indoor", PICTURES[version], Box(1, 2, 30 + version, 30)), ("outdoor", PICTURES[version], None)]
        florence.write_subject(folder, "subject_01", scan, pictures)

    return Writer(write, apart=True)


def of_a_face(model) -> Writer:
    neutral = FaceParameters.neutral(model, 1)

    def write(folder: Path, version: int) -> None:
        parameters = neutral.replace(identity=torch.full((1, model.n_identity), float(version)))
        texture = np.repeat(PICTURES[version], 2, 0)
        mesh_files.write_face(folder, "face_0", model, parameters, {"version": version}, PICTURES[version], texture)

    return Writer(write)


def of_a_clip(model, folder: Path) -> Writer:
    clip = Clip.open(write_clip(folder / "walk.mp4", 6))

    def write(out: Path, version: int) -> None:
        oracle = Oracle(model, Motion(model, identity=0.5 * version, x=20.0 * version))
        oracle.weights = f"version {version}"
        reconstruct_clip(clip, oracle, out, "walk")

    return Writer(write, most=5)


def of_packed_arrays() -> Writer:
    def write(folder: Path, version: int) -> None:
        def read(k: int) -> np.ndarray:
            return np.roll(PICTURES[k % 2], k + version, 0)

        samples = [Sample(f"{version}{k}.jpg", functools.partial(read, k), landmarks=POINTS[:, :2]) for k in range(3)]
        packing.pack(samples, folder, 24, progress=False)

    return Writer(write)


def of_a_profile() -> Writer:
    def prepare(folder: Path) -> None:
        shutil.copytree(ROOT / "profiles", folder / "profiles", dirs_exist_ok=True)

    return Writer(lambda folder, version: use_profile(("embedded", "paper")[version], folder, force=True), prepare)


def of_an_encoder(model, suffix: str) -> Writer:
    """Tracing takes seconds, and writes nothing: it is done once."""
    config = NetworkConfig(backbone="test_efficientnet", levels=(4,), image_size=32, width=4, pool=1)
    network = MLANet(model, config).eval()
    encoder_export.trace = functools.cache(encoder_export.trace)

    def write(folder: Path, version: int) -> None:
        encoder_export.export_encoder(network, model, folder / f"encoder.{suffix}", f"version {version}")

    return Writer(write, most={"pt2": 6, "onnx": 2}[suffix])


def writers(folder: Path) -> dict[str, Writer]:
    """All writers by name; `folder` for what they read."""
    model = toy_model.build()
    models = [model, model.replace(name="other")]
    (folder / "listed").mkdir()
    (folder / "listed" / "a.txt").write_text("a")

    def write_manifest(out: Path, version: int) -> None:
        manifest.write(out / "manifest.json", {("photos", "scans")[version]: folder / "listed"}, progress=False)

    def write_page(out: Path, version: int) -> None:
        page.write_page(f"Version {version}" + "x" * 9000, out / "report.html")

    def write_copy(out: Path, version: int) -> None:
        cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": f"a = {version}\n", "outputs": []}
        write_notebook({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, out / "a.ipynb")

    def write_sample(out: Path, version: int) -> None:
        aflw2000.write_sample(out, "face", PICTURES[version], POINTS, np.full(3, version), 1.2, POINTS[30])

    def write_mesh(out: Path, version: int) -> None:
        obj.write_obj(out / "scan.obj", model.mean.numpy() + version, model.faces.numpy())

    return {
        "write_json": Writer(lambda out, version: write_json(out / "a.json", {"version": [version] * 3000})),
        "face model": Writer(lambda out, version: models[version].save(out / "model.npz")),
        "checkpoint": Writer(
            lambda out, version: checkpoint.save(out / "a.safetensors", {"w": torch.full((99, 99), version)}, {})
        ),
        "training": of_a_training(model),
        "scan's OBJ": Writer(write_mesh),
        "florence": of_a_scan(model),
        "aflw2000": Writer(write_sample),
        "face": of_a_face(model),
        "clip": of_a_clip(model, folder),
        "packed arrays": of_packed_arrays(),
        "notebook": Writer(write_copy),
        "params.yaml": of_a_profile(),
        "manifest": Writer(write_manifest),
        "report": Writer(write_page),
        "encoder .pt2": of_an_encoder(model, "pt2"),
        "encoder .onnx": of_an_encoder(model, "onnx"),
    }


def report(names: list[str], most: int) -> int:
    """Hunt, print the table and what was wrong; how many third things there were."""
    if why := available():
        print(f"writers: NOT RUN, {why}")
        return 0
    print(
        f"\n{'writer':16}{'faults':>8}{'old kept':>10}{'new':>8}{'mixed':>8}{'left':>8}{'third things':>14}", flush=True
    )
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "read").mkdir()
        known, third = writers(Path(place) / "read"), 0
        for name in names or known:
            began = time.monotonic()
            chosen = dataclasses.replace(known[name], most=min(known[name].most, most))
            tally: Tally = hunt(chosen, Path(place) / name.replace("'", ""))
            counted = f"{tally.faults:8}{tally.old:10}{tally.new:8}{tally.mixed:8}{tally.left:8}{len(tally.third):14}"
            print(f"{name:16}{counted}   ({time.monotonic() - began:.0f} s)", flush=True)
            for text in tally.third[:6]:
                print(f"    {text[:300]}", flush=True)
            third += len(tally.third)
    return third


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writer", metavar="NAME", action="append", help="only this one; may be given again")
    parser.add_argument("--most", type=int, default=20, help="faults of a kind at one system call")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    return 1 if report(options.writer, options.most) else 0


if __name__ == "__main__":
    sys.exit(main())
