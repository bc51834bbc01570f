"""select: neighbours → candidate pairs by margin, one task per language pair."""

from typing import Any

import numpy as np
import pyarrow as pa

from emsmine.mining.knn import Neighbours
from emsmine.mining.retrieve import Candidates, candidates, select
from emsmine.mining.suspicion import suspicion
from emsmine.pipelines.context import TaskContext
from emsmine.pipelines.schemas import SELECTED
from emsmine.pipelines.stages.base import PlanContext, Stage, Step, pair_folder
from emsmine.pipelines.stages.search import DIRECTIONS, read_neighbours
from emsmine.pipelines.suspicious import count_suspicious
from emsmine.pipelines.tasks import TaskSpec


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per pair: margins are global."""
    params = context.settings.params("select")
    return [
        step.spec(
            dict(params),
            tuple(context.store.outputs("search", "merge", f"neighbours/{pair_folder(pair)}")),
            f"{pair_folder(pair)}/00000",
        )
        for pair in context.settings.pairs
    ]


def run(task: TaskContext) -> None:
    """Score all candidates, choose pairs, mark suspicious ones, count why the others were not chosen."""
    spec = task.spec
    sides = []
    for direction in DIRECTIONS:
        refs = [ref for ref in spec.inputs if ref.path.rsplit("/", 1)[1].startswith(f"{direction}-")]
        parts = [read_neighbours(task, ref) for ref in refs]
        rows = np.concatenate([ids for ids, _ in parts])
        ids, cosine = (np.concatenate([getattr(n, name) for _, n in parts]) for name in ("ids", "cosine"))
        sides.append((rows, Neighbours(ids, cosine)))
    (source_ids, forward), (target_ids, backward) = sides
    margin = spec.param("margin", str)
    pool = candidates(forward, backward, source_ids, target_ids, margin=margin)
    threshold, floor = spec.param("threshold", float), spec.param("cosine_floor", float)
    chosen = select(pool, spec.param("retrieval", str), threshold=threshold, cosine_floor=floor)
    task.count_in(len(pool))
    _count_drops(task, pool, chosen, threshold, floor)
    labels = suspicion(chosen, forward, backward, source_ids, target_ids, margin=margin, threshold=threshold).labels()
    count_suspicious(task, labels)
    columns: list[Any] = [chosen.source_ids, chosen.target_ids, chosen.margin, chosen.cosine, labels]
    writer = task.writer(f"selected/{spec.partition.split('/')[0]}", SELECTED, counted=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SELECTED, strict=True)]
    writer.write(pa.Table.from_arrays(arrays, schema=SELECTED))


def _count_drops(task: TaskContext, pool: Candidates, chosen: Candidates, threshold: float, floor: float) -> None:
    """Count each candidate that was not chosen under the first reason that holds."""
    margin, cosine = pool.margin.astype(np.float64), pool.cosine.astype(np.float64)
    undefined = np.isnan(margin)
    below = ~undefined & (margin < threshold)
    below_floor = ~undefined & ~below & (cosine < floor)
    for reason, mask in (
        ("undefined_margin", undefined),
        ("below_threshold", below),
        ("below_cosine_floor", below_floor),
    ):
        if mask.any():
            first = int(np.argmax(mask))
            pair = f"{pool.source_ids[first]}-{pool.target_ids[first]}"
            task.drop(
                reason, id=pair, sample=f"margin {margin[first]:.4f} cosine {cosine[first]:.4f}", n=int(mask.sum())
            )
    eligible = len(pool) - int((undefined | below | below_floor).sum())
    task.drop("not_retrieved", id=task.spec.param("retrieval", str), n=eligible - len(chosen))


STAGE = Stage("select", "choose pairs by margin", "candidate pairs", (Step("select", "select", 2, plan, run),))
