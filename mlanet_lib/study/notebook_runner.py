"""One way to run a notebook: clean copy in, typed parameters, executed copy and HTML out, or an error with its cause.

    python -m mlanet_lib.study.notebook_runner 02_train [--as ablation/full] [--set train.lr=1e-3]
    python -m mlanet_lib.study.notebook_runner 02_train --strip

The clean copy, outputs/clean/NAME.ipynb, is the notebook without outputs and metadata, so that looking at a notebook
does not change what the pipeline depends on; `--strip` only writes that. Otherwise the copy is executed, and
outputs/notebooks/NAME.ipynb and .html are written (with `--as`, under that name). The parameters cell (tag
`parameters`) names the values that the notebook needs: `train_lr` is filled with `train.lr` of params.yaml. Exit code
2: something the user gave is wrong, one line on stderr. Exit code 1: a cell failed, its error on stderr.
"""

import argparse
import ast
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from mlanet_lib.errors import UserError, one_line
from mlanet_lib.files.atomic import check_name
from mlanet_lib.files.project import PARAMS_FILE, find_root, parse_yaml, read_yaml
from mlanet_lib.study.notebook_file import read_notebook, stripped, tidy, write_notebook
from mlanet_lib.study.profiles import check_keys, merge, nested, parameter_keys, unknown_key, walk

CLEAN, EXECUTED = Path("outputs/clean"), Path("outputs/notebooks")
RUN_NAME = "run"
"""The parameter that `--as` fills: which run of several the notebook makes."""
KERNEL_ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype",  # figures as data; the HTML draws them with one inlined plotly.js
    "SPYDER_PLAIN_TQDM": "1",  # tqdm.auto takes any SPYDER* variable for a console and draws text instead of a widget
    "TQDM_MININTERVAL": "1",
    "PYTHONHASHSEED": "0",
}


def clean_copy(name: str, root: Path) -> dict:
    """Bring outputs/clean/NAME.ipynb up to date with notebooks/NAME.ipynb, and return it."""
    source = root / "notebooks" / f"{check_name(name, 'notebook')}.ipynb"
    clean = stripped(read_notebook(source))
    write_notebook(clean, root / CLEAN / source.name)
    return clean


def declared_parameters(notebook: dict, where: str = "the notebook") -> dict[str, object]:
    """Name -> default of every assignment in the cell tagged `parameters`. UserError if a default is no plain value,
    or the cell no Python."""
    cells = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"{where} must have one cell tagged 'parameters', not {len(cells)}")
    defaults = {}
    for node in _statements(cells[0]["source"], where):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and value is not None:
            try:
                defaults[target.id] = ast.literal_eval(value)
            except (ValueError, TypeError, RecursionError, MemoryError) as error:
                raise UserError(f"{where}: parameter {target.id} must be a plain value") from error
    return defaults


def _statements(source: str, where: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" line {number}" if (number := getattr(error, "lineno", None)) else ""
        text = (getattr(error, "text", None) or "").strip()
        reason = f"{text} belongs in another cell" if text.startswith(("%", "!")) else getattr(error, "msg", error)
        raise UserError(f"{where}: its parameters cell{line} is not plain Python: {reason}") from error


def parse_settings(settings: list[str]) -> dict[str, object]:
    """["train.lr=1e-3"] -> {"train.lr": 0.001}; values are YAML. UserError for anything else."""
    parsed = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set takes KEY=VALUE, not {setting!r}")
        parsed[key.strip()] = parse_yaml(text, f"--set {key.strip()}")
    return parsed


def parameter_values(
    declared: dict, values: dict, changes: dict[str, object], run: str | None, where: str
) -> dict[str, object]:
    """The values to inject: for each declared name its value from `values` (params.yaml), overridden by `changes`.

    UserError for a declared name that params.yaml does not have, and for a change or a `run` the notebook ignores.
    """
    known = dict(walk(values))
    for key in changes:
        if key not in known:
            raise unknown_key(PARAMS_FILE, key, known)
    if run is not None and RUN_NAME not in declared:
        raise UserError(f"{where} has no parameter {RUN_NAME}: --as means nothing to it")
    changed = merge(values, nested(changes))
    keys, flat = parameter_keys(changed), dict(walk(changed))
    wanted, taken = {}, set()
    for name, default in declared.items():
        if name == RUN_NAME:
            wanted[name] = default if run is None else run
        elif name in keys:
            wanted[name] = flat[keys[name]]
            taken.add(keys[name])
        else:
            raise unknown_key(f"{where}, its parameters cell", name, [*keys, RUN_NAME])
    for key in changes:
        if not any(key == other or key.startswith(f"{other}.") for other in taken):
            raise UserError(f"{where} has no parameter for {key}; it has {', '.join(sorted(taken)) or 'none'}")
    return wanted


def execute(name: str, run: str | None, changes: dict[str, object], root: Path) -> Path:
    """Run notebooks/NAME.ipynb and return the path of the executed copy. UserError or CellError, nothing half-written.

    What runs and how long it took is printed, a line each. A failed notebook is kept beside as NAME.failed.ipynb.
    """
    for part in run.split("/") if run is not None else ():
        check_name(part, "--as")
    clean = clean_copy(name, root)
    declared = declared_parameters(clean, f"{name}.ipynb")
    configuration = read_yaml(root / PARAMS_FILE)
    check_keys(configuration, root)
    values = parameter_values(declared, configuration, changes, run, f"{name}.ipynb")
    _check_data(merge(configuration, nested(changes)), root)
    target = root / EXECUTED / f"{run or name}.ipynb"
    print(f"{run or name}: {title(clean)} ...", flush=True)
    began = time.monotonic()
    executed = run_cells(f"{name}.ipynb", clean, values, root, target.with_name(f"{target.stem}.failed.ipynb"))
    write_notebook(executed, target)
    from mlanet_lib.study.notebook_html import write_html

    write_html(executed, target.with_suffix(".html"), title=run or name)
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"{run or name}: done in {minutes}:{seconds:02d}, {target.relative_to(root)} and .html", flush=True)
    return target


