"""The study of profile `paper` in a clone, on tiny files of the published structure (fixture `paper_study`)."""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from matplotlib import pyplot
from tiny_project import ROOT, TINY, commit_tree, git, set_values, set_variants
from toy_bfm import toy_bfm, write_3ddfa
from toy_photos import write_300w_lp, write_aflw2000

from mlanet_lib.cli.__main__ import main
from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.data.synthetic.stand_ins import write_florence
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009.convert import convert
from mlanet_lib.face_sources.bfm2009.raw import RawBfm
from mlanet_lib.files.project import read_yaml
from mlanet_lib.study.notebook_runner import clean_copy, declared_parameters, parameter_values

MODEL = "licensed/face_models/bfm2009_3ddfa.npz"
VALUES = {name: value for name, value in TINY.items() if not name.startswith("data.")}
VALUES |= {"data.image_size": 32, "data.sources.300w_lp.validation": 0.3, "ablation.seeds": [0]}
VALUES |= {"network.backbone": "resnet10t", "network.pretrained": False}


@dataclass(frozen=True)
class PaperStudy:
    """project: the clone; missing, checked: what `mlanet data check` said before the face model was converted, and
    after; converted: the conversion. Each is an exit code and all that was printed."""

    project: Path
    missing: tuple[int, str]
    converted: tuple[int, str]
    checked: tuple[int, str]


def prepare(folder: Path, toy_model: MorphableModel) -> PaperStudy:
    """Make the clone, fill its licensed folders, and do what README asks for before `dvc repro`."""
    commit_tree(folder / "source")
    project = folder / "clone"
    git(folder, "clone", "--quiet", str(folder / "source"), str(project))
    shutil.copytree(ROOT / "data", project / "data", dirs_exist_ok=True)  # the portraits
    licensed = project / "licensed"
    (licensed / "BFM").mkdir(parents=True)
    write_3ddfa(licensed / "BFM", toy_bfm(toy_model), texture=False)
    model, raw = convert(licensed / "BFM", albedo_from=toy_model), RawBfm.load(licensed / "BFM")
    write_300w_lp(licensed / "300W_LP", model, raw, photos=12, turns=2)
    (licensed / "300W_LP" / "truth.npz").unlink()
    write_aflw2000(licensed / "AFLW2000-3D", model, raw, per_bin=2)
    write_florence(SyntheticConfig(scans=1, photo_size=96), model, licensed / "florence", 0)

    code, text = mlanet(project, "profile", "use", "paper")
    assert code == 0, text
    set_values(project, VALUES)
    set_variants(project, {"full": {}})
    missing = mlanet(project, "data", "check")
    converted = mlanet(project, "face-model", "convert", "bfm2009", "licensed/BFM", "--out", MODEL)
    return PaperStudy(project, missing, converted, mlanet(project, "data", "check"))


@contextlib.contextmanager
def inside(project: Path) -> Iterator[None]:
    """This process works in the project, as its commands and its notebooks' kernels do."""
    with contextlib.chdir(project), patch.dict(os.environ, MLANET_ROOT=str(project)):
        yield


def mlanet(project: Path, *arguments: str) -> tuple[int, str]:
    """The command `mlanet` in this process: its exit code, and all it printed."""
    printed = io.StringIO()
    with inside(project), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        return main(list(arguments)), printed.getvalue()


def run_cells(project: Path, name: str, run: str | None = None) -> None:
    """A notebook's code, cell after cell, in this process with the project's parameters, as the pipeline runs it."""
    with inside(project):
        notebook = clean_copy(name, project)
        declared = declared_parameters(notebook, name)
        values = parameter_values(declared, read_yaml("params.yaml"), {}, run, name)
        scope: dict[str, object] = {"__name__": name}
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                exec(compile(cell["source"], f"{name}, cell {number}", "exec"), scope)
            if "parameters" in cell["metadata"].get("tags", []):
                scope |= values
        pyplot.close("all")
