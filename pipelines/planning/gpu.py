"""The GPU's part in the plan of a search: what a task takes of its memory, and whether that is there."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from emsmine.errors import ConfigError
from emsmine.mining.exact.gpu import FREE_SHARE, LARGE_SEARCH, tile_shape
from emsmine.pipelines.planning.machine import Gpu


@dataclass(frozen=True)
class GpuPlan:
    """The GPU that exact searches multiply on.

    Args:
        name: of the GPU.
        task_bytes: memory of the GPU that the largest task takes; 0 if it does not fit.
        allowed_bytes: what a task may take.
        at_once: tasks that run together.
        problem: why it does not fit; empty if it does.
    """

    name: str
    task_bytes: int
    allowed_bytes: int
    at_once: int
    problem: str = ""


def plan_gpu(
    gpus: tuple[Gpu, ...],
    device: str,
    tiles: Iterable[tuple[int, int]],
    dim: int,
    k: int,
    workers: int,
    max_memory_gb: float | None,
) -> GpuPlan | None:
    """Plan the GPU; None if none is used.

    Args:
        gpus: those that are visible.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        tiles: source and target rows of the largest tasks that search exactly.
        dim: dimension of the vectors.
        k: neighbours per row.
        workers: worker processes.
        max_memory_gb: GiB of the GPU that all of them may take; None: nine tenths.
    """
    number = int(device.partition(":")[2] or 0) if device.startswith("cuda") else 0
    large = [(rows, columns) for rows, columns in tiles if rows * columns * dim >= LARGE_SEARCH]
    if device == "cpu" or number >= len(gpus) or not large:
        return None
    gpu = gpus[number]
    total = FREE_SHARE * gpu.total_bytes if max_memory_gb is None else max_memory_gb * 2**30
    allowed = min(math.floor(total) // workers, math.floor(FREE_SHARE * gpu.free_bytes))
    try:
        # A search keeps one neighbour more than is asked for: see `emsmine.mining.exact.incremental`.
        taken = max(tile_shape(rows, columns, dim, k + 1, allowed).num_bytes for rows, columns in large)
    except ConfigError as error:
        return GpuPlan(gpu.name, 0, allowed, workers, str(error))
    return GpuPlan(gpu.name, taken, allowed, workers)
