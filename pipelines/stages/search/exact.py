"""search: embeddings → the k nearest neighbours of every sentence, in both directions.

Exact: `tile` is a grid of (source shard × target shard) tasks whose one matrix product serves both directions.
Approximate: `tile` has a task per direction and shard of queries, which searches the whole index of the other language
(`approximate`). `merge` joins the tiles of a shard. Margins need neighbours over the whole other side, so nothing is
scored before the merge, and the number of shards changes no result.

`sample` and `audit` have tasks for pairs that are searched approximately only: they tune the search before it starts,
and measure it afterwards. `reuse` has tasks if there is an earlier run to reuse (`earlier`).
"""

import numpy as np

from emsmine.errors import CorruptOutputError
from emsmine.mining.approximate.search import search_both_flat
from emsmine.mining.exact.incremental import TiedNeighbours, merge_tied, search_both_new, search_both_tied
from emsmine.mining.neighbours import LISTS_AT_ONCE
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.stages.index import approximate_pairs
from emsmine.pipelines.stages.search.approximate import find_task_gpu, run_audit, run_queries, run_sample
from emsmine.pipelines.stages.search.earlier import held_files, held_positions, plan_reuse, run_reuse
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.layout import pair_folder, shard_name, shard_of
from emsmine.pipelines.store.neighbours import (
    DIRECTIONS,
    VERSIONS,
    read_tied,
    write_tied,
)
from emsmine.pipelines.store.schemas import embeddings_metadata, read_embeddings
from emsmine.pipelines.store.tasks import JSON, FileRef, Runtime, TaskSpec


def _embeddings(context: PlanContext, lang: str) -> list[FileRef]:
    return context.store.outputs("encode", "encode", f"embeddings/{lang}")


def _index(context: PlanContext, lang: str) -> list[FileRef]:
    return [ref for ref in context.store.outputs("index", "index", "index") if ref.path == f"index/{lang}.json"]


def _built(context: PlanContext, lang: str) -> list[FileRef]:
    built = context.store.outputs("index", "build", "index")
    return [ref for ref in built if ref.path.startswith(f"index/{lang}.")]


def _directions(context: PlanContext) -> list[tuple[str, str, str, str]]:
    """List (pair folder, direction, searching language, searched language) of what is searched approximately."""
    found = []
    for source, target in approximate_pairs(context):
        folder = pair_folder((source, target))
        found += [(folder, DIRECTIONS[0], source, target), (folder, DIRECTIONS[1], target, source)]
    return found


