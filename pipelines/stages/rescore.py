"""rescore: neighbours → candidate pairs with the probability that they are translations.

`collect` scores margins as `select` does without this stage, and keeps the candidates that are worth reading, by shard
of the source. `look` reads both sentences of each, one task per shard. `score` compares every candidate with the others
of its two sentences, over the whole pair, and lets it gain if its two documents hold other pairs. Nothing of this
depends on how sentences are cut into shards.

Without a scorer (`--no-rescore`, or an encoder that has none) no step has a task, and `select` takes the neighbours.
"""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.mining.neighbours import rows_among
from emsmine.mining.scoring.competition import Competition
from emsmine.mining.scoring.scorer import FirstLook, Side, probabilities, with_margin
from emsmine.mining.scoring.support import CONFIDENT, DocumentSupport, supported
from emsmine.mining.selection.numbering import Numbering
from emsmine.mining.selection.sort import SELECT_BUFFER_PAIRS, PairSorter
from emsmine.mining.selection.streamed import BELOW_THRESHOLD, score_streamed
from emsmine.pipelines.rescoring import LEAST_MARGIN, load_rescorer, scorer_of
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.layout import pair_folder, shard_of
from emsmine.pipelines.store.neighbours import DIRECTIONS, NeighbourFiles, drop_candidates
from emsmine.pipelines.store.schemas import CANDIDATES, LOOKED, RESCORED
from emsmine.pipelines.store.scratch import ScratchFile
from emsmine.pipelines.store.tasks import JSON, FileRef, Runtime, TaskSpec
from emsmine.progress import report

FloatArray = npt.NDArray[np.float32]

BELOW_LEAST_MARGIN = "below_least_margin"
_SHARD_BITS = 40
"""A sentence id is the number of its shard, and that of its row in this many bits."""


def run_scorer(settings: Settings) -> str:
    """Return the model whose scorer a run uses; "" for none."""
    return scorer_of(settings.encode.encoder, settings.rescore)


def check(settings: Settings, runtime: Runtime) -> None:
    """Refuse a scorer that is missing or damaged, or a threshold that fits no score, before hours of work."""
    spec = run_scorer(settings)
    if spec:
        load_rescorer(spec)
    settings.select.lowest_score(rescored=bool(spec))


