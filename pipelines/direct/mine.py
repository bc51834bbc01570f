"""Mine two lists of sentences in memory: what `emsmine mine` and the BUCC evaluation call.

The same functions as the stages index, search and select, without a run directory in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emsmine.encoder.protocol import Encoder
from emsmine.errors import ConfigError, InputError
from emsmine.mining.exact.gpu import find_gpu
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours
from emsmine.mining.selection.retrieve import Candidates, candidates, select
from emsmine.mining.selection.suspicion import suspicion
from emsmine.outputs import write_output
from emsmine.pipelines.direct.declared import check_languages
from emsmine.pipelines.direct.sentences import Embedded, SentenceList, collect, encode_usable, read_lines
from emsmine.pipelines.progress import Progress
from emsmine.pipelines.rescoring import LEAST_MARGIN, Rescorer
from emsmine.pipelines.settings import SelectSettings
from emsmine.pipelines.store.suspicious import ScoredPair, counters_of
from emsmine.progress import listening

if TYPE_CHECKING:
    from emsmine.mining.scoring.scorer import Side


@dataclass(frozen=True, eq=False)
class _Searched:
    """The neighbours of both sides, by the ids of `Embedded`."""

    forward: Neighbours
    backward: Neighbours
    source: Embedded
    target: Embedded

    def neighbours(self) -> tuple[Neighbours, Neighbours, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return what `candidates` and `suspicion` take."""
        return self.forward, self.backward, self.source.ids, self.target.ids

    def unusable(self) -> dict[str, int]:
        """Return the number of sentences without a usable vector, per side."""
        return {"source": self.source.num_unusable, "target": self.target.num_unusable}


def search_sides(source: Embedded, target: Embedded, k: int, device: str) -> _Searched:
    """Search both directions; `device` is where a large search multiplies, the result is the same everywhere."""
    forward, backward = search_showing(
        source.vectors, target.vectors, k, device, source_ids=source.ids, target_ids=target.ids
    )
    return _Searched(forward, backward, source, target)


def search_showing(
    left: npt.NDArray[np.float32],
    right: npt.NDArray[np.float32],
    k: int,
    device: str,
    source_ids: npt.NDArray[np.int64] | None = None,
    target_ids: npt.NDArray[np.int64] | None = None,
) -> tuple[Neighbours, Neighbours]:
    """Search as `search_both` does, on a GPU if the device is or may be one and the search is large; show progress."""
    gpu = find_gpu(device, len(left) * right.size)
    with Progress("search", len(left), "sentences") as progress, listening(progress.listener()):
        return search_both(left, right, k, source_ids=source_ids, target_ids=target_ids, gpu=gpu)


def mine_sides(
    encoder: Encoder, source: SentenceList, target: SentenceList, *, k: int, margin: str, device: str = "cpu"
) -> Candidates:
    """Search both directions and score all candidates by margin; ids are numbers in `texts`.

    Args:
        encoder: of both sides.
        source: one side.
        target: the other.
        k: neighbours of a sentence.
        margin: one of `emsmine.mining.selection.MARGINS`.
        device: where a large search multiplies; the result is the same everywhere.
    """
    searched = search_sides(encode_usable(encoder, source), encode_usable(encoder, target), k, device)
    return candidates(*searched.neighbours(), margin=margin)


def rescore_candidates(
    rescorer: Rescorer,
    pool: Candidates,
    source: SentenceList,
    target: SentenceList,
    *,
    margin: str,
    cosine_floor: float,
) -> Candidates:
    """Read both sentences of the candidates that are worth it, and give each its probability as score.

    Args:
        rescorer: the scorer.
        pool: candidates; ids are numbers in `texts`.
        source: one side.
        target: the other.
        margin: what the margins of the pool are.
        cosine_floor: candidates below it are left out, as those below `LEAST_MARGIN` are.
    """
    read = pool.take(worth_reading(pool, margin, cosine_floor))
    return rescore_all(rescorer, read, source, target, margin=margin)


def worth_reading(pool: Candidates, margin: str, cosine_floor: float) -> npt.NDArray[np.intp]:
    """Return the positions of the candidates that are read again; see `rescore_candidates`."""
    near = pool.cosine.astype(np.float64) >= cosine_floor
    return np.flatnonzero((pool.margin >= LEAST_MARGIN.get(margin, -np.inf)) & near)


def rescore_all(
    rescorer: Rescorer, read: Candidates, source: SentenceList, target: SentenceList, *, margin: str
) -> Candidates:
    """Give every candidate its probability as score; `margin` is what the margins of the candidates are."""
    from emsmine.mining.scoring.scorer import probabilities, with_margin

    with Progress("rescore", len(read), "candidates") as progress:
        left, source_rows = _read_side(rescorer, source, read.source_ids)
        right, target_rows = _read_side(rescorer, target, read.target_ids)
        logits = rescorer.scorer.logits(left, right, source_rows, target_rows, progress.listener())
    logits = with_margin(logits, read.margin) if margin == "ratio" else logits
    return read.rescored(probabilities(logits))


