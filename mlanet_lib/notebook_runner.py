"""One way to run a notebook: clean copy in, typed parameters, executed copy and HTML out, or a failure that says why.

    python -m mlanet_lib.notebook_runner 02_train [--as ablation/full] [--set train.lr=1e-3]
    python -m mlanet_lib.notebook_runner 02_train --strip

The clean copy, outputs/clean/NAME.ipynb, is the notebook without outputs and metadata, so that looking at a notebook
does not change what the pipeline depends on; `--strip` only writes that. Otherwise the copy is executed, and
outputs/notebooks/NAME.ipynb and .html are written (with `--as`, under that name).
The parameters cell (tag `parameters`) says which values it wants: `train_lr` is filled with `train.lr` of params.yaml.
Exit code 2: something the user gave is wrong, one line on stderr. Exit code 1: a cell failed, its error on stderr.
"""

import argparse
import ast
import difflib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from ruamel.yaml import YAML

from mlanet_lib.errors import UserError
from mlanet_lib.files import atomic_path
from mlanet_lib.profiles import (
    PARAMS_FILE,
    check_keys,
    find_root,
    merge,
    nested,
    parameter_keys,
    read_yaml,
    unknown_key,
    walk,
)

CLEAN, EXECUTED = Path("outputs/clean"), Path("outputs/notebooks")
RUN_NAME = "run"
"""The parameter that `--as` fills: which run of several the notebook makes."""
KEPT_TAGS = ("parameters", "nbval-skip", "nbval-ignore-output", "raises-exception", "remove-input")
KERNEL_ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype",  # figures as data; the HTML draws them with one inlined plotly.js
    "SPYDER_PLAIN_TQDM": "1",  # tqdm.auto takes any SPYDER* variable for a console and draws text instead of a widget
    "TQDM_MININTERVAL": "1",
    "PYTHONHASHSEED": "0",
}


def read_notebook(path: Path) -> dict:
    """The notebook at `path` as its JSON says (nbformat 4), sources as one text each. UserError if there is none."""
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.ipynb")], n=1, cutoff=0.3)
        raise UserError(f"no notebook {path}" + (f", did you mean {near[0]}?" if near else ""))
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a notebook") from error
    return notebook


def stripped(notebook: dict) -> dict:
    """The same cells, and nothing that running or looking changes: no outputs, counts, ids or editor's metadata."""
    cells = []
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "injected-parameters" in tags:
            continue
        kept = {"cell_type": cell["cell_type"], "id": f"cell-{len(cells):02d}", "source": cell["source"].rstrip()}
        tags = [tag for tag in tags if tag in KEPT_TAGS]
        kept["metadata"] = {"tags": tags} if tags else {}
        if cell["cell_type"] == "code":
            kept |= {"outputs": [], "execution_count": None}
        cells.append(kept)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def notebook_text(notebook: dict) -> str:
    """The file's text, laid out as Jupyter does (nbformat itself takes seconds to import)."""
    cells = [{**cell, "source": cell["source"].splitlines(keepends=True)} for cell in notebook["cells"]]
    return json.dumps({**notebook, "cells": cells}, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def write_notebook(notebook: dict, path: Path) -> None:
    """Write atomically; a file that already holds just this is left alone."""
    text = notebook_text(notebook)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def clean_copy(name: str, root: Path) -> dict:
    """Bring outputs/clean/NAME.ipynb up to date with notebooks/NAME.ipynb, and return it."""
    source = root / "notebooks" / f"{name}.ipynb"
    clean = stripped(read_notebook(source))
    write_notebook(clean, root / CLEAN / source.name)
    return clean


def declared_parameters(notebook: dict, where: str = "the notebook") -> dict[str, object]:
    """Name -> default of every assignment in the cell tagged `parameters`. UserError if a default is no plain value."""
    cells = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"{where} must have one cell tagged 'parameters', not {len(cells)}")
    defaults = {}
    for node in ast.parse(cells[0]["source"]).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and getattr(node, "value", None) is not None:
            try:
                defaults[target.id] = ast.literal_eval(node.value)
            except ValueError as error:
                raise UserError(f"{where}: parameter {target.id} must be a plain value") from error
    return defaults


def parse_settings(settings: list[str]) -> dict[str, object]:
    """["train.lr=1e-3"] -> {"train.lr": 0.001}; values are YAML. UserError for anything else."""
    parsed = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set takes KEY=VALUE, not {setting!r}")
        parsed[key.strip()] = YAML(typ="safe").load(text)
    return parsed


