"""A self-contained HTML page made of sections: tables, figures, meshes to turn. It needs no network to open."""

import base64
import html
import io
import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path

LARGEST = 10_000_000
"""Bytes of a report, at most: it is meant to open at once."""
NOT_RUN = "not run"
LEADING_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(?= *[±\[])")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, where there is one."""

    value: float | None
    low: float | None = None
    high: float | None = None
    digits: int = 2


@dataclass
class Section:
    """A heading and what stands under it. The methods append and return the section, so that they can be chained."""

    title: str
    blocks: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The heading as an address within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def text(self, text: str) -> "Section":
        """A paragraph of plain text."""
        return self._add(f"<p>{html.escape(text)}</p>")

    def points(self, lines: Sequence[str]) -> "Section":
        """A list of sentences, plain text."""
        return self._add("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")

    def heading(self, text: str) -> "Section":
        """A smaller heading."""
        return self._add(f"<h3>{html.escape(text)}</h3>")

    def not_run(self, what: str, why: str = "") -> "Section":
        """Say that something was not run."""
        return self._add(
            f'<p class="notrun">{html.escape(what)}: {NOT_RUN}{html.escape(f" ({why})" if why else "")}.</p>'
        )

    def cards(self, values: Sequence[tuple[str, str]]) -> "Section":
        """Big numbers: (number, what it is)."""
        cards = "".join(
            f'<div class="card"><b>{html.escape(a)}</b><span>{html.escape(b)}</span></div>' for a, b in values
        )
        return self._add(f'<div class="cards">{cards}</div>')

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence], protocol: str, ours: Sequence[int] = ()
    ) -> "Section":
        """A sortable table. rows: cells of str, int, float, Estimate or None (not run); `ours`: rows to set off.

        `protocol`: the line below it that says what the numbers are.
        """
        first = rows[0] if rows else columns
        kinds = [" class=text" if isinstance(value, str) else "" for value in first]
        head = "".join(
            f'<th scope="col"{kind}><button type="button">{html.escape(name)}</button></th>'
            for kind, name in zip(kinds, columns, strict=True)
        )
        body = "".join(
            f"<tr{' class=ours' if k in ours else ''}>{''.join(_cell(value) for value in row)}</tr>"
            for k, row in enumerate(rows)
        )
        table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        return self._add(f'{table}<p class="protocol">{html.escape(protocol)}</p>')

    def figure(self, figure, caption: str, alt: str, kind: str = "svg") -> "Section":
        """A matplotlib figure (or the path of a picture file). `kind`: "svg" for charts, "webp" for photographs."""
        source = _data_address(figure, kind)
        image = f'<div class="scroll"><img src="{source}" alt="{html.escape(alt)}"></div>'
        return self._add(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def viewer(self, figure, caption: str) -> "Section":
        """A plotly figure to turn; its library goes into the page once."""
        number = f"viewer-{self.key}-{len(self.blocks)}"
        text = figure.to_json().replace("<", "\\u003c")  # </script> would end the script, <!-- would let it not end
        script = (
            f"(function () {{ var f = {text}; "
            f'Plotly.newPlot("{number}", f.data, f.layout, {{responsive: true, displayModeBar: false}}); }})();'
        )
        return self._add(
            f'<figure><div class="viewer" id="{number}" role="img" aria-label="{html.escape(caption)}"></div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure><script>{script}</script>"
        )

    def details(self, summary: str, value) -> "Section":
        """Something long, folded: text, or anything that JSON can hold."""
        text = value if isinstance(value, str) else json.dumps(value, indent=2, default=str)
        return self._add(f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>")

    def _add(self, block: str) -> "Section":
        self.blocks.append(block)
        return self


@dataclass
class Page:
    """A report in the making: `section()` adds one, `write()` makes the file."""

    title: str
    lead: str = ""
    warning: str = ""
    footer: str = ""
    sections: list[Section] = field(default_factory=list)

    def section(self, title: str) -> Section:
        """A new section at the end."""
        self.sections.append(Section(title))
        return self.sections[-1]

    def render(self) -> str:
        """The page as text."""
        source = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
        template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
        plotly = ""
        if any("Plotly.newPlot" in block for section in self.sections for block in section.blocks):
            from plotly.offline import get_plotlyjs

            plotly = get_plotlyjs()
        return template.render(plotly=plotly, **vars(self))

    def write(self, path: str | Path) -> Path:
        """Write the page, atomically; UserError if it is larger than 10 MB."""
        text = self.render()
        size = len(text.encode())
        if size > LARGEST:
            raise UserError(
                f"{path} would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}: fewer or smaller figures"
            )
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return Path(path)


def number(value: float | None, digits: int = 2) -> str:
    """A number as the report prints it; None and NaN are "not run"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_RUN
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def _cell(value) -> str:
    if isinstance(value, str):
        leading = LEADING_NUMBER.match(value)  # "9.50 ± 0.25" sorts as 9.5
        key = f' data-value="{leading[0]}"' if leading else ""
        return f'<td class="text"{key}>{html.escape(value)}</td>'
    estimate = value if isinstance(value, Estimate) else Estimate(value)
    text = number(estimate.value, estimate.digits)
    if text == NOT_RUN:
        return f'<td class="notrun">{NOT_RUN}</td>'
    if estimate.low is not None and estimate.high is not None:
        text += f" <small>[{number(estimate.low, estimate.digits)}, {number(estimate.high, estimate.digits)}]</small>"
    return f'<td data-value="{float(estimate.value):.6g}">{text}</td>'


def _data_address(figure, kind: str) -> str:
    kinds = {"svg": "svg+xml", "webp": "webp", "png": "png", "jpg": "jpeg", "jpeg": "jpeg"}
    if isinstance(figure, str | Path):
        data, kind = Path(figure).read_bytes(), Path(figure).suffix.lstrip(".").lower()
    else:
        stream = io.BytesIO()
        options: Mapping = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 130}
        if kind in ("webp", "jpg", "jpeg"):
            options = {**options, "pil_kwargs": {"quality": 84}}
        figure.savefig(stream, format=kind, **options)
        data = stream.getvalue()
    return f"data:image/{kinds[kind]};base64,{base64.b64encode(data).decode()}"


def read_json(value):
    """The contents of a JSON file, where `value` is a path; anything else as it is. UserError if it cannot be read."""
    if not isinstance(value, str | Path):
        return value
    try:
        return json.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {value} for the report: {error}") from error


def read_table(value) -> pd.DataFrame | None:
    """The rows of a CSV file, where `value` is a path; anything else as it is. UserError if it cannot be read."""
    if not isinstance(value, str | Path):
        return value
    try:
        return pd.read_csv(value)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {value} for the report: {error}") from error


def commit() -> str:
    """The commit of the checkout we stand in, in words."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"
    return f"commit {done.stdout.strip()}"
