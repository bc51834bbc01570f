"""The plan of a search, from numbers of rows: engines, memory, disk, tasks, time. What would fit: `advice`.

Bounds come from the arrays that the steps hold (see `costs`), so a search is refused only for what its
arithmetic says. Times are estimates, and nothing is refused for them.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from emsmine.mining.approximate.choice import APPROXIMATE, EngineChoice, choose_index, choose_search, index_bytes
from emsmine.pipelines.planning import costs as arithmetic
from emsmine.pipelines.planning.costs import GpuPlan, plan_gpu
from emsmine.pipelines.planning.machine import Machine
from emsmine.pipelines.store.files import size

SMALL_OPERATIONS = 2e11
"""Searches of fewer operations take seconds: nobody needs an estimate."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class SearchRequest:
    """What is to be searched, and how.

    Args:
        shards: rows of each shard of each language.
        pairs: pairs of languages.
        dim: dimension of the vectors.
        engine, index_memory_gb, k, audit_queries: the settings of that name.
        workers: worker processes.
        done: tasks that are done already, by `stage.step`.
        present: bytes on the disk already, by dataset.
        device, max_gpu_memory_gb: see `SearchLimits`.
    """

    shards: Mapping[str, tuple[int, ...]]
    pairs: tuple[Pair, ...]
    dim: int
    engine: str = "exact"
    index_memory_gb: float = 8.0
    k: int = 4
    audit_queries: int = 1000
    workers: int = 1
    done: Mapping[str, int] = field(default_factory=dict)
    present: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    max_gpu_memory_gb: float | None = None

    def rows(self, lang: str) -> int:
        """Rows of a language."""
        return sum(self.shards[lang])

    def largest(self, lang: str) -> int:
        """Rows of its largest shard."""
        return max(self.shards[lang], default=0)


@dataclass(frozen=True)
class PairPlan:
    """How a pair is searched."""

    pair: Pair
    source_rows: int
    target_rows: int
    search: EngineChoice

    @property
    def is_exact(self) -> bool:
        """Whether every score is computed."""
        return self.search.engine not in (*APPROXIMATE, "auto")


@dataclass(frozen=True)
class IndexPlan:
    """The index of a language that is searched approximately."""

    lang: str
    rows: int
    choice: EngineChoice
    num_bytes: int


@dataclass(frozen=True)
class StepPlan:
    """The tasks of a step, and what those that run together take.

    Args:
        step: `stage.step`.
        tasks: tasks in all.
        done: those that are done.
        task_bytes: memory of the largest task.
        at_once: tasks that run together.
        memory_bytes: memory of these, with their processes.
    """

    step: str
    tasks: int
    done: int
    task_bytes: int
    at_once: int
    memory_bytes: int

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= self.tasks


@dataclass(frozen=True)
class DiskPlan:
    """What a dataset will take on the disk, and what of it is there."""

    dataset: str
    least_bytes: int
    most_bytes: int
    present_bytes: int


@dataclass(frozen=True)
class Plan:
    """A search, held against a machine.

    Args:
        operations: of the exact searches that are left, in operations of a float32 product; 0 for those on a GPU.
        gpu: the GPU that they use, if any.
        problems: why the machine cannot do it; empty if it can.
    """

    request: SearchRequest
    machine: Machine
    pairs: tuple[PairPlan, ...]
    indexes: tuple[IndexPlan, ...]
    steps: tuple[StepPlan, ...]
    disk: tuple[DiskPlan, ...]
    operations: float
    problems: tuple[str, ...]
    gpu: GpuPlan | None = None

    @property
    def largest_step(self) -> StepPlan | None:
        """The unfinished step that takes the most memory."""
        left = [step for step in self.steps if not step.is_done]
        return max(left, key=lambda step: step.memory_bytes, default=None)

    @property
    def has_approximate(self) -> bool:
        """Whether any pair is searched approximately."""
        return bool(self.indexes)

    @property
    def disk_range(self) -> tuple[int, int]:
        """Least and most bytes that are still to be written."""
        return (
            sum(max(0, item.least_bytes - item.present_bytes) for item in self.disk),
            sum(max(0, item.most_bytes - item.present_bytes) for item in self.disk),
        )


