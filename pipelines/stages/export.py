"""export: kept pairs → the files that people train on.

Pair names are alphabetical by short code (`de-en`), and columns follow the name.
"""

import json
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from emsmine import languages
from emsmine.mining.text.normalise import sanitise
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.files import AtomicFile
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.suspicious import COLUMN, ScoredPair, count_suspicious, listing_path
from emsmine.pipelines.store.tasks import TaskSpec


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per pair."""
    params = context.settings.params("export")
    return [
        step.spec(
            dict(params),
            tuple(context.store.outputs("filter", "filter", f"pairs/{pair_folder(pair)}")),
            pair_folder(pair),
        )
        for pair in context.settings.pairs
    ]


def run(task: TaskContext) -> None:
    """Write one pair in every wanted format, best score first, and once more those that are suspicious."""
    table = best_first(pa.concat_tables([task.read(ref) for ref in task.spec.inputs]))
    source, target = task.spec.partition.split("-")
    table, left, right = in_export_order(table, source, target)
    task.count_in(table.num_rows)
    task.count_out(table.num_rows)
    for kind in task.spec.param("formats", list):
        _WRITERS[str(kind)](task, table, left, right)
    count_suspicious(task, table[COLUMN].to_pylist())
    _write_listing(task, table.filter(pc.not_equal(table[COLUMN], "")), left, right)


def best_first(table: pa.Table) -> pa.Table:
    """Sort kept pairs as they are exported."""
    # Probabilities are often equal, and ids depend on how sentences are cut into shards; margins settle most of these.
    keys = [("score", "descending"), ("margin", "descending")]
    keys += [("source_sentence_id", "ascending"), ("target_sentence_id", "ascending")]
    return table.take(pc.sort_indices(table, sort_keys=keys))


def in_export_order(table: pa.Table, source: str, target: str) -> tuple[pa.Table, str, str]:
    """Swap the sides if the short codes sort the other way; returns the table and both short codes."""
    left, right = languages.short(source), languages.short(target)
    if left < right:
        return table, left, right
    return swapped_sides(table), right, left


def swapped_sides(table: pa.Table) -> pa.Table:
    """Call the source target and the target source; columns keep their order."""
    swap = {"source": "target", "target": "source"}
    heads = [name.split("_", 1) for name in table.column_names]
    names = [f"{swap[head[0]]}_{head[1]}" if head[0] in swap else "_".join(head) for head in heads]
    return table.rename_columns(names).select(table.column_names)


def _rows(table: pa.Table) -> Iterator[ScoredPair]:
    columns = ["score", "margin", "cosine", COLUMN, "source_text", "target_text"]
    for batch in table.select(columns).to_batches(max_chunksize=8192):
        for values in zip(*(batch[name].to_pylist() for name in columns), strict=True):
            score, margin, cosine, suspicious, source, target = values
            # Cleaned when they were split; done again because a tab in a TSV ruins every later column.
            yield ScoredPair(score, margin, cosine, suspicious, sanitise(source), sanitise(target))


def _lines(task: TaskContext, path: str, table: pa.Table, line: Callable[[ScoredPair], str]) -> None:
    file: AtomicFile = task.bytes_writer(path, rows=table.num_rows)
    with file:
        for row in _rows(table):
            file.write((line(row) + "\n").encode("utf-8"))


def _write_tsv(task: TaskContext, table: pa.Table, left: str, right: str) -> None:
    """score TAB source TAB target; no header, no quoting."""
    _lines(task, f"export/{left}-{right}.tsv", table, lambda row: f"{row.score:.6f}\t{row.source}\t{row.target}")


def _write_moses(task: TaskContext, table: pa.Table, left: str, right: str) -> None:
    """Two line-aligned files."""
    _lines(task, f"export/corpus.{left}-{right}.{left}", table, lambda row: row.source)
    _lines(task, f"export/corpus.{left}-{right}.{right}", table, lambda row: row.target)


def _write_jsonl(task: TaskContext, table: pa.Table, left: str, right: str) -> None:
    """The `translation` records that Hugging Face trainers read."""

    def line(row: ScoredPair) -> str:
        translation = {left: row.source, right: row.target}
        scores = {name: round(getattr(row, name), 6) for name in ("score", "margin", "cosine")}
        record = {"translation": translation, **scores, "suspicious": row.suspicious}
        return json.dumps(record, ensure_ascii=False)

    _lines(task, f"export/{left}-{right}.jsonl", table, line)


def _write_parquet(task: TaskContext, table: pa.Table, left: str, right: str) -> None:
    """Everything that is known of each pair."""
    task.writer("export", table.schema, name=f"{left}-{right}").write(table)


def _write_listing(task: TaskContext, table: pa.Table, left: str, right: str) -> None:
    """The suspicious pairs, which are in the other files as well: score, cosine, reason, source, target."""
    if table.num_rows:
        _lines(task, listing_path(left, right), table, ScoredPair.listing_line)


_WRITERS = {"tsv": _write_tsv, "moses": _write_moses, "jsonl": _write_jsonl, "parquet": _write_parquet}

STAGE = Stage((Step("export", "export", 3, plan, run),))
