"""The step `search.reuse`: neighbours of an earlier run that still hold, by the ids of this run.

Only exactly searched pairs have tasks: what an approximate search finds depends on its index as a whole, and
`faiss-flat` leaves some ties to FAISS.
"""

import logging

import numpy as np
import numpy.typing as npt

from emsmine.errors import CorruptOutputError
from emsmine.mining.exact.incremental import Renumbering, TiedNeighbours, carry_over
from emsmine.pipelines.stages.base import PlanContext, Step
from emsmine.pipelines.stages.encode_known import read_known
from emsmine.pipelines.stages.index import approximate_pairs
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.earlier import EarlierRun, earlier_run, is_gone
from emsmine.pipelines.store.layout import pair_folder, shard_name, shard_of
from emsmine.pipelines.store.neighbours import DIRECTIONS, VERSIONS, read_tied, write_tied
from emsmine.pipelines.store.tasks import FileRef, TaskSpec

logger = logging.getLogger(__name__)


def plan_reuse(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Per pair that both runs search exactly, one task for each direction and shard of the searching side."""
    if is_gone(context.settings.reuse):
        return [manifest.spec for manifest in context.store.manifests("search", "reuse")]
    earlier = earlier_run(context.settings.reuse)
    if earlier is None:
        return []
    specs = []
    approximate = approximate_pairs(context)
    k = context.settings.search.k
    for pair in context.settings.pairs:
        if pair in approximate or context.settings.index.engine == "faiss-flat":
            lists: dict[str, FileRef] | str = "only exact search can take neighbours over"
        else:
            lists = earlier.neighbours(pair, k, VERSIONS)
        if isinstance(lists, str):
            logger.warning(
                "search: %s: neighbours of %s are not reused, all are searched: %s",
                pair_folder(pair),
                earlier.root,
                lists,
            )
            continue
        for direction, query, base in zip(DIRECTIONS, pair, reversed(pair), strict=True):
            specs += _direction(step, context, earlier, lists, (pair_folder(pair), direction, query, base))
    return specs


def _direction(
    step: Step,
    context: PlanContext,
    earlier: EarlierRun,
    lists: dict[str, FileRef],
    which: tuple[str, str, str, str],
) -> list[TaskSpec]:
    folder, direction, query, base = which
    known, base_known = (context.store.outputs("encode", "encode", f"known/{lang}") for lang in (query, base))
    base_rows = sum(shard.vectors.rows for shard in earlier.shards(base))
    specs = []
    for number, ref in enumerate(known):
        # Lists are numbered like the vectors that they belong to.
        files = [
            lists[f"{direction}-{shard_name(place)}"]
            for place, shard in enumerate(earlier.shards(query))
            if shard.overlaps(number, len(known))
        ]
        params = {**context.settings.params("search", "k"), "known": len(base_known), "earlier_rows": base_rows}
        specs.append(step.spec(params, (ref, *base_known, *files), f"{folder}/{direction}-{shard_of(ref)}"))
    return specs


def run_reuse(task: TaskContext) -> None:
    """Write the lists of one shard that still hold among the sentences that both runs have."""
    spec = task.spec
    k, last = spec.param("k", int), 1 + spec.param("known", int)
    query_ids = Renumbering(*read_known(task, spec.inputs[:1]), num_old=0)
    base_ids = Renumbering(*read_known(task, spec.inputs[1:last]), num_old=spec.param("earlier_rows", int))
    rows, parts = [np.zeros(0, dtype=np.int64)], [TiedNeighbours.empty(0, k)]
    for ref in spec.inputs[last:]:
        earlier_rows, earlier = read_tied(task, ref)
        ids = query_ids(earlier_rows)
        here = np.flatnonzero(ids >= 0)
        lists, holds = carry_over(earlier.take(here), base_ids, k)
        rows.append(ids[here[holds]])
        parts.append(lists.take(np.flatnonzero(holds)))
    held = np.concatenate(rows)
    order = np.argsort(held)
    task.count_in(len(held))
    pair, name = spec.partition.split("/")
    write_tied(task, f"held/{pair}", name, held[order], TiedNeighbours.concatenate(parts).take(order), k)


def held_files(context: PlanContext, pair: tuple[str, str]) -> dict[str, FileRef]:
    """Return what `reuse` wrote for a pair, by name (`forward-00003`); nothing where there is nothing to reuse."""
    if not context.store.has_step("search", "reuse"):
        return {}
    return {shard_of(ref): ref for ref in context.store.outputs("search", "reuse", f"held/{pair_folder(pair)}")}


def held_positions(
    task: TaskContext, ref: FileRef, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], TiedNeighbours]:
    """Read lists that hold.

    Args:
        task: the task.
        ref: what `reuse` wrote for a shard.
        rows: sentence ids of the shard.

    Returns:
        Where in `rows` the sentences of the lists stand, and the lists.

    Raises:
        CorruptOutputError: a sentence is not in the shard.
    """
    held, lists = read_tied(task, ref)
    place = Renumbering(np.sort(rows), np.argsort(rows), len(rows))(held)
    if (place < 0).any():
        raise CorruptOutputError(
            f"{task.spec.task_id}: {ref.path} has lists of sentences without a vector (first: "
            f"{held[np.argmax(place < 0)]}); rerun with --redo encode"
        )
    return place, lists
