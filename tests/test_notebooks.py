"""The seven notebooks: thin, clean as committed, and naming what the parameters have (test_pipeline runs them)."""

import json

import nbformat
import pytest
from paths import ROOT
from ruamel.yaml import YAML

from mlanet_lib.files.project import read_yaml
from mlanet_lib.study.notebook_file import notebook_text, read_notebook, stripped
from mlanet_lib.study.notebook_runner import declared_parameters
from mlanet_lib.study.profiles import parameter_keys

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [
    "00_explore",
    "01_prepare_data",
    "02_train",
    "03_ablation",
    "04_benchmark_aflw2000",
    "05_benchmark_florence",
    "06_report",
]


def test_there_are_seven():
    assert [path.stem for path in PATHS] == NAMES


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_committed_clean(path):
    """Without outputs, counts and editor's metadata: `mlanet_lib.study.notebook_runner NAME --strip` shows how."""
    assert path.read_text() == notebook_text(stripped(read_notebook(path)))
    nbformat.validate(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_thin_and_readable(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith(f"# {path.stem[:2]} · ")
    assert "?" in cells[0].source, "the first cell says which question the notebook answers"
    assert len(code) >= 5 and len(cells) <= 40
    assert all(len(cell.source.splitlines()) <= 25 for cell in code)
    assert cells[-2].source.startswith("## Summary") and "print(" in cells[-1].source
    if path.stem[:2] in ("02", "03", "04", "05"):  # what is trained or judged ends with a picture
        assert cells[-1].source.splitlines()[-1].startswith(("charts.", "figures."))
    assert not any(line.startswith(("class ", "%", "!")) for cell in code for line in cell.source.splitlines())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_parameters_are_typed_commented_keys_of_params(path):
    notebook = read_notebook(path)
    keys = parameter_keys(read_yaml(ROOT / "params.yaml"))
    declared = declared_parameters(notebook)
    assert declared and set(declared) <= {*keys, "run"}
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    lines = cell["source"].splitlines()
    assert all(": " in line.split("=")[0] and "#" in line for line in lines), "typed and commented"


def test_the_runner_knows_every_notebook_of_the_pipeline():
    described = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    assert described["clean"]["foreach"] == NAMES
    commands = json.dumps([stage.get("cmd", "") for stage in described.values()])
    assert all(f"notebook_runner {name}" in commands for name in NAMES)
