"""The page: one file that needs nothing else, with every text escaped."""

import pytest
from html_reader import read

from mlanet_lib.errors import UserError
from mlanet_lib.show.report.page import LARGEST, Estimate, Page, number, read_json, read_table


def test_page_escapes_sorts_and_limits(tmp_path):
    page = Page("<b>t</b>", footer="f")
    section = page.section("A & B")
    section.table(["x", "y"], [["<i>", 2], ["b", Estimate(1.5, 1, 2)], ["c", None]], "p < 1", ours=[1])
    section.details("d", "</pre><script>")
    _, text = read(page.write(tmp_path / "p.html"))
    assert "<b>t</b>" in text and "<i>" in text and "A & B" in text and "</pre><script>" in text
    raw = (tmp_path / "p.html").read_text()
    assert 'data-value="1.5"' in raw and "<tr class=ours>" in raw and '<td class="notrun">not run</td>' in raw
    assert number(1234) == "1,234" and number(float("nan")) == "not run" and number(2.345, 1) == "2.3"
    section.table(["s"], [["9.50 ± 0.25"], ["-0.25 [-1.0, 0.5], lower"], ["3DDFA (2016)"], [""]], "p")
    last = page.render()
    assert '<td class="text" data-value="9.50">' in last and '<td class="text" data-value="-0.25">' in last
    assert '<td class="text">3DDFA (2016)</td>' in last
    section.text("x" * LARGEST)
    with pytest.raises(UserError, match="MB"):
        page.write(tmp_path / "big.html")
    assert not (tmp_path / "big.html").exists()


def test_named_files_are_read_and_missing_ones_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    assert read_json(tmp_path / "a.json") == {"x": 1} and read_json({"x": 2}) == {"x": 2} and read_json(None) is None
    assert read_table(tmp_path / "a.csv")["y"].tolist() == [2]
    for reader, name in ((read_json, "a.csv"), (read_json, "none.json"), (read_table, "none.csv")):
        with pytest.raises(UserError, match="cannot read"):
            reader(tmp_path / name)
