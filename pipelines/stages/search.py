"""search: embeddings → the k nearest neighbours of every sentence, in both directions.

`tile` is a grid of (source shard × target shard) tasks whose one matrix product serves both directions; `merge` joins
the tiles of a shard. Margins need neighbours over the whole other side, so nothing is scored before the merge, and the
number of shards changes no result.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.errors import CorruptOutputError
from emsmine.mining.faiss_search import search_both_flat
from emsmine.mining.knn import Neighbours, merge, search_both
from emsmine.pipelines.context import TaskContext
from emsmine.pipelines.schemas import embeddings_metadata, neighbours_schema, read_embeddings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step, pair_folder, shard_name, shard_of
from emsmine.pipelines.tasks import FileRef, TaskSpec

DIRECTIONS = ("forward", "backward")


def plan_tile(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Per pair, one task for each combination of a source and a target shard."""
    specs = []
    for source, target in context.settings.pairs:
        indexes = tuple(ref for lang in (source, target) for ref in _index(context, lang))
        for i, left in enumerate(context.store.outputs("encode", "encode", f"embeddings/{source}")):
            for j, right in enumerate(context.store.outputs("encode", "encode", f"embeddings/{target}")):
                partition = f"{pair_folder((source, target))}/{shard_name(i)}-{shard_name(j)}"
                params = {**context.settings.params("search"), **context.settings.params("index", "engine")}
                specs.append(step.spec(params, (left, right, *indexes), partition))
    return specs


def _index(context: PlanContext, lang: str) -> list[FileRef]:
    return [ref for ref in context.store.outputs("index", "index", "index") if ref.path == f"index/{lang}.json"]


def run_tile(task: TaskContext) -> None:
    """Search one source shard against one target shard."""
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
    search = search_both_flat if task.spec.param("engine", str) == "faiss-flat" else search_both
    found = search(source, target, k, source_ids=ids[0], target_ids=ids[1], validate=False)
    pair, tile = task.spec.partition.split("/")
    for direction, rows, neighbours in zip(DIRECTIONS, ids, found, strict=True):
        task.count_in(len(rows))
        write_neighbours(task, f"tiles/{pair}", f"{direction}-{tile}", rows, neighbours, k)


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


def plan_merge(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Per pair and direction, one task per shard of the searching side."""
    specs = []
    for pair in context.settings.pairs:
        folder = pair_folder(pair)
        tiles = context.store.outputs("search", "tile", f"tiles/{folder}")
        for side, direction in enumerate(DIRECTIONS):
            groups: dict[str, list[FileRef]] = {}
            for ref in tiles:
                # tiles/<pair>/<direction>-<source shard>-<target shard>.parquet
                kind, *shards = shard_of(ref).split("-")
                if kind == direction:
                    groups.setdefault(shards[side], []).append(ref)
            for shard, refs in sorted(groups.items()):
                specs.append(step.spec({}, tuple(refs), f"{folder}/{direction}-{shard}"))
    return specs


def run_merge(task: TaskContext) -> None:
    """Merge the neighbours that the sentences of one shard have in all shards of the other side."""
    parts = [read_neighbours(task, ref) for ref in task.spec.inputs]
    rows = parts[0][0]
    merged = merge([neighbours for _, neighbours in parts])
    task.count_in(len(rows))
    pair, name = task.spec.partition.split("/")
    write_neighbours(task, f"neighbours/{pair}", name, rows, merged, merged.k)


STAGE = Stage(
    "search",
    "find nearest neighbours in both directions",
    "searched vectors",
    (Step("search", "tile", 1, plan_tile, run_tile), Step("search", "merge", 1, plan_merge, run_merge)),
)
