"""langid: distinct documents → the distinct sentences of each language.

`split` identifies the language of each document, cuts it into sentences and identifies each of them; `distinct` is a
hash-partitioned shuffle that keeps one row per sentence and remembers every place where it stands. Two sentences are
the same if their dedup keys are (case, width and punctuation spacing aside): near-identical copies would otherwise fill
each other's neighbourhoods and pull margins towards 1.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine import languages
from emsmine.mining.text.langid import UNDETERMINED, LanguageIdentifier, Prediction, load_identifier, script_of
from emsmine.mining.text.normalise import dedup_key, hash128, letters_only, sanitise
from emsmine.mining.text.split import split_sentences
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step, library_versions
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.layout import shard_name, shard_of
from emsmine.pipelines.store.schemas import OCCURRENCES, SEGMENTS, SENTENCES, from_fixed_binary
from emsmine.pipelines.store.tasks import FileRef, Runtime, TaskSpec

_BATCH = 64
_DOCUMENT_SAMPLE_CHARS = 4000
# A sentence leaves the language of its document only if the identifier is this sure and has this much to go by:
# short sentences are often taken for a related language.
_SURE = 0.9
_SURE_LETTERS = 20
_PARTITION_SHIFT = 40


@dataclass(frozen=True)
class Segment:
    """One sentence at one place."""

    lang: str
    text: str
    score: float
    level: str
    """`sentence` if the identifier agrees on the sentence itself, `document` if its document decides."""
    doc_id: int
    position: int


@functools.lru_cache(maxsize=4)
def identifier_for(name: str, wanted: tuple[str, ...]) -> LanguageIdentifier:
    """Load an identifier of the languages of EMS and those wanted; once per process."""
    # Serbian in Latin script is listed beside EMS's: it would otherwise pass for Croatian or for nothing.
    known = {languages.resolve(code) for code in (*languages.EMS_CODES, "sr-Latn")}
    return load_identifier(name, languages={*known, *wanted})


def check(settings: Settings, runtime: Runtime) -> None:
    """Refuse an unknown identifier, or languages that it does not know, before hours of work."""
    identifier_for(settings.langid.identifier, settings.languages)


def plan_split(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per shard of distinct documents."""
    params = {
        **context.settings.params("langid", "identifier", "min_lid_score", "max_sentence_chars"),
        "languages": list(context.settings.languages),
        "libraries": library_versions("py3langid", "sentencex"),
    }
    refs = context.store.outputs("dedup", "apply", "distinct")
    return [step.spec(params, (ref,), shard_of(ref)) for ref in refs]


def run_split(task: TaskContext) -> None:
    """Write the sentences of each wanted language, sorted by hash; count all others as dropped."""
    wanted = [str(lang) for lang in task.spec.param("languages", list)]
    segments: dict[str, list[Segment]] = {lang: [] for lang in wanted}
    identifier = identifier_for(task.spec.param("identifier", str), tuple(wanted))
    for batch in task.batches(task.spec.inputs[0], ["doc_id", "text"], _BATCH):
        for segment in _segments(batch["doc_id"].to_pylist(), batch["text"].to_pylist(), identifier):
            task.count_in()
            reason = _reject(task.spec, segment)
            if reason:
                task.drop(reason, id=f"{segment.doc_id}:{segment.position}", sample=segment.text)
            else:
                segments[segment.lang].append(segment)
        task.counter("documents", batch.num_rows)
    for lang in wanted:
        writer = task.writer(f"segments/{lang}", SEGMENTS, counted=True)
        rows = sorted((hash128(dedup_key(s.text)), s.doc_id, s.position, s) for s in segments[lang])
        columns: list[list[object]] = [
            [key for key, *_ in rows],
            [s.text for *_, s in rows],
            [s.score for *_, s in rows],
            [s.level for *_, s in rows],
            [s.doc_id for *_, s in rows],
            [s.position for *_, s in rows],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SEGMENTS, strict=True)]
        writer.write(pa.Table.from_arrays(arrays, schema=SEGMENTS))


def _reject(spec: TaskSpec, segment: Segment) -> str | None:
    if not letters_only(segment.text):
        return "no_letters"
    if len(segment.text) > spec.param("max_sentence_chars", int):
        return "too_long"
    if segment.lang not in spec.param("languages", list):
        return "other_language"
    if segment.score < spec.param("min_lid_score", float):
        return "uncertain_language"
    return None


def _segments(doc_ids: list[int], texts: list[str], identifier: LanguageIdentifier) -> Iterator[Segment]:
    """Split documents and give each sentence its language."""
    documents = identifier.identify([text[:_DOCUMENT_SAMPLE_CHARS] for text in texts])
    pieces = [
        (doc_id, position, sentence, document)
        for doc_id, text, document in zip(doc_ids, texts, documents, strict=True)
        for position, sentence in enumerate(_sentences(text, document.lang))
    ]
    predictions = identifier.identify([sentence for _, _, sentence, _ in pieces])
    for (doc_id, position, sentence, document), prediction in zip(pieces, predictions, strict=True):
        lang, score, level = decide_language(sentence, prediction, document)
        yield Segment(lang, sentence, score, level, doc_id, position)


