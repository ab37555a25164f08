"""The report: what it says, what it must not say, that it opens offline and is light."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from html_reader import read
from PIL import Image

from mlanet_lib.evaluation.likeness_metrics import PROTOCOLS as LIKENESS_PROTOCOLS
from mlanet_lib.evaluation.scan_metrics import PROTOCOLS as SCANS
from mlanet_lib.files.records import read_json, write_json
from mlanet_lib.metrics import PROTOCOLS
from mlanet_lib.show import charts, viewer
from mlanet_lib.show.gallery import Gallery
from mlanet_lib.show.report.page import LARGEST
from mlanet_lib.show.report.report import Inputs, build


def test_likeness_to_real_people(aflw, likeness, tmp_path):
    """With its intervals and its protocol, through JSON as the study writes it; a figure that was not run is said."""
    write_json(tmp_path / "likeness.json", likeness)
    Image.new("RGB", (40, 20)).save(tmp_path / "portraits.webp")
    likeness = read_json(tmp_path / "likeness.json")
    inputs = Inputs(aflw, likeness=likeness, portraits=tmp_path / "portraits.webp")
    reader, text = read(build(inputs, tmp_path / "report.html"))
    slope, (low, high) = likeness["proportions"]["slope"], likeness["proportions"]["intervals"]["slope"]
    assert 0.4 < slope < 0.6 and f"proportions: slope {slope:.2f} [{low:.2f}, {high:.2f}]" in text
    assert f"differs by {slope:.2f} (slope, 95 % {low:.2f} to {high:.2f}; 0 is one face for everybody)" in text
    assert "The mean face in the same poses: r 0.00, slope 0.00" in text
    assert all(line in text for line in LIKENESS_PROTOCOLS.values()) and "30 people (portraits)" in text
    assert "recognisable: rank-1 not run" in text and "not run: needs the extra" in text
    assert all(name in text for name in likeness["proportions"]["by_distance"])
    assert any("reconstruction" in image["alt"] for image in reader.images)
    _, text = read(build(Inputs(aflw), tmp_path / "without.html"))
    assert text.count("Likeness to real people: not run") == 2


def test_whole_report(aflw, florence, ablation, toy_model, tmp_path):
    history = pd.DataFrame({"step": [1, 2], "total": [2.0, 1.0], "val_nme": [9.0, 8.0]})
    images = pd.DataFrame({"nme": np.linspace(2, 9, 33), "nme constant": np.linspace(10, 30, 33)})
    weights = {"identity": [0.25] * 4}
    mesh = viewer.mesh_figure(toy_model.mean.numpy(), toy_model.faces.numpy(), toy_model.albedo_mean.numpy())
    figure = charts.level_weights(weights, [1, 2, 3, 4])
    gallery = Gallery([("Best", figure, "the best")], figure, weights, [1, 2, 3, 4], mesh, "turn me")
    gallery.failures, gallery.errors = [("The worst 1", figure, "worst")], [("By point", figure, "points")]
    ablation[1]["images_per_second"] = 300.0
    lock = {"stages": {"prepare_data": {"outs": [{"path": "outputs/data", "md5": "abc.dir", "size": 1234}]}}}
    params = {"profile": "embedded", "seed": 7}
    inputs = Inputs(aflw, images, florence, ablation, history, params, gallery, lock=lock)
    path = build(inputs, tmp_path / "report.html")
    assert path.stat().st_size < LARGEST
    reader, text = read(path)
    # offline: nothing is fetched
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert all(image["alt"] for image in reader.images) and len(reader.images) == 10
    raw = path.read_text(encoding="utf-8")
    assert raw.count('Plotly.newPlot("') == 1 and raw.count("plotly.js v") == 1
    # numbers with their intervals and their protocols
    assert "8.00 [7.50, 8.75]" in text and "5.00 [4.50, 5.50]" in text and "3.00 [2.50, 3.50]" in text
    assert PROTOCOLS["sparse_nme"] in text and SCANS["florence_deng"] in text
    assert "33 images, 10 / 11 / 12 by yaw" in text
    assert "constant (sees no picture)" in text and "oracle-pose mean shape (uses the truth)" in text
    assert "-15.00 [-16.00, -14.00], lower" in text
    assert "+0.25 [-0.10, +0.60], not distinguishable" in text
    assert "1.25 ± 0.50" in text and "1.75 ± 0.50" in text
    # in a minute, from the same numbers
    assert "the 68 points are 8.00 % off (balanced NME, 95 % 7.50 to 8.75), against 23.00 % for constant" in text
    assert "1.25 mm from synthetic scans, better than the mean face (-0.500 [-0.750, -0.250], lower)" in text
    assert "worse: none; better: none; not distinguishable from: no_attention (against the full network" in text
    # what it costs, and where it comes from
    assert "no_attention 4.50 125.00 300.00 1.50 9.75" in text
    assert "outputs/data abc.dir 1,234" in text and "seed 7" in text
    # published numbers stand apart from those of synthetic faces
    assert "3DDFA_V2 (2020) 2.63 3.42 4.48 3.51 arXiv:2009.09960" in text and "MLANet (this run)" not in text
    assert "This run judged synthetic faces" in text
    # a stand-in is named as one everywhere
    assert "Synthetic stand-ins" in text and "synthetic stand-in in Florence's layout" in text
    assert "point-to-plane RMSE, MICC Florence" not in text
    assert "MICC Florence's scans (gated): not run" in text and "AFLW2000-3D, real photos: not run" in text


EVIL = "</script><script>alert(1)</script><!--<script> & $x^{$ \"'><img src=x onerror=alert(1)>"


def page_with(name, aflw, florence, ablation, toy_model, path):
    """A report in which everything that comes from outside is called `name`; its tags with their attributes' names, the
    text of its scripts, and its other text."""
    other = aflw["baselines"]["constant"] | {"note": name}
    aflw = aflw | {"weights": name, "folder": name, "box": name, "others": {name: other}}
    conditions = {name: florence["conditions"]["all"], "all": florence["conditions"]["all"]}
    mean_face = {"mean face": {"conditions": conditions}}
    florence = florence | {"conditions": conditions, "baselines": mean_face, "protocol": name, "subjects": 1}
    rows = [ablation[0], ablation[1] | {"name": name}]
    vertices = toy_model.mean.numpy()
    mesh = viewer.choose_figure(
        {name: (vertices, vertices * 0), "b": (vertices, vertices * 0)}, toy_model.faces.numpy()
    )
    mesh.update_layout(title=name)
    figure = charts.level_weights({"identity": [0.25] * 4}, [1, 2, 3, 4])
    gallery = Gallery(
        [(name, figure, name)], None, None, None, mesh, name, [(name, figure, name)], [(name, figure, name)]
    )
    lock = {"stages": {name: {"outs": [{"path": f"outputs/data{name}.npz", "md5": name, "size": 1}]}}}
    params = {"profile": name, "seed": name, name: [name]}
    inputs = Inputs(aflw, None, florence, rows, None, params, gallery, lock)
    reader = Structure()
    reader.feed(build(inputs, path).read_text(encoding="utf-8"))
    return reader


class Structure(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.scripts, self.comments = [], "", "", []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(key for key, _ in attributes if key != "data-value")))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts += data
        else:
            self.text += data

    def handle_comment(self, data):
        self.comments.append(data)


@pytest.mark.filterwarnings("ignore:constrained_layout")  # a name as long as the chart
def test_names_from_outside_are_text_wherever_they_stand(aflw, florence, ablation, toy_model, tmp_path):
    """The page has the same tags whatever its photos, systems, variants and files are called."""
    given = aflw, florence, ablation, toy_model
    plain, evil = (page_with(name, *given, tmp_path / f"{k}.html") for k, name in enumerate(("a name", EVIL)))
    assert evil.tags == plain.tags and evil.comments == [] and "img src=x" not in str(evil.tags)
    assert evil.text.count(EVIL) > 20  # it is there, to be read
    drawn = evil.scripts[evil.scripts.index("(function () { var f = ") :]
    assert "<" not in drawn[: drawn.index("Plotly.newPlot(")]  # neither </script> nor <!-- within the data
    data = json.loads(drawn[len("(function () { var f = ") : drawn.index("; Plotly.newPlot(")])
    label = data["layout"]["updatemenus"][0]["buttons"][0]["label"]  # plotly reads tags and entities in it
    assert html.unescape(label) == EVIL and "<" not in label and data["layout"]["title"]["text"] == EVIL


def test_real_results_are_not_called_synthetic(aflw, florence, tmp_path):
    del aflw["by_occlusion"]
    aflw["folder"] = "AFLW2000"
    florence["protocol"] = SCANS["florence_deng"]
    _, text = read(build(Inputs(aflw2000=aflw, florence=florence), tmp_path / "r.html"))
    assert "ynthetic" not in text
    assert "MICC Florence's scans (gated): not run" not in text and "real photos: not run" not in text
    assert "Occluded against free faces: not run" in text


def test_published_numbers_are_compared_on_the_whole_set_only(aflw, tmp_path):
    del aflw["by_occlusion"]
    aflw["labels"] = "original"
    others = aflw["baselines"].pop("constant") | {"note": "another system's stored points"}
    _, text = read(build(Inputs(aflw2000=aflw | {"others": {"peer": others}}), tmp_path / "r.html"))
    assert "This run judged 33 of the 2,000 photos" in text and "MLANet (this run)" not in text
    assert "peer (measured here, another system's stored points) 20.00 21.00 22.00 23.00" in text
    _, text = read(build(Inputs(aflw2000=aflw | {"images": 2000}), tmp_path / "r.html"))
    assert text.count("MLANet (this run)") == 2  # points and pose; not the reannotated labels
    assert "MLANet (this run) 5.00 6.00 7.00 8.00 best.safetensors" in text


def test_nothing_run_is_said(tmp_path):
    reader, text = read(build(Inputs(), tmp_path / "r.html"))
    for what in ("Sparse alignment", "Ablation", "Training curves", "Attention maps", "Pictures"):
        assert re.search(f"{what}[^.]*: not run", text), what
    assert (tmp_path / "r.html").stat().st_size < 40_000  # no plotly without a mesh
    assert not reader.images


def test_missing_numbers_are_not_run_and_never_nan(aflw, tmp_path):
    aflw["sparse_nme"]["bin_60_90"] = None
    aflw["sparse_nme"]["balanced_mean"] = None
    aflw["intervals"] = {"balanced_mean": [None, None]}
    aflw["pose_mae"] = None
    (tmp_path / "a.json").write_text(json.dumps(aflw))
    _, text = read(build(Inputs(aflw2000=read_json(tmp_path / "a.json")), tmp_path / "r.html"))
    assert "nan" not in text.lower().split() and "None" not in text
    assert text.count("not run") > 8
