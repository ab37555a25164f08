"""The processes that train one network together, on one machine or several, through Hugging Face accelerate.

A step's batch is split over them by rows. What one process computes of it, a mean over some of its rows, is scaled so
that the average over the processes is the mean over the whole batch: the same numbers, up to rounding, as in one
process. Started alone, a process is one of one, and nothing here costs anything.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

from mlanet_lib.errors import UserError


@dataclass(frozen=True)
class Processes:
    """All processes of a training, as one of them sees them.

    rank: which of them this one is, 0 is the one that writes, prints and shows progress; count: how many there are;
    device: where this one computes; accelerator: accelerate's, where there are several (its state is the whole
    interpreter's: a notebook that had trained on the CPU with it could not go on with a GPU).
    """

    rank: int
    count: int
    device: torch.device
    accelerator: object = None

    @classmethod
    def join(cls, device: str = "auto") -> "Processes":
        """The processes that `accelerate launch` or `torchrun` started, or this one alone.

        device: "auto" (a GPU of its own where there is one, else the CPU), "cpu", "cuda", and where the process is
        alone "cuda:1". UserError for a device that is not to be had.
        """
        count = int(os.environ.get("WORLD_SIZE", 1))
        if count > 1 and device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device {device!r}: of several processes each takes its own; say auto, cpu or cuda")
        place = usable_device(device, local_rank() if count > 1 else 0)
        if count == 1:
            return cls(0, 1, place)
        from accelerate import Accelerator  # a second to import
        from accelerate.utils import DistributedType

        # "no": precision and compilation are the training's own business, whatever accelerate's configuration says
        accelerator = Accelerator(cpu=place.type == "cpu", mixed_precision="no", dynamo_backend="no")
        if accelerator.distributed_type not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise UserError(f"training knows CPUs and GPUs, not accelerate's {accelerator.distributed_type.value}")
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device, accelerator)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def mine(self, rows: Tensor) -> Tensor:
        """This process's share of some rows: every `count`-th, so that each has its part of each kind."""
        return rows[self.rank :: self.count]

    def in_one_memory(self, batch: int) -> int:
        """How many of a batch's rows lie in one memory: a GPU's, or that of a machine and all its processes."""
        together = 1 if self.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        return -(-batch * together // self.count)

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Wait at the end of the block for all processes; a UserError in one of them is raised in all."""
        if self.count == 1:
            yield
            return
        failure = None
        try:
            yield
        except UserError as error:
            failure = str(error)
        failures = [text for text in self.gathered(failure) if text is not None]
        if failures:
            raise UserError(failures[0])

    def from_main(self, function: Callable[[], object]) -> object:
        """What `function` returns in the main process, in all. The others wait; its UserError is raised in all."""
        result = [None]
        with self.agreeing():
            if self.main:
                result[0] = function()
        if self.count > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(result, from_process=0)
        return result[0]

    def gathered(self, value) -> list:
        """One value of each process, in order."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def in_order(self, share: Tensor, count: int) -> Tensor:
        """The (count, ...) rows of which every process has its `mine`, (about count / processes, ...)."""
        if self.count == 1:
            return share
        longest = -(-count // self.count)
        padded = torch.cat([share, share.new_zeros(longest - len(share), *share.shape[1:])])
        gathered = self.accelerator.gather(padded).unflatten(0, (self.count, longest))
        return gathered.transpose(0, 1).flatten(0, 1)[:count]

    def mean(self, values: Tensor) -> Tensor:
        """The average over the processes, without a gradient."""
        return values if self.count == 1 else self.accelerator.reduce(values, "mean")

    def share(self, network: nn.Module) -> None:
        """Give all processes the main one's weights and statistics."""
        if self.count > 1:
            for value in network.state_dict().values():
                torch.distributed.broadcast(value, 0)

    def wrap(self, network: nn.Module) -> nn.Module:
        """What to call in place of the network so that its gradients are averaged over the processes.

        Batch norms take the statistics of the whole batch from then on; parameters and the names of the state stay
        the network's own.
        """
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            convert_sync_batchnorm(network)  # torch's own, and it leaves the activations that timm puts into norms
        else:
            sync_norms(network)
        return self.accelerator.prepare(network)

    def whole_batch(
        self, terms: dict[str, Tensor], amounts: dict[str, int | Tensor], names: list[str]
    ) -> dict[str, Tensor]:
        """Terms whose average over the processes is the mean over the whole batch.

        With a term's mean m_r over an amount a_r in process r of R, m_r becomes m_r R a_r / sum_r a_r, since

            1/R sum_r (m_r R a_r / A) = sum_r m_r a_r / A,   A = sum_r a_r

        terms, amounts: of this process's rows (`losses.semi_supervised_terms`); names: of all terms that any has.
        """
        # filled on the device: numbers copied to it would make the host wait
        zero = torch.zeros((), device=self.device)
        parts = [amounts.get(name, 0) for name in names]
        here = torch.stack([a.sum().float() if isinstance(a, Tensor) else torch.full_like(zero, a) for a in parts])
        factors = here * self.count / self.accelerator.reduce(here, "sum").clamp_min(1e-6)
        return {name: terms.get(name, zero) * factors[k] for k, name in enumerate(names)}

    def backward(self, loss: Tensor, outputs: dict[str, Tensor]) -> None:
        """Gradients of the loss, averaged over the processes.

        outputs: all that the wrapped network gave. What this process's rows leave unused counts with a gradient of
        zero: the others wait for it.
        """
        if self.count == 1:
            loss.backward()
        else:
            self.accelerator.backward(loss + 0 * sum(output.sum() for output in outputs.values()))

    def clip(self, parameters, norm: float) -> None:
        """Scale the gradients down to this norm where theirs is greater."""
        if self.count > 1:
            self.accelerator.clip_grad_norm_(parameters, norm)
            return
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        total = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        # on a GPU a look at the norm would make the host wait; here it saves the multiplication with 1
        if self.device.type != "cpu" or total > norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, norm, total)


def local_rank() -> int:
    """Which of the processes on this machine this one is, 0 where it is alone."""
    return int(os.environ.get("LOCAL_RANK", 0))


def leave() -> None:
    """The end of all trainings in this interpreter: the other processes need not wait for this one any more."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def usable_device(name: str = "auto", number: int = 0) -> torch.device:
    """The device of this name, tried out; "auto" and "cuda" mean GPU `number` here, "auto" the CPU where there is none.

    UserError where it is not to be had.
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


def sync_norms(network: nn.Module) -> None:
    """Let the batch norms of a network take, in training, the statistics over all processes' batches.

    In place, on any device (torch's SyncBatchNorm knows none but GPUs). Parameters and names stay.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = _SyncedForward(module)


class _SyncedForward:
    """`forward` of a BatchNorm2d, or of timm's BatchNormAct2d, over all processes' batches.

    mean = sum_r sum x / N, var = sum_r sum (x - mean)^2 / N with N values a channel in all; running statistics as
    torch keeps them, the variance unbiased.
    """

    def __init__(self, norm: nn.BatchNorm2d):
        self.norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return type(norm).forward(norm, x)
        full = x.float()
        count = full.new_full((1,), full.numel() / full.shape[1])
        sums = _Sum.apply(torch.cat([full.sum((0, 2, 3)), count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = full - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        if norm.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / (count - 1).clamp_min(1)))
        scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        out = centred * scale[:, None, None] + (0 if norm.bias is None else norm.bias[:, None, None])
        out = out.to(x.dtype)
        return norm.act(norm.drop(out)) if isinstance(norm, BatchNormAct2d) else out

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        norm = self.norm
        norm.num_batches_tracked.add_(1)
        weight = 1 / norm.num_batches_tracked.float() if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, weight)
        norm.running_var.lerp_(variance, weight)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; so is its gradient, since each of them depends on every summand."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(tensor: Tensor) -> Tensor:
    whole = tensor.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(whole)
    return whole
