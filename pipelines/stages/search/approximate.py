"""The tasks of an approximate search: tune it on a sample, search a shard of queries, measure the result.

Two samples of the searching language are searched exactly: one sets the effort, the other is kept for the audit, so
that a search is not judged by the queries that it was tuned on. Both are drawn by text hash, wherever the shards are
cut.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.errors import CorruptOutputError, TaskFailedError
from emsmine.mining.approximate.audit import OtherSide, audit_direction, neighbour_recall, pair_agreement, verdicts
from emsmine.mining.approximate.sample import RowSample
from emsmine.mining.approximate.search import ApproximateIndex, Effort
from emsmine.mining.exact.gpu import Gpu, find_gpu
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Float32Array, Int64Array, Neighbours, merge
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.neighbours import DIRECTIONS, read_neighbours, write_neighbours
from emsmine.pipelines.store.schemas import (
    embeddings_metadata,
    fixed_binary,
    read_embeddings,
    text_hashes,
)
from emsmine.pipelines.store.tasks import FileRef, Runtime

_BATCH = 8192
_QUERY_SALT = 2


class StoredVectors:
    """The vectors of one language in one mapped file; only the pages of rows that are asked for are read.

    Args:
        path: rows of `dim` values without a header.
        rows: their number.
        vectors: what the embeddings' schema says of them.
    """

    def __init__(self, path: Path, rows: int, vectors: dict[str, str]) -> None:
        shape = (rows, int(vectors["dim"]))
        dtype = np.dtype(vectors["dtype"]).newbyteorder("<")
        # An empty file cannot be mapped.
        self._rows: npt.NDArray[np.generic] = (
            np.memmap(path, dtype=dtype, mode="r", shape=shape) if rows else np.zeros(shape, dtype)
        )
        width = shape[1] * dtype.itemsize
        self._schema = pa.schema([pa.field("embedding", pa.binary(width), nullable=False)], metadata=vectors)

    def __call__(self, rows: Int64Array) -> Float32Array:
        """Read unit vectors, by the one function that everyone reads them with."""
        return read_embeddings(pa.Table.from_arrays([fixed_binary(self._rows[rows])], schema=self._schema))


def open_index(task: TaskContext, base: str, query: dict[str, str]) -> ApproximateIndex:
    """Open the index of the language `base` among the inputs of a task.

    Args:
        task: the task.
        base: canonical code.
        query: what the schema of the searching vectors says of them.

    Raises:
        CorruptOutputError: the two languages were encoded differently, or a file is damaged.
    """
    refs = {ref.path.removeprefix(f"index/{base}."): ref for ref in task.spec.inputs if ref.path.startswith("index/")}
    summary = json.loads(task.file(refs["engine.json"]).read_bytes())
    if summary["vectors"] != query:
        raise CorruptOutputError(
            f"{task.spec.task_id}: the two languages were encoded differently ({query} and {summary['vectors']}), so "
            "their cosines mean nothing; rerun with --redo encode"
        )
    rows = int(summary["rows"])
    ids = np.fromfile(task.file(refs["ids"]), dtype="<i8").astype(np.int64, copy=False)
    fetch = StoredVectors(task.file(refs["vectors"]), rows, summary["vectors"])
    path = task.file(refs["faiss"]) if "faiss" in refs else None
    runtime = task.runtime
    share = None if runtime.gpu_memory_bytes is None else runtime.gpu_memory_bytes // runtime.workers
    return ApproximateIndex(summary["engine"], path, fetch, ids, int(query["dim"]), runtime.device, share)


def _shards(task: TaskContext, lang: str) -> list[FileRef]:
    return [ref for ref in task.spec.inputs if ref.path.startswith(f"embeddings/{lang}/")]


def find_task_gpu(runtime: Runtime, num_queries: int, base: Float32Array) -> Gpu | None:
    """Find the GPU for the exact search of a task, if one is to be used."""
    multiplications = num_queries * base.size
    return find_gpu(runtime.device, multiplications, memory_bytes=runtime.gpu_memory_bytes, workers=runtime.workers)


def run_sample(task: TaskContext) -> None:
    """Search a sample exactly, and choose the least effort with which the pairs of half of it agree well enough."""
    spec = task.spec
    k, wanted = spec.param("k", int), spec.param("audit_queries", int)
    described, ids, vectors = _draw(task, _shards(task, spec.param("query", str)), 2 * wanted)
    exact = Neighbours.empty(len(ids), k)
    for ref in _shards(task, spec.param("base", str)):
        table = task.read(ref, ["sentence_id", "embedding"])
        base_ids = table["sentence_id"].to_numpy()
        base = read_embeddings(table)
        gpu = find_task_gpu(task.runtime, len(vectors), base)
        part, _ = search_both(vectors, base, k, target_ids=base_ids, gpu=gpu, validate=False)
        exact = merge([exact, part])
    # By turns, so that a language with few sentences still has some of both.
    tuned, kept = slice(0, None, 2), slice(1, None, 2)
    index = open_index(task, spec.param("base", str), described)
    tuning = _tune(index, vectors[tuned].copy(), _part(exact, tuned), k, spec.param("target_recall", float))
    pair, direction = spec.partition.split("/")
    with task.bytes_writer(f"tuning/{pair}/{direction}.json", rows=0) as file:
        file.write(json.dumps(tuning, indent=1, sort_keys=True).encode() + b"\n")
    write_neighbours(task, f"samples/{pair}", direction, ids[kept], _part(exact, kept), k)
    task.count_in(len(ids[kept]))


def _draw(task: TaskContext, shards: Sequence[FileRef], size: int) -> tuple[dict[str, str], Int64Array, Float32Array]:
    """Draw rows by text hash; returns what the schema says of the vectors, ids and vectors."""
    sample = RowSample(size, _QUERY_SALT)
    described: dict[str, str] = {}
    for ref in shards:
        described = described or embeddings_metadata(task.read_slice(ref, 0, 0, ["embedding"]).schema)
        empty = np.zeros((0, int(described["dim"])), np.float32)
        sample.add(np.zeros((0, 16), np.uint8), np.zeros(0, np.int64), empty)
        for batch in task.batches(ref, ["sentence_id", "text_hash", "embedding"], _BATCH):
            table = pa.Table.from_batches([batch])
            sample.add(text_hashes(table), table["sentence_id"].to_numpy(), read_embeddings(table))
    ids, vectors = sample.rows()
    return described, ids, vectors


def _part(neighbours: Neighbours, rows: slice) -> Neighbours:
    return Neighbours(neighbours.ids[rows], neighbours.cosine[rows])


def _tune(
    index: ApproximateIndex, vectors: Float32Array, exact: Neighbours, k: int, target_recall: float
) -> dict[str, Any]:
    tried = []
    for effort in index.efforts(k):
        found = index.search(vectors, k, effort)
        recall = float(neighbour_recall(exact, found).mean()) if len(vectors) else 1.0
        agreement = pair_agreement(exact, found)
        tried.append(
            {"width": effort.width, "proposals": effort.proposals, "pair_agreement": agreement, "recall": recall}
        )
        if agreement >= target_recall:
            break
    return {**tried[-1], "engine": index.engine, "queries": len(vectors), "target": target_recall, "tried": tried}


def run_queries(task: TaskContext) -> None:
    """Search one shard of queries in the index of the other language."""
    spec = task.spec
    k = spec.param("k", int)
    table = task.read(spec.inputs[0], ["sentence_id", "embedding"])
    index = open_index(task, spec.param("base", str), embeddings_metadata(table.schema))
    tuning = json.loads(task.file(spec.inputs[1]).read_bytes())
    found = index.search(read_embeddings(table), k, Effort(int(tuning["width"]), int(tuning["proposals"])))
    pair, name = spec.partition.split("/")
    direction, shard = name.split("-")
    tile = f"{direction}-{shard}-index" if direction == DIRECTIONS[0] else f"{direction}-index-{shard}"
    write_neighbours(task, f"tiles/{pair}", tile, table["sentence_id"].to_numpy(), found, k)
    task.count_in(table.num_rows)


def run_audit(task: TaskContext) -> None:
    """Compare what was found with the exact neighbours of the sample, and fail below what is allowed."""
    samples = {}
    for direction in DIRECTIONS:
        (ref,) = (ref for ref in task.spec.inputs if ref.path.endswith(f"/{direction}.parquet"))
        samples[direction] = read_neighbours(task, ref)
    report = {}
    for direction, other in zip(DIRECTIONS, reversed(DIRECTIONS), strict=True):
        ids, exact = samples[direction]
        found = _find(task, direction, ids)
        listed = np.concatenate([exact.ids, found.ids])
        partners = np.unique(listed[listed >= 0])
        report[direction] = audit_direction(ids, exact, found, OtherSide(partners, _find(task, other, partners)))
        expected = int((exact.ids >= 0).sum())
        missing = expected - round(float((neighbour_recall(exact, found) * (exact.ids >= 0).sum(axis=1)).sum()))
        task.count_in(expected)
        task.count_out(expected - missing)
        task.drop("neighbour_not_found", id=direction, n=missing)
    _check_recall(task, report)
    with task.bytes_writer(f"audit/{task.spec.partition.split('/')[0]}.json", rows=0) as file:
        file.write(json.dumps(report, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")


def _find(task: TaskContext, direction: str, ids: Int64Array) -> Neighbours:
    """Read the found neighbours of some sentences, in the order given; one shard is in memory at a time."""
    order = np.argsort(ids)
    parts = []
    for ref in task.spec.inputs:
        if ref.path.rsplit("/", 1)[1].startswith(f"{direction}-"):
            rows, neighbours = read_neighbours(task, ref)
            here = np.flatnonzero(np.isin(rows, ids))
            parts.append((rows[here], neighbours.ids[here], neighbours.cosine[here]))
    rows, found, cosine = (np.concatenate([part[n] for part in parts]) for n in range(3))
    if not np.array_equal(np.sort(rows), ids[order]):
        raise CorruptOutputError(
            f"{task.spec.task_id}: the neighbours of {len(ids) - len(rows)} of {len(ids)} sampled sentences are "
            "missing; rerun with --redo search"
        )
    place = np.empty(len(ids), dtype=np.intp)
    place[order] = np.argsort(rows)
    return Neighbours(found[place], cosine[place])


def _check_recall(task: TaskContext, report: dict[str, Any]) -> None:
    limits = {name: task.spec.param(name, float) for name in ("min_recall", "min_precision")}
    for direction, result in report.items():
        too_low = [item for item in verdicts(result) if item.share < limits[item.limit]]
        if too_low:
            worst = min(too_low, key=lambda item: item.share)
            low, high = (f"{100 * end:.1f}" for end in worst.interval)
            raise TaskFailedError(
                f"{task.spec.task_id}: {direction}, {100 * worst.share:.1f} % {worst.what} (95 % interval {low} to "
                f"{high}, {worst.number} of them), less than search.{worst.limit} = {limits[worst.limit]}. Rerun "
                "with a higher --target-recall or with --engine faiss-hnsw or exact, and --redo search; or lower "
                f"--{worst.limit.replace('_', '-')}"
            )
