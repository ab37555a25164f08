"""MLANet over all variants: forward, backward, gradients everywhere, the mean face at the start."""

import itertools

import pytest
import timm
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.network import MLANet, NetworkConfig
from mlanet_lib.network.attention import ATTENTION_KINDS, FUSION_KINDS
from mlanet_lib.parameters import FaceParameters

SMALL = "mobilenetv3_small_050"
VARIANTS = [
    {"backbone": SMALL, "levels": levels, "attention": attention, "fusion": fusion}
    for levels, attention, fusion in itertools.product([(1, 2, 3, 4), (2, 4), (4,)], ATTENTION_KINDS, FUSION_KINDS)
] + [
    {"backbone": "resnet18"},
    {"backbone": "resnet10t", "levels": (1, 2)},
    {"backbone": "mobilenetv4_conv_small", "levels": (1,)},
    {"backbone": "convnext_atto", "pool": 1},
    {"backbone": SMALL, "feedback": 2},
    {"backbone": SMALL, "feedback": 1, "levels": (4,), "fusion": "none"},
]


def variant_name(options: dict) -> str:
    return "-".join("".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in options.values())


def small_network(model, **options) -> MLANet:
    torch.manual_seed(0)
    return MLANet(model, **({"backbone": SMALL, "image_size": 64} | options))


def spread(parameters: FaceParameters) -> torch.Tensor:
    """A scalar in which every predicted number counts, each with another factor."""
    total = 0
    for name, value in parameters.as_tensors().items():
        if name != "focal":
            scale = 0.001 if name == "translation" else 1.0
            total = total + (value.flatten(1) * torch.linspace(0.5, 1.5, value[0].numel()) * scale).square().sum()
    return total