def _sentences(text: str, lang: str) -> list[str]:
    """Split a document; one without any letter that is known has no language whose rules could be used, only lines."""
    if lang == UNDETERMINED:
        return [line for line in map(sanitise, text.split("\n")) if line]
    return split_sentences(text, lang)


def decide_language(sentence: str, prediction: Prediction, document: Prediction) -> tuple[str, float, str]:
    """Combine what the identifier says of a sentence and of its document.

    Returns:
        Language, score and who decided (`sentence` or `document`). The document decides where the sentence is short or
        the identifier unsure, provided that the sentence is written in the script of the document's language.
    """
    if prediction.lang == document.lang:
        return prediction.lang, prediction.score, "sentence"
    sure = prediction.score >= _SURE and len(letters_only(sentence)) >= _SURE_LETTERS
    same_script = document.lang != "und" and script_of(sentence) == script_of_language(document.lang, sentence)
    if sure or not same_script:
        return prediction.lang, prediction.score, "sentence"
    return document.lang, document.score, "document"


def script_of_language(lang: str, sentence: str) -> str:
    """Return the script that a sentence of a language shows: Japanese and Korean mix several."""
    script = lang.split("_")[1]
    mixed = {
        "Jpan": ("Hira", "Kana", "Hani", "Jpan"),
        "Kore": ("Hang", "Hani", "Kore"),
        "Hans": ("Hani", "Hans", "Hant"),
        "Hant": ("Hani", "Hans", "Hant"),
    }
    seen = script_of(sentence)
    return seen if seen in mixed.get(script, ()) else script


def plan_distinct(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Per language, as many hash partitions as its sentences need."""
    specs = []
    for lang in context.settings.languages:
        refs = tuple(context.store.outputs("langid", "split", f"segments/{lang}"))
        partitions = max(1, math.ceil(sum(ref.rows for ref in refs) / context.settings.langid.shard_rows))
        for number in range(partitions):
            params = {"partition": number, "partitions": partitions}
            specs.append(step.spec(dict(params), refs, f"{lang}/{shard_name(number)}"))
    return specs


def run_distinct(task: TaskContext) -> None:
    """Keep one row per distinct sentence of one hash partition."""
    lang = task.spec.partition.split("/")[0]
    tables = [_slice(task, ref) for ref in task.spec.inputs]
    table = pa.concat_tables(tables) if tables else SEGMENTS.empty_table()
    task.count_in(table.num_rows)
    hashes = from_fixed_binary(table["text_hash"], ">u8").astype(np.uint64)
    doc_ids, positions = table["doc_id"].to_numpy(), table["position"].to_numpy()
    order = np.lexsort((positions, doc_ids, hashes[:, 1], hashes[:, 0]))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    group = np.cumsum(first) - 1
    representatives = order[first]
    # Number the sentences in the order of the texts that hold them: neighbours in a document stay neighbours.
    by_place = np.lexsort((positions[representatives], doc_ids[representatives]))
    base = task.spec.param("partition", int) << _PARTITION_SHIFT
    ids = np.empty(len(representatives), dtype=np.int64)
    ids[by_place] = base + np.arange(len(representatives))
    _write_sentences(task, lang, table.take(pa.array(representatives[by_place])), ids[by_place])
    sentence_of_row = np.empty(len(order), dtype=np.int64)
    sentence_of_row[order] = ids[group]
    by_sentence = np.lexsort((positions, doc_ids, sentence_of_row))
    columns = [pa.array(column[by_sentence]) for column in (sentence_of_row, doc_ids, positions)]
    task.writer(f"occurrences/{lang}", OCCURRENCES).write(pa.Table.from_arrays(columns, schema=OCCURRENCES))
    if copies := len(order) - len(representatives):
        example = int(order[~first][0])
        place = f"{doc_ids[example]}:{positions[example]}"
        task.drop("duplicate_sentence", id=place, sample=table["text"][example].as_py(), n=copies)


def _slice(task: TaskContext, ref: FileRef) -> pa.Table:
    """Read the rows of a segments file whose hash falls into the task's partition; the file is sorted by hash."""
    number, partitions = task.spec.param("partition", int), task.spec.param("partitions", int)
    if partitions == 1:
        return task.read(ref)
    top: npt.NDArray[np.uint64] = from_fixed_binary(task.read(ref, ["text_hash"])["text_hash"], ">u8")[:, 0].astype(
        np.uint64
    )
    edges = [np.uint64(min((n << 64) // partitions, (1 << 64) - 1)) for n in (number, number + 1)]
    start, stop = (int(np.searchsorted(top, edge)) for edge in edges)
    return task.read_slice(ref, start, len(top) if number == partitions - 1 else stop)


def _write_sentences(task: TaskContext, lang: str, rows: pa.Table, ids: npt.NDArray[np.int64]) -> None:
    columns = [pa.chunked_array([ids]), *(rows[name] for name in SENTENCES.names[1:])]
    writer = task.writer(f"sentences/{lang}", SENTENCES, counted=True)
    writer.write(pa.Table.from_arrays(columns, schema=SENTENCES))


STAGE = Stage(
    (
        Step("langid", "split", 1, plan_split, run_split),
        Step("langid", "distinct", 1, plan_distinct, run_distinct),
    ),
    check,
)
