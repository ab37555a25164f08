"""What CONTRIBUTING.md shows is done here as it stands there, and each change is as short as it should be."""

import re

import figures_in_docs
import numpy as np
import torch
from paths import ROOT
from PIL import Image
from ruamel.yaml import YAML

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.project import read_yaml
from mlanet_lib.network import MLANet, attention
from mlanet_lib.study.params import load_params, parse_params, variant_params
from mlanet_lib.study.profiles import merge

SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S))


def block(section, language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.S)
    assert len([line for line in found.splitlines() if line.strip()]) < 20
    return found


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


def test_a_kind_of_attention_is_two_lines(toy_model, monkeypatch):
    source = (ROOT / "mlanet_lib" / "network" / "attention.py").read_text()
    lines = "".join(f"    {line}\n" for line in block("A kind of attention", "python").splitlines())
    source = source.replace("    return nn.Sequential(*steps)", f"{lines}    return nn.Sequential(*steps)", 1)
    scope = {"__name__": "changed"}
    exec(source.replace('"se", "eca")', '"se", "eca", "context")', 1), scope)
    module = scope["level_attention"](16, "context")
    assert len(module) == 1
    features = torch.randn(2, 16, 8, 8)
    assert module(features).shape == features.shape
    assert not torch.equal(module(features), features)
    assert "context" not in attention.ATTENTION_KINDS


def test_a_loss_term_is_a_function_and_its_names():
    scope = {}
    exec(block("A loss term", "python"), scope)
    assert scope["sparse_expression_loss"](torch.tensor([[0.5, -0.5], [1.0, 0.0]])).item() == 0.5


def test_a_figure_is_a_function():
    scope = {}
    exec(block("A figure", "python"), scope)
    (axes,) = scope["yaw_histogram"](np.array([-80.0, 0.0, 0.0, 30.0])).axes
    assert sum(bar.get_height() for bar in axes.patches) == 4 and axes.get_xlabel() == "yaw, degrees"


def test_a_number_in_a_document_is_a_marker():
    text, stale = figures_in_docs.fill(block("A number in a document", "markdown"))
    assert len(stale) == 1 and re.search(r"-->\d+\.\d\d<!---->", text)


def test_a_data_set_is_an_entry_or_a_function(tmp_path):
    assert changed("A data set").data.sources["my_photos"].layout == "photos"
    scope = {}
    exec(block("A data set", "python"), scope)
    points = np.random.default_rng(0).uniform(4, 28, (68, 2))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    np.savetxt(tmp_path / "a.txt", points)
    (sample,) = scope["read_folder"](tmp_path)
    assert sample.name == "a.jpg" and sample.image().shape == (32, 32, 3)
    np.testing.assert_allclose(sample.landmarks, points + 0.5)


def test_a_face_model_is_a_file(toy_model, tmp_path):
    scope = {"path": tmp_path / "mine.npz", "names": toy_model.expression_names}
    scope |= {name: buffer.numpy() for name, buffer in toy_model.named_buffers()}
    scope["landmark_index"] = scope["landmark_index"][:, 0]  # as most people have them: vertices
    exec(block("A face model", "python"), scope)
    assert MorphableModel.load(tmp_path / "mine.npz").name == "mine"