def _read_side(
    rescorer: Rescorer, sentences: SentenceList, ids: npt.NDArray[np.int64]
) -> "tuple[Side, npt.NDArray[np.int64]]":
    """Read the sentences that are named; returns them and, for each id, which it is."""
    distinct, places = np.unique(ids, return_inverse=True)
    texts = [sentences.texts[number] for number in distinct.tolist()]
    return rescorer.side(texts, sentences.lang), places.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The pairs chosen among the candidates of a search, best first.

    `best` is the largest score and cosine among all candidates, chosen or not; None if there are none.
    """

    pairs: Candidates
    marks: list[str]
    """Why a pair is suspicious, see `emsmine.mining.selection.suspicion`."""
    counts: dict[str, int]
    best: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class SecondLook:
    """What rescoring needs beside vectors: the scorer and the texts of both sides."""

    rescorer: Rescorer
    source: SentenceList
    target: SentenceList


def choose_pairs(
    source: Embedded,
    target: Embedded,
    *,
    k: int,
    settings: SelectSettings,
    device: str,
    second_look: SecondLook | None = None,
) -> Chosen:
    """Mine two sides that have their vectors; ids are those of `Embedded`.

    Args:
        source: one side.
        target: the other.
        k: neighbours of a sentence.
        settings: how pairs are chosen.
        device: where a large search multiplies.
        second_look: None: pairs are chosen by margin.
    """
    threshold = settings.lowest_score(rescored=second_look is not None)
    searched = search_sides(source, target, k, device)
    pool = candidates(*searched.neighbours(), margin=settings.margin)
    counts = {f"{name}.no_vector": number for name, number in searched.unusable().items() if number}
    counts["candidates"] = len(pool)
    doubt = threshold
    if second_look is not None:
        doubt = LEAST_MARGIN.get(settings.margin, -np.inf)
        pool = rescore_candidates(
            second_look.rescorer,
            pool,
            second_look.source,
            second_look.target,
            margin=settings.margin,
            cosine_floor=settings.cosine_floor,
        )
        counts["rescored"] = len(pool)
    ranked = pool.rescored(pool.margin) if settings.score(rescored=second_look is not None) == "margin" else pool
    chosen = select(ranked, settings.retrieval, threshold=threshold, cosine_floor=settings.cosine_floor)
    marks = suspicion(chosen, *searched.neighbours(), margin=settings.margin, threshold=doubt).labels()
    counts |= {"pairs": len(chosen), **counters_of(marks)}
    best = (float(ranked.score.max()), float(ranked.cosine.max())) if len(ranked) else None
    return Chosen(chosen, marks, counts, best)


@dataclass(frozen=True)
class Mined:
    """Mined pairs, best first, and what was left out on the way.

    `best` is the largest score and cosine among all candidates, kept or not; None if there are no candidates.
    """

    pairs: list[ScoredPair]
    counts: dict[str, int]
    best: tuple[float, float] | None = None


def mine_files(
    source_path: str,
    target_path: str,
    langs: tuple[str, str],
    encoder: Encoder,
    *,
    k: int,
    settings: SelectSettings,
    max_chars: int,
    device: str = "cpu",
    rescorer: Rescorer | None = None,
) -> Mined:
    """Mine two files of sentences, one a line; `device` is where a large search multiplies.

    With a rescorer, pairs are chosen by the probability that they are translations.

    Raises:
        ConfigError: both sides are stdin.
        InputError: a file does not exist, or a side has no usable sentence.
    """
    check_one_stdin(source_path, target_path)
    source, target = (
        collect(read_lines(path), lang, max_chars) for path, lang in zip((source_path, target_path), langs, strict=True)
    )
    counts = check_sides((source_path, source), (target_path, target))
    chosen = choose_pairs(
        encode_usable(encoder, source),
        encode_usable(encoder, target),
        k=k,
        settings=settings,
        device=device,
        second_look=None if rescorer is None else SecondLook(rescorer, source, target),
    )
    found = chosen.pairs
    columns = (found.score, found.margin, found.cosine, found.source_ids, found.target_ids)
    rows = zip(chosen.marks, *(column.tolist() for column in columns), strict=True)
    pairs = [ScoredPair(p, m, c, mark, source.texts[s], target.texts[t]) for mark, p, m, c, s, t in rows]
    return Mined(pairs, counts | chosen.counts, chosen.best)


def check_one_stdin(source: str | PathLike[str], target: str | PathLike[str]) -> None:
    """Refuse to read both sides from stdin.

    Raises:
        ConfigError: both are `-`.
    """
    if fspath(source) == fspath(target) == "-":
        raise ConfigError("mine: only one side can be '-' (stdin); give a file for the other")


def check_sides(*sides: tuple[str, SentenceList | None]) -> dict[str, int]:
    """Refuse a side without sentences, and warn of one that does not look like its language.

    Args:
        sides: source and target: what to call it, and its sentences; None for a side that has only vectors.

    Returns:
        The sentences of each side and what was left out, by name.

    Raises:
        InputError: a side has no usable sentence.
    """
    counts: dict[str, int] = {}
    named = [(*item, side) for item, side in zip(sides, ("source", "target"), strict=True)]
    lists = [(label, texts, side) for label, texts, side in named if texts is not None]
    for label, texts, side in lists:
        found = {"sentences": len(texts.texts), **texts.dropped}
        counts |= {f"{side}.{reason}": number for reason, number in found.items()}
        if not texts.texts:
            raise InputError(
                f"mine: {side} {label} has no usable sentence ({texts.dropped or 'it is empty'}); nothing to mine"
            )
    check_languages("mine", {label: (texts.lang, texts.texts) for label, texts, _ in lists})
    return counts


def write_pairs(pairs: Sequence[ScoredPair], output: str, listing: str | None = None) -> None:
    """Write `score TAB source TAB target` lines to a file or to stdout for `-`, see `emsmine.outputs.write_output`.

    Args:
        pairs: best first.
        output: file of all pairs.
        listing: file of the suspicious ones among them, with the columns of a run's listing: margin, cosine, reasons,
            source, target. Empty if there are none.
    """
    text = "".join(f"{pair.score:.6f}\t{pair.source}\t{pair.target}\n" for pair in pairs)
    write_output(text.encode("utf-8"), output)
    if listing is not None:
        marked = "".join(f"{pair.listing_line()}\n" for pair in pairs if pair.suspicious)
        write_output(marked.encode("utf-8"), listing)
