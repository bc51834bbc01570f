"""index: check the vectors of each language, and build what an approximate search needs.

`index` describes the shards of a language; it is also where the vectors of one language are seen to come from one
encoder (`search` compares both sides). Exact search needs nothing else. `build` makes the FAISS index of each language
that is searched approximately in any pair: once, whatever the number of pairs.
"""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.errors import CorruptOutputError
from emsmine.mining.approximate.build import IndexBuilder, training_rows
from emsmine.mining.approximate.choice import APPROXIMATE, choose_index, choose_search, num_lists
from emsmine.mining.approximate.loader import faiss_package, load_faiss
from emsmine.mining.approximate.sample import RowSample
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.schemas import embeddings_metadata, from_fixed_binary, read_embeddings, text_hashes
from emsmine.pipelines.store.tasks import Runtime, TaskSpec

_BATCH = 8192
_TRAINING_SALT = 1


def check(settings: Settings, runtime: Runtime) -> None:
    """Refuse an engine whose library is missing or installed twice, before hours of work."""
    if settings.index.engine != "exact":
        load_faiss()


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per language."""
    return [
        step.spec({}, tuple(context.store.outputs("encode", "encode", f"embeddings/{lang}")), lang)
        for lang in context.settings.languages
    ]


def run(task: TaskContext) -> None:
    """Compare the encoders of all shards of a language and write its description."""
    seen: dict[str, str] = {}
    for ref in task.spec.inputs:
        described = embeddings_metadata(task.read(ref, ["sentence_id"]).schema)
        seen[ref.path] = json.dumps(described, sort_keys=True)
        task.count_in(ref.rows)
        task.count_out(ref.rows)
    if len(set(seen.values())) > 1:
        raise CorruptOutputError(
            f"index: the shards of {task.spec.partition} come from different encoders ({seen}); "
            "rerun with --redo encode"
        )
    description = {
        "rows": sum(ref.rows for ref in task.spec.inputs),
        "shards": [{"path": ref.path, "rows": ref.rows} for ref in task.spec.inputs],
        "vectors": json.loads(next(iter(seen.values()))),
    }
    with task.bytes_writer(f"index/{task.spec.partition}.json", rows=0) as file:
        file.write(json.dumps(description, indent=1, sort_keys=True).encode() + b"\n")


def approximate_pairs(context: PlanContext) -> list[tuple[str, str]]:
    """List the pairs of languages that are searched approximately, by the settings and the numbers of vectors."""
    engine, pairs = context.settings.index.engine, context.settings.pairs
    rows: Counter[str] = Counter()
    if engine == "auto":
        for ref in context.store.outputs("encode", "encode", "embeddings"):
            rows[ref.path.split("/")[1]] += ref.rows
    chosen = [choose_search(engine, rows[source], rows[target]).engine for source, target in pairs]
    return [pair for pair, kind in zip(pairs, chosen, strict=True) if kind in (*APPROXIMATE, "auto")]


def plan_build(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per language that is searched approximately in any of its pairs."""
    settings = context.settings
    specs = []
    for lang in sorted({lang for pair in approximate_pairs(context) for lang in pair}):
        description = [
            ref for ref in context.store.outputs("index", "index", "index") if ref.path == f"index/{lang}.json"
        ]
        shards = context.store.outputs("encode", "encode", f"embeddings/{lang}")
        # Another version of FAISS may train or store otherwise.
        params = {**settings.params("index"), "libraries": {"faiss": faiss_package()[1]}}
        specs.append(step.spec(params, (*description, *shards), lang))
    return specs


def run_build(task: TaskContext) -> None:
    """Copy the vectors of a language into one file that can be mapped, train its index on a sample, add all rows.

    Two passes over the shards; in memory are the index, its training sample, and one batch.
    """
    spec = task.spec
    description = json.loads(task.file(spec.inputs[0]).read_bytes())
    rows, dim = int(description["rows"]), int(description["vectors"]["dim"])
    choice = choose_index(spec.param("engine", str), rows, dim, spec.param("index_memory_gb", float))
    sample = RowSample(training_rows(choice.engine, rows), _TRAINING_SALT)
    sample.add(np.zeros((0, 16), np.uint8), np.zeros(0, np.int64), np.zeros((0, dim), np.float32))
    prefix = f"index/{spec.partition}"
    with (
        task.bytes_writer(f"{prefix}.vectors", rows=rows) as vectors,
        task.bytes_writer(f"{prefix}.ids", rows=rows) as ids,
    ):
        for table in _tables(task, ["sentence_id", "text_hash", "embedding"]):
            numbers = table["sentence_id"].to_numpy()
            vectors.write(_stored(table).tobytes())
            ids.write(numbers.astype("<i8").tobytes())
            if sample.size:
                sample.add(text_hashes(table), numbers, read_embeddings(table))
    if choice.engine != "exact":
        builder = IndexBuilder(choice.engine, rows, sample.rows()[1])
        for table in _tables(task, ["embedding"]):
            builder.add(read_embeddings(table))
        with task.bytes_writer(f"{prefix}.faiss", rows=rows) as file:
            builder.write(file.write)
    summary = {
        "engine": choice.engine,
        "reason": choice.reason,
        "rows": rows,
        "lists": num_lists(rows) if choice.engine in ("faiss-ivf", "faiss-ivfpq") else 0,
        "vectors": description["vectors"],
    }
    with task.bytes_writer(f"{prefix}.engine.json", rows=0) as file:
        file.write(json.dumps(summary, indent=1, sort_keys=True).encode() + b"\n")
    task.count_in(rows)
    task.count_out(rows)


def _tables(task: TaskContext, columns: list[str]) -> Iterator[pa.Table]:
    for ref in task.spec.inputs[1:]:
        for batch in task.batches(ref, columns, _BATCH):
            yield pa.Table.from_batches([batch])


def _stored(table: pa.Table) -> npt.NDArray[np.generic]:
    return from_fixed_binary(table["embedding"], embeddings_metadata(table.schema)["dtype"])


STAGE = Stage(
    (Step("index", "index", 2, plan, run), Step("index", "build", 2, plan_build, run_build)),
    check,
)