@pytest.mark.parametrize("options", VARIANTS, ids=variant_name)
def test_variant(options, toy_model):
    network = small_network(toy_model, **options)
    images = torch.rand(4, 3, 64, 64)
    network.eval()
    start, neutral = network.encode(images), FaceParameters.neutral(toy_model, 4)
    for name, value in start.as_tensors().items():
        expected = getattr(neutral, name)
        assert value.shape == expected.shape and value.dtype == torch.float32
        tolerance = 1.5 if name == "translation" else 1e-3  # mm
        tolerance *= 40 if network.feedback else 1  # steps that know nothing yet say little
        assert torch.allclose(value, expected, atol=tolerance), name

    outputs, steps = network.train()(images), network.config.feedback
    assert outputs.keys() - network.eval()(images).keys() == ({"early", "points"} if steps else set())
    spread(FaceParameters.from_tensors(outputs)).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without

    maps = network.attention_maps(images)
    levels = network.config.levels
    assert [tuple(m.shape) for m in maps] == [(4, *(-(-64 // 2 ** (level + 1)),) * 2) for level in levels]
    assert all(m.min() >= 0 and m.max() <= 1 for m in maps)
    weights = network.level_weights()
    assert list(weights) == ["identity", "expression", "albedo", "rotation", "translation", "lighting"]
    assert all(len(w) == len(levels) and torch.isclose(w.sum(), torch.tensor(1.0)) for w in weights.values())


def test_zeroed_heads_give_exactly_the_neutral_face(toy_model):
    network = small_network(toy_model).eval()
    for head in network.heads.values():
        torch.nn.init.zeros_(head.weight)
    got, neutral = network.encode(torch.rand(3, 3, 64, 64)), FaceParameters.neutral(toy_model, 3)
    for name, value in got.as_tensors().items():
        assert torch.allclose(value, getattr(neutral, name), rtol=1e-6, atol=0), name


def test_translation_is_an_offset_in_the_picture_and_a_log_scale(toy_model):
    network = small_network(toy_model).eval()
    for head in network.heads.values():
        torch.nn.init.zeros_(head.weight)
    scale = dict(zip(network.sizes, network.head_scale, strict=True))
    network.heads["translation"].bias.data = torch.tensor([0.1, -0.2, 0.3]) / scale["translation"]
    network.heads["rotation"].bias.data = torch.tensor([0.0, 1.0, 0, -1.0, 0.0, 0]) / scale["rotation"]
    found, neutral = network.encode(torch.rand(1, 3, 64, 64)), FaceParameters.neutral(toy_model, 1)
    size_ratio = neutral.translation[0, 2] / found.translation[0, 2]
    assert torch.isclose(size_ratio, torch.tensor(0.3).exp(), rtol=1e-5)
    place = [9 * p.translation[0, :2] / p.translation[0, 2] for p in (found, neutral)]
    assert torch.allclose(place[0] - place[1], torch.tensor([0.1, -0.2]), atol=1e-5)
    assert torch.allclose(found.rotation[0] @ found.rotation[0].T, torch.eye(3), atol=1e-6)
    assert torch.allclose(found.rotation, euler_to_matrix(torch.tensor([[0.0, 0.0, -45.0]])), atol=1e-5)


@pytest.mark.parametrize("backbone", [SMALL, "resnet10t", "efficientnet_lite0", "convnext_atto"])
@pytest.mark.parametrize("levels", [1, 2])
def test_what_is_frozen_stays_in_a_training(backbone, levels, toy_model):
    """Weights and batch statistics of the backbone up to that level, and nothing else."""
    network = small_network(toy_model, backbone=backbone, levels=(1, 2, 3))
    network.freeze(levels)
    images = torch.rand(4, 3, 64, 64)
    read = network.eval().backbone(images)[:levels]
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        spread(network.encode(images)).backward()
        optimizer.step()
    after = network.state_dict()
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    first, later = [level["module"] for level in network.backbone.feature_info.get_dicts()][levels - 1 : levels + 1]
    assert all(name in still for name in before if f".{first}." in name)
    assert not any(name in still for name, _ in network.named_parameters() if f".{later}." in name)
    assert not any(name in still for name, _ in network.named_parameters() if name.startswith("heads."))
    again = network.eval().backbone(images)[:levels]
    assert all(torch.equal(one, other) for one, other in zip(read, again, strict=True))


def test_nothing_is_frozen_unless_it_is_asked_for(toy_model):
    network = small_network(toy_model, levels=(1, 4))
    network.freeze(0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.train().modules())


def test_level_weights_decide_what_is_read(toy_model):
    network = small_network(toy_model, levels=(1, 4), fusion="none").eval()
    network.heads["identity"].weight.data.normal_()
    network.level_logits.data[0] = torch.tensor([30.0, -30.0])
    images = torch.rand(2, 3, 64, 64)
    before = network.encode(images).identity
    for parameter in network.project[1].parameters():
        parameter.data.mul_(-3)  # the level that does not count
    assert torch.allclose(network.encode(images).identity, before, atol=1e-5)
    for parameter in network.project[0].parameters():
        parameter.data.mul_(-3)
    assert not torch.allclose(network.encode(images).identity, before, atol=1e-2)


def test_levels_side_by_side_are_read_by_weights_of_their_own(toy_model):
    network = small_network(toy_model, levels=(1, 4), fusion="concatenate").eval()
    head = network.heads["identity"]
    assert head.in_features == 2 * 64 * 16
    head.weight.data.normal_()[:, 64 * 16 :] = 0  # the coarser level's
    images = torch.rand(2, 3, 64, 64)
    before = network.encode(images).identity
    network.project[1].bn.bias.data += 1.0
    network.project[1].bn.weight.data *= -3
    assert torch.equal(network.encode(images).identity, before)
    network.project[0].bn.weight.data *= -3
    assert not torch.allclose(network.encode(images).identity, before, atol=1e-2)
    assert network.level_weights()["identity"].tolist() == pytest.approx([1.0, 0.0])


def test_fusion_lets_the_coarse_level_reach_the_finer_ones(toy_model):
    network = small_network(toy_model, levels=(2, 3, 4)).eval()
    images = torch.rand(1, 3, 64, 64)
    for gate in network.gates:
        gate.weigh.weight.data.normal_()
    before = network.level_features(images)
    network.project[2].bn.bias.data += 1.0
    after = network.level_features(images)
    assert all(not torch.allclose(b, a) for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize("size", [48, 65, 112])
def test_other_picture_sizes_work(size, toy_model):
    network = small_network(toy_model).eval()
    assert network.encode(torch.rand(1, 3, size, size)).identity.shape == (1, 5)


@pytest.mark.parametrize("backbone", ["resnet10t", "efficientnet_lite0"])
def test_what_is_frozen_does_not_depend_on_the_levels_that_are_read(backbone, toy_model):
    """Else a variant that reads the last level alone would have its whole backbone frozen."""
    frozen = {}
    for levels in ((1, 2, 3, 4), (4,)):
        network = small_network(toy_model, backbone=backbone, levels=levels)
        for count in (0, 1, 2):
            network.requires_grad_(True)
            network.freeze(count)
            frozen[levels, count] = [n for n, p in network.backbone.named_parameters() if not p.requires_grad]
        assert frozen[levels, 0] == [] and 0 < len(frozen[levels, 1]) < len(frozen[levels, 2])
        assert len(frozen[levels, 2]) < len(list(network.backbone.parameters()))
    assert [frozen[(1, 2, 3, 4), count] for count in (1, 2)] == [frozen[(4,), count] for count in (1, 2)]


def test_a_face_does_not_depend_on_its_batch(toy_model):
    network = small_network(toy_model).eval()
    for head in network.heads.values():
        head.weight.data.normal_(std=0.01)
    images = torch.rand(5, 3, 64, 64)
    together, alone = network.encode(images)[2], network.encode(images[2:3])
    for name, value in together.as_tensors().items():
        assert torch.allclose(value, getattr(alone, name), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet18_typo"}, "resnet18_typo"),
        ({"backbone": "vit_tiny_patch16_224"}, "strides"),
        ({"levels": ()}, "levels"),
        ({"levels": (0, 1)}, "levels"),
        ({"attention": "cbam"}, "attention"),
        ({"fusion": "fpn"}, "fusion"),
        ({"pool": 0}, "pool = 0: must be at least 1"),
    ],
)
def test_wrong_choices_are_user_errors(options, message, toy_model):
    with pytest.raises(UserError, match=message):
        small_network(toy_model, **options)


def test_pretrained_says_so_when_there_are_no_weights(toy_model, monkeypatch, capsys):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise FileNotFoundError("no network here")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    network = small_network(toy_model, pretrained=True)
    assert "no pretrained weights for mobilenetv3_small_050" in capsys.readouterr().out
    assert network.pretrained_weights.startswith("random") and "no network here" in network.pretrained_weights


def test_pretrained_weights_are_used_where_they_can_be_had(toy_model, monkeypatch):
    create, marks = timm.create_model, []

    def online(name, pretrained=False, **options):
        backbone = create(name, **options)
        if pretrained:
            marks.append(options["out_indices"])
            next(backbone.parameters()).data.fill_(0.125)
        return backbone

    monkeypatch.setattr(timm, "create_model", online)
    network = small_network(toy_model, pretrained=True)
    assert marks == [(1, 2, 3, 4)] and (next(network.backbone.parameters()) == 0.125).all()
    assert network.pretrained_weights.startswith("ImageNet weights of timm, mobilenetv3_small_050")


def test_config_is_plain_and_ordered():
    assert NetworkConfig(levels=[4, 2, 2]).levels == (2, 4)
    assert NetworkConfig(levels=(1,)) == NetworkConfig(levels=[1])
