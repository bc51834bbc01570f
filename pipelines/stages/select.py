"""select: candidate pairs → chosen pairs by probability, or by margin where nothing was rescored.

The task holds a few bytes for every sentence, whatever the number of candidates: see
`emsmine.mining.selection.streamed` and `emsmine.mining.selection.rescored`.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from emsmine.mining.selection.rescored import Rescored, RescoredSelection
from emsmine.mining.selection.retrieve import Candidates
from emsmine.mining.selection.sort import SELECT_BUFFER_PAIRS, PairSorter
from emsmine.mining.selection.streamed import BELOW_FLOOR, BELOW_THRESHOLD, score_streamed
from emsmine.mining.selection.suspicion import Suspicion
from emsmine.pipelines.rescoring import filled_in
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.stages.rescore import run_scorer
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.neighbours import DIRECTIONS, NeighbourFiles, drop_candidates
from emsmine.pipelines.store.parquet import ParquetSink
from emsmine.pipelines.store.schemas import SELECTED
from emsmine.pipelines.store.scratch import ScratchFile
from emsmine.pipelines.store.suspicious import count_suspicious
from emsmine.pipelines.store.tasks import JSON, TaskSpec

BUFFER_PAIRS = SELECT_BUFFER_PAIRS
_SUSPICION_BITS = 2
"""Bits of a mark that hold what is suspicious; the support stands above them."""


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per pair: what is chosen for a sentence depends on all others."""
    settings = context.settings
    rescored = bool(run_scorer(settings))
    params: dict[str, JSON] = filled_in(settings).params("select")
    found, dataset = (("rescore", "score"), "rescored") if rescored else (("search", "merge"), "neighbours")
    return [
        step.spec(
            dict(params),
            tuple(context.store.outputs(*found, f"{dataset}/{pair_folder(pair)}")),
            f"{pair_folder(pair)}/00000",
        )
        for pair in settings.pairs
    ]


def run(task: TaskContext) -> None:
    """Choose pairs, mark suspicious ones, count why the others were not chosen."""
    spec = task.spec
    writer = task.writer(f"selected/{spec.partition.split('/')[0]}", SELECTED, counted=True)
    with closing(PairSorter(BUFFER_PAIRS, lambda: ScratchFile(writer.file.path.parent, writer.file.root))) as sorter:
        if any(ref.path.startswith("rescored/") for ref in spec.inputs):
            _choose_rescored(task, writer, sorter)
        else:
            _choose_by_margin(task, writer, sorter)


def _choose_by_margin(task: TaskContext, writer: ParquetSink, sorter: PairSorter) -> None:
    """Score all candidates by margin, and choose."""
    spec = task.spec
    forward, backward = (NeighbourFiles.of(task, direction) for direction in DIRECTIONS)
    selection = score_streamed(
        forward,
        backward,
        sorter,
        margin=spec.param("margin", str),
        threshold=spec.param("threshold", float),
        cosine_floor=spec.param("cosine_floor", float),
    )
    found = selection.choose(spec.param("retrieval", str))
    chosen = ((pairs, marks, np.zeros(len(pairs), np.int32)) for pairs, marks in found)
    num_chosen = _write(task, writer, chosen)
    task.count_in(selection.num_candidates)
    drop_candidates(task, selection.dropped)
    task.drop("not_retrieved", id=spec.param("retrieval", str), n=selection.num_eligible - num_chosen)


def _choose_rescored(task: TaskContext, writer: ParquetSink, sorter: PairSorter) -> None:
    """Choose among candidates that have their probabilities."""
    spec = task.spec
    sort_by, retrieval = spec.param("sort_by", str), spec.param("retrieval", str)
    threshold, floor = spec.param("threshold", float), spec.param("cosine_floor", float)
    selection = RescoredSelection(lambda: _rescored(task, sort_by), sorter, threshold, floor)
    chosen = (
        (pairs, Suspicion.of_codes(marks), (marks >> _SUSPICION_BITS).astype(np.int32))
        for pairs, marks in selection.choose(retrieval)
    )
    num_chosen = _write(task, writer, chosen)
    task.count_in(selection.num_candidates)
    task.drop(BELOW_THRESHOLD, id=f"{sort_by} {threshold:g}", n=selection.num_below_threshold)
    task.drop(BELOW_FLOOR, id=f"cosine {floor:g}", n=selection.num_below_floor)
    task.drop("not_retrieved", id=retrieval, n=sorter.num_pairs - num_chosen)


def _rescored(task: TaskContext, sort_by: str) -> Iterator[Rescored]:
    for ref in task.spec.inputs:
        for batch in task.batches(ref):
            read = {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names}
            yield Rescored(
                read["source_id"],
                read["target_id"],
                read["cosine"],
                read["margin"],
                read["in_forward"],
                read["in_backward"],
                read["probability" if sort_by == "probability" else "margin"],
                read["suspicion"] | (read["support"].astype(np.uint32) << np.uint32(_SUSPICION_BITS)),
            )


def _write(
    task: TaskContext, writer: ParquetSink, chosen: Iterator[tuple[Candidates, Suspicion, NDArray[np.int32]]]
) -> int:
    """Write chosen pairs, best first, with what is suspicious and the support; returns their number."""
    number = 0
    for pairs, marks, support in chosen:
        labels = marks.labels()
        count_suspicious(task, labels)
        columns: list[Any] = [pairs.source_ids, pairs.target_ids, pairs.score, support, pairs.margin, pairs.cosine]
        columns.append(labels)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SELECTED, strict=True)]
        writer.write(pa.Table.from_arrays(arrays, schema=SELECTED))
        number += len(pairs)
    return number


STAGE = Stage((Step("select", "select", 3, plan, run),))