def parameter_values(
    declared: dict, values: dict, changes: dict[str, object], run: str | None, where: str
) -> dict[str, object]:
    """What is injected: for each declared name its value from `values` (params.yaml) with `changes` laid over.

    UserError for a declared name that params.yaml does not have, and for a change or a `run` the notebook ignores.
    """
    known = dict(walk(values))
    for key in changes:
        if key not in known:
            raise unknown_key(PARAMS_FILE, key, known)
    keys = parameter_keys(merge(values, nested(changes)))
    flat = dict(walk(merge(values, nested(changes))))
    wanted = {}
    for name in declared:
        if name == RUN_NAME:
            wanted[name] = run if run is not None else declared[name]
        elif name in keys:
            wanted[name] = flat[keys[name]]
        else:
            raise unknown_key(f"{where}, its parameters cell", name, [*keys, RUN_NAME])
    if run is not None and RUN_NAME not in declared:
        raise UserError(f"{where} has no parameter {RUN_NAME}: --as means nothing to it")
    taken = {keys[name] for name in wanted if name in keys}
    for key in changes:
        if not any(key == other or key.startswith(f"{other}.") for other in taken):
            raise UserError(f"{where} has no parameter for {key}; it has {', '.join(sorted(taken)) or 'none'}")
    return wanted


def tidy(notebook: dict) -> dict:
    """Remove from an executed notebook what differs from run to run without meaning: times, paths, redrawn bars."""
    for holder in (notebook, *notebook["cells"]):
        for name in ("papermill", "execution", "widgets"):
            holder["metadata"].pop(name, None)
    for cell in notebook["cells"]:
        merged: list[dict] = []
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream" and merged and merged[-1].get("name") == output["name"]:
                merged[-1]["text"] += output["text"]
            else:
                merged.append(output)
        for output in merged:
            if output["output_type"] == "stream":  # a progress bar redraws its line: the last state stays
                lines = output["text"].split("\n")
                output["text"] = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
        if cell["cell_type"] == "code":
            cell["outputs"] = merged
    return notebook


def execute(name: str, run: str | None = None, changes: dict[str, object] | None = None, root: Path | None = None):
    """Run notebooks/NAME.ipynb and return the path of the executed copy. UserError or CellError, nothing half-written.

    A failed notebook is kept beside as NAME.failed.ipynb, for reading.
    """
    import nbformat  # seconds to import, as are these: only where something is executed
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from mlanet_lib.notebook_html import write_html

    root = root or find_root()
    clean = clean_copy(name, root)
    declared = declared_parameters(clean, f"{name}.ipynb")
    configuration = read_yaml(root / PARAMS_FILE)
    check_keys(configuration, root)
    values = parameter_values(declared, configuration, changes or {}, run, f"{name}.ipynb")
    target = root / EXECUTED / (f"{run}.ipynb" if run else f"{name}.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it only warns of what the checks above refuse
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, KERNEL_ENVIRONMENT, MLANET_ROOT=str(root)):
        raw = Path(folder) / "executed.ipynb"
        try:
            papermill.execute_notebook(
                nbformat.from_dict(clean),
                raw,
                parameters=values,
                kernel_name="python3",
                progress_bar=False,
                cwd=root,
                request_save_on_cell_execute=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
            )
        except PapermillExecutionError as error:
            write_notebook(tidy(nbformat.read(raw, as_version=4)), failed)
            if error.ename == UserError.__name__:
                raise UserError(error.evalue) from error
            raise CellError(f"{name}.ipynb failed{error}\n(kept as {failed.relative_to(root)})") from error
        executed = tidy(nbformat.read(raw, as_version=4))
    write_notebook(executed, target)
    write_html(executed, target.with_suffix(".html"), title=run or name)
    return target


class CellError(Exception):
    """A notebook's cell raised: the text holds the cell's error."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlanet_lib.notebook_runner", description=__doc__.split("\n")[0])
    parser.add_argument("name", help="the notebook's name, as 02_train")
    parser.add_argument("--as", dest="run", metavar="KEY", help="which run of several, as ablation/no_attention")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="another value"
    )
    parser.add_argument("--strip", action="store_true", help="only write the clean copy")
    options = parser.parse_args(arguments)
    try:
        root = find_root()
        if options.strip:
            clean_copy(options.name, root)
        else:
            target = execute(options.name, options.run, parse_settings(options.settings), root)
            print(f"wrote {target.relative_to(root)} and .html")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except CellError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
