"""The cost of a network against counts by hand."""

import pytest
import torch
from torch import nn

from mlanet_lib.evaluation.cost import costs
from mlanet_lib.network import MLANet, NetworkConfig


def by_hand(network: nn.Module, side: int) -> int:
    """Multiply-adds of one picture, counted by hooks on the layers."""
    total = []

    def hook(layer, _, out):
        per_output = layer.weight[0].numel()
        total.append(out[0].numel() * per_output)

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    with torch.no_grad():
        network.eval().encode(torch.rand(1, 3, side, side))
    return sum(total)


def test_counts_and_ratios(toy_model):
    small = NetworkConfig("resnet10t", levels=(4,), fusion="none", attention="none", image_size=32, width=8, pool=1)
    large = NetworkConfig("resnet18", image_size=96)
    found = costs(toy_model, {"a": small, "b": large, "a again": small}, batch=4, rounds=3)
    assert found["a"] == found["a again"]  # measured once
    for name, config in (("a", small), ("b", large)):
        network = MLANet(toy_model, config)
        assert found[name]["parameters"] == sum(p.numel() for p in network.parameters())
        macs = by_hand(network, config.image_size)
        # beside the layers: the levels' weighted sum
        assert found[name]["gmacs"] * 1e9 == pytest.approx(macs, rel=0.01)
    assert found["a"]["images_per_second"] > 3 * found["b"]["images_per_second"]
