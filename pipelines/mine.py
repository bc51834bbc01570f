"""Mine two lists of sentences in memory: what `emsmine mine` and the BUCC evaluation call.

The same functions as the stages index, search and select, without a run directory in between.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emsmine.encoder.protocol import Encoder
from emsmine.errors import ConfigError, InputError
from emsmine.lines import unpacked_lines
from emsmine.mining.gpu import find_gpu
from emsmine.mining.knn import Neighbours, search_both
from emsmine.mining.retrieve import Candidates, candidates, select
from emsmine.mining.suspicion import suspicion
from emsmine.mining.text import dedup_key, sanitise
from emsmine.pipelines.readers import open_binary
from emsmine.pipelines.settings import SelectSettings
from emsmine.pipelines.suspicious import ScoredPair, counters_of

_BATCH = 8192


@dataclass(frozen=True)
class SentenceList:
    """The distinct usable sentences of one side.

    Args:
        lang: canonical code.
        texts: sanitised, distinct by dedup key, in order of first occurrence.
        dropped: lines left out, by reason.
        places: for every line of the input that was used or is a copy: its number in `texts`; -1 for a dropped line.
    """

    lang: str
    texts: list[str]
    dropped: dict[str, int] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)


def read_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, or of stdin for `-`, without their line feed; .gz and .zst are unpacked.

    Only a line feed ends a line: Unicode line breaks stand inside sentences of real corpora.

    Raises:
        InputError: the file does not exist, or its compression is damaged.
    """
    if path == "-":
        yield from unpacked_lines(sys.stdin.buffer, path)
        return
    with open_binary(path) as stream:
        yield from unpacked_lines(stream, path)


def collect(lines: Iterable[bytes | str], lang: str, max_chars: int) -> SentenceList:
    """Clean the lines of one side and keep each distinct sentence once; everything left out is counted."""
    texts: list[str] = []
    numbers: dict[str, int] = {}
    places: list[int] = []
    dropped: Counter[str] = Counter()
    for line in lines:
        try:
            text = sanitise(line.decode("utf-8") if isinstance(line, bytes) else line)
        except UnicodeDecodeError:
            text, reason = "", "invalid_utf8"
        else:
            reason = "empty" if not text else "too_long" if len(text) > max_chars else ""
        if reason:
            dropped[reason] += 1
            places.append(-1)
            continue
        number = numbers.setdefault(dedup_key(text), len(texts))
        places.append(number)
        if number == len(texts):
            texts.append(text)
        else:
            dropped["duplicate"] += 1
    return SentenceList(lang, texts, dict(dropped), places)


def encode_usable(encoder: Encoder, sentences: SentenceList) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Encode a side in batches; rows without a usable vector are left out.

    Returns:
        float32 [N, D], unit rows, and int64 [N], the number of each in `sentences.texts`.
    """
    parts = [
        encoder.encode(sentences.texts[start : start + _BATCH], lang=sentences.lang)
        for start in range(0, len(sentences.texts), _BATCH)
    ]
    vectors = np.concatenate([np.zeros((0, encoder.dim), np.float32), *parts])
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)).astype(np.int64)
    return np.ascontiguousarray(vectors[usable]), usable


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
    gpu = find_gpu(device, len(left) * right.size)
    forward, backward = search_both(left, right, k, source_ids=left_ids, target_ids=right_ids, gpu=gpu)
    return _Searched(forward, backward, left_ids, right_ids)


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
        margin: one of `emsmine.mining.margin.MARGINS`.
        device: where a large search multiplies; the result is the same everywhere.

    Returns:
        The candidates and the number of sentences without a usable vector, per side.
    """
    searched = _search_sides(encoder, source, target, k, device)
    return candidates(*searched.neighbours(), margin=margin), _unusable(searched, source, target)


@dataclass(frozen=True)
class Mined:
    """Mined pairs, best first, and what was left out on the way."""

    pairs: list[ScoredPair]
    counts: dict[str, int]


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
    searched = _search_sides(encoder, source, target, k, device)
    pool = candidates(*searched.neighbours(), margin=settings.margin)
    chosen = select(pool, settings.retrieval, threshold=settings.threshold, cosine_floor=settings.cosine_floor)
    marks = suspicion(chosen, *searched.neighbours(), margin=settings.margin, threshold=settings.threshold).labels()
    unusable = _unusable(searched, source, target)
    counts |= {f"{name}.no_vector": number for name, number in unusable.items() if number}
    counts |= {"candidates": len(pool), "pairs": len(chosen), **counters_of(marks)}
    columns = (chosen.margin, chosen.cosine, chosen.source_ids, chosen.target_ids)
    rows = zip(marks, *(column.tolist() for column in columns), strict=True)
    return Mined([ScoredPair(m, c, mark, source.texts[s], target.texts[t]) for mark, m, c, s, t in rows], counts)


def write_pairs(pairs: Sequence[ScoredPair], output: str, listing: str | None = None) -> None:
    """Write `score TAB source TAB target` lines to a file (atomically) or to stdout for `-`.

    Args:
        pairs: best first.
        output: file of all pairs.
        listing: file of the suspicious ones among them, with the columns of a run's listing: margin, cosine, reasons,
            source, target. Empty if there are none.
    """
    text = "".join(f"{pair.margin:.6f}\t{pair.source}\t{pair.target}\n" for pair in pairs)
    write_bytes(text.encode("utf-8"), output, "mine")
    if listing is not None:
        marked = "".join(f"{pair.listing_line()}\n" for pair in pairs if pair.suspicious)
        write_bytes(marked.encode("utf-8"), listing, "mine", "--suspicious")


def check_outputs(output: str, listing: str | None) -> None:
    """Refuse outputs that cannot be written, before the work.

    Raises:
        ConfigError: the folder of a file does not exist, or both outputs are one.
    """
    _check_folder(output, "mine", "--output")
    if listing is None:
        return
    _check_folder(listing, "mine", "--suspicious")
    if output == listing or ("-" not in (output, listing) and Path(output).resolve() == Path(listing).resolve()):
        raise ConfigError(f"mine: --output and --suspicious are both {listing}; give each a file of its own")


def _check_folder(output: str, command: str, option: str) -> None:
    folder = Path(output).parent
    if output != "-" and not folder.is_dir():
        raise ConfigError(f"{command}: folder {folder} of {option} {output} does not exist; create it first")


def write_bytes(content: bytes, output: str, command: str, option: str = "--output") -> None:
    """Write what a command made to a file (atomically) or to stdout for `-`.

    Raises:
        ConfigError: the folder of the file does not exist.
    """
    if output == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    from emsmine.pipelines.files import new_attempt, write_atomically

    _check_folder(output, command, option)
    write_atomically(Path(output), content, new_attempt())