def plan_collect(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per pair: margins are global."""
    settings = context.settings
    if not run_scorer(settings):
        return []
    params: dict[str, JSON] = {
        **settings.params("select", "margin", "cosine_floor"),
        "least_margin": LEAST_MARGIN.get(settings.select.margin, -1.0),
    }
    return [
        step.spec(
            dict(params),
            tuple(context.store.outputs("search", "merge", f"neighbours/{pair_folder(pair)}")),
            f"{pair_folder(pair)}/00000",
        )
        for pair in settings.pairs
    ]


def run_collect(task: TaskContext) -> None:
    """Write the candidates that are worth reading, by shard of the source, best margin first."""
    spec = task.spec
    pair = spec.partition.split("/")[0]
    forward, backward = (NeighbourFiles.of(task, direction) for direction in DIRECTIONS)
    shards = [shard_of(ref).removeprefix(f"{DIRECTIONS[0]}-") for ref in forward.refs]
    writers = {int(shard): task.writer(f"candidates/{pair}", CANDIDATES, counted=True, name=shard) for shard in shards}
    if not writers:
        return
    first = next(iter(writers.values()))
    with closing(
        PairSorter(SELECT_BUFFER_PAIRS, lambda: ScratchFile(first.file.path.parent, first.file.root))
    ) as sorter:
        selection = score_streamed(
            forward,
            backward,
            sorter,
            margin=spec.param("margin", str),
            threshold=spec.param("least_margin", float),
            cosine_floor=spec.param("cosine_floor", float),
        )
        for found, marks in selection.eligible():
            columns = [found.source_ids, found.target_ids, found.margin, found.cosine, found.in_forward]
            arrays = [pa.array(column) for column in [*columns, found.in_backward]]
            table = pa.Table.from_arrays([*arrays, pa.array(marks.codes())], schema=CANDIDATES)
            shard = found.source_ids >> _SHARD_BITS
            for number in np.unique(shard).tolist():
                writers[number].write(table.filter(pa.array(shard == number)))
    task.count_in(selection.num_candidates)
    drop_candidates(task, selection.dropped, {BELOW_THRESHOLD: BELOW_LEAST_MARGIN})


def plan_look(step: Step, context: PlanContext) -> list[TaskSpec]:
    """Per pair, one task for each shard of the source."""
    settings = context.settings
    spec = run_scorer(settings)
    if not spec:
        return []
    params: dict[str, JSON] = {"scorer": spec, "fingerprint": load_rescorer(spec).fingerprint}
    specs = []
    for pair in settings.pairs:
        texts = {lang: context.store.outputs("langid", "distinct", f"sentences/{lang}") for lang in pair}
        for ref in context.store.outputs("rescore", "collect", f"candidates/{pair_folder(pair)}"):
            own = [text for text in texts[pair[0]] if shard_of(text) == shard_of(ref)]
            specs.append(step.spec(dict(params), (ref, *own, *texts[pair[1]]), f"{pair_folder(pair)}/{shard_of(ref)}"))
    return specs


def run_look(task: TaskContext) -> None:
    """Read both sentences of every candidate of a shard."""
    candidates, *texts = task.spec.inputs
    pair = task.spec.partition.split("/")[0]
    table = task.read(candidates)
    rescorer = load_rescorer(task.spec.param("scorer", str))

    def read(lang: str, name: str) -> tuple[Side, npt.NDArray[np.int64]]:
        ids, places = np.unique(table[name].to_numpy(), return_inverse=True)
        refs = [ref for ref in texts if ref.path.startswith(f"sentences/{lang}/")]
        return rescorer.side(_texts(task, refs, ids), lang), places.astype(np.int64)

    source_lang, target_lang = pair.split("-")
    (source, source_rows), (target, target_rows) = read(source_lang, "source_id"), read(target_lang, "target_id")
    look = rescorer.scorer.first_look(source, target, source_rows, target_rows, report)
    for name, values in (("word_cosine", look.cosine), ("logit", look.logit)):
        table = table.append_column(LOOKED.field(name), pa.array(values))
    task.count_in(table.num_rows)
    task.writer(f"looked/{pair}", LOOKED, counted=True).write(table.cast(LOOKED))


def _texts(task: TaskContext, refs: list[FileRef], ids: npt.NDArray[np.int64]) -> list[str]:
    """Return the texts of sentences, whose ids ascend; only shards that hold one of them are read."""
    found: list[str] = [""] * len(ids)
    for ref in refs:
        shard = int(shard_of(ref))
        if not np.any(ids >> _SHARD_BITS == shard):
            continue
        sentences = task.read(ref, ["sentence_id", "text"])
        row, known = rows_among(ids, sentences["sentence_id"].to_numpy())
        hits = np.flatnonzero(known)
        for place, text in zip(hits.tolist(), sentences["text"].take(pa.array(row[hits])).to_pylist(), strict=True):
            found[place] = text
    return found


def plan_score(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per pair: what a candidate competes with may stand in any shard."""
    spec = run_scorer(context.settings)
    if not spec:
        return []
    settings = context.settings.rescore
    params: dict[str, JSON] = {
        "scorer": spec,
        "fingerprint": load_rescorer(spec).fingerprint,
        "documents": settings.documents,
        "margin": context.settings.select.margin,
    }
    specs = []
    for pair in context.settings.pairs:
        inputs = context.store.outputs("rescore", "look", f"looked/{pair_folder(pair)}")
        for lang in pair if settings.documents else ():
            inputs += context.store.outputs("langid", "distinct", f"occurrences/{lang}")
        specs.append(step.spec(dict(params), tuple(inputs), f"{pair_folder(pair)}/00000"))
    return specs


def run_score(task: TaskContext) -> None:
    """Compare every candidate with the others of its two sentences."""
    pair = task.spec.partition.split("/")[0]
    scorer = load_rescorer(task.spec.param("scorer", str)).scorer
    source_ids, target_ids = (Numbering.of([_distinct(task, f"{side}_id")], side) for side in ("source", "target"))
    source, target = Competition.empty(len(source_ids)), Competition.empty(len(target_ids))

    def rows(table: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        found = table["source_id"].to_numpy(), table["target_id"].to_numpy()
        return source_ids.numbers_of(found[0]), target_ids.numbers_of(found[1])

    for _, table in _tables(task):
        look = _look_of(table)
        for side, numbers in zip((source, target), rows(table), strict=True):
            side.add(numbers, look.cosine, look.logit)
    logits: dict[str, FloatArray] = {}
    for ref, table in _tables(task):
        logit = scorer.second_look(source, target, *rows(table), _look_of(table))
        is_ratio = task.spec.param("margin", str) == "ratio"
        logits[ref.path] = with_margin(logit, table["margin"].to_numpy()) if is_ratio else logit
    support = _support(task, source_ids, target_ids, logits) if task.spec.param("documents", bool) else {}
    for ref, table in _tables(task):
        logit, supporters = logits[ref.path], support.get(ref.path, np.zeros(table.num_rows, dtype=np.int32))
        kept = (
            table.select(CANDIDATES.names)
            .append_column(RESCORED.field("probability"), pa.array(probabilities(supported(logit, supporters))))
            .append_column(RESCORED.field("support"), pa.array(supporters))
        )
        task.count_in(table.num_rows)
        task.writer(f"rescored/{pair}", RESCORED, counted=True, name=shard_of(ref)).write(kept.cast(RESCORED))


def _support(
    task: TaskContext, source_ids: Numbering, target_ids: Numbering, logits: dict[str, FloatArray]
) -> dict[str, npt.NDArray[np.int32]]:
    """Return the support of every candidate, by file."""
    source_lang, target_lang = task.spec.partition.split("/")[0].split("-")
    documents = _first_documents(task, source_lang, source_ids), _first_documents(task, target_lang, target_ids)
    places = {}
    confident: list[list[npt.NDArray[np.int64]]] = []
    for ref, table in _tables(task):
        source = source_ids.numbers_of(table["source_id"].to_numpy())
        target = target_ids.numbers_of(table["target_id"].to_numpy())
        of_documents = documents[0][source], documents[1][target]
        is_confident = logits[ref.path] >= CONFIDENT
        places[ref.path] = (*of_documents, is_confident)
        confident.append([column[is_confident] for column in (*of_documents, source, target)])
    supporters = DocumentSupport(*(np.concatenate(columns) for columns in zip(*confident, strict=True)))
    return {path: supporters.of(*where) for path, where in places.items()}


def _first_documents(task: TaskContext, lang: str, ids: Numbering) -> npt.NDArray[np.int64]:
    """Return the document of the first place of every numbered sentence; -1 if it is not known."""
    documents = np.full(len(ids), -1, dtype=np.int64)
    wanted = ids.ids_of(np.arange(len(ids)))
    for ref in task.spec.inputs:
        if ref.path.startswith(f"occurrences/{lang}/"):
            table = task.read(ref, ["sentence_id", "doc_id"])
            row, known = rows_among(wanted, table["sentence_id"].to_numpy())
            documents[known] = table["doc_id"].to_numpy()[row[known]]
    return documents


def _looked(task: TaskContext) -> list[FileRef]:
    return [ref for ref in task.spec.inputs if ref.path.startswith("looked/")]


def _tables(task: TaskContext) -> Iterator[tuple[FileRef, pa.Table]]:
    for ref in _looked(task):
        yield ref, task.read(ref)


def _distinct(task: TaskContext, name: str) -> npt.NDArray[np.int64]:
    found = np.zeros(0, dtype=np.int64)
    for ref in _looked(task):
        found = np.union1d(found, task.read(ref, [name])[name].to_numpy())
    return found


def _look_of(table: pa.Table) -> FirstLook:
    return FirstLook(table["word_cosine"].to_numpy(), table["logit"].to_numpy())


STAGE = Stage(
    (
        Step("rescore", "collect", 1, plan_collect, run_collect),
        Step("rescore", "look", 1, plan_look, run_look),
        Step("rescore", "score", 1, plan_score, run_score),
    ),
    check,
)