def plan_sample(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Per approximate pair, one task for each direction."""
    specs = []
    for folder, direction, query, base in _directions(context):
        params: dict[str, JSON] = {
            **context.settings.params("search", "k", "target_recall", "audit_queries"),
            "query": query,
            "base": base,
        }
        inputs = (*_embeddings(context, query), *_embeddings(context, base), *_built(context, base))
        specs.append(step.spec(params, inputs, f"{folder}/{direction}"))
    return specs


def plan_tile(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Exact: one task for each two shards. Approximate: one for each direction and shard of queries."""
    specs = []
    approximate = approximate_pairs(context)
    for source, target in context.settings.pairs:
        if (source, target) in approximate:
            continue
        held = held_files(context, (source, target))
        indexes = tuple(ref for lang in (source, target) for ref in _index(context, lang))
        for i, left in enumerate(_embeddings(context, source)):
            for j, right in enumerate(_embeddings(context, target)):
                partition = f"{pair_folder((source, target))}/{shard_name(i)}-{shard_name(j)}"
                engine = "faiss-flat" if context.settings.index.engine == "faiss-flat" else "exact"
                params = {**context.settings.params("search", "k"), "engine": engine}
                names = f"{DIRECTIONS[0]}-{shard_name(i)}", f"{DIRECTIONS[1]}-{shard_name(j)}"
                lists = tuple(held[name] for name in names if held)
                specs.append(step.spec(params, (left, right, *indexes, *lists), partition))
    directions = _directions(context)
    tuned = {ref.path: ref for ref in context.store.outputs("search", "sample", "tuning")} if directions else {}
    for folder, direction, query, base in directions:
        params = {**context.settings.params("search", "k"), "query": query, "base": base}
        for number, shard in enumerate(_embeddings(context, query)):
            inputs = (shard, tuned[f"tuning/{folder}/{direction}.json"], *_built(context, base))
            specs.append(step.spec(dict(params), inputs, f"{folder}/{direction}-{shard_name(number)}"))
    return specs


def run_tile(task: TaskContext) -> None:
    """Search one source shard against one target shard, or one shard of queries against an index."""
    if "base" in task.spec.params:
        run_queries(task)
        return
    k = task.spec.param("k", int)
    tables = [task.read(ref, ["sentence_id", "embedding"]) for ref in task.spec.inputs[:2]]
    left, right = (embeddings_metadata(table.schema) for table in tables)
    if left != right:
        raise CorruptOutputError(
            f"{task.spec.task_id}: the two languages were encoded differently ({left} and {right}), so their cosines "
            "mean nothing; rerun with --redo encode"
        )
    ids = [table["sentence_id"].to_numpy() for table in tables]
    source, target = (read_embeddings(table) for table in tables)
    held = [ref for ref in task.spec.inputs if ref.path.startswith("held/")]
    is_flat = task.spec.param("engine", str) == "faiss-flat"
    gpu = None if is_flat else find_task_gpu(task.runtime, len(source), target)
    if is_flat:
        flat = search_both_flat(source, target, k, source_ids=ids[0], target_ids=ids[1], validate=False)
        found = TiedNeighbours.unsure(flat[0]), TiedNeighbours.unsure(flat[1])
    elif held:
        is_held = [np.zeros(len(rows), dtype=bool) for rows in ids]
        for ref, rows, mask in zip(held, ids, is_held, strict=True):
            mask[held_positions(task, ref, rows)[0]] = True
        found = search_both_new(source, target, k, ids[0], ids[1], is_held[0], is_held[1], gpu)
    else:
        found = search_both_tied(source, target, k, ids[0], ids[1], gpu=gpu)
    pair, tile = task.spec.partition.split("/")
    for direction, rows, ranked in zip(DIRECTIONS, ids, found, strict=True):
        task.count_in(len(rows))
        write_tied(task, f"tiles/{pair}", f"{direction}-{tile}", rows, ranked, k)


def plan_merge(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Per pair and direction, one task per shard of the searching side."""
    specs = []
    for pair in context.settings.pairs:
        folder = pair_folder(pair)
        tiles = context.store.outputs("search", "tile", f"tiles/{folder}")
        held = held_files(context, pair)
        for side, direction in enumerate(DIRECTIONS):
            groups: dict[str, list[FileRef]] = {}
            for ref in tiles:
                # tiles/<pair>/<direction>-<source shard>-<target shard>.parquet; `index` for all shards of a side
                kind, *shards = shard_of(ref).split("-")
                if kind == direction:
                    groups.setdefault(shards[side], []).append(ref)
            for shard, refs in sorted(groups.items()):
                name = f"{direction}-{shard}"
                lists = [held[name]] if name in held else []
                specs.append(step.spec({}, (*refs, *lists), f"{folder}/{name}"))
    return specs


def run_merge(task: TaskContext) -> None:
    """Merge the neighbours that the sentences of one shard have in all shards of the other side.

    A few lists at a time, which is the same as all at once: memory does not grow with the number of shards.
    """
    held = [ref for ref in task.spec.inputs if ref.path.startswith("held/")]
    lists: list[TiedNeighbours] = []
    for ref in task.spec.inputs:
        if ref in held:
            continue
        rows, ranked = read_tied(task, ref)
        lists.append(ranked)
        if len(lists) == LISTS_AT_ONCE:
            lists = [merge_tied(lists)]
    for ref in held:
        places, ranked = held_positions(task, ref, rows)
        lists.append(ranked.spread(places, len(rows)))
        task.counter("reused_lists", len(places))
        task.counter("searched_lists", len(rows) - len(places))
    merged = merge_tied(lists)
    task.count_in(len(rows))
    pair, name = task.spec.partition.split("/")
    write_tied(task, f"neighbours/{pair}", name, rows, merged, merged.neighbours.k)


def plan_audit(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per approximate pair."""
    specs = []
    for folder in sorted({folder for folder, _, _, _ in _directions(context)}):
        samples = context.store.outputs("search", "sample", f"samples/{folder}")
        found = context.store.outputs("search", "merge", f"neighbours/{folder}")
        params = context.settings.params("search", "min_recall", "min_precision")
        specs.append(step.spec(params, (*samples, *found), f"{folder}/00000"))
    return specs


def check(_: Settings, runtime: Runtime) -> None:
    """Refuse a device that is not there."""
    if runtime.device not in ("auto", "cpu"):
        from emsmine.encoder.ems import resolve_device

        resolve_device(runtime.device)


STAGE = Stage(
    (
        Step("search", "sample", 2, plan_sample, run_sample),
        Step("search", "reuse", 1, plan_reuse, run_reuse),
        Step("search", "tile", VERSIONS["tile"], plan_tile, run_tile),
        Step("search", "merge", VERSIONS["merge"], plan_merge, run_merge),
        Step("search", "audit", 2, plan_audit, run_audit),
    ),
    check,
)
