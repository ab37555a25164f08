"""The page: one file that needs nothing else, with every text escaped."""

from html.parser import HTMLParser

import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.page import LARGEST, Estimate, Page, number, read_json, read_table


class Reader(HTMLParser):
    """Text, links out, and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.text, self.addresses, self.open, self.images = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[key] for key in ("src", "href") if attributes.get(key)]
        self.images += [attributes] if tag == "img" else []
        if tag not in ("meta", "img", "link", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader, " ".join(" ".join(reader.text).split())


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
