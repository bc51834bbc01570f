"""What a planned search may take over from an earlier run, as far as that is known before it.

Which sentences both runs have is known once this run has encoded, and which lists of neighbours still hold once it has
looked at them; until then the smaller of the two numbers of sentences is a bound, and is shown as one.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsmine.errors import ConfigError
from emsmine.pipelines.planning import costs as arithmetic
from emsmine.pipelines.planning.plan import Pair, PairPlan, Plan, SearchRequest, StepPlan, memory_problems
from emsmine.pipelines.planning.text import Speed, duration, short_pair
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store.earlier import EarlierRun, check_reuse, is_gone
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.neighbours import DIRECTIONS, VERSIONS
from emsmine.pipelines.store.store import Store


@dataclass(frozen=True)
class ReusedPair:
    """What is taken over for a pair.

    Args:
        pair: as in the plan.
        name: its languages.
        vectors: sentences of each side whose vectors are taken over.
        lists: sentences of each side whose lists of neighbours are taken over.
        is_counted: whether both are known; else they are bounds.
        reason: why no lists are; empty if they are.
        earlier_shard_rows: rows of the largest shard of lists.
    """

    pair: Pair
    name: Pair
    vectors: tuple[int, int]
    lists: tuple[int, int]
    is_counted: bool
    reason: str
    earlier_shard_rows: int


@dataclass(frozen=True)
class ReusePlan:
    """What a search may take over from the run at `root`."""

    root: str
    pairs: tuple[ReusedPair, ...]

    def share_left(self, plan: Plan) -> float:
        """Share of the scores that are still computed, at least: all but those among sentences whose lists hold."""
        rows = {pair.pair: (pair.source_rows, pair.target_rows) for pair in plan.pairs if pair.is_exact}
        scores = sum(source * target for source, target in rows.values())
        held = sum(item.lists[0] * item.lists[1] for item in self.pairs if item.pair in rows)
        return 1 - held / scores if scores else 1.0


def plan_reuse(request: SearchRequest, settings: Settings, folder: Path | None) -> ReusePlan | None:
    """Look at the earlier run that `reuse` names; reads manifests only.

    Args:
        request: what is to be searched.
        settings: the settings.
        folder: run directory, if there is one: it tells more the further it has come.

    Returns:
        What may be taken over; None if nothing is to be, or if all that was is finished and the earlier run is gone.

    Raises:
        ConfigError: the earlier run cannot be used, or it is not known which of its pairs is meant.
        CorruptOutputError: one of its manifests is damaged.
    """
    if not settings.reuse:
        return None
    if "://" not in settings.reuse:
        settings = dataclasses.replace(settings, reuse=os.path.abspath(settings.reuse))
    # A run that is planned only is none of those that are there.
    check_reuse(folder or Path(settings.reuse, "planned"), settings.reuse, ("encode", "search"))
    if is_gone(settings.reuse):
        return None
    names = {pair: pair for pair in request.pairs}
    if folder is None:
        if len(settings.pairs) != 1:
            raise ConfigError("plan: --reuse without a run directory needs to know the pair: add one, as --pairs de-en")
        names = dict.fromkeys(request.pairs, settings.pairs[0])
    earlier, store = EarlierRun(settings.reuse), Store(folder) if folder else None
    pairs = (_reused(earlier, request, settings, pair, names[pair], store) for pair in request.pairs)
    return ReusePlan(settings.reuse, tuple(pairs))


def _reused(
    earlier: EarlierRun, request: SearchRequest, settings: Settings, pair: Pair, name: Pair, store: Store | None
) -> ReusedPair:
    there = [[shard.vectors.rows for shard in earlier.shards(lang)] for lang in name]
    rows = [request.rows(lang) for lang in pair]
    vectors = [min(here, sum(shards)) for here, shards in zip(rows, there, strict=True)]
    known = [_written(store, "encode", "encode", f"known/{lang}") for lang in name]
    vectors = [bound if found is None else found for bound, found in zip(vectors, known, strict=True)]
    reason = ""
    if settings.index.engine != "exact":
        reason = "only exact search can take neighbours over"
    elif isinstance(found := earlier.neighbours(name, settings.search.k, VERSIONS), str):
        reason = found
    held = [
        _written(store, "search", "reuse", f"held/{pair_folder(name)}", f"{direction}-") for direction in DIRECTIONS
    ]
    lists = [0, 0] if reason else [most if found is None else found for most, found in zip(vectors, held, strict=True)]
    is_counted = None not in known and (bool(reason) or None not in held)
    largest = max((rows for shards in there for rows in shards), default=0)
    return ReusedPair(pair, name, (vectors[0], vectors[1]), (lists[0], lists[1]), is_counted, reason, largest)


def _written(store: Store | None, stage: str, step: str, dataset: str, prefix: str = "") -> int | None:
    """Count the rows that a finished step wrote to a dataset; None if it wrote none."""
    if store is None or not store.has_step(stage, step):
        return None
    refs = [ref for ref in store.outputs(stage, step, dataset) if ref.path.rsplit("/", 1)[1].startswith(prefix)]
    return sum(ref.rows for ref in refs) if refs else None


def add_reuse(plan: Plan, reuse: ReusePlan) -> Plan:
    """Plan the step that looks at the earlier lists, and what the others hold more."""
    pairs = {item.pair: item for item in reuse.pairs if not item.reason}
    request, tasks = plan.request, []
    more = {"search.tile": 0, "search.merge": 0}
    for item in plan.pairs:
        if item.pair not in pairs:
            continue
        found = pairs[item.pair]
        largest = [request.largest(lang) for lang in item.pair]
        for side, known in ((0, found.vectors[1]), (1, found.vectors[0])):
            task = arithmetic.reuse_bytes(found.earlier_shard_rows, known, largest[side], request.k)
            tasks.append((task, len(request.shards[item.pair[side]])))
        more["search.tile"] = max(more["search.tile"], 4 * request.dim * sum(largest))
        more["search.merge"] = max(more["search.merge"], _merge_more(request, item))
    if not tasks:
        return plan
    steps = []
    for step in plan.steps:
        if step.step == "search.tile":
            steps.append(_reuse_step(request, tasks))
        extra = more.get(step.step, 0)
        task_bytes, memory = step.task_bytes + extra, step.memory_bytes + extra * step.at_once
        steps.append(dataclasses.replace(step, task_bytes=task_bytes, memory_bytes=memory))
    planned = dataclasses.replace(plan, steps=tuple(steps))
    return dataclasses.replace(planned, problems=plan.problems or tuple(memory_problems(planned)))


def check_reuse_fits(plan: Plan) -> None:
    """Refuse a plan of `add_reuse` that would fit if nothing were taken over.

    Raises:
        ConfigError: memory is too small; the message says what fits.
    """
    if plan.problems:
        raise ConfigError(f"plan: with what is taken over, {'. Also: '.join(plan.problems)}. What fits: --reuse ''")


def _merge_more(request: SearchRequest, item: PairPlan) -> int:
    """What a merge holds more for the lists that are taken over: one more list, where not so many are held anyway."""
    more = 0
    for query, base in (item.pair, item.pair[::-1]):
        tiles, rows = len(request.shards[base]), request.largest(query)
        with_lists, without = (arithmetic.merge_bytes(rows, number, request.k) for number in (tiles + 1, tiles))
        more = max(more, with_lists - without)
    return more


def _reuse_step(request: SearchRequest, tasks: list[tuple[int, int]]) -> StepPlan:
    number = sum(count for _, count in tasks)
    done = min(request.done.get("search.reuse", 0), number)
    at_once = min(request.workers, max(1, number - done))
    largest = max(tasks)[0]
    memory = largest * at_once + (arithmetic.WORKER_BYTES * at_once if at_once > 1 else 0)
    return StepPlan("search.reuse", number, done, largest, at_once, memory)


def reuse_lines(reuse: ReusePlan, plan: Plan, speed: Speed | None) -> list[str]:
    """Tell what is taken over, for people."""
    lines = [f"reuse   {reuse.root}"]
    for item, pair in zip(reuse.pairs, plan.pairs, strict=True):
        up_to = "" if item.is_counted else "up to "
        of = f"of {pair.source_rows:,} and {pair.target_rows:,}"
        lists = f"neighbours of {up_to}{item.lists[0]:,} and {item.lists[1]:,}"
        if item.reason:
            lists = f"no neighbours: {item.reason}"
        lines.append(
            f"        {short_pair(item.name)}: vectors of {up_to}{item.vectors[0]:,} and {item.vectors[1]:,} {of} "
            f"sentences; {lists}"
        )
    left = reuse.share_left(plan)
    if left < 1:
        seconds = plan.operations * left / speed.operations if speed else 0.0
        least = f": {duration(seconds)} of processor time instead of {duration(seconds / left)}" if seconds else ""
        lines.append(f"        at least {100 * left:.1f} % of the scores are left to compute{least}")
    return lines


def reuse_json(reuse: ReusePlan, plan: Plan) -> dict[str, Any]:
    """Return the same as what JSON can hold."""
    pairs = [
        {**dataclasses.asdict(item), "pair": "-".join(item.pair), "name": "-".join(item.name)} for item in reuse.pairs
    ]
    return {"root": reuse.root, "pairs": pairs, "least_share_of_scores": reuse.share_left(plan)}
