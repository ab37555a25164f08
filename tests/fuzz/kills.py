"""SIGKILL at random moments, again and again: what is there then is whole, and going on ends as if nothing had been.

    python tests/fuzz/kills.py reconstruct [--times 20] [--seed 0] [--photos FOLDER]
    python tests/fuzz/kills.py repro [--times 20] [--seed 0] [--stage NAME]

reconstruct: `mlanet reconstruct` of a folder of photos (default: the portraits of the shared data) into one folder.
repro: `dvc repro` of the study at a tiny size. Both are run to their end once, and timed; then they are killed so many
times, the whole process group at once, and started again after each. After every kill each visible file must be whole.
At last a run goes to its end: the same files as of the run that nobody killed, and nothing hidden. By hand: minutes.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "helpers"))

import nbformat
import numpy as np
import tiny_project
import trimesh
from PIL import Image
from safetensors import safe_open

from mlanet_lib.files.obj import parse_obj

ROOT = tiny_project.ROOT
SHARED = Path(os.environ.get("MLANET_SHARED_DATA", ROOT.parent / "shared" / "data"))


def read_obj(path: Path) -> None:
    """The mesh, and the material and picture that it names."""
    for library in parse_obj(path).libraries:
        material = (path.parent / library).read_text(encoding="utf-8")
        for line in material.splitlines():
            if line.startswith("map_Kd "):
                Image.open(path.parent / line.removeprefix("map_Kd ")).load()


READ: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".glb": lambda path: trimesh.load(path),
    ".png": lambda path: Image.open(path).load(),
    ".jpg": lambda path: Image.open(path).load(),
    ".obj": read_obj,
    ".npz": lambda path: dict(np.load(path)),
    ".npy": lambda path: np.load(path, mmap_mode="r"),
    ".ipynb": lambda path: nbformat.read(path, as_version=4),
    ".safetensors": lambda path: safe_open(str(path), "pt").__enter__().keys(),
}


def visible(folder: Path) -> list[Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def torn(folder: Path) -> list[str]:
    """The visible files that are not whole, and why."""
    wrong = []
    for path in visible(folder):
        try:
            READ.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:  # whatever a reader makes of half a file
            wrong.append(f"{path.relative_to(folder)}: {type(error).__name__} {error}")
    return wrong


def unlike(folder: Path, whole: Path, suffixes: tuple[str, ...]) -> list[str]:
    """What differs from the run that nobody killed: names of all files, content of those with the suffixes."""
    here, there = ({str(p.relative_to(place)): p for p in visible(place)} for place in (folder, whole))
    wrong = [f"{name}: only in one of the two" for name in sorted(here.keys() ^ there.keys())]
    both = (name for name in sorted(here.keys() & there.keys()) if Path(name).suffix in suffixes)
    return wrong + [f"{name}: other content" for name in both if _content(here[name]) != _content(there[name])]


def _content(path: Path) -> object:
    """A file's bytes; of a checkpoint its tensors' (safetensors writes the names in its header in any order)."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(str(path), "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def run(command: list[str], where: Path, log: Path, until: float | None = None) -> tuple[int, float]:
    """A command in the project `where`; after `until` seconds its processes are killed. Its exit code, and how long it
    ran."""
    began = time.monotonic()
    with log.open("w") as file:
        environment = tiny_project.environment(where) | {
            name: value for name, value in os.environ.items() if name in ("MLANET_MODELS", "MLANET_CACHE")
        }
        child = subprocess.Popen(
            command, cwd=where, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(until)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return child.returncode, time.monotonic() - began


def reconstruct(scratch: Path, photos: Path, times: int, chance: np.random.Generator) -> list[str]:
    """Kills of `mlanet reconstruct`; what was wrong."""
    whole, out, log = scratch / "whole", scratch / "killed", scratch / "log.txt"
    command = [
        sys.executable,
        "-m",
        "mlanet_lib.cli.__main__",
        "reconstruct",
        *map(str, sorted(photos.glob("*.jpg"))),
        "--out",
    ]
    code, lasted = run([*command, str(whole)], ROOT, log)
    if code:
        return [f"the run that nobody kills ends with {code}: {log.read_text()[-300:]}"]
    first = lasted - (time.time() - min(path.stat().st_mtime for path in visible(whole)))
    print(f"the run that nobody kills: {lasted:.1f} s, {len(visible(whole))} files from {first:.1f} s on", flush=True)
    wrong, kills, tries = torn(whole), 0, 0
    while kills < times and tries < 3 * times:
        tries += 1
        code, _ = run([*command, str(out)], ROOT, log, until=chance.uniform(first - 1, lasted))
        if code not in (0, -signal.SIGKILL):
            wrong.append(f"after {kills} kills it does not go on: {log.read_text()[-300:]}")
        kills += code == -signal.SIGKILL
        if out.is_dir():
            wrong += (found := torn(out))
            rest = [path.name for path in out.glob(".*")]
            print(f"{kills:3} kills: {len(visible(out))} files, {len(found)} not whole, {len(rest)} hidden", flush=True)
            if kills <= times // 2 and chance.random() < 0.3:
                shutil.rmtree(out)  # some kills find no older files
    code, _ = run([*command, str(out)], ROOT, log)
    wrong += [f"the last run ends with {code}: {log.read_text()[-300:]}"] if code else []
    return wrong + unlike(out, whole, (".obj", ".mtl", ".png", ".json", ".glb")) + remains(out)


def remains(folder: Path) -> list[str]:
    hidden = (path for path in folder.rglob(".*") if path.name != ".gitignore")  # which DVC writes
    return [f"{path.relative_to(folder)} remains" for path in hidden]


def repro(scratch: Path, stages: list[str], times: int, chance: np.random.Generator) -> list[str]:
    """Kills of `dvc repro`, of these stages and what they need, or of all; what was wrong."""
    command = ["dvc", "repro", *stages]
    tiny_project.commit_tree(scratch / "source")
    whole, project, log = scratch / "whole", scratch / "project", scratch / "log.txt"
    for clone in (whole, project):
        pulled = tiny_project.tiny_clone(scratch / "source", clone)
        assert pulled.code == 0, pulled.text
    code, lasted = run(command, whole, log)
    if code:
        return [f"the run that nobody kills ends with {code}: {log.read_text()[-300:]}"]
    print(f"the run that nobody kills: {lasted:.1f} s", flush=True)
    wrong, kills = [], 0
    while kills < times:
        mend(project)
        code, lived = run(command, project, log, until=chance.uniform(0.02, 0.4) * lasted)
        if code not in (0, -signal.SIGKILL):
            return [*wrong, f"after {kills} kills it does not go on ({code}): {log.read_text()[-600:]}"]
        kills += code == -signal.SIGKILL
        wrong += (found := torn(project / "outputs"))
        print(f"{kills:3} kills: after {lived:.0f} s, {len(found)} files not whole", flush=True)
        if code == 0:  # it had come to its end: begin anew
            afresh(project)
    mend(project)
    code, _ = run(command, project, log)
    wrong += [f"the last run ends with {code}: {log.read_text()[-600:]}"] if code else []
    status = tiny_project.run(project, "dvc", "status", *stages)
    wrong += [] if "up to date" in status.text else [f"dvc status: {status.text[-300:]}"]
    return wrong + unlike(project / "outputs", whole / "outputs", (".safetensors",)) + remains(project / "outputs")


def mend(project: Path) -> None:
    """What `make repro` does first: halves of DVC's own lock files go."""
    assert tiny_project.run(project, "make", "--eval", "whole-lock: ; $(WHOLE_LOCK)", "whole-lock").code == 0


def afresh(project: Path) -> None:
    """The clone as it was before its first run, DVC's memory of runs included."""
    shutil.rmtree(project / "outputs", ignore_errors=True)
    shutil.rmtree(project / ".dvc" / "cache" / "runs", ignore_errors=True)
    tiny_project.git(project, "checkout", "--", "dvc.lock")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no child is left
    parser.add_argument("what", choices=("reconstruct", "repro"))
    parser.add_argument("--times", type=int, default=20, help="kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--stage", action="append", default=[], help="repro: only this one and what it needs")
    parser.add_argument("--photos", type=Path, default=SHARED / "portraits", metavar="FOLDER")
    options = parser.parse_args(arguments)
    chance = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as place:
        if options.what == "repro":
            wrong = repro(Path(place), options.stage, options.times, chance)
        else:
            wrong = reconstruct(Path(place), options.photos, options.times, chance)
    for text in wrong:
        print(text)
    print(f"{options.times} kills: " + (f"{len(wrong)} things are wrong" if wrong else "all is as without them"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
