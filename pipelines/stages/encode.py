"""encode: sentences → embeddings, one task per shard.

With an earlier run to reuse, the vectors of sentences that it has with the very same text are copied from there; which
these are is written down (`known`), for `search` to find their neighbours by.
"""

import functools

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.encoder.protocol import Encoder, usable_rows
from emsmine.encoder.registry import load_encoder
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.stages.encode_known import KnownVectors, write_known
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.earlier import check_encoder, earlier_run, is_gone, recorded
from emsmine.pipelines.store.layout import shard_of
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary
from emsmine.pipelines.store.tasks import JSON, FileRef, Runtime, TaskSpec

_BATCH = 8192
_ROW_GROUP = 4096


@functools.lru_cache(maxsize=2)
def _encoder(spec: str, device: str) -> Encoder:
    return load_encoder(spec, device=device)


def check(settings: Settings, runtime: Runtime) -> None:
    """Refuse an unknown or damaged encoder, a device that is not there, or an earlier run of another encoder."""
    from emsmine.encoder.ems import resolve_device

    device = resolve_device(runtime.device)
    encoder = _encoder(settings.encode.encoder, "cpu")
    if device.type == "cpu":
        # What an encoder prepares at its first sentence (a precision, a word splitter) would else fail stages later.
        for lang in settings.languages:
            encoder.encode(["1"], lang=lang)
    check_encoder(settings.reuse, settings.encode.encoder, encoder.fingerprint())


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per shard of sentences; the encoder's fingerprint is a parameter, so another model is another result."""
    name = context.settings.encode.encoder
    encoder = _encoder(name, "cpu")
    params: dict[str, JSON] = {"encoder": name, "encoder_fingerprint": encoder.fingerprint(), "dim": encoder.dim}
    specs = []
    for lang in context.settings.languages:
        refs = context.store.outputs("langid", "distinct", f"sentences/{lang}")
        for number, ref in enumerate(refs):
            partition = f"{lang}/{shard_of(ref)}"
            inputs = (ref, *_reused(context, lang, number, len(refs), partition))
            specs.append(step.spec(dict(params), inputs, partition))
    return specs


def _reused(context: PlanContext, lang: str, number: int, partitions: int, partition: str) -> tuple[FileRef, ...]:
    """List sentences and vectors, by turns, of the shards of the earlier run that share sentences with this one."""
    if is_gone(context.settings.reuse):
        return recorded(context.store, "encode", "encode", partition)
    earlier = earlier_run(context.settings.reuse)
    shards = earlier.shards(lang) if earlier else []
    return tuple(
        ref for shard in shards if shard.overlaps(number, partitions) for ref in (shard.sentences, shard.vectors)
    )


def run(task: TaskContext) -> None:
    """Encode one shard; rows that have no usable vector are dropped and counted."""
    from emsmine.encoder.ems import resolve_device

    spec = task.spec
    lang = spec.partition.split("/")[0]
    # `auto` by its real name, so that on a CPU the encoder of the plan serves the tasks of this process too.
    encoder = _encoder(spec.param("encoder", str), str(resolve_device(task.runtime.device)))
    schema = embeddings_schema(encoder.dim, encoder.name, spec.param("encoder_fingerprint", str))
    writer = task.writer(
        f"embeddings/{lang}", schema, counted=True, row_group_rows=_ROW_GROUP, compression={"embedding": "none"}
    )
    known = KnownVectors.load(task, spec.inputs[1:], schema) if len(spec.inputs) > 1 else None
    start = 0
    for batch in task.batches(spec.inputs[0], ["sentence_id", "text", "text_hash"], _BATCH):
        texts = batch["text"].to_pylist()
        ids = batch["sentence_id"].to_pylist()
        is_known, vectors = np.zeros(len(texts), dtype=bool), np.zeros((len(texts), encoder.dim), dtype=np.float16)
        if known:
            is_known, vectors = known.part(start, start + len(texts))
        start += len(texts)
        task.count_in(len(texts))
        good = is_known.copy()
        new = np.flatnonzero(~is_known)
        encoded = encoder.encode([texts[row] for row in new], lang=lang) if len(new) else vectors[:0].astype(np.float32)
        usable = _usable(task, encoded, [ids[row] for row in new], [texts[row] for row in new])
        vectors[new[usable]] = encoded[usable].astype(np.float16)
        good[new[usable]] = True
        kept = batch.take(pa.array(np.flatnonzero(good)))
        columns = [kept["sentence_id"], kept["text_hash"], fixed_binary(vectors[good])]
        writer.write(pa.Table.from_arrays(columns, schema=schema))
    if known:
        write_known(task, lang, known)


def _usable(
    task: TaskContext, vectors: npt.NDArray[np.float32], ids: list[int], texts: list[str]
) -> npt.NDArray[np.bool_]:
    """Tell which rows are vectors of a sentence; the others are dropped and counted."""
    finite, usable = np.isfinite(vectors).all(axis=1), usable_rows(vectors)
    for reason, wrong in (("non_finite_vector", ~finite), ("zero_vector", finite & ~usable)):
        for row in np.flatnonzero(wrong):
            task.drop(reason, id=ids[row], sample=texts[row])
    return usable


STAGE = Stage((Step("encode", "encode", 1, plan, run),), check)
