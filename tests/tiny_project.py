"""The whole study at a tiny size, in a clean clone: made once a test session, for test_pipeline and test_notebooks."""

import functools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from mlanet_lib.profiles import merge, nested, read_yaml

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "data.image_size": 32,
    "data.train": 48,
    "data.validation": 12,
    "data.test": 9,
    "data.photo_size": 160,
    "data.scans": 1,
    "network.image_size": 32,
    "network.width": 16,
    "train.steps": 4,
    "train.batch_size": 8,
    "train.photometric_batch": 2,
    "train.photometric_size": 24,
    "benchmark.bootstrap": 50,
    "benchmark.examples": 2,
    "ablation.base": {"train": {"steps": 2}},
    "ablation.seeds": [0, 1],
}
VARIANTS = {"full": {}, "no_attention": {"network": {"attention": "none"}}}


@dataclass(frozen=True)
class Command:
    """A finished command: exit code, everything it printed, seconds."""

    code: int
    text: str
    seconds: float


def run(folder: Path, *command: str, library: Path | None = None, timeout: float = 900) -> Command:
    """Run a command of this environment in `folder`, with the library that lies in that folder, or in `library`."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_", "MLANET_"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(library or folder),
        "OMP_NUM_THREADS": "1",  # pictures this small gain nothing from a second thread
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site-cache"),
        "GIT_CONFIG_COUNT": "0",
    }
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        text=True,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return Command(done.returncode, done.stdout, time.monotonic() - began)


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody, and return what it printed."""
    who = ["-c", "user.name=tests", "-c", "user.email=tests@example.org", "-c", "protocol.file.allow=always"]
    done = run(folder, "git", *who, *arguments)
    assert done.code == 0, done.text
    return done.text


def clone(folder: Path) -> Path:
    """A clone of this working tree as it is now (what git tracks or would add, committed), into `folder`/clone.

    It goes through a repository of its own, so that nothing that git ignores can come along.
    """
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "as it is")
    git(folder, "clone", "--quiet", str(source), "clone")
    return folder / "clone"


def set_values(project: Path, changes: dict[str, object]) -> None:
    """Change dotted keys of the project's params.yaml."""
    values = merge(read_yaml(project / "params.yaml"), nested(changes))
    with (project / "params.yaml").open("w") as file:
        YAML().dump(values, file)  # keeps the order


def set_variants(project: Path, variants: dict[str, dict]) -> None:
    """Exchange the ablation's variants."""
    values = read_yaml(project / "params.yaml")
    values["ablation"]["variants"] = variants
    with (project / "params.yaml").open("w") as file:
        YAML().dump(values, file)  # keeps the order


@dataclass(frozen=True)
class TinyStudy:
    """project: the clone, reproduced; pull, first, second: `dvc pull data.dvc`, `dvc repro`, and `dvc repro` again."""

    project: Path
    pull: Command
    first: Command
    second: Command


@functools.cache
def tiny_study(folder: Path) -> TinyStudy:
    """Clone, pull the free data from the remote inside the repository, and reproduce everything twice, tiny."""
    project = clone(folder)
    set_values(project, TINY)
    set_variants(project, VARIANTS)
    pull = run(project, "dvc", "pull", "data.dvc")
    return TinyStudy(project, pull, run(project, "dvc", "repro"), run(project, "dvc", "repro"))