def even_shards(rows: int, shard_rows: int) -> tuple[int, ...]:
    """Cut rows into shards as `langid` does: by hash, so of about the same size."""
    number = max(1, math.ceil(rows / shard_rows))
    return tuple(rows // number + (1 if shard < rows % number else 0) for shard in range(number))


def make_plan(request: SearchRequest, machine: Machine, *, int8: bool = False) -> Plan:
    """Work out what a search takes, and whether it fits.

    Args:
        request: what is to be searched.
        machine: what is there.
        int8: whether large exact searches multiply int8 on this machine; for the time only.
    """
    pairs = tuple(
        PairPlan(
            (source, target),
            request.rows(source),
            request.rows(target),
            choose_search(request.engine, request.rows(source), request.rows(target)),
        )
        for source, target in request.pairs
    )
    languages = sorted({lang for plan in pairs if not plan.is_exact for lang in plan.pair})
    indexes = tuple(_index(request, lang) for lang in languages)
    steps = tuple(_steps(request, pairs, indexes))
    disk = tuple(_disk(request, pairs, indexes, steps))
    gpu = _gpu(request, pairs, steps, machine)
    operations = 0.0 if gpu else _operations(request, pairs, steps, int8)
    plan = Plan(request, machine, pairs, indexes, steps, disk, operations, (), gpu)
    problems = (*memory_problems(plan), *_disk_problems(plan), *([gpu.problem] if gpu and gpu.problem else []))
    return dataclasses.replace(plan, problems=problems)


def _gpu(
    request: SearchRequest, pairs: tuple[PairPlan, ...], steps: tuple[StepPlan, ...], machine: Machine
) -> GpuPlan | None:
    if all(step.is_done for step in steps if step.step in ("search.sample", "search.tile")):
        return None
    tiles = [
        (request.largest(query) if plan.is_exact else min(2 * request.audit_queries, request.rows(query)), base)
        for plan in pairs
        if plan.search.engine != "faiss-flat"
        for query, base in (
            (plan.pair[0], request.largest(plan.pair[1])),
            (plan.pair[1], request.largest(plan.pair[0])),
        )
    ]
    workers, limit = request.workers, request.max_gpu_memory_gb
    return plan_gpu(machine.gpus, request.device, tiles, request.dim, request.k, workers, limit)


def _index(request: SearchRequest, lang: str) -> IndexPlan:
    rows = request.rows(lang)
    choice = choose_index(request.engine, rows, request.dim, request.index_memory_gb)
    return IndexPlan(lang, rows, choice, index_bytes(choice.engine, rows, request.dim))


def _steps(request: SearchRequest, pairs: tuple[PairPlan, ...], indexes: tuple[IndexPlan, ...]) -> Iterator[StepPlan]:
    """Plan the steps in order; each is a list of (memory of a task, number of such tasks)."""
    dim, k = request.dim, request.k
    kinds = {index.lang: index.choice.engine for index in indexes}
    builds = [(arithmetic.build_bytes(index.choice.engine, index.rows, dim), 1) for index in indexes]
    samples, tiles, merges, audits, selects = [], [], [], [], []
    for plan in pairs:
        source, target = plan.pair
        shards = {lang: len(request.shards[lang]) for lang in plan.pair}
        if plan.is_exact:
            tile = arithmetic.tile_bytes(plan.search.engine, request.largest(source), request.largest(target), dim, k)
            tiles.append((tile, shards[source] * shards[target]))
        for query, base in ((source, target), (target, source)):
            largest, base_rows = request.largest(query), request.rows(base)
            if not plan.is_exact:
                sample = arithmetic.sample_bytes(
                    request.audit_queries, request.rows(query), request.largest(base), base_rows, dim, k
                )
                samples.append((sample, 1))
                tiles.append((arithmetic.query_bytes(kinds[base], largest, base_rows, dim, k), shards[query]))
            merges.append((arithmetic.merge_bytes(largest, shards[base] if plan.is_exact else 1, k), shards[query]))
        if not plan.is_exact:
            audits.append((3 * arithmetic.merge_bytes(max(map(request.largest, plan.pair)), 1, k) // 2, 1))
        selects.append((arithmetic.select_bytes(plan.source_rows, plan.target_rows, k), 1))
    for step, tasks in (
        ("index.build", builds),
        ("search.sample", samples),
        ("search.tile", tiles),
        ("search.merge", merges),
        ("search.audit", audits),
        ("select.select", selects),
    ):
        if tasks:
            yield _step(step, tasks, request)


def _step(step: str, tasks: list[tuple[int, int]], request: SearchRequest) -> StepPlan:
    """Add up the largest tasks that may run together."""
    number = sum(count for _, count in tasks)
    done = min(request.done.get(step, 0), number)
    at_once = min(request.workers, max(1, number - done))
    # A single task runs in the process that is there already.
    memory, places = (arithmetic.WORKER_BYTES * at_once if at_once > 1 else 0), at_once
    for task_bytes, count in sorted(tasks, reverse=True):
        memory += task_bytes * min(places, count)
        places -= min(places, count)
    return StepPlan(step, number, done, max(tasks)[0], at_once, memory)


def _disk(
    request: SearchRequest, pairs: tuple[PairPlan, ...], indexes: tuple[IndexPlan, ...], steps: tuple[StepPlan, ...]
) -> Iterator[DiskPlan]:
    """Plan the datasets; one whose step is done needs no more."""
    k, dim = request.k, request.dim
    finished = {step.step for step in steps if step.is_done}
    if request.done.get("encode.encode"):
        finished.add("encode.encode")
    copies = [
        plan.source_rows * (len(request.shards[plan.pair[1]]) if plan.is_exact else 1)
        + plan.target_rows * (len(request.shards[plan.pair[0]]) if plan.is_exact else 1)
        for plan in pairs
    ]
    embeddings = [arithmetic.embedding_disk(sum(shards), dim) for shards in request.shards.values()]
    structures = sum(arithmetic.index_disk(index.choice.engine, index.rows, dim) for index in indexes)
    neighbours = sum(plan.source_rows + plan.target_rows for plan in pairs)
    for dataset, step, (least, most) in (
        ("embeddings", "encode.encode", (sum(least for least, _ in embeddings), sum(most for _, most in embeddings))),
        ("index", "index.build", (structures, structures)),
        ("tiles", "search.tile", arithmetic.neighbour_disk(sum(copies), k)),
        ("neighbours", "search.merge", arithmetic.neighbour_disk(neighbours, k)),
    ):
        present = max(request.present.get(dataset, 0), most if step in finished else 0)
        if most:
            yield DiskPlan(dataset, least, most, present)


def _operations(request: SearchRequest, pairs: tuple[PairPlan, ...], steps: tuple[StepPlan, ...], int8: bool) -> float:
    total = 0.0
    for plan in pairs:
        if plan.search.engine == "exact":
            source, target = plan.pair
            # Shards are of about one size, so the mean stands for all.
            numbers = len(request.shards[source]), len(request.shards[target])
            means = plan.source_rows / max(1, numbers[0]), plan.target_rows / max(1, numbers[1])
            cost = arithmetic.exact_operations(*means, request.dim, int8=int8)
            total += numbers[0] * numbers[1] * cost
    left = [1 - step.done / step.tasks for step in steps if step.step == "search.tile" and step.tasks]
    return total * sum(left)


def memory_problems(plan: Plan) -> Iterator[str]:
    """Say which unfinished steps need more memory than there is."""
    available = plan.machine.memory_bytes
    for step in plan.steps:
        if available is not None and not step.is_done and step.memory_bytes > available:
            yield (
                f"{step.step} needs {size(step.memory_bytes)} of memory ({step.at_once:,} of {step.tasks:,} tasks at a "
                f"time, {size(step.task_bytes)} each); available are {size(available)} ({plan.machine.memory_source})"
            )


def _disk_problems(plan: Plan) -> Iterator[str]:
    least, _ = plan.disk_range
    if least > plan.machine.disk_bytes:
        largest = max(plan.disk, key=lambda item: item.least_bytes - item.present_bytes)
        yield (
            f"at least {size(least)} of disk are needed, most of it for {largest.dataset}, and "
            f"{size(plan.machine.disk_bytes)} are free: {size(least - plan.machine.disk_bytes)} are missing"
        )
