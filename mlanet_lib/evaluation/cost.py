"""The cost of a network: parameters, multiply-adds, pictures a second."""

import time
from collections.abc import Mapping
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.network import MLANet, NetworkConfig


def costs(
    model: MorphableModel, configs: Mapping[str, NetworkConfig], batch: int = 32, rounds: int = 5
) -> dict[str, dict[str, float]]:
    """The cost of encoding pictures for each configuration by name, measured on this machine; weights do not matter.

    parameters: of the network; gmacs: 10^9 multiply-adds of
    convolutions and matrix products, one picture; images_per_second: float32 on this CPU with its threads, `batch`
    pictures at a time, the median of `rounds`. The networks take turns, so that a noisy machine slows all of them:
    their ratios are more reliable than the numbers. Equal configurations are measured once.
    """
    networks, pictures = {}, {}
    for config in configs.values():
        if config not in networks:
            networks[config] = MLANet(model, config, pretrained=False).eval()
            pictures[config] = torch.rand(batch, 3, config.image_size, config.image_size)
    seconds: dict[NetworkConfig, list[float]] = {config: [] for config in networks}
    found = {}
    with torch.inference_mode():
        for config, network in networks.items():
            with FlopCounterMode(display=False) as counter:
                network.encode(pictures[config][:1])
            found[config] = {
                "parameters": sum(p.numel() for p in network.parameters()),
                "gmacs": counter.get_total_flops() / 2e9,
            }
        for _ in range(rounds + 1):  # the first one warms up
            for config, network in networks.items():
                began = time.perf_counter()
                network.encode(pictures[config])
                seconds[config].append(time.perf_counter() - began)
    speed = {config: batch / median(taken[1:]) for config, taken in seconds.items()}
    return {name: found[config] | {"images_per_second": speed[config]} for name, config in configs.items()}
