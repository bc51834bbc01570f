"""filter: candidate pairs → kept pairs with texts, scores and the provenance of both sides."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.fields import check_table
from emsmine.mining.neighbours import rows_among
from emsmine.mining.text.rules import PairView, Rule, RulesConfig, apply, default_rules
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step, library_versions
from emsmine.pipelines.stages.langid import identifier_for
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.schemas import pairs_schema
from emsmine.pipelines.store.suspicious import COLUMN, count_suspicious
from emsmine.pipelines.store.tasks import FileRef, Runtime, TaskSpec
from emsmine.progress import report

_BATCH = 8192


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per pair."""
    store = context.store
    documents = tuple(store.outputs("dedup", "apply", "distinct"))
    specs = []
    for pair in context.settings.pairs:
        texts = [
            ref
            for lang in pair
            for dataset in ("sentences", "occurrences")
            for ref in store.outputs("langid", "distinct", f"{dataset}/{lang}")
        ]
        selected = store.outputs("select", "select", f"selected/{pair_folder(pair)}")
        inputs = (*selected, *texts, *documents)
        params = {
            **context.settings.params("filter"),
            "identifier": context.settings.langid.identifier,
            "libraries": library_versions("py3langid"),
        }
        specs.append(step.spec(params, inputs, f"{pair_folder(pair)}/00000"))
    return specs


def check(settings: Settings, runtime: Runtime) -> None:
    """Refuse to leave out rules that do not exist, before hours of work."""
    default_rules(settings.filter)


def _rules(spec: TaskSpec) -> tuple[Rule, ...]:
    values = {field.name: spec.params[field.name] for field in dataclasses.fields(RulesConfig)}
    return default_rules(RulesConfig(**check_table(RulesConfig, values, spec.task_id)))


def run(task: TaskContext) -> None:
    """Join texts and provenance to the pairs, score them with every rule, keep those that all rules accept."""
    spec = task.spec
    pair = spec.partition.split("/")[0]
    langs = pair.split("-")
    rules = _rules(spec)
    selected = task.read(spec.inputs[0])
    scores_of_pair = [selected[name].to_pylist() for name in ("score", "support", "margin", "cosine", COLUMN)]
    sides = [
        _side(task, lang, selected[f"{side}_id"].to_numpy())
        for side, lang in zip(("source", "target"), langs, strict=True)
    ]
    schema = pairs_schema([rule.name for rule in rules])
    writer = task.writer(f"pairs/{pair}", schema, counted=True)
    for start in range(0, selected.num_rows, _BATCH):
        rows = range(start, min(start + _BATCH, selected.num_rows))
        results = apply(rules, _views(sides, langs, rows, spec.param("identifier", str)))
        kept = []
        for row, (scores, refused) in zip(rows, results, strict=True):
            task.count_in()
            if refused is None:
                kept.append((row, scores))
            else:
                ids = f"{sides[0]['sentence_id'][row]}-{sides[1]['sentence_id'][row]}"
                task.drop(refused, id=ids, sample=f"{sides[0]['text'][row][:96]} ||| {sides[1]['text'][row][:96]}")
        columns: list[list[Any]] = [[values[row] for row, _ in kept] for values in scores_of_pair]
        count_suspicious(task, columns[-1])
        columns += [[side[name][row] for row, _ in kept] for side in sides for name in _SIDE_COLUMNS]
        columns += [[scores[rule.name] for _, scores in kept] for rule in rules]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        writer.write(pa.Table.from_arrays(arrays, schema=schema))
        report(len(rows) / selected.num_rows)


_SIDE_COLUMNS = ("text", "sentence_id", "url", "date", "doc_id", "position", "lid_score", "mt_hints")


def _views(sides: list[dict[str, list[Any]]], langs: list[str], rows: range, identifier: str) -> Iterator[PairView]:
    """Show the rules each pair, with what the identifier says of either sentence by itself.

    A sentence may be in its language because its document is; here it is judged alone once more.
    """
    known = identifier_for(identifier, tuple(langs))
    texts = [[str(side["text"][row]) for row in rows] for side in sides]
    predictions = [known.identify(side) for side in texts]
    for (source, target), lids in zip(zip(*texts, strict=True), zip(*predictions, strict=True), strict=True):
        yield PairView(source, target, langs[0], langs[1], *lids)


def _side(task: TaskContext, lang: str, ids: npt.NDArray[np.int64]) -> dict[str, list[Any]]:
    """Return the columns of one side, one value per pair: text, language score and the first place it stands at."""
    wanted, back = np.unique(ids, return_inverse=True)
    sentences = _lookup(task, f"sentences/{lang}/", "sentence_id", ["text", "lid_score"], wanted)
    places = _lookup(task, f"occurrences/{lang}/", "sentence_id", ["doc_id", "position"], wanted)
    doc_ids = np.array(places["doc_id"], dtype=np.int64)
    wanted_documents, to_document = np.unique(doc_ids, return_inverse=True)
    documents = _lookup(task, "distinct/", "doc_id", ["url", "date", "mt_hints"], wanted_documents)
    columns = {**sentences, **places}
    columns |= {name: [values[row] for row in to_document.tolist()] for name, values in documents.items()}
    columns["sentence_id"] = wanted.tolist()
    return {name: [values[row] for row in back.tolist()] for name, values in columns.items()}


def _lookup(
    task: TaskContext, prefix: str, key: str, columns: list[str], wanted: npt.NDArray[np.int64]
) -> dict[str, list[Any]]:
    """Return columns of the first row of each wanted key; the shards are sorted by key, each key in one shard."""
    found: dict[str, list[Any]] = {name: [None] * len(wanted) for name in columns}
    for ref in _refs(task.spec.inputs, prefix):
        table = task.read(ref, [key, *columns])
        first, known = rows_among(wanted, table[key].to_numpy())
        hits = np.flatnonzero(known)
        rows = table.take(pa.array(first[hits], pa.int64()))
        for name in columns:
            for hit, value in zip(hits, rows[name].to_pylist(), strict=True):
                found[name][int(hit)] = value
    return found


def _refs(inputs: Iterable[FileRef], prefix: str) -> list[FileRef]:
    return [ref for ref in inputs if ref.path.startswith(prefix)]


STAGE = Stage((Step("filter", "filter", 3, plan, run),), check)
