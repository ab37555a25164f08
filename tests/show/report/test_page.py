"""The page: one file that needs nothing else, with every text escaped."""

import jinja2
import pytest
from html_reader import read

from mlanet_lib.errors import UserError
from mlanet_lib.show.report import page
from mlanet_lib.show.report.page import LARGEST, Estimate, number, render, write_page

TEMPLATE = """{% extends "page.html" %}
{% from "blocks.html" import table, details %}
{% macro content() %}
{% call table(columns, rows, [1]) %}p < 1{% endcall %}
{{ details("d", "</pre><script>") }}
{% endmacro %}
{% set title, lead, warning, footer, sections = "<b>t</b>", "", "", "f", [("A & B", content)] %}
"""


@pytest.fixture
def made(monkeypatch):
    """Makes a page with one table of these rows."""
    load = page.jinja2.FileSystemLoader
    templates = jinja2.DictLoader({"test.html": TEMPLATE})
    monkeypatch.setattr(page.jinja2, "FileSystemLoader", lambda at: jinja2.ChoiceLoader([templates, load(at)]))
    return lambda columns, rows: render("test.html", columns=columns, rows=rows, plotly="")


def test_page_escapes_and_sorts(made, tmp_path):
    raw = made(["x", "y"], [["<i>", 2], ["b", Estimate(1.5, 1, 2)], ["c", None]])
    _, text = read(write_page(raw, tmp_path / "p.html"))
    assert "<b>t</b>" in text and "<i>" in text and "A & B" in text and "</pre><script>" in text
    assert 'data-value="1.5"' in raw and "<tr class=ours>" in raw and '<td class="notrun">not run</td>' in raw
    assert number(1234) == "1,234" and number(float("nan")) == "not run" and number(2.345, 1) == "2.3"
    last = made(["s"], [["9.50 ± 0.25"], ["-0.25 [-1.0, 0.5], lower"], ["3DDFA (2016)"], [""]])
    assert '<td class="text" data-value="9.50">' in last and '<td class="text" data-value="-0.25">' in last
    assert '<td class="text">3DDFA (2016)</td>' in last


def test_a_page_has_a_largest_size(tmp_path):
    with pytest.raises(UserError, match="MB"):
        write_page("x" * (LARGEST + 1), tmp_path / "big.html")
    assert not (tmp_path / "big.html").exists()
