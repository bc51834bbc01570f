"""Score the pairs of an existing bitext with the margins of mining: what `emsmine score` calls.

The neighbourhood of a sentence is the other side of the bitext, as in mining: a pair scores high if both sentences are
nearer to each other than to whatever else stands there.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from emsmine.columns import find_columns
from emsmine.encoder.protocol import Encoder
from emsmine.errors import InputError
from emsmine.mining.neighbours import exact_cosine
from emsmine.mining.selection.margin import margin_scores, mean_similarity
from emsmine.outputs import is_same_file
from emsmine.pipelines.direct.declared import check_languages
from emsmine.pipelines.direct.mine import search_showing
from emsmine.pipelines.direct.sentences import Embedded, SentenceList, collect, encode_usable, read_lines

logger = logging.getLogger(__name__)

_BATCH = 16_384


@dataclass(frozen=True)
class Bitext:
    """The lines of a bitext as they stand in the file, and their two sides."""

    lines: list[bytes]
    """TAB between the sides; further columns are kept."""
    chosen: tuple[int, int]
    """The columns of source and target, from 0."""
    source: SentenceList
    target: SentenceList
    counts: dict[str, int]


@dataclass(frozen=True)
class Scored:
    """Margins and cosines of all lines, in the order of the file; NaN for a line that cannot be scored.

    Shapes: margins float64 [lines]; cosines float32 [lines].
    """

    margins: npt.NDArray[np.float64]
    cosines: npt.NDArray[np.float32]
    counts: dict[str, int]


def read_bitext(
    paths: Sequence[str], langs: tuple[str, str], max_chars: int, given: tuple[int, int] | None = None
) -> Bitext:
    """Read one file of TAB-separated columns, or two files whose lines correspond.

    Args:
        paths: one or two; `-` is stdin.
        langs: canonical codes of source and target.
        max_chars: longer sentences cannot be scored.
        given: columns of source and target in one file, from 0; None: recognised, see `emsmine.columns`.

    Raises:
        InputError: a file does not exist, two files have different numbers of lines or are one, the columns cannot be
            a bitext, or no line has two usable sides.
    """
    if len(paths) == 2 and is_same_file(*paths):
        raise InputError(f"score: {paths[0]} and {paths[1]} are the same file; give one file a side")
    lines = list(_joined(paths) if len(paths) == 2 else read_lines(paths[0]))
    where = f"score: {' and '.join(paths)}"
    chosen = find_columns(lines, where, (0, 1) if len(paths) == 2 else given)
    if chosen != (0, 1):
        logger.info("%s: source and target are columns %d and %d", where, chosen[0] + 1, chosen[1] + 1)
    counts: Counter[str] = Counter(lines=len(lines))
    columns: tuple[list[bytes], list[bytes]] = ([], [])
    for line in lines:
        cells = line.split(b"\t")
        is_whole = len(cells) > max(chosen)
        counts["too_few_columns"] += not is_whole
        for column, place in zip(columns, chosen, strict=True):
            column.append(cells[place] if is_whole else b"")
    names = paths if len(paths) == 2 else [f"{paths[0]}, column {place + 1}" for place in chosen]
    source, target, found = collect_sides(columns, langs, max_chars, (names[0], names[1]), " and ".join(paths), counts)
    return Bitext(lines, chosen, source, target, found)


def collect_sides(
    columns: tuple[Sequence[bytes | str], Sequence[bytes | str]],
    langs: tuple[str, str],
    max_chars: int,
    names: tuple[str, str],
    whole: str,
    counts: Counter[str],
) -> tuple[SentenceList, SentenceList, dict[str, int]]:
    """Clean both sides of a bitext, and warn of one that does not look like its language.

    Args:
        columns: source and target of every line.
        langs: canonical codes.
        max_chars: longer sentences cannot be scored.
        names: what to call the sides.
        whole: what to call the bitext.
        counts: what was counted before: `lines`, and `too_few_columns` among them.

    Returns:
        Both sides, and all counts that are not 0.

    Raises:
        InputError: a side has no usable sentence.
    """
    source, target = (collect(column, lang, max_chars) for column, lang in zip(columns, langs, strict=True))
    for name, side in (("source", source), ("target", target)):
        if not side.texts:
            raise InputError(
                f"score: no usable {name} sentence among the {counts['lines']} lines of {whole} "
                f"({dict(counts)}, {side.dropped}); lines need a source, a TAB and a target"
            )
        counts.update({f"{name}.{reason}": number for reason, number in side.dropped.items() if reason != "duplicate"})
    # An empty side is how a line of one column was put above: it has been counted.
    for name in ("source.empty", "target.empty"):
        counts[name] -= counts["too_few_columns"]
    check_languages("score", dict(zip(names, ((side.lang, side.texts) for side in (source, target)), strict=True)))
    return source, target, {name: number for name, number in counts.items() if number}


def _joined(paths: Sequence[str]) -> Iterator[bytes]:
    for number, pair in enumerate(zip_longest(*(read_lines(path) for path in paths)), start=1):
        if None in pair:
            shorter, longer = (paths[0], paths[1]) if pair[0] is None else (paths[1], paths[0])
            raise InputError(
                f"score: {shorter} ends before line {number}, {longer} does not; lines of the two files must correspond"
            )
        # A TAB inside a sentence would look like the border of the sides.
        yield b"\t".join(line.replace(b"\t", b" ") for line in pair)


def score(encoder: Encoder, bitext: Bitext, *, k: int, margin: str, device: str = "cpu") -> Scored:
    """Compute the margin of every line over all sentences of the bitext.

    Sentences that are equal but for case, width, punctuation and spaces are one, as in mining: copies would be one
    another's neighbours and lower every margin.

    Args:
        encoder: of both sides.
        bitext: what to score.
        k: neighbours of a sentence.
        margin: one of `emsmine.mining.selection.MARGINS`.
        device: where a large search multiplies; the result is the same everywhere.
    """
    sides = encode_usable(encoder, bitext.source), encode_usable(encoder, bitext.target)
    return score_vectors(*sides, bitext.source.places, bitext.target.places, bitext.counts, k, margin, device)


def score_vectors(
    left: Embedded,
    right: Embedded,
    source_places: Sequence[int],
    target_places: Sequence[int],
    counts: Mapping[str, int],
    k: int,
    margin: str,
    device: str,
) -> Scored:
    """Compute the margin of every line of a bitext whose sentences have their vectors.

    Args:
        left: vectors of the distinct sentences of the source.
        right: of the target.
        source_places: for every line, which of those its source is; -1 for none.
        target_places: the same for the target.
        counts: what was counted before.
        k: as in `score`, and so on.
        margin: as in `score`.
        device: as in `score`.
    """
    forward, backward = search_showing(left.vectors, right.vectors, k, device)
    source, target = _rows(source_places, left), _rows(target_places, right)
    usable = np.flatnonzero((source >= 0) & (target >= 0))
    cosines = [
        exact_cosine(left.vectors[source[part]], right.vectors[target[part]])
        for part in (usable[start : start + _BATCH] for start in range(0, len(usable), _BATCH))
    ]
    all_margins, all_cosines = np.full(len(source), np.nan), np.full(len(source), np.nan, dtype=np.float32)
    all_cosines[usable] = np.concatenate([np.zeros(0, np.float32), *cosines])
    scores = margin_scores(
        all_cosines[usable], mean_similarity(forward)[source[usable]], mean_similarity(backward)[target[usable]], margin
    )
    # Rounded as in mining, so that both print the same digits and compare them with a threshold alike.
    all_margins[usable] = scores.astype(np.float32)
    undefined = int(np.isnan(all_margins[usable]).sum())
    unusable = {"source.no_vector": left.num_unusable, "target.no_vector": right.num_unusable}
    found = {**counts, **unusable, "undefined_margin": undefined, "scored": len(usable) - undefined}
    return Scored(
        all_margins, all_cosines, {name: number for name, number in found.items() if number or name == "scored"}
    )


def _rows(places: Sequence[int], side: Embedded) -> npt.NDArray[np.int64]:
    """Return the row of the vector of each line; -1 where there is none."""
    # One more, so that place -1 finds -1.
    row_of = np.full(len(side.ids) + side.num_unusable + 1, -1, dtype=np.int64)
    row_of[side.ids] = np.arange(len(side.ids))
    return row_of[np.asarray(places, dtype=np.int64)]


def scored_lines(lines: Iterable[bytes], margins: npt.NDArray[np.float64], threshold: float | None) -> Iterator[bytes]:
    """Yield `score TAB line` in the order of the file; with a threshold, only lines that reach it."""
    for line, margin in zip(lines, margins.tolist(), strict=True):
        if threshold is None or margin >= threshold:
            yield b"%.6f\t%s\n" % (margin, line)
