"""One HTML page from a template: tables, figures and meshes to turn, all inside it. It needs no network to open.

Templates lie beside this module: `page.html` is the frame, `blocks.html` the parts, `report.html` what the report says.
"""

import base64
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path

LARGEST = 10_000_000
"""Bytes of a report, at most: it is meant to open at once."""
NOT_RUN = "not run"
LEADING_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(?= *[±\[])")


class Estimate(NamedTuple):
    """A number with its 95 % interval, where there is one."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Cell(NamedTuple):
    """A table's cell as it is printed. key: what it is sorted by if that is not its text; interval: "[low, high]"."""

    text: str
    kind: str = ""
    key: str = ""
    interval: str = ""


def number(value: float | None, digits: int = 2) -> str:
    """A number as the report prints it; None and NaN are "not run"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_RUN
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def change(entry: Mapping, digits: int = 2) -> str:
    """A paired difference in words: `-1.20 [-1.31, -1.08], lower`; without the verdict where the entry has none."""
    difference, low, high = (f"{entry[key]:+.{digits}f}" for key in ("difference", "low", "high"))
    return f"{difference} [{low}, {high}]" + (f", {entry['verdict']}" if "verdict" in entry else "")


def cell(value: str | float | Estimate | None) -> Cell:
    """A cell's value as it is printed and sorted."""
    if isinstance(value, str):
        leading = LEADING_NUMBER.match(value)  # "9.50 ± 0.25" sorts as 9.5
        return Cell(value, "text", leading[0] if leading else "")
    estimate = value if isinstance(value, Estimate) else Estimate(value)
    text = number(estimate.value)
    if estimate.value is None or text == NOT_RUN:
        return Cell(NOT_RUN, "notrun")
    bounded = estimate.low is not None and estimate.high is not None
    interval = f"[{number(estimate.low)}, {number(estimate.high)}]" if bounded else ""
    return Cell(text, "", f"{float(estimate.value):.6g}", interval)


def data_address(figure: Figure | Path, kind: str) -> str:
    """A matplotlib figure, or a picture's file, as a `data:` address. kind: "svg" for charts, "webp" for photos."""
    if isinstance(figure, Path):
        data, kind = figure.read_bytes(), figure.suffix.lstrip(".").lower()
    else:
        stream = io.BytesIO()
        options: dict[str, Any] = {"dpi": 130, "pil_kwargs": {"quality": 84}}
        figure.savefig(stream, format=kind, **({"metadata": {"Date": None}} if kind == "svg" else options))
        data = stream.getvalue()
    kind = {"svg": "svg+xml", "jpg": "jpeg"}.get(kind, kind)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def render(template: str, **values: Any) -> str:
    """A template of this package as a page, every text in it escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(Path(__file__).parent)
    )
    environment.filters |= {
        "number": number,
        "change": change,
        "cell": cell,
        "data_address": data_address,
        "anchor": lambda title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"),
        "json": lambda value: json.dumps(value, indent=2, default=str),
        # in a script </script> would end it, and <!-- would let it not end
        "script": lambda figure: figure.to_json().replace("<", "\\u003c"),
    }
    return environment.get_template(template).render(values)


def write_page(text: str, path: str | Path) -> Path:
    """Write a page, atomically; UserError if it is larger than 10 MB."""
    size = len(text.encode())
    if size > LARGEST:
        raise UserError(
            f"{path} would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}: fewer or smaller figures"
        )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
