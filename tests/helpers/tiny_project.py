"""The whole study at a tiny size, in a clean clone: for test_pipeline (fixture `tiny_study`)."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
from paths import ROOT
from ruamel.yaml import YAML

from mlanet_lib.files.project import read_yaml
from mlanet_lib.study.notebook_file import read_notebook, stripped
from mlanet_lib.study.notebook_runner import declared_parameters, parameter_values
from mlanet_lib.study.profiles import merge, nested

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


def environment(project: Path) -> dict[str, str]:
    """This process's environment, for commands that use the library of `project`."""
    foreign = ("GIT_", "DVC_", "MLANET_", "PYTHONDONTWRITEBYTECODE")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "OMP_NUM_THREADS": "1",  # pictures this small gain nothing from a second thread
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(project.parent / "site-cache"),
        "GIT_CONFIG_COUNT": "0",
    }


def run(folder: Path, *command: str, timeout: float = 900) -> Command:
    """Run a command of this environment in the project `folder`."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
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


def commit_tree(source: Path) -> None:
    """A repository with this working tree as it is now: what git tracks or would add, and nothing that it ignores."""
    source.mkdir(parents=True, exist_ok=True)
    git(source, "init", "--quiet")
    # of an empty repository all is "other": so it works in a downloaded ZIP, too
    tree = (f"--git-dir={source / '.git'}", f"--work-tree={ROOT}")
    listed = subprocess.run(
        ["git", *tree, "ls-files", "-z", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "as it is")


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


def clone(source: Path, folder: Path) -> None:
    """Clone into `folder`; what numba and Python have compiled of the library comes along, to save its time.

    Both know a source by its mtime and size, so that the clone's files get those of the working tree.
    """
    git(source.parent, "clone", "--quiet", str(source), str(folder))
    half_written = shutil.ignore_patterns("*.pyc.*", "*.tmp.*")  # by another worker
    shutil.copytree(ROOT / "mlanet_lib", folder / "mlanet_lib", ignore=half_written, dirs_exist_ok=True)


def tiny_clone(source: Path, folder: Path) -> Command:
    """Clone into `folder`, make it tiny, and pull the free data and weights from the remote inside the repository."""
    clone(source, folder)
    set_values(folder, TINY)
    set_variants(folder, VARIANTS)
    return run(folder, "dvc", "pull", "data.dvc", "weights.dvc")


def nbval_copy(project: Path, name: str) -> Path:
    """A copy of a notebook with the project's values, made by papermill, where git and DVC do not look."""
    clean = stripped(read_notebook(project / "notebooks" / f"{name}.ipynb"))
    values = parameter_values(declared_parameters(clean), read_yaml(project / "params.yaml"), {}, None, name)
    copy = project / "outputs" / "nbval" / f"{name}.ipynb"
    copy.parent.mkdir(exist_ok=True)
    papermill.execute_notebook(nbformat.from_dict(clean), copy, values, prepare_only=True, progress_bar=False)
    return copy


def nbval(project: Path, copies: list[Path]) -> Command:
    """Run notebooks cell by cell; their folder is no part of the tests' own configuration."""
    options = ["--nbval-lax", "--nbval-cell-timeout=300", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    return run(project, sys.executable, "-m", "pytest", *options, "--rootdir", str(project), *map(str, copies))


@dataclass(frozen=True)
class TinyStudy:
    """project: a clone, reproduced; repro: the command that did it."""

    project: Path
    repro: Command


def reproduce(folder: Path) -> TinyStudy:
    """A clean clone of the working tree in `folder`, made tiny, and `dvc repro` in it."""
    commit_tree(folder / "source")
    project = folder / "clone"
    pull = tiny_clone(folder / "source", project)
    assert pull.code == 0, pull.text
    repro = run(project, "dvc", "repro")
    assert repro.code == 0, repro.text[-6000:]
    return TinyStudy(project, repro)
