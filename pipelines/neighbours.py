"""Neighbours as Parquet: written by `search`, read by its later steps and by `select`."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.mining.knn import Neighbours
from emsmine.pipelines.context import TaskContext
from emsmine.pipelines.schemas import neighbours_schema
from emsmine.pipelines.tasks import FileRef

DIRECTIONS = ("forward", "backward")


def write_neighbours(
    task: TaskContext, dataset: str, name: str, rows: npt.NDArray[np.int64], neighbours: Neighbours, k: int
) -> None:
    """Write neighbours of the sentences `rows`; counts them as rows out."""
    schema = neighbours_schema(k)
    columns = [
        pa.array(rows),
        pa.FixedSizeListArray.from_arrays(pa.array(neighbours.ids.ravel()), k),
        pa.FixedSizeListArray.from_arrays(pa.array(neighbours.cosine.ravel()), k),
    ]
    writer = task.writer(dataset, schema, counted=True, name=name)
    writer.write(pa.Table.from_arrays(columns, schema=schema))


def read_neighbours(task: TaskContext, ref: FileRef) -> tuple[npt.NDArray[np.int64], Neighbours]:
    """Return the sentence ids and their neighbours."""
    table = task.read(ref)
    k = table.schema.field("ids").type.list_size
    ids, cosine = (
        np.ascontiguousarray(table[name].combine_chunks().flatten().to_numpy()).reshape(-1, k)
        for name in ("ids", "cosine")
    )
    return table["sentence_id"].to_numpy(), Neighbours(ids, cosine)
