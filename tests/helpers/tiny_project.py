"""The whole study at a tiny size, in a clean clone: made once a session, for test_pipeline and test_notebooks."""

import functools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_", "MLANET_"))},
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


def tiny_clone(source: Path, folder: Path) -> Command:
    """Clone into `folder`, make it tiny, and pull the free data and weights from the remote inside the repository."""
    git(source.parent, "clone", "--quiet", str(source), str(folder))
    set_values(folder, TINY)
    set_variants(folder, VARIANTS)
    return run(folder, "dvc", "pull", "data.dvc", "weights.dvc")


def nbval_copies(project: Path) -> list[Path]:
    """Copies of the notebooks with tiny values, made by papermill; the training also as each variant."""
    values, copies = read_yaml(project / "params.yaml"), []
    for path in sorted((project / "notebooks").glob("*.ipynb")):
        clean = stripped(read_notebook(path))
        declared = declared_parameters(clean)
        for variant in (None, *(VARIANTS if "run" in declared else ())):
            chosen = parameter_values(declared, values, {}, variant and f"ablation/{variant}", path.name)
            copy = project / "notebooks" / "tiny" / f"{path.stem}{f'_{variant}' if variant else ''}.ipynb"
            copy.parent.mkdir(exist_ok=True)
            papermill.execute_notebook(nbformat.from_dict(clean), copy, chosen, prepare_only=True, progress_bar=False)
            copies.append(copy)
    return copies


@dataclass(frozen=True)
class TinyStudy:
    """project: a clone, reproduced; pull: of data and weights; first, second: `dvc repro`, and `dvc repro` again.

    copies: the notebooks that nbval runs meanwhile in a clone of its own; nbval: what came of that.
    """

    project: Path
    pull: Command
    first: Command
    second: Command
    copies: list[Path]
    nbval: Command


@functools.cache
def tiny_study(folder: Path) -> TinyStudy:
    """The study twice at once, for two cores: by DVC in one clone, by nbval, notebook after notebook, in another."""
    commit_tree(folder / "source")
    project, other = folder / "clone", folder / "clone_for_nbval"
    pull = tiny_clone(folder / "source", project)
    tiny_clone(folder / "source", other)
    copies = nbval_copies(other)
    nbval = (
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-cell-timeout=300",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    )
    with ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(run, other, sys.executable, *nbval, "--rootdir", str(other), *map(str, copies))
        first = run(project, "dvc", "repro")
        second = run(project, "dvc", "repro")
        return TinyStudy(project, pull, first, second, copies, meanwhile.result())
