"""select: neighbours → candidate pairs by margin, one task per language pair.

The task holds a few bytes for every sentence, whatever the number of candidates: see
`emsmine.mining.selection.streamed`.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from emsmine.mining.neighbours import Int64Array, Neighbours
from emsmine.mining.selection.sort import SELECT_BUFFER_PAIRS, PairSorter
from emsmine.mining.selection.streamed import Selection, score_streamed
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.neighbours import DIRECTIONS
from emsmine.pipelines.store.schemas import SELECTED
from emsmine.pipelines.store.scratch import ScratchFile
from emsmine.pipelines.store.suspicious import count_suspicious
from emsmine.pipelines.store.tasks import FileRef, TaskSpec

BUFFER_PAIRS = SELECT_BUFFER_PAIRS


@dataclass(frozen=True)
class _Files:
    """The lists of one direction, in files."""

    task: TaskContext
    refs: tuple[FileRef, ...]

    def ids(self) -> Iterator[Int64Array]:
        for ref in self.refs:
            for batch in self.task.batches(ref, ["sentence_id"]):
                yield batch["sentence_id"].to_numpy()

    def lists(self) -> Iterator[tuple[Int64Array, Neighbours]]:
        for ref in self.refs:
            for batch in self.task.batches(ref, ["sentence_id", "ids", "cosine"]):
                k = batch.schema.field("ids").type.list_size
                ids, cosine = (batch[name].flatten().to_numpy().reshape(-1, k) for name in ("ids", "cosine"))
                yield batch["sentence_id"].to_numpy(), Neighbours(ids, cosine)


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
    forward, backward = (
        _Files(task, tuple(ref for ref in spec.inputs if ref.path.rsplit("/", 1)[1].startswith(f"{direction}-")))
        for direction in DIRECTIONS
    )
    writer = task.writer(f"selected/{spec.partition.split('/')[0]}", SELECTED, counted=True)
    with closing(PairSorter(BUFFER_PAIRS, lambda: ScratchFile(writer.file.path.parent, writer.file.root))) as sorter:
        selection = score_streamed(
            forward,
            backward,
            sorter,
            margin=spec.param("margin", str),
            threshold=spec.param("threshold", float),
            cosine_floor=spec.param("cosine_floor", float),
        )
        num_chosen = 0
        for chosen, marks in selection.choose(spec.param("retrieval", str)):
            labels = marks.labels()
            count_suspicious(task, labels)
            columns: list[Any] = [chosen.source_ids, chosen.target_ids, chosen.margin, chosen.cosine, labels]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SELECTED, strict=True)]
            writer.write(pa.Table.from_arrays(arrays, schema=SELECTED))
            num_chosen += len(chosen)
    task.count_in(selection.num_candidates)
    _count_drops(task, selection, num_chosen)


def _count_drops(task: TaskContext, selection: Selection, num_chosen: int) -> None:
    """Count each candidate that was not chosen under the first reason that holds."""
    for reason, dropped in selection.dropped.items():
        task.drop(
            reason,
            id=f"{dropped.source_id}-{dropped.target_id}",
            sample=f"margin {dropped.margin:.4f} cosine {dropped.cosine:.4f}",
            n=dropped.num_pairs,
        )
    task.drop("not_retrieved", id=task.spec.param("retrieval", str), n=selection.num_eligible - num_chosen)


STAGE = Stage((Step("select", "select", 2, plan, run),))
