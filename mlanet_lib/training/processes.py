"""The processes that train one network together, on one machine or several, through Hugging Face accelerate.

A step's batch is split over them by rows. Each process computes means over its own rows and scales them such that their
average over the processes is the mean over the whole batch. The numbers are those of one process up to rounding, except
for batch norms on CPUs (`wrap`). Started alone, a process is one of one, and nothing here costs anything.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.device import usable_device

T = TypeVar("T")


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
    accelerator: Any = None

    @classmethod
    def join(cls, device: str = "auto") -> "Processes":
        """The processes that `accelerate launch` or `torchrun` started, or this one alone.

        device: "auto" (a GPU of its own where there is one, else the CPU), "cpu", "cuda", and where the process is
        alone "cuda:1". UserError for a device that is not available.
        """
        count = int(os.environ.get("WORLD_SIZE", 1))
        if count > 1 and device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device {device!r}: of several processes each takes its own; say auto, cpu or cuda")
        place = usable_device(device, int(os.environ.get("LOCAL_RANK", 0)) if count > 1 else 0)
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
        failure = ""
        try:
            yield
        except UserError as error:
            failure = str(error)
        for text in filter(None, self.gathered(failure)):
            raise UserError(text)

    def from_main(self, function: Callable[[], T]) -> T:
        """Call `function` in the main process only and return its result in all. The others wait; its UserError is
        raised in all."""
        result: list[Any] = [None]
        with self.agreeing():
            if self.main:
                result[0] = function()
        if self.count > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(result, from_process=0)
        return result[0]

    def gathered(self, value: T) -> list[T]:
        """One value of each process, in order."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def in_order(self, share: Tensor, count: int) -> Tensor:
        """All (count, ...) rows in order, put together from the rows that each process holds by `mine`."""
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
        """A wrapped network to call instead, whose gradients are averaged over the processes.

        On GPUs batch norms take the statistics of the whole batch from then on, in training on CPUs those of the
        process's own rows. Parameters and the names of the state stay the network's own.
        """
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            from timm.layers import convert_sync_batchnorm

            convert_sync_batchnorm(network)  # torch's own, and it leaves the activations that timm puts into norms
        return self.accelerator.prepare(network)

    def whole_batch(
        self, terms: dict[str, Tensor], amounts: dict[str, int | Tensor], names: list[str]
    ) -> dict[str, Tensor]:
        """Terms whose average over the processes is the mean over the whole batch.

        With a term's mean m_r over an amount a_r in process r of R, m_r becomes m_r R a_r / sum_r a_r, since

            1/R sum_r (m_r R a_r / A) = sum_r m_r a_r / A,   A = sum_r a_r

        terms, amounts: of this process's rows (`terms.semi_supervised_terms`); names: of all terms that any has.
        """
        # filled on the device: numbers copied to it would make the host wait
        zero = torch.zeros((), device=self.device)
        parts = [amounts.get(name, 0) for name in names]
        here = torch.stack([a.sum().float() if isinstance(a, Tensor) else torch.full_like(zero, a) for a in parts])
        factors = here * self.count / self.accelerator.reduce(here, "sum").clamp_min(1e-6)
        return {name: terms.get(name, zero) * factors[k] for k, name in enumerate(names)}

    def backward(self, loss: Tensor, outputs: dict[str, Tensor]) -> None:
        """Gradients of the loss, averaged over the processes.

        outputs: all that the wrapped network gave. Parameters that this process's rows do not use get a gradient of
        zero, since the others wait for it.
        """
        if self.count == 1:
            loss.backward()
        else:
            self.accelerator.backward(loss + 0 * sum(output.sum() for output in outputs.values()))


def leave() -> None:
    """The end of all trainings in this interpreter: the other processes need not wait for this one any more."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
