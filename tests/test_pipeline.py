"""The pipeline: whole, at a tiny size, in a clean clone; what reruns when something changes; what stages depend on.

The tests share one reproduced clone (`tiny_study`), and change it one after the other.
"""

import ast
import csv
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from ruamel.yaml import YAML
from tiny_project import ROOT, VARIANTS, nbval, nbval_copy, run, set_values, set_variants

from mlanet_lib.files.project import read_yaml
from mlanet_lib.study.notebook_runner import read_notebook

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LEARNING_RATE = read_yaml(ROOT / "params.yaml")["train"]["lr"]
pytestmark = pytest.mark.timeout(1200)


def stages_run(text):
    """Names of the stages that a `dvc repro` ran."""
    return re.findall(r"^Running stage '(.+)':", text, re.MULTILINE)


def stale(study):
    """Names of the stages that `dvc status` says would run, the making of clean copies apart (it costs nothing)."""
    names = json.loads(run(study.project, "dvc", "status", "--json").text)
    return {name for name in names if not name.startswith("clean@")}


def test_a_clean_clone_reproduces_the_whole_study(tiny_study):
    assert [name for name in stages_run(tiny_study.repro.text) if name.startswith("clean@")] == [
        f"clean@{name}" for name in NOTEBOOKS
    ]
    outputs = tiny_study.project / "outputs"
    for name in (*NOTEBOOKS, *(f"ablation/{variant}" for variant in VARIANTS)):
        executed = nbformat.read(outputs / "notebooks" / f"{name}.ipynb", as_version=4)
        assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code" and cell.source)
        assert (outputs / "notebooks" / f"{name}.html").stat().st_size > 100_000
    assert (outputs / "report" / "report.html").stat().st_size < 10_000_000
    headline = (outputs / "report" / "headline.txt").read_text()
    metrics = {path.stem: json.loads(path.read_text()) for path in (outputs / "metrics").glob("*.json")}
    assert set(metrics) == {"train", "aflw2000", "florence", "likeness", "ablation"}
    nme = metrics["aflw2000"]["sparse_nme"]
    assert nme["images"] == [3, 3, 3, 9]
    assert f"{nme['balanced_mean']:.2f}" in headline and "report: outputs/report/report.html" in headline
    assert metrics["likeness"]["people"] == 20 and metrics["likeness"]["folder"] == "portraits"
    assert "likeness, 20 real people" in headline
    assert [row["name"] for row in metrics["ablation"]["variants"]] == list(VARIANTS)
    assert {row["seeds"] for row in metrics["ablation"]["variants"]} == {2}


def test_the_second_run_does_nothing(tiny_study):
    second = run(tiny_study.project, "dvc", "repro")
    assert second.code == 0
    assert stages_run(second.text) == []
    assert "Data and pipelines are up to date." in second.text
    assert second.seconds < 30


def test_nothing_was_written_outside_of_what_git_and_dvc_know(tiny_study):
    """Tracked files that changed: the parameters (by the test), the lock, the metrics. Nothing untracked is left."""
    status = run(tiny_study.project, "git", "status", "--porcelain").text.splitlines()
    touched = {line[3:] for line in status}
    allowed = {"params.yaml", "dvc.lock", "outputs/", "outputs/metrics/"}
    assert {name for name in touched if not name.startswith("outputs/metrics")} <= allowed


def test_no_output_of_a_stage_goes_to_the_remote(tiny_study):
    store = tiny_study.project / "store"
    before = sorted(path.name for path in store.rglob("*") if path.is_file())
    assert run(tiny_study.project, "dvc", "push").code == 0
    assert sorted(path.name for path in store.rglob("*") if path.is_file()) == before


def test_looking_at_an_executed_notebook_and_saving_it_trains_nothing(tiny_study):
    source = tiny_study.project / "notebooks" / "02_train.ipynb"
    original = source.read_bytes()
    shutil.copy(tiny_study.project / "outputs" / "notebooks" / "02_train.ipynb", source)
    done = run(tiny_study.project, "dvc", "repro")
    source.write_bytes(original)
    assert done.code == 0
    assert stages_run(done.text) == ["clean@02_train"]


def test_the_first_and_the_last_run_under_nbval(tiny_study, tmp_path):
    """Cell by cell, as somebody who works in Jupyter runs them, in copies outside of notebooks/.

    Clean notebooks hold no outputs to compare with: nbval says only that no cell raises. For the others papermill has
    said that already, when the study was reproduced.
    """
    project, report = tiny_study.project, tiny_study.project / "outputs" / "report"
    shutil.copytree(report, tmp_path / "report")
    copies = [nbval_copy(project, name) for name in ("00_explore", "06_report")]
    done = nbval(project, copies)
    shutil.copytree(tmp_path / "report", report, dirs_exist_ok=True)  # as the pipeline left it
    assert done.code == 0, done.text[-6000:]
    code = [cell for path in copies for cell in read_notebook(path)["cells"] if cell["cell_type"] == "code"]
    assert f"{len(code)} passed" in done.text


def test_one_more_variant_asks_for_that_variant_the_gathering_and_the_report(tiny_study):
    set_variants(tiny_study.project, {**VARIANTS, "last_level_only": {"network": {"levels": [4]}}})
    assert stale(tiny_study) == {"ablation_run@last_level_only", "ablation", "report"}
    set_variants(tiny_study.project, VARIANTS)
    assert stale(tiny_study) == set()


