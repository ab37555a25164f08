"""Devices: which one is available, and tensors that a loop on a GPU uses at every step, copied there once."""

from functools import lru_cache

import torch
from torch import Tensor

from mlanet_lib.errors import UserError


def constant(values: tuple, like: Tensor) -> Tensor:
    """`values` (nested tuples of numbers) as a tensor of the type and on the device of `like`; not to be changed."""
    if like.device.type == "cpu":  # nothing to gain, and a tracer's fake tensors must not be kept
        return like.new_tensor(values)
    return _held(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _held(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`, without making the host wait for what a GPU still has to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def usable_device(name: str = "auto", number: int = 0) -> torch.device:
    """The device of this name, tried out; "auto" and "cuda" mean GPU `number` here, "auto" the CPU where there is none.

    UserError if it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{number}" if name == "cuda" else name)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return device
