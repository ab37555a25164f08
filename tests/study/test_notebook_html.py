"""The page of an executed notebook: complete in itself, plotly's library once or not at all."""

import json
import re

import nbformat
import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.study.notebook_html import PLOTLY, write_html

ADDRESS = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?https?:|(?:import|from|require\()\s*["']https?:""")


def executed(*outputs):
    """A notebook with one cell that has these outputs."""
    cell = nbformat.v4.new_code_cell("figure", outputs=list(outputs))
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title"), cell])


def plotly_output(name="line"):
    """What plotly's `plotly_mimetype` renderer leaves in a notebook."""
    figure = {"data": [{"type": "scatter", "y": [1, 2], "name": name}], "layout": {"title": {"text": "t"}}}
    return nbformat.v4.new_output("display_data", data={PLOTLY: figure, "text/plain": "Figure"})


def test_a_page_without_figures_is_small_and_needs_no_network(tmp_path):
    write_html(executed(nbformat.v4.new_output("stream", text="printed")), tmp_path / "page.html", "my title")
    page = (tmp_path / "page.html").read_text()
    assert "printed" in page and "<title>my title</title>" in page
    assert "Plotly" not in page and len(page) < 1e6
    assert not ADDRESS.search(page)


def test_what_a_cell_prints_and_the_title_are_text(tmp_path):
    evil = "</title><script>alert(1)</script> & <b>"
    error = nbformat.v4.new_output("error", ename=evil, evalue=evil, traceback=[evil])
    write_html(executed(nbformat.v4.new_output("stream", text=evil), error), tmp_path / "page.html", evil)
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert(1)" not in page and page.count("&lt;script&gt;alert(1)") >= 3


def test_every_figure_is_drawn_by_one_inlined_library(tmp_path):
    evil = "</script><!--<script>alert(1)</script><b>"
    notebook = executed(plotly_output(), plotly_output(evil))
    before = nbformat.writes(notebook)
    write_html(notebook, tmp_path / "page.html", "figures")
    page = (tmp_path / "page.html").read_text()
    assert page.count('Plotly.newPlot("figure-') == 2
    assert 4e6 < len(page) < 7e6
    assert page.index("plotly.js v") < page.index('Plotly.newPlot("figure-1"'), "the library comes first"
    drawn = page[page.index('Plotly.newPlot("figure-2", ') :]
    drawn = drawn[len('Plotly.newPlot("figure-2", ') : drawn.index(");</script>")]
    assert "<" not in drawn and json.loads(drawn)["data"][0]["name"] == evil, "a name cannot end the script"
    assert not ADDRESS.search(page)
    assert nbformat.writes(notebook) == before, "the notebook is not changed"


def test_a_place_that_cannot_be_written_is_a_user_error_and_leaves_nothing(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*page.html"):
        write_html(executed(), tmp_path / "page.html", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