def test_another_learning_rate_asks_for_every_training(tiny_study):
    set_values(tiny_study.project, {"train.lr": 1e-4})
    assert stale(tiny_study) == {"train", *(f"ablation_run@{name}" for name in VARIANTS), "report"}
    set_values(tiny_study.project, {"train.lr": LEARNING_RATE})


def test_a_comment_in_what_only_draws_asks_for_the_report_alone(tiny_study):
    library = tiny_study.project / "mlanet_lib"
    for path in (*(library / "show").rglob("*.py"), *(library / "drawing").rglob("*.py")):
        path.write_text(f"{path.read_text()}# a comment\n")
    assert stale(tiny_study) == {"report"}
    assert run(tiny_study.project, "git", "checkout", "--quiet", "--", "mlanet_lib").code == 0


@pytest.mark.slow
def test_another_learning_rate_trains_from_the_start_and_makes_the_rest_stale(tiny_study):
    curve = tiny_study.project / "outputs" / "train" / "history.csv"
    before = curve.read_text()
    set_values(tiny_study.project, {"train.lr": 1e-4})
    done = run(tiny_study.project, "dvc", "repro", "train")
    assert done.code == 0, done.text[-4000:]
    assert [name for name in stages_run(done.text) if not name.startswith("clean@")] == ["train"]
    assert "training starts anew" in done.text and "train.lr" in done.text
    rows = list(csv.DictReader(curve.read_text().splitlines()))
    assert curve.read_text() != before and rows[-1]["step"] == "4"
    assert float(rows[-1]["lr"]) <= 1e-4
    found = stale(tiny_study)
    assert found >= {f"ablation_run@{name}" for name in VARIANTS} | {"benchmark_aflw2000", "benchmark_florence"}
    assert not found & {"train", "prepare_data", "explore"}


# What stages depend on: held to what the notebooks import.

# what shows a result, or refuses input, changes no result; but study/runs.py says what is trained
WITHOUT_RESULT = {"errors", "limits", "drawing", "show", "study", "__init__"}
CHECKPOINTED = ("benchmark_aflw2000", "benchmark_florence", "report", "ablation")


def imports(source):
    """Full names that a source imports from the library."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("mlanet_lib."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlanet_lib"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module


def module_path(name):
    """The file of `mlanet_lib.a.b`, or of the package; None for a name within a module."""
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def used_modules(source):
    """Paths, from the root, of all library modules behind a source, but for those `WITHOUT_RESULT`."""
    found, waiting = set(), [source]
    while waiting:
        for path in filter(None, map(module_path, imports(waiting.pop()))):
            first = path.relative_to(ROOT / "mlanet_lib").parts[0].removesuffix(".py")
            if path not in found and (first not in WITHOUT_RESULT or path.name == "runs.py"):
                found.add(path)
                waiting.append(path.read_text())
    return {path.relative_to(ROOT).as_posix() for path in found}


def stages():
    """Stage -> (notebook, its dependencies in the library) from dvc.yaml."""
    described = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    found = {}
    for name, stage in described.items():
        stage = stage.get("do", stage)
        notebook = re.search(r"notebook_runner (\S+)", stage["cmd"]).group(1)
        if name != "clean":
            found[name] = (notebook, {dep for dep in stage["deps"] if dep.startswith("mlanet_lib")})
    return found


@pytest.mark.parametrize("name", sorted(stages()))
def test_a_stage_depends_on_the_packages_its_notebook_uses(name):
    """Its own list is complete. What follows the training may leave out what the training's list has: other code there
    makes other weights (their header holds the code's fingerprint), and these are a dependency."""
    notebook, listed = stages()[name]
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    covered = listed | (stages()["train"][1] if name in CHECKPOINTED else set())
    used = used_modules(source)
    assert sorted(path for path in used if not any(path == dep or path.startswith(f"{dep}/") for dep in covered)) == []
    assert all((ROOT / dep).exists() for dep in listed)
    if name not in CHECKPOINTED:  # nor is there too much: the whole library would retrain at every edit
        extra = [dep for dep in listed if not any(path == dep or path.startswith(f"{dep}/") for path in used)]
        assert extra == []


def test_every_stage_keeps_its_outputs_from_the_remote():
    text = (ROOT / "dvc.yaml").read_text()
    outs = re.findall(r"^\s+- (outputs/\S+?):\n((?:\s{8,}\S+: \S+\n)+)", text, re.MULTILINE)
    assert len(outs) > 20
    for path, options in outs:
        assert ("cache: false" if path.startswith("outputs/metrics") else "push: false") in options, path


def test_the_remote_is_a_folder_of_the_repository_and_nothing_reports_use():
    from dvc.config import Config

    config = Config(dvc_dir=str(ROOT / ".dvc"), validate=True)
    assert config["core"]["analytics"] is False and config["core"]["check_update"] is False
    remote = config["remote"][config["core"]["remote"]]["url"]
    assert Path(remote).resolve() == ROOT / "store"
    assert re.search(r"url = \.\./store$", (ROOT / ".dvc" / "config").read_text(), re.MULTILINE)
