"""Attention per level, the coarse gate, and the maps that figures show."""

import pytest
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.network.attention import ATTENTION_KINDS, CoarseGate, energy_map, level_attention


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("channels", [8, 64])
def test_attention_keeps_shape_and_trains(kind, channels):
    torch.manual_seed(0)
    attend = level_attention(channels, kind).train()
    x = torch.randn(4, channels, 6, 5, requires_grad=True)
    out = attend(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in attend.parameters())
    assert bool(list(attend.parameters())) == (kind != "none")


def test_none_is_the_identity():
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(level_attention(8, "none")(x), x)


@pytest.mark.parametrize("kind", ["channel", "se", "eca"])
def test_channel_gate_is_one_factor_per_channel(kind):
    x = torch.rand(2, 16, 4, 4) + 0.5
    factor = level_attention(16, kind)(x) / x
    assert torch.allclose(factor, factor[:, :, :1, :1].expand_as(factor), atol=1e-6)
    assert (factor > 0).all() and (factor < 1).all()


def test_spatial_gate_is_one_factor_per_place():
    torch.manual_seed(0)
    x = torch.rand(2, 16, 4, 4) + 0.5
    factor = level_attention(16, "spatial")(x) / x
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), atol=1e-6)
    assert factor.std() > 0


def test_both_are_channel_then_spatial():
    torch.manual_seed(0)
    both = level_attention(16, "channel_spatial").eval()
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(both(x), both[1](both[0](x)))
    assert [type(step).__name__ for step in both] == ["ChannelAttn", "SpatialAttn"]


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(UserError, match="channel_spatial"):
        level_attention(8, "self")


def test_gate_starts_open_and_follows_the_coarse_level():
    gate = CoarseGate(4)
    finer, coarser = torch.randn(2, 4, 7, 7), torch.randn(2, 4, 3, 3)
    assert torch.equal(gate(finer, coarser), finer)
    gate.weigh.weight.data[:, :, 0, 0] = 100 * torch.eye(4)
    coarser = torch.ones(2, 4, 3, 3)
    coarser[:, :, :, 0] = -1  # the left third is unimportant
    fused = gate(finer, coarser)
    assert torch.allclose(fused[..., 0], torch.zeros(2, 4, 7), atol=1e-6)
    assert torch.allclose(fused[..., -1], 2 * finer[..., -1], atol=1e-5)


def test_energy_map_is_mean_square_scaled_to_one():
    features = torch.zeros(3, 2, 2, 2)
    features[0, 0, 0, 1], features[0, 1, 1, 1] = 2.0, -4.0
    features[1] = 3.0
    maps = energy_map(features)
    assert torch.allclose(maps[0], torch.tensor([[0.0, 0.25], [0.0, 1.0]]))
    assert torch.allclose(maps[1], torch.ones(2, 2))
    assert torch.equal(maps[2], torch.zeros(2, 2))
