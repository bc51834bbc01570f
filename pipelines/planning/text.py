"""A plan as text, as a few lines for the log, and as JSON."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from emsmine import languages
from emsmine.errors import LanguageError
from emsmine.pipelines.planning.plan import SMALL_OPERATIONS, Pair, Plan
from emsmine.pipelines.store.files import size


@dataclass(frozen=True)
class Speed:
    """Float32 operations per processor second of one core, as measured here."""

    operations: float


def short_pair(pair: Pair) -> str:
    """Name a pair as in the command line."""
    return "-".join(_short(lang) for lang in pair)


def _short(lang: str) -> str:
    try:
        return languages.short(lang)
    except LanguageError:
        return lang


def duration(seconds: float) -> str:
    """Write a time for people."""
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 1 else "less than a second"


def time_line(plan: Plan, speed: Speed | None) -> str:
    """Tell the estimated time of the exact searches that are left."""
    approximate = "; approximate search: not estimated" if plan.has_approximate else ""
    if any(pair.search.engine == "faiss-flat" for pair in plan.pairs):
        return "search: not estimated (faiss-flat)"
    if plan.gpu is not None:
        return f"search: on {plan.gpu.name}, not estimated"
    if not plan.operations:
        return "search: not estimated (approximate)" if plan.has_approximate else "search: nothing left to do"
    if plan.operations < SMALL_OPERATIONS:
        return f"exact search: seconds{approximate}"
    if speed is None:
        return f"exact search: not estimated (the machine was not measured){approximate}"
    seconds, cores = plan.operations / speed.operations, plan.machine.cores
    on_cores = f", {duration(seconds / cores)} if {cores} cores share it evenly" if cores > 1 else ""
    return (
        f"exact search: about {duration(seconds)} of processor time{on_cores} (an estimate, from a product of "
        f"{speed.operations / 1e9:.0f} GFLOP/s measured here){approximate}"
    )


def _memory_line(plan: Plan) -> str:
    step, available = plan.largest_step, plan.machine.memory_bytes
    there = "unknown" if available is None else f"{size(available)} available ({plan.machine.memory_source})"
    if step is None:
        return f"nothing left to do; {there}"
    return f"{size(step.memory_bytes)} for {step.step}, {step.at_once} at a time; {there}"


def _disk_line(plan: Plan) -> str:
    return f"{_between(*plan.disk_range)} still to be written; {size(plan.machine.disk_bytes)} free"


def _between(least: int, most: int) -> str:
    return size(most) if size(least) == size(most) else f"{size(least)} to {size(most)}"


def _gpu_line(plan: Plan) -> str:
    seen = ", ".join(f"{gpu.name}: {size(gpu.free_bytes)} of {size(gpu.total_bytes)} free" for gpu in plan.machine.gpus)
    if not seen:
        return "none visible; search needs none"
    if plan.gpu is not None and not plan.gpu.problem:
        gpu = plan.gpu
        seen += (
            f"; exact search takes {size(gpu.task_bytes)} of {size(gpu.allowed_bytes)} allowed, {gpu.at_once} at a time"
        )
    lists = [index.num_bytes for index in plan.indexes if index.choice.engine in ("faiss-ivf", "faiss-ivfpq")]
    if lists:
        return f"{seen}; with faiss-gpu every worker copies an index there, up to {size(max(lists))}"
    return seen if plan.gpu is not None else f"{seen}; search uses none"


def summary_lines(plan: Plan, speed: Speed | None) -> list[str]:
    """Return the plan in a few lines, for the log of a run."""
    engines: dict[str, list[str]] = {}
    for pair in plan.pairs:
        engines.setdefault(pair.search.engine, []).append(short_pair(pair.pair))
    shown = []
    for engine, names in engines.items():
        reason = next(pair.search.reason for pair in plan.pairs if pair.search.engine == engine)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        shown.append(f"{engine} for {', '.join(names[:5])}{more} ({reason})")
    return [
        f"plan: search {'; '.join(shown)}",
        f"plan: memory {_memory_line(plan)}",
        f"plan: disk {_disk_line(plan)}",
        f"plan: time {time_line(plan, speed)}",
    ]


def format_plan(plan: Plan, speed: Speed | None) -> str:
    """Lay a plan out as text."""
    lines = [f"{'pair':<16}{'source':>14}{'target':>14}  engine"]
    for pair in plan.pairs:
        name = short_pair(pair.pair)
        lines.append(
            f"{name:<16}{pair.source_rows:>14,}{pair.target_rows:>14,}  {pair.search.engine}: {pair.search.reason}"
        )
    if plan.indexes:
        lines += ["", f"{'index':<16}{'rows':>14}{'size':>14}  kind"]
        for index in plan.indexes:
            choice, name = index.choice, _short(index.lang)
            lines.append(f"{name:<16}{index.rows:>14,}{size(index.num_bytes):>14}  {choice.engine}: {choice.reason}")
    lines += ["", f"{'step':<16}{'tasks':>14}{'done':>14}{'a task':>14}{'at once':>14}{'memory':>14}"]
    lines += [
        f"{step.step:<16}{step.tasks:>14,}{step.done:>14,}{size(step.task_bytes):>14}{step.at_once:>14}"
        f"{size(step.memory_bytes):>14}"
        for step in plan.steps
    ]
    lines += ["", f"{'disk':<16}{'at least':>14}{'at most':>14}{'there':>14}"]
    lines += [
        f"{item.dataset:<16}{size(item.least_bytes):>14}{size(item.most_bytes):>14}{size(item.present_bytes):>14}"
        for item in plan.disk
    ]
    lines += ["", f"memory  {_memory_line(plan)}", f"gpu     {_gpu_line(plan)}", f"disk    {_disk_line(plan)}"]
    lines += [f"time    {time_line(plan, speed)}", "this search does not fit" if plan.problems else "this search fits"]
    return "\n".join(lines)


def as_json(plan: Plan, speed: Speed | None) -> dict[str, Any]:
    """Return a plan as what JSON can hold."""
    request = plan.request
    seconds = plan.operations / speed.operations if speed and plan.operations else None
    return {
        "dim": request.dim,
        "k": request.k,
        "workers": request.workers,
        "pairs": [
            {
                "pair": "-".join(pair.pair),
                "source_rows": pair.source_rows,
                "target_rows": pair.target_rows,
                "engine": pair.search.engine,
                "reason": pair.search.reason,
            }
            for pair in plan.pairs
        ],
        "indexes": [
            {
                "language": index.lang,
                "rows": index.rows,
                "engine": index.choice.engine,
                "reason": index.choice.reason,
                "bytes": index.num_bytes,
            }
            for index in plan.indexes
        ],
        "steps": [dataclasses.asdict(step) for step in plan.steps],
        "disk": [dataclasses.asdict(item) for item in plan.disk],
        "gpu": dataclasses.asdict(plan.gpu) if plan.gpu else None,
        "machine": dataclasses.asdict(plan.machine),
        "exact_search_cpu_seconds": seconds,
        "problems": list(plan.problems),
    }
