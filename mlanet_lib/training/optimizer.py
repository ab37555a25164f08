"""AdamW, its schedule and the moving average of the weights, with a state that goes into a checkpoint and back."""

import math

import torch
from torch import Tensor, nn

from mlanet_lib.errors import UserError


def adamw(network: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over a network; biases, norms and other vectors are not decayed."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def learning_rate(step: int, steps: int, highest: float, warmup: float, final: float) -> float:
    """Linear warm-up over the share `warmup` of the steps, then half a cosine from `highest` to `final * highest`.

    step counts from 0 to steps - 1.
    """
    warm = warmup * steps
    if step < warm:
        return highest * (step + 1) / (warm + 1)
    share = min(1.0, (step - warm) / max(1.0, steps - warm))
    return highest * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, updates: float, decay: float) -> None:
    """average <- d average + (1 - d) network, parameters and batch statistics, d = min(decay, n / (n + 10)).

    updates: n, the number of earlier updates. The first weights are forgotten sooner than by `decay` alone, so that the
    average is useful early.
    """
    weight = 1 - min(decay, updates / (updates + 10))
    kept, new = average.state_dict(), network.state_dict()
    floating = [name for name, value in kept.items() if value.is_floating_point()]
    torch._foreach_lerp_([kept[name] for name in floating], [new[name] for name in floating], weight)
    for name in kept.keys() - set(floating):
        kept[name].copy_(new[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state by names `optimizer.<parameter>.<what>`."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; tensors that do not belong to the network's parameters are a UserError."""
    state = {name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")}
    for name, parameter in network.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = state.pop(f"{name}.{key}", None)
            if value is None:
                continue
            if key != "step":  # the memory layout of the parameter, too: sums in another order differ in the last bit
                value = torch.empty_like(parameter).copy_(value)
            optimizer.state[parameter][key] = value.to(parameter.device)
    if state:
        raise UserError(f"the optimiser's state does not fit the network: {next(iter(state))}")
