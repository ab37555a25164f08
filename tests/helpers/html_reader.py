"""An HTML page as its reader sees it."""

from html.parser import HTMLParser


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
