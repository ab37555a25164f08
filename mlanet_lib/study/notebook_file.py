"""Notebooks as files: read and checked, without what running or looking changes, and written as Jupyter writes them."""

import difflib
import json
from pathlib import Path

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path

KEPT_TAGS = ("parameters", "nbval-skip", "nbval-ignore-output", "raises-exception", "remove-input")


def read_notebook(path: Path) -> dict:
    """The notebook at `path` as its JSON says (nbformat 4), sources as one text each, and metadata for every cell.

    UserError if there is none, or one of another format.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.ipynb")], n=1, cutoff=0.3)
        raise UserError(f"no notebook {path}" + (f", did you mean {near[0]}?" if near else ""))
    try:
        notebook = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(notebook, dict) and notebook.get("nbformat", 4) != 4:
            raise UserError(f"{path} is of nbformat {notebook['nbformat']!r}, not 4: jupyter nbconvert --to notebook")
        cells = [_read_cell(cell) for cell in _listed(notebook["cells"])]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a notebook") from error
    return {**notebook, "cells": cells}


def _read_cell(cell: dict) -> dict:
    """A cell with its source as one text, and with metadata; a TypeError or ValueError for what is no cell."""
    source, metadata = cell["source"], cell.get("metadata", {})
    source = "".join(source if isinstance(source, str) else _listed(source))
    source.encode()  # half a surrogate pair could not be written
    if cell["cell_type"] not in ("code", "markdown", "raw"):
        raise ValueError("unknown type of cell")
    return {**cell, "source": source, "metadata": {**metadata, "tags": _listed(metadata.get("tags", []))}}


def _listed(value: object) -> list:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def stripped(notebook: dict) -> dict:
    """The same cells, and nothing that running or looking changes: no outputs, counts, ids or editor's metadata."""
    cells: list[dict] = []
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
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
