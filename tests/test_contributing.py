"""What CONTRIBUTING.md shows is done here as it stands there, and each change is as short as it should be."""

import ast
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import figures_in_docs
import numpy as np
import pandas as pd
import torch
from paths import ROOT
from PIL import Image
from ruamel.yaml import YAML

from mlanet_lib.data import manifest, sources
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.project import read_yaml
from mlanet_lib.network import MLANet, attention
from mlanet_lib.show import charts
from mlanet_lib.show.report import page, report
from mlanet_lib.study.params import load_params, parse_params, variant_params
from mlanet_lib.study.profiles import merge
from mlanet_lib.training import losses, terms

SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S))


def blocks(section, language):
    found = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.S)
    assert all(len([line for line in text.splitlines() if line.strip()]) < 20 for text in found)
    return found


def block(section, language):
    (found,) = blocks(section, language)
    return found


def inline(section, start):
    """The code that begins so within a sentence."""
    (found,) = re.findall(rf"`({re.escape(start)}.*?)`", SECTIONS[section])
    return found


def test_every_function_is_typed():
    trees = [ast.parse(text) for section in SECTIONS for text in blocks(section, "python")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(functions) >= 4
    for function in functions:
        assert function.returns and all(argument.annotation for argument in function.args.args), function.name


def changed(section):
    base = read_yaml(ROOT / "profiles" / "embedded.yaml")
    return parse_params(merge(base, YAML(typ="safe").load(block(section, "yaml"))), "params.yaml")


def test_a_variant_is_one_entry():
    params = changed("A variant of the ablation")
    assert len(params.ablation.variants) == len(load_params(ROOT / "profiles" / "embedded.yaml").ablation.variants) + 1
    assert variant_params(params, "two_levels")[0].levels == (3, 4)


def test_a_backbone_is_a_name(toy_model):
    network = MLANet(toy_model, changed("A backbone").network, image_size=64)
    assert network.config.backbone == "mobilenetv3_small_100"
    assert len(network.level_features(torch.zeros(2, 3, 64, 64))) == 4


def test_a_kind_of_attention_is_a_word_an_import_and_a_branch():
    tree = ast.parse((ROOT / "mlanet_lib" / "network" / "attention.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    functions["level_attention"].body[-1:-1] = ast.parse(block("A kind of attention", "python")).body
    scope = {"__name__": "changed"}
    exec(compile(tree, "attention.py", "exec"), scope)
    scope["ATTENTION_KINDS"] += ("ese",)
    module = scope["level_attention"](16, "ese")
    assert len(module) == 1
    features = torch.randn(2, 16, 8, 8)
    assert module(features).shape == features.shape
    assert not torch.equal(module(features), features)
    assert "ese" not in attention.ATTENTION_KINDS


def test_a_loss_term_is_a_function_and_an_entry():
    scope = vars(losses) | vars(terms)
    exec(block("A loss term", "python"), scope)
    term = eval(inline("A loss term", "Term("), scope)
    truth, weights = torch.rand(3, 68, 2), torch.ones(3, 68)
    weights[2, 31] = 0
    loss, amounts = term.function(SimpleNamespace(landmarks=(truth, truth, weights)))
    assert loss.abs() < 1e-6 and amounts.flatten().tolist() == [1, 1, 0]
    wider = truth.clone()
    wider[:, 31, 0] += 0.1
    assert term.function(SimpleNamespace(landmarks=(wider, truth, weights)))[0] > 0.08
    yes = torch.ones(1, dtype=torch.bool)
    assert term.group in terms.judged_rows(torch.zeros(1), yes, yes, yes)
    assert not {31, 35} & {point for pair in losses.OPENINGS for point in pair}


def test_a_figure_is_a_function_and_its_place_in_the_report(aflw, tmp_path, monkeypatch):
    function, made_by = blocks("A figure", "python")
    scope = dict(vars(charts))
    exec(function, scope)
    (axes,) = scope["yaw_histogram"](np.array([-80.0, 0.0, 0.0, 30.0])).axes
    assert sum(bar.get_height() for bar in axes.patches) == 4 and axes.get_xlabel() == "yaw, degrees"

    monkeypatch.setattr(charts, "yaw_histogram", scope["yaw_histogram"], raising=False)
    before = report._charts

    def with_one_more(inputs):
        made = before(inputs)
        exec(made_by, {"charts": charts, "images": inputs.images, "made": made})
        return made

    monkeypatch.setattr(report, "_charts", with_one_more)
    for template in (ROOT / "mlanet_lib" / "show" / "report").glob("*.html"):
        shutil.copy(template, tmp_path)
    text, head = (tmp_path / "report.html").read_text(), "{% macro by_yaw() %}\n"
    assert head in text
    (tmp_path / "report.html").write_text(text.replace(head, head + block("A figure", "html")))
    monkeypatch.setattr(page, "__file__", str(tmp_path / "page.py"))
    images = pd.DataFrame({"yaw": np.linspace(-80, 80, 33), "nme": np.linspace(2, 9, 33)})
    for inputs, there in ((report.Inputs(aflw, images), True), (report.Inputs(aflw), False)):
        built = report.build(inputs, tmp_path / "out.html").read_text(encoding="utf-8")
        assert ("How often each yaw occurs." in built) == there


def test_a_number_in_a_document_is_a_marker():
    text, stale = figures_in_docs.fill(block("A number in a document", "markdown"))
    assert len(stale) == 1 and re.search(r"-->\d+\.\d\d<!---->", text)


def test_a_data_set_is_an_entry_or_a_function(tmp_path, monkeypatch):
    params = changed("A data set")
    assert params.data.sources["my_photos"].layout == "photos"
    assert Path(params.paths.manifest) != manifest.NO_PHOTOS
    scope = {}
    exec(block("A data set", "python"), scope)
    points = np.random.default_rng(0).uniform(4, 28, (68, 2))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    np.savetxt(tmp_path / "a.txt", points)
    entry = eval(f"{{{inline('A data set', chr(34))}}}", {"my_set": SimpleNamespace(read_folder=scope["read_folder"])})
    monkeypatch.setattr(sources, "READERS", sources.READERS | entry)
    (sample,) = sources.read(sources.Source("my_set", str(tmp_path)))
    assert sample.name == "a.jpg" and sample.image().shape == (32, 32, 3)
    np.testing.assert_allclose(sample.landmarks, points + 0.5)


def test_a_face_model_is_a_file(toy_model, tmp_path):
    scope = {"path": tmp_path / "mine.npz", "names": toy_model.expression_names}
    scope |= {name: buffer.numpy() for name, buffer in toy_model.named_buffers()}
    scope["landmark_index"] = scope["landmark_index"][:, 0]  # as most people have them: vertices
    exec(block("A face model", "python"), scope)
    assert MorphableModel.load(tmp_path / "mine.npz").name == "mine"
