"""Neighbours as Parquet: written by `search`, read by its later steps and by `rescore` or `select`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.mining.exact.incremental import TiedNeighbours
from emsmine.mining.neighbours import Neighbours
from emsmine.mining.selection.streamed import Dropped
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.schemas import neighbours_schema
from emsmine.pipelines.store.tasks import FileRef

DIRECTIONS = ("forward", "backward")
_TIED = pa.field("tied", pa.bool_(), nullable=False)


def write_neighbours(
    task: TaskContext, dataset: str, name: str, rows: npt.NDArray[np.int64], neighbours: Neighbours, k: int
) -> None:
    """Write neighbours of the sentences `rows`; counts them as rows out.

    Where a list is full, others are taken to be perhaps as near as its last: see `write_tied` for those that know.
    """
    write_tied(task, dataset, name, rows, TiedNeighbours.unsure(neighbours), k)


def write_tied(
    task: TaskContext, dataset: str, name: str, rows: npt.NDArray[np.int64], ranked: TiedNeighbours, k: int
) -> None:
    """Write neighbours of the sentences `rows`, and whether others are as near; counts them as rows out."""
    schema = neighbours_schema(k).append(_TIED)
    columns = [
        pa.array(rows),
        pa.FixedSizeListArray.from_arrays(pa.array(ranked.neighbours.ids.ravel()), k),
        pa.FixedSizeListArray.from_arrays(pa.array(ranked.neighbours.cosine.ravel()), k),
        pa.array(ranked.tied),
    ]
    writer = task.writer(dataset, schema, counted=True, name=name)
    writer.write(pa.Table.from_arrays(columns, schema=schema))


def read_neighbours(task: TaskContext, ref: FileRef) -> tuple[npt.NDArray[np.int64], Neighbours]:
    """Return the sentence ids and their neighbours."""
    rows, ranked = read_tied(task, ref)
    return rows, ranked.neighbours


def read_tied(task: TaskContext, ref: FileRef) -> tuple[npt.NDArray[np.int64], TiedNeighbours]:
    """Return the sentence ids, their neighbours, and whether others are as near as the last of them."""
    table = task.read(ref)
    k = table.schema.field("ids").type.list_size
    ids, cosine = (
        np.ascontiguousarray(table[name].combine_chunks().flatten().to_numpy()).reshape(-1, k)
        for name in ("ids", "cosine")
    )
    neighbours = Neighbours(ids, cosine)
    tied = table["tied"].to_numpy() if _TIED.name in table.schema.names else None
    ranked = TiedNeighbours.unsure(neighbours) if tied is None else TiedNeighbours(neighbours, tied)
    return table["sentence_id"].to_numpy(), ranked


@dataclass(frozen=True)
class NeighbourFiles:
    """The lists of one direction, in files, as `emsmine.mining.selection.streamed.Direction`."""

    task: TaskContext
    refs: tuple[FileRef, ...]

    @classmethod
    def of(cls, task: TaskContext, direction: str) -> "NeighbourFiles":
        """Return those among the inputs of a task."""
        refs = (ref for ref in task.spec.inputs if ref.path.rsplit("/", 1)[1].startswith(f"{direction}-"))
        return cls(task, tuple(refs))

    def ids(self) -> Iterator[npt.NDArray[np.int64]]:
        """Return the ids of the sentences that have lists."""
        for ref in self.refs:
            for batch in self.task.batches(ref, ["sentence_id"]):
                yield batch["sentence_id"].to_numpy()

    def lists(self) -> Iterator[tuple[npt.NDArray[np.int64], Neighbours]]:
        """Return ids of sentences and their lists."""
        for ref in self.refs:
            for batch in self.task.batches(ref, ["sentence_id", "ids", "cosine"]):
                k = batch.schema.field("ids").type.list_size
                ids, cosine = (batch[name].flatten().to_numpy().reshape(-1, k) for name in ("ids", "cosine"))
                yield batch["sentence_id"].to_numpy(), Neighbours(ids, cosine)


def drop_candidates(task: TaskContext, dropped: Mapping[str, Dropped], named: Mapping[str, str] | None = None) -> None:
    """Count the candidates that are not eligible, by reason, with the first of each; `named` gives a reason another."""
    for reason, found in dropped.items():
        task.drop(
            (named or {}).get(reason, reason),
            id=f"{found.source_id}-{found.target_id}",
            sample=f"margin {found.margin:.4f} cosine {found.cosine:.4f}",
            n=found.num_pairs,
        )


VERSIONS = {"tile": 3, "merge": 2}
"""Of the two steps whose lists are carried over; other versions may order or cut them otherwise."""
