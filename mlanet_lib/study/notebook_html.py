"""Executed notebook -> one HTML file that needs no network: figures drawn by one inlined plotly.js, no CDN scripts."""

import copy
import json
from pathlib import Path

from nbformat import NotebookNode, from_dict

from mlanet_lib.files.atomic import atomic_path

PLOTLY = "application/vnd.plotly.v1+json"


def write_html(notebook: dict, path: Path, title: str) -> None:
    """Write `notebook` as a self-contained page at `path`, atomically. Plotly's library is in it once, if needed."""
    from nbconvert import HTMLExporter  # a second to import
    from traitlets.config import Config

    page = from_dict(copy.deepcopy(notebook))
    figures = 0
    for cell in page.cells:
        for output in cell.get("outputs", []):
            if PLOTLY in output.get("data", {}):
                figures += 1
                output.data = NotebookNode({"text/html": _figure(output.data.pop(PLOTLY), figures)})
    page.metadata["title"] = title
    exporter = HTMLExporter(
        template_name="lab",
        config=Config(HTMLExporter={"embed_images": True}),
        require_js_url="",
        mathjax_url="",
        jquery_url="",
        jupyter_widgets_base_url="",
        mermaid_js_url="",
        mermaid_layout_elk_js_url="",
    )
    body, _ = exporter.from_notebook_node(page)
    if figures:
        from plotly.offline import get_plotlyjs

        body = body.replace("</head>", f"<script>{get_plotlyjs()}</script>\n</head>", 1)
    with atomic_path(path) as temporary:
        temporary.write_text(body, encoding="utf-8")


def _figure(figure: dict, number: int) -> str:
    """A plotly figure as a division and the script that draws into it."""
    parts = {"data": figure["data"], "layout": figure.get("layout", {}), "frames": figure.get("frames", [])}
    # inside a string </script> would end the script, and <!-- would let it not end
    text = json.dumps({**parts, "config": {"responsive": True, "displaylogo": False}}).replace("<", "\\u003c")
    return f'<div id="figure-{number}"></div>\n<script>Plotly.newPlot("figure-{number}", {text});</script>'
