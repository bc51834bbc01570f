"""Data-parallel training under torchrun: every process holds the whole model and computes its share of each batch.

Gradients are summed by us, once a step, not by torch's DistributedDataParallel: one sum must do for dense and sparse
gradients and for batches that are computed in several passes, and its order must not depend on timing.

Shapes legend: N rows of this process, M rows of all processes.
"""

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from emsmine.encoder.ems import resolve_device
from emsmine.errors import ConfigError

# Rank 0 tokenises, validates and writes checkpoints while the others wait for it.
_TIMEOUT = timedelta(hours=6)
_BUCKET_ELEMENTS = 8 * 1024 * 1024


class _GatherRows(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum over the processes that used it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.start, ctx.num_rows = rank * len(rows), len(rows)
        parts = [torch.empty_like(rows) for _ in range(size)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed[ctx.start : ctx.start + ctx.num_rows], None, None


@dataclass(frozen=True)
class Processes:
    """Which of how many training processes this is; the default is one that trains alone.

    All methods must be called by all processes, in the same order.
    """

    rank: int = 0
    size: int = 1

    def gather_rows(self, rows_N: Tensor) -> Tensor:
        """Return the rows of all processes, by rank, with gradient.

        Shapes: [N, …] → [M, …]; N is the same everywhere.
        """
        if self.size == 1:
            return rows_N
        gathered: Tensor = _GatherRows.apply(rows_N, self.rank, self.size)  # type: ignore[no-untyped-call]
        return gathered

    def collect(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, which have one shape, by rank."""
        if self.size == 1:
            return [value]
        parts = [torch.empty_like(value) for _ in range(self.size)]
        distributed.all_gather(parts, value.contiguous())
        return parts

    def sum_values(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = self._sum_sparse(parameter.grad)
                continue
            bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= _BUCKET_ELEMENTS:
                _sum_dense(bucket)
                bucket = []
        _sum_dense(bucket)

    def _sum_sparse(self, gradient: Tensor) -> Tensor:
        """Sum by joining the lists of rows: a dense sum would make every row of the table look used."""
        mine = gradient.coalesce()
        indices, values = mine.indices(), mine.values()
        counts = [int(count) for count in self.collect(torch.tensor([len(values)], device=values.device))]
        padding = max(counts) - len(values)
        all_indices = self.collect(nn.functional.pad(indices, (0, padding)))
        all_values = self.collect(torch.cat((values, values.new_zeros((padding, *values.shape[1:])))))
        joined = torch.sparse_coo_tensor(
            torch.cat([part[:, :count] for part, count in zip(all_indices, counts, strict=True)], dim=1),
            torch.cat([part[:count] for part, count in zip(all_values, counts, strict=True)]),
            gradient.shape,
            check_invariants=False,
        )
        return joined.coalesce()

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            distributed.all_reduce(torch.zeros(1))

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let rank 0 run the block before the others do, which then find the files that it wrote."""
        if self.rank:
            self.wait()
        try:
            yield
        finally:
            if not self.rank:
                self.wait()


def _sum_dense(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def launched() -> tuple[int, int]:
    """Return (rank, number of processes) as torchrun tells them in the environment; (0, 1) without torchrun.

    Raises:
        ConfigError: the variables are incomplete or no numbers.
    """
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    size, rank = _number("WORLD_SIZE"), _number("RANK") if os.environ["WORLD_SIZE"] != "1" else 0
    if not 0 <= rank < size:
        raise ConfigError(f"train: RANK is {rank} and WORLD_SIZE is {size}; start the processes with torchrun")
    return rank, size


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise ConfigError(
            f"train: WORLD_SIZE is set but {name} is {value!r}; start the processes with torchrun, or unset WORLD_SIZE"
        )
    return int(value)


@contextmanager
def process_group(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun started, for the length of a `with` block; without torchrun, be alone.

    Args:
        device: as in `resolve_device`; with several processes `auto` and `cuda` mean the GPU that torchrun's
            LOCAL_RANK counts, and `cuda:N` is refused.

    Raises:
        ConfigError: the device or the environment does not fit.
    """
    rank, size = launched()
    if size == 1:
        yield Processes(), resolve_device(device)
        return
    where = resolve_device(device)
    if where.type == "cuda":
        local, gpus = _number("LOCAL_RANK"), torch.cuda.device_count()
        if ":" in device:
            raise ConfigError(f"device: {device!r} cannot be shared by {size} processes; pass --device cuda")
        if local >= gpus:
            raise ConfigError(f"device: process {local} of this machine has no GPU (there are {gpus}); start {gpus}")
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(f"train: WORLD_SIZE is {size} but {name} is not set; start the processes with torchrun")
    # gloo beside nccl: the states of the random generators and the waiting stay on the CPU.
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield Processes(rank, size), where
    finally:
        distributed.destroy_process_group()
        # The group's threads end with its last reference. Left to the end of the interpreter, they made 3 of 24
        # finished trainings abort ("terminate called without an active exception"); none of 24 with this.
        gc.collect()
