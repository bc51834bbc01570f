"""Mine two lists of sentences in memory: what `emsmine mine` and the BUCC evaluation call.

The same functions as the stages index, search and select, without a run directory in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
from emsmine.pipelines.direct.sentences import SentenceList, collect, encode_usable, read_lines
from emsmine.pipelines.progress import Progress
from emsmine.pipelines.settings import SelectSettings
from emsmine.pipelines.store.suspicious import ScoredPair, counters_of
from emsmine.progress import listening


@dataclass(frozen=True, eq=False)
class _Searched:
    """The neighbours of both sides; ids are numbers in `texts`, which not every text has a vector for."""

    forward: Neighbours
    backward: Neighbours
    source_ids: npt.NDArray[np.int64]
    target_ids: npt.NDArray[np.int64]

    def neighbours(self) -> tuple[Neighbours, Neighbours, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return what `candidates` and `suspicion` take."""
        return self.forward, self.backward, self.source_ids, self.target_ids


def _search_sides(encoder: Encoder, source: SentenceList, target: SentenceList, k: int, device: str) -> _Searched:
    (left, left_ids), (right, right_ids) = (encode_usable(encoder, side) for side in (source, target))
    forward, backward = search_showing(left, right, k, device, source_ids=left_ids, target_ids=right_ids)
    return _Searched(forward, backward, left_ids, right_ids)


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


def _unusable(searched: _Searched, source: SentenceList, target: SentenceList) -> dict[str, int]:
    return {
        "source": len(source.texts) - len(searched.source_ids),
        "target": len(target.texts) - len(searched.target_ids),
    }


def mine_sides(
    encoder: Encoder, source: SentenceList, target: SentenceList, *, k: int, margin: str, device: str = "cpu"
) -> tuple[Candidates, dict[str, int]]:
    """Search both directions and score all candidates; ids are numbers in `texts`.

    Args:
        encoder: of both sides.
        source: one side.
        target: the other.
        k: neighbours of a sentence.
        margin: one of `emsmine.mining.selection.MARGINS`.
        device: where a large search multiplies; the result is the same everywhere.

    Returns:
        The candidates and the number of sentences without a usable vector, per side.
    """
    searched = _search_sides(encoder, source, target, k, device)
    return candidates(*searched.neighbours(), margin=margin), _unusable(searched, source, target)


@dataclass(frozen=True)
class Mined:
    """Mined pairs, best first, and what was left out on the way.

    `best` is the largest margin and cosine among all candidates, kept or not; None if there are no candidates.
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
) -> Mined:
    """Mine two files of sentences, one a line; `device` is where a large search multiplies.

    Raises:
        ConfigError: both sides are stdin.
        InputError: a file does not exist, or a side has no usable sentence.
    """
    if source_path == target_path == "-":
        raise ConfigError("mine: only one side can be '-' (stdin); give a file for the other")
    source, target = (
        collect(read_lines(path), lang, max_chars) for path, lang in zip((source_path, target_path), langs, strict=True)
    )
    named = {"source": (source_path, source), "target": (target_path, target)}
    counts = {
        f"{name}.{reason}": number
        for name, (_, side) in named.items()
        for reason, number in {"sentences": len(side.texts), **side.dropped}.items()
    }
    for name, (path, side) in named.items():
        if not side.texts:
            raise InputError(
                f"mine: {name} {path} has no usable sentence ({side.dropped or 'it is empty'}); nothing to mine"
            )
    check_languages("mine", {path: (side.lang, side.texts) for path, side in named.values()})
    searched = _search_sides(encoder, source, target, k, device)
    pool = candidates(*searched.neighbours(), margin=settings.margin)
    chosen = select(pool, settings.retrieval, threshold=settings.threshold, cosine_floor=settings.cosine_floor)
    marks = suspicion(chosen, *searched.neighbours(), margin=settings.margin, threshold=settings.threshold).labels()
    unusable = _unusable(searched, source, target)
    counts |= {f"{name}.no_vector": number for name, number in unusable.items() if number}
    counts |= {"candidates": len(pool), "pairs": len(chosen), **counters_of(marks)}
    columns = (chosen.margin, chosen.cosine, chosen.source_ids, chosen.target_ids)
    rows = zip(marks, *(column.tolist() for column in columns), strict=True)
    pairs = [ScoredPair(m, c, mark, source.texts[s], target.texts[t]) for mark, m, c, s, t in rows]
    best = (float(pool.margin.max()), float(pool.cosine.max())) if len(pool) else None
    return Mined(pairs, counts, best)


def write_pairs(pairs: Sequence[ScoredPair], output: str, listing: str | None = None) -> None:
    """Write `score TAB source TAB target` lines to a file or to stdout for `-`, see `emsmine.outputs.write_output`.

    Args:
        pairs: best first.
        output: file of all pairs.
        listing: file of the suspicious ones among them, with the columns of a run's listing: margin, cosine, reasons,
            source, target. Empty if there are none.
    """
    text = "".join(f"{pair.margin:.6f}\t{pair.source}\t{pair.target}\n" for pair in pairs)
    write_output(text.encode("utf-8"), output)
    if listing is not None:
        marked = "".join(f"{pair.listing_line()}\n" for pair in pairs if pair.suspicious)
        write_output(marked.encode("utf-8"), listing)
