"""Schedule, average and the optimiser's state."""

import copy
import itertools

import pytest
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.training.optimizer import adamw, learning_rate, load_optimizer, optimizer_tensors, update_average


def small_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).to(
        memory_format=torch.channels_last
    )


def train(net, optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def test_schedule_warms_up_and_comes_down():
    rates = [learning_rate(step, 100, 1.0, 0.1, 0.01) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 10
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert learning_rate(0, 1, 1.0, 0.0, 0.01) == 1.0


def test_vectors_are_not_decayed():
    groups = adamw(small_net(), 0.1, 0.5).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [[p.ndim for p in group["params"]] for group in groups] == [[4], [1, 1, 1]]


def test_state_goes_out_and_comes_back_bit_for_bit():
    whole, stopped = small_net(), small_net()
    one, other = adamw(whole, 0.1, 0.1), adamw(stopped, 0.1, 0.1)
    train(whole, one, range(6))
    train(stopped, other, range(3))
    kept = {name: value.clone() for name, value in optimizer_tensors(other, stopped).items()}
    resumed = small_net()
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    third = adamw(resumed, 0.1, 0.1)
    load_optimizer(third, resumed, kept)
    train(resumed, third, range(3, 6))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_foreign_state_is_refused():
    net = small_net()
    with pytest.raises(UserError, match=r"7\.weight"):
        load_optimizer(adamw(net, 0.1, 0.1), net, {"optimizer.7.weight.exp_avg": torch.zeros(1)})


def test_average_follows_weights_and_statistics():
    net = small_net()
    average = copy.deepcopy(net)
    with torch.no_grad():
        net[0].bias.add_(1.0)
        net[1].running_mean.add_(2.0)
        net[1].num_batches_tracked.add_(5)
    start = average[0].bias.clone()
    update_average(average, net, updates=1000, decay=0.9)
    assert torch.allclose(average[0].bias - start, torch.tensor(0.1), atol=1e-6)
    assert torch.allclose(average[1].running_mean, torch.tensor(0.2), atol=1e-6)
    assert average[1].num_batches_tracked == 5
    update_average(average, net, updates=1, decay=0.9)  # early on the average moves faster
    assert (net[0].bias - average[0].bias).abs().max() < 0.1
    update_average(average, net, updates=10**6, decay=0.0)
    assert torch.equal(average[0].bias, net[0].bias)