def title(notebook: dict) -> str:
    """What a notebook does: the heading of its first cell, without its number."""
    heading = notebook["cells"][0]["source"].partition("\n")[0] if notebook["cells"] else ""
    return heading.lstrip("# ").rpartition(" · ")[2]


def _check_data(configuration: dict, root: Path) -> None:
    """UserError if the face model is one of data/, and data/ was not pulled."""
    path = str(dict(walk(configuration)).get("face_model.path"))
    if path.startswith("data/") and not (root / path).is_file():
        raise UserError(f"{path} is missing; run: dvc pull data.dvc weights.dvc")


def run_cells(name: str, clean: dict, values: dict[str, object], root: Path, failed: Path) -> dict:
    """The executed copy of a clean notebook, with these values injected. Where it fails, what had run is written to
    `failed`, and a UserError or CellError holds the cell's error; `name` is what they call the notebook."""
    import nbformat  # seconds to import, as are these: only where something is executed
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from papermill.exceptions import PapermillExecutionError

    failed.unlink(missing_ok=True)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it says the checks above refuse, or we do below
    kept, ended = f"(kept as {failed.relative_to(root)})", list[int]()
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
                kernel_manager_class=_watched_kernel(ended),
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
            )
        except PapermillExecutionError as error:
            write_notebook(tidy(nbformat.read(raw, as_version=4)), failed)
            if error.ename == UserError.__name__:
                raise UserError(error.evalue) from error
            raise CellError(f"{name} failed{error}\n{kept}") from error
        except (RuntimeError, NoSuchKernel) as error:  # nbclient's DeadKernelError is one
            if not ended:
                raise UserError(f"{name}: no kernel python3 could be started: {error}") from error
            write_notebook(tidy(nbformat.read(raw, as_version=4)), failed)
            raise CellError(f"{name}: {how_it_ended(ended[0])} {kept}") from error
        return tidy(nbformat.read(raw, as_version=4))


def _watched_kernel(ended: list[int]) -> type:
    """A kernel manager that puts the exit code of a kernel that ended by itself into the list."""
    from jupyter_client import AsyncKernelManager

    class Watched(AsyncKernelManager):
        async def is_alive(self) -> bool:  # type: ignore[override]
            code = await self.provisioner.poll() if self.provisioner else None
            if code is not None:
                ended.append(code)
            return code is None and self.has_kernel

    return Watched


def how_it_ended(code: int) -> str:
    """How a kernel with this exit code (negative: a signal) ended, and the usual reason."""
    number = -code if code < 0 else code - 128
    if number == getattr(signal, "SIGKILL", 9):
        return "its kernel was killed, most likely because the memory was not enough: smaller batches or pictures help"
    if number in {one.value for one in signal.Signals}:
        return f"its kernel crashed ({signal.Signals(number).name})"
    return f"its kernel ended by itself with exit code {code}"


class CellError(Exception):
    """A notebook's cell raised, or ended the kernel: the text holds the cell's error."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    description = "Run one of the study's notebooks."
    parser = argparse.ArgumentParser(prog="python -m mlanet_lib.study.notebook_runner", description=description)
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
            execute(options.name, options.run, parse_settings(options.settings), root)
    except CellError as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
