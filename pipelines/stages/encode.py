"""encode: sentences → embeddings, one task per shard."""

import functools

import numpy as np
import pyarrow as pa

from emsmine.encoder.protocol import Encoder
from emsmine.encoder.registry import load_encoder
from emsmine.pipelines.context import TaskContext
from emsmine.pipelines.schemas import embeddings_schema, fixed_binary
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step, shard_of
from emsmine.pipelines.tasks import JSON, Runtime, TaskSpec

_BATCH = 8192
_ROW_GROUP = 4096


@functools.lru_cache(maxsize=2)
def _encoder(spec: str, device: str) -> Encoder:
    return load_encoder(spec, device=device)


def check(settings: Settings, runtime: Runtime) -> None:
    """Refuse an unknown or damaged encoder, or a device that is not there, before hours of work."""
    from emsmine.encoder.ems import resolve_device

    device = resolve_device(runtime.device)
    encoder = _encoder(settings.encode.encoder, "cpu")
    if device.type == "cpu":
        # What an encoder prepares at its first sentence (a precision, a word splitter) would else fail stages later.
        for lang in settings.languages:
            encoder.encode(["1"], lang=lang)


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per shard of sentences; the encoder's fingerprint is a parameter, so another model is another result."""
    name = context.settings.encode.encoder
    encoder = _encoder(name, "cpu")
    params: dict[str, JSON] = {"encoder": name, "encoder_fingerprint": encoder.fingerprint(), "dim": encoder.dim}
    specs = []
    for lang in context.settings.languages:
        for ref in context.store.outputs("langid", "distinct", f"sentences/{lang}"):
            specs.append(step.spec(dict(params), (ref,), f"{lang}/{shard_of(ref)}"))
    return specs


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
    for batch in task.batches(spec.inputs[0], ["sentence_id", "text", "text_hash"], _BATCH):
        texts = batch["text"].to_pylist()
        ids = batch["sentence_id"].to_pylist()
        vectors = encoder.encode(texts, lang=lang)
        task.count_in(len(texts))
        finite = np.isfinite(vectors).all(axis=1)
        nonzero = (vectors != 0).any(axis=1)
        for reason, wrong in (("non_finite_vector", ~finite), ("zero_vector", finite & ~nonzero)):
            for row in np.flatnonzero(wrong):
                task.drop(reason, id=ids[row], sample=texts[row])
        good = np.flatnonzero(finite & nonzero)
        kept = batch.take(pa.array(good))
        stored = fixed_binary(vectors[good].astype(np.float16))
        columns = [kept["sentence_id"], kept["text_hash"], stored]
        writer.write(pa.Table.from_arrays(columns, schema=schema))


STAGE = Stage("encode", "turn sentences into vectors", "vectors", (Step("encode", "encode", 1, plan, run),), check)
