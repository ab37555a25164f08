"""The notebook runner, on small notebooks in a project made here (each execution starts a kernel: seconds)."""

import re
import subprocess
import sys

import nbformat
import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.study import notebook_runner
from mlanet_lib.study.notebook_file import notebook_text, stripped, tidy, write_notebook
from mlanet_lib.study.notebook_runner import declared_parameters, main, parameter_values, parse_settings

PARAMS = "seed: 3\ntrain:\n  lr: 1e-4\n  steps: 10\n  weights: {landmarks: 2.0}\n"
DEMO = [
    "seed: int = 0  # of everything random\ntrain_lr: float = 1.0\ntrain_weights: dict = {}\nrun: str = 'demo'",
    "import os, pathlib\n"
    "from tqdm.auto import tqdm\n"
    "for step in tqdm(range(3), desc='steps'):\n"
    "    pass\n"
    "print(type(train_lr).__name__, train_lr, seed, train_weights, run, os.path.exists('params.yaml'))",
    "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 3, 2], name='</script>'))",
    "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[3, 1, 2]))",
]


def notebook(*sources):
    """A notebook as an editor leaves it: outputs, counts, ids and metadata. The first code cell has parameters."""
    cells = [nbformat.v4.new_markdown_cell("# A title")]
    for number, source in enumerate(sources):
        cell = nbformat.v4.new_code_cell(source, execution_count=number + 7)
        cell.outputs = [nbformat.v4.new_output("stream", text="old\n")]
        cell.metadata = nbformat.NotebookNode(collapsed=True, tags=["parameters"] if number == 0 else [])
        cells.append(cell)
    return nbformat.v4.new_notebook(
        cells=cells, nbformat_minor=5, metadata={"kernelspec": {"name": "mine", "display_name": "Mine"}}
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook, `demo`; the working directory is in its notebooks folder, as JupyterLab has it."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    write_notebook(notebook(*DEMO), tmp_path / "notebooks" / "demo.ipynb")
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("MLANET_ROOT", raising=False)
    return tmp_path


def outputs(path):
    """All text that a notebook's cells printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.text for cell in cells for o in cell.get("outputs", []) if o.output_type == "stream")


def test_run_injects_typed_values_and_writes_notebook_and_offline_page(project, capfd):
    assert main(["demo", "--as", "ablation/full", "--set", "train.weights.landmarks=5e-1"]) == 0
    told = capfd.readouterr().out
    assert told.startswith("ablation/full: A title ...\n")
    assert re.search(r"\nablation/full: done in 0:\d\d, outputs/notebooks/ablation/full.ipynb and .html\n$", told)
    folder = project / "outputs" / "notebooks" / "ablation"
    assert sorted(path.name for path in folder.iterdir()) == ["full.html", "full.ipynb"]
    # a number and not the text "1e-4"; the working directory is the root; the change reached the nested value
    assert "float 0.0001 3 {'landmarks': 0.5} ablation/full True" in outputs(folder / "full.ipynb")
    text = (folder / "full.ipynb").read_text()
    assert "100%|" in text and "\\r" not in text, "the bar is text, and only its last state is kept"
    assert not re.search(r"papermill|start_time|\"duration|widget", text)
    page = (folder / "full.html").read_text()
    assert page.count("Plotly.newPlot(") - page.count("Plotly.newPlot(e") >= 2
    assert 4e6 < len(page) < 7e6, "plotly.js once"
    assert not re.search(r"<(script|link)[^>]+(src|href)=[\"']https?:", page)
    assert not re.search(r"(import|from|require\()\s*[\"']https?:", page)


def test_clean_copy_does_not_change_when_the_notebook_is_run_and_saved(project):
    assert main(["demo", "--strip"]) == 0
    clean = project / "outputs" / "clean" / "demo.ipynb"
    first, when = clean.read_bytes(), clean.stat().st_mtime_ns
    source = project / "notebooks" / "demo.ipynb"
    saved = nbformat.read(source, as_version=4)
    for number, cell in enumerate(saved.cells):
        cell.id = f"other{number}"
        cell.metadata["execution"] = {"iopub.execute_input": "2026"}
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = 99, [nbformat.v4.new_output("stream", text="new")]
    saved.metadata["language_info"] = {"version": "3.12"}
    nbformat.write(saved, source)
    assert main(["demo", "--strip"]) == 0
    assert clean.read_bytes() == first and clean.stat().st_mtime_ns == when
    nbformat.validate(nbformat.read(clean, as_version=4))
    saved.cells[2].source += "\n1"
    nbformat.write(saved, source)
    main(["demo", "--strip"])
    assert clean.read_bytes() != first


def test_failing_cell_fails_the_run_with_its_error_and_nothing_half_written(project, capfd):
    write_notebook(notebook("seed: int = 0", "print('before')\n1 / 0"), project / "notebooks" / "bad.ipynb")
    assert main(["bad"]) == 1
    told = capfd.readouterr().err
    assert "ZeroDivisionError: division by zero" in told and "1 / 0" in told
    assert sorted(path.name for path in (project / "outputs" / "notebooks").iterdir()) == ["bad.failed.ipynb"]
    assert "before" in outputs(project / "outputs" / "notebooks" / "bad.failed.ipynb")


def test_data_that_was_not_pulled_is_said_before_anything_runs(project, capsys):
    (project / "params.yaml").write_text(PARAMS + "face_model: {path: data/face_models/ict.npz}\n")
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "data/face_models/ict.npz is missing; run: dvc pull data.dvc weights.dvc\n"


def test_a_user_error_in_a_cell_is_its_line_and_exit_code_2(project, capfd):
    raising = "from mlanet_lib.errors import UserError\nraise UserError('no such folder: photos')"
    write_notebook(notebook("seed: int = 0", raising), project / "notebooks" / "bad.ipynb")
    assert main(["bad"]) == 2
    assert capfd.readouterr().err.strip().split("\n")[-1] == "no such folder: photos"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["dmeo"], "did you mean demo?"),
        (["demo", "--set", "train.lrr=1"], "train.lrr is unknown, did you mean lr?"),
        (["demo", "--set", "train.steps=1"], "demo.ipynb has no parameter for train.steps"),
        (["demo", "--set", "train.lr"], "--set takes KEY=VALUE, not 'train.lr'"),
        (["demo", "--set", "train.lr=[1,"], "--set train.lr line 1 is not YAML"),
        (["demo", "--set", "train.lr=2020-01-01"], "--set train.lr is no plain value but a date"),
        (["demo", "--set", "train.lr=.nan"], "--set train.lr = nan: must be a finite number"),
        (["demo", "--set", "tra\nin=1"], "tra in is unknown"),
        (["../demo"], "notebook '../demo' cannot be a file's name"),
        (["../notebooks/demo", "--strip"], "notebook '../notebooks/demo' cannot be a file's name"),
        (["demo", "--as", "../../evil"], "--as '..' cannot be a file's name"),
        (["demo", "--as", "/evil"], "--as '' cannot be a file's name"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(project, capsys, arguments, line):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1
    assert not (project / "outputs" / "notebooks").exists()


def test_parameters_are_declared_by_literal_assignments():
    cell = 'steps: int = 5  # a comment\nname = "x"\n# nothing\nweights: dict = {"a": 1e-4}\nboth: list = [1, 2]'
    assert declared_parameters(notebook(cell)) == {"steps": 5, "name": "x", "weights": {"a": 1e-4}, "both": [1, 2]}
    with pytest.raises(UserError, match="parameter steps must be a plain value"):
        declared_parameters(notebook("steps = 2 * x"))
    with pytest.raises(UserError, match="one cell tagged 'parameters', not 0"):
        declared_parameters(nbformat.v4.new_notebook())


def test_a_declared_name_that_params_does_not_have_is_refused():
    values = {"train": {"lr": 0.1}}
    assert parameter_values({"train_lr": 1}, values, {}, None, "a.ipynb") == {"train_lr": 0.1}
    with pytest.raises(UserError, match="train_rl is unknown, did you mean train_lr"):
        parameter_values({"train_rl": 1}, values, {}, None, "a.ipynb")
    with pytest.raises(UserError, match="no parameter run"):
        parameter_values({"train_lr": 1}, values, {}, "ablation/full", "a.ipynb")


def test_settings_have_yaml_types():
    assert parse_settings(["a=1e-4", "b=true", "c=[1, 2]", "d=null", "e=word"]) == {
        "a": 1e-4,
        "b": True,
        "c": [1, 2],
        "d": None,
        "e": "word",
    }


def test_tidy_keeps_the_last_state_of_a_redrawn_line():
    page = notebook("seed = 1")
    texts = ["a\rb\r", "cc\nfirst\n", "x\r\n"]
    page.cells[1].outputs = [nbformat.v4.new_output("stream", name="stderr", text=text) for text in texts]
    (output,) = tidy(page).cells[1].outputs
    assert output.text == "cc\nfirst\nx\n"


def test_injected_cells_of_an_executed_notebook_are_not_kept():
    page = notebook("seed = 1", "2")
    injected = nbformat.v4.new_code_cell("seed = 3")
    injected.metadata["tags"] = ["injected-parameters"]
    page.cells.insert(2, injected)
    clean = stripped(page)
    assert [cell["source"] for cell in clean["cells"]] == ["# A title", "seed = 1", "2"]
    assert clean["metadata"]["kernelspec"]["name"] == "python3"


def test_the_text_is_laid_out_as_jupyter_does():
    clean = stripped(notebook("seed = 1", "print('ä')\n\n2"))
    assert notebook_text(clean) == nbformat.writes(nbformat.from_dict(clean)) + "\n"


def test_every_kernel_variable_is_text():
    assert all(isinstance(value, str) for value in notebook_runner.KERNEL_ENVIRONMENT.values())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[]", "is not a notebook"),
        ("{}", "is not a notebook"),
        ('{"cells": {}}', "is not a notebook"),
        ('{"cells": [5]}', "is not a notebook"),
        ('{"cells": [{"cell_type": "code", "source": 5}]}', "is not a notebook"),
        ('{"cells": [{"cell_type": "cod", "source": ""}]}', "is not a notebook"),
        ('{"cells": [{"cell_type": "code", "source": "", "metadata": []}]}', "is not a notebook"),
        ('{"cells": [{"cell_type": "code", "source": "\\ud800"}]}', "is not a notebook"),
        ('{"nbformat": 3, "worksheets": []}', "is of nbformat 3, not 4"),
        ("[" * 100_000, "is not a notebook"),
        ("\udcff", "is not a notebook"),
        ('{"cells": [{"cell_type": "code", "source": "x=1"}]}', "must have one cell tagged 'parameters', not 0"),
    ],
)
def test_what_is_no_notebook_is_one_line(project, capsys, text, line):
    (project / "notebooks" / "odd.ipynb").write_bytes(text.encode(errors="surrogateescape"))
    assert main(["odd"]) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("%matplotlib inline\nseed = 1", "demo line 1 is not plain Python: %matplotlib inline belongs in another cell"),
        ("!ls", "demo line 1 is not plain Python: !ls belongs in another cell"),
        ("seed = = 1", "demo line 1 is not plain Python: invalid syntax"),
        ("seed = (1", "demo line 1 is not plain Python: '\\(' was never closed"),
        ("seed = 1\0", "demo is not plain Python: source code string cannot contain null bytes"),
        ("seed = " + "-" * 5000 + "1", "demo is not plain Python|parameter seed must be a plain value"),
        ("seed = {[]: 1}", "parameter seed must be a plain value"),
    ],
)
def test_a_parameters_cell_that_is_no_python_is_one_line(source, line):
    with pytest.raises(UserError, match=line.replace("demo", "demo: its parameters cell")) as caught:
        declared_parameters(notebook(source), "demo")
    assert "\n" not in str(caught.value)


def test_notebooks_that_users_had(project, shared_data, capsys):
    (project / "params.yaml").write_text("train: {lr: 0.1}\n")
    for name, line in (
        ("magic", "%matplotlib inline belongs in another cell"),
        ("nometa", "must have one cell tagged 'parameters', not 0"),
        ("syntax", "line 1 is not plain Python: invalid syntax"),
    ):
        source = (shared_data / "faults" / "notebooks" / f"{name}.ipynb").read_bytes()
        (project / "notebooks" / f"{name}.ipynb").write_bytes(source)
        assert main([name]) == 2
        told = capsys.readouterr().err
        assert line in told and told.count("\n") == 1


def test_a_killed_kernel_says_so_and_what_had_run_is_kept(project, capfd):
    dying = ["seed: int = 0", "print('before')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"]
    write_notebook(notebook(*dying), project / "notebooks" / "bad.ipynb")
    assert main(["bad"]) == 1
    told = capfd.readouterr().err
    assert "bad.ipynb: its kernel was killed, most likely because the memory was not enough" in told
    assert told.count("\n") == 1
    assert sorted(path.name for path in (project / "outputs" / "notebooks").iterdir()) == ["bad.failed.ipynb"]
    assert "before" in outputs(project / "outputs" / "notebooks" / "bad.failed.ipynb")


@pytest.mark.parametrize(
    ("code", "line"), [(3, "exit code 3"), (-11, "SIGSEGV"), (137, "was killed"), (-9, "memory"), (1, "exit code 1")]
)
def test_how_a_kernel_ended_is_said(code, line):
    assert line in notebook_runner.how_it_ended(code)


def test_help_without_docstrings():
    """As `python -OO` has it."""
    command = [sys.executable, "-OO", "-m", "mlanet_lib.study.notebook_runner", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "Run one of the study's notebooks." in done.stdout, done.stderr
