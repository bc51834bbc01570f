"""dedup: documents → distinct documents.

Three steps: `sign` hashes and MinHashes every shard, `cluster` finds copies over all shards, `apply` drops them. The
document with the smallest id of a cluster stays.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.mining.text import dedup
from emsmine.mining.text import normalise as text
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.layout import shard_of
from emsmine.pipelines.store.schemas import (
    DOCUMENTS,
    DUPLICATES,
    fixed_binary,
    from_fixed_binary,
    signatures_schema,
)
from emsmine.pipelines.store.tasks import JSON, TaskSpec

_BATCH = 256
_SIGNATURE_BYTES = dedup.NUM_PERMUTATIONS * 4


def plan_sign(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per shard of documents."""
    params: dict[str, JSON] = {"near_duplicates": context.settings.dedup.near_duplicates, "scheme": dedup.SCHEME}
    refs = context.store.outputs("ingest", "read", "documents")
    return [step.spec(params, (ref,), shard_of(ref)) for ref in refs]


def run_sign(task: TaskContext) -> None:
    """Hash and sign the documents of one shard."""
    near = task.spec.param("near_duplicates", bool)
    schema = signatures_schema(_SIGNATURE_BYTES)
    writer = task.writer("signatures", schema, counted=True)
    for batch in task.batches(task.spec.inputs[0], ["doc_id", "text"], _BATCH):
        texts = batch["text"].to_pylist()
        signatures = (
            dedup.signatures(texts) if near else np.zeros((len(texts), dedup.NUM_PERMUTATIONS), dtype=np.uint32)
        )
        hashes = [text.hash128(text.dedup_key(value)) for value in texts]
        columns = [batch["doc_id"], pa.array(hashes, pa.binary(16)), fixed_binary(signatures)]
        writer.write(pa.Table.from_arrays(columns, schema=schema))
        task.count_in(len(texts))


def plan_cluster(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task over all signatures, with the documents at hand to check candidates exactly."""
    signatures = context.store.outputs("dedup", "sign", "signatures")
    documents = context.store.outputs("ingest", "read", "documents")
    return [step.spec(context.settings.params("dedup"), (*signatures, *documents), "00000")]


def run_cluster(task: TaskContext) -> None:
    """Find exact and near-duplicates among all documents."""
    refs = [ref for ref in task.spec.inputs if ref.path.startswith("signatures/")]
    table = pa.concat_tables([task.read(ref) for ref in refs])
    doc_ids = table["doc_id"].to_numpy()
    task.count_in(len(doc_ids))
    hashes = from_fixed_binary(table["text_hash"], ">u8").astype(np.uint64)
    # The first of each hash in order of id stands for it.
    order = np.lexsort((doc_ids, hashes[:, 1], hashes[:, 0]))
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    group = np.cumsum(~same) - 1
    representatives = order[~same]
    keeper = np.empty(len(order), dtype=np.int64)
    keeper[order] = doc_ids[representatives[group]] if len(order) else doc_ids
    exact = keeper != doc_ids
    rows = [(int(d), int(k), "exact") for d, k in zip(doc_ids[exact], keeper[exact], strict=True)]
    if task.spec.param("near_duplicates", bool) and len(representatives):
        kept = np.sort(representatives)
        signatures = from_fixed_binary(table["signature"], "uint32").astype(np.uint32)[kept]
        nearest = dedup.near_duplicates(
            doc_ids[kept],
            _text_by_row(task, doc_ids[kept]),
            signatures,
            threshold=task.spec.param("near_duplicate_threshold", float),
        )
        near = nearest != doc_ids[kept]
        rows += [(int(d), int(k), "near") for d, k in zip(doc_ids[kept][near], nearest[near], strict=True)]
    rows.sort()
    columns = zip(*rows, strict=True) if rows else [()] * len(DUPLICATES)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, DUPLICATES, strict=True)]
    task.writer("duplicates", DUPLICATES).write(pa.Table.from_arrays(arrays, schema=DUPLICATES))
    task.count_out(len(doc_ids))


def _text_by_row(task: TaskContext, wanted: npt.NDArray[np.int64]) -> Callable[[int], str]:
    """Return a function that fetches the text of the document in row i of `wanted`; reads one shard at a time."""
    documents = {int(shard_of(ref)): ref for ref in task.spec.inputs if ref.path.startswith("documents/")}
    loaded: dict[int, tuple[npt.NDArray[np.int64], pa.Table]] = {}

    def fetch(row: int) -> str:
        doc_id = int(wanted[row])
        number = doc_id >> 40
        if number not in loaded:
            # Two shards: candidates are compared pairwise, mostly within one file or between two.
            while len(loaded) > 1:
                loaded.pop(next(iter(loaded)))
            table = task.read(documents[number], ["doc_id", "text"])
            loaded[number] = (table["doc_id"].to_numpy(), table["text"].combine_chunks())
        ids, texts = loaded[number]
        return str(texts[int(np.searchsorted(ids, doc_id))].as_py())

    return fetch


def plan_apply(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per shard of documents."""
    duplicates = context.store.outputs("dedup", "cluster", "duplicates")
    refs = context.store.outputs("ingest", "read", "documents")
    return [step.spec({}, (ref, *duplicates), shard_of(ref)) for ref in refs]


def run_apply(task: TaskContext) -> None:
    """Copy the documents that are nobody's duplicate."""
    duplicates = task.read(task.spec.inputs[1])
    columns = (duplicates[name].to_pylist() for name in DUPLICATES.names)
    dropped = {doc_id: (keeper, kind) for doc_id, keeper, kind in zip(*columns, strict=True)}
    writer = task.writer("distinct", DOCUMENTS, counted=True)
    for batch in task.batches(task.spec.inputs[0], None, _BATCH):
        keep = []
        for row, doc_id in enumerate(batch["doc_id"].to_pylist()):
            task.count_in()
            duplicate = dropped.get(doc_id)
            keep.append(duplicate is None)
            if duplicate is not None:
                sample = f"of {duplicate[0]}: {batch['url'][row].as_py()}"
                task.drop(f"duplicate_{duplicate[1]}", id=doc_id, sample=sample)
        writer.write(pa.Table.from_batches([batch]).filter(pa.array(keep, pa.bool_())))


STAGE = Stage(
    (
        Step("dedup", "sign", 1, plan_sign, run_sign),
        Step("dedup", "cluster", 1, plan_cluster, run_cluster),
        Step("dedup", "apply", 1, plan_apply, run_apply),
    ),
)
