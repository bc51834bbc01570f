"""Which sentences of a shard an earlier run has encoded, and their vectors as it stored them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.errors import CorruptOutputError
from emsmine.mining.exact.incremental import Renumbering
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.schemas import embeddings_metadata, from_fixed_binary
from emsmine.pipelines.store.tasks import FileRef

KNOWN = pa.schema(
    [pa.field("sentence_id", pa.int64(), nullable=False), pa.field("earlier_sentence_id", pa.int64(), nullable=False)]
)
_BATCH = 8192
_DESCRIBED = ("dim", "dtype", "encoder_fingerprint")


@dataclass(frozen=True, eq=False)
class KnownVectors:
    """The rows of a shard of sentences that an earlier run has encoded.

    Shapes: ids, earlier_ids int64 [N] (-1: not encoded there); vectors float16 [N, D], as stored.
    """

    ids: npt.NDArray[np.int64]
    earlier_ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]

    @classmethod
    def load(cls, task: TaskContext, earlier: Sequence[FileRef], schema: pa.Schema) -> "KnownVectors":
        """Look the sentences of a task's first input up in shards of an earlier run.

        The hash of a sentence is that of its dedup key, so two sentences of one hash may differ in case or width, and
        a run keeps that of the first place: only the same text has the same vector.

        Args:
            task: of `encode`.
            earlier: sentences and vectors of the earlier run, by turns.
            schema: of the vectors that the task writes.

        Raises:
            CorruptOutputError: a file is damaged, or its vectors are of another kind.
        """
        places: dict[bytes, int] = {}
        ids: list[int] = []
        texts: list[str] = []
        for batch in task.batches(task.spec.inputs[0], ["sentence_id", "text", "text_hash"], _BATCH):
            places |= {key: len(ids) + row for row, key in enumerate(batch["text_hash"].to_pylist())}
            ids += batch["sentence_id"].to_pylist()
            texts += batch["text"].to_pylist()
        dim = int(embeddings_metadata(schema)["dim"])
        known = cls(
            np.array(ids, dtype=np.int64),
            np.full(len(ids), -1, dtype=np.int64),
            np.zeros((len(ids), dim), dtype=np.float16),
        )
        for sentences, vectors in zip(earlier[::2], earlier[1::2], strict=True):
            found: dict[int, int] = {}
            for batch in task.batches(sentences, ["sentence_id", "text", "text_hash"], _BATCH):
                for number, text, key in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    row = places.get(key, -1)
                    if row >= 0 and texts[row] == text:
                        found[number] = row
            known._read(task, vectors, found, schema)
        return known

    def _read(self, task: TaskContext, ref: FileRef, found: dict[int, int], schema: pa.Schema) -> None:
        """Copy the vectors of earlier sentences to the rows that they were found at."""
        earlier_ids = np.array(sorted(found), dtype=np.int64)
        rows = np.array([found[number] for number in earlier_ids.tolist()], dtype=np.int64)
        renumbering = Renumbering(earlier_ids, rows, len(rows))
        wanted = {name: embeddings_metadata(schema)[name] for name in _DESCRIBED}
        for batch in task.batches(ref, ["sentence_id", "embedding"], _BATCH):
            described = embeddings_metadata(batch.schema)
            if {name: described.get(name) for name in _DESCRIBED} != wanted:
                raise CorruptOutputError(
                    f"{task.spec.task_id}: the vectors in {ref.path} are not those that its manifest names "
                    f"({described}, expected {wanted}); repair that run, or do without it (--reuse '')"
                )
            numbers = batch["sentence_id"].to_numpy()
            place = renumbering(numbers)
            here = np.flatnonzero(place >= 0)
            self.earlier_ids[place[here]] = numbers[here]
            self.vectors[place[here]] = from_fixed_binary(batch["embedding"], "float16")[here]

    def part(self, start: int, stop: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float16]]:
        """Return which rows of a part are known, and copies of the vectors (zeros where not)."""
        return self.earlier_ids[start:stop] >= 0, self.vectors[start:stop].copy()


def write_known(task: TaskContext, lang: str, known: KnownVectors) -> None:
    """Write which sentences are known, and under which id the earlier run has them; counts vectors."""
    rows = np.flatnonzero(known.earlier_ids >= 0)
    columns = [pa.array(known.ids[rows]), pa.array(known.earlier_ids[rows])]
    task.writer(f"known/{lang}", KNOWN).write(pa.Table.from_arrays(columns, schema=KNOWN))
    task.counter("reused_vectors", len(rows))
    task.counter("encoded_vectors", len(known.ids) - len(rows))


def read_known(task: TaskContext, refs: Sequence[FileRef]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the ids of known sentences in the earlier run, ascending, and in this one."""
    tables = [KNOWN.empty_table(), *(task.read(ref) for ref in refs)]
    ids, earlier_ids = (pa.concat_tables(tables)[name].to_numpy() for name in KNOWN.names)
    order = np.argsort(earlier_ids)
    return earlier_ids[order], ids[order]
