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
from emsmine.display import printable
from emsmine.encoder.protocol import Encoder
from emsmine.errors import InputError
from emsmine.mining.neighbours import exact_cosine
from emsmine.mining.selection.margin import margin_scores, mean_similarity
from emsmine.mining.selection.retrieve import Candidates, candidates
from emsmine.outputs import is_same_file
from emsmine.pipelines.direct.declared import check_languages
from emsmine.pipelines.direct.mine import SecondLook, rescore_all, search_showing, worth_reading
from emsmine.pipelines.direct.sentences import Embedded, SentenceList, collect, encode_usable, read_lines
from emsmine.pipelines.rescoring import Rescorer
from emsmine.pipelines.settings import SelectSettings

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
    """Scores, margins and cosines of all lines, in the order of the file; NaN for a line that cannot be scored.

    Scores are probabilities where the pairs were read again, else the margins.

    Shapes: scores, margins float64 [lines]; cosines float32 [lines].
    """

    scores: npt.NDArray[np.float64]
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


def score(
    encoder: Encoder, bitext: Bitext, *, k: int, margin: str, device: str = "cpu", rescorer: Rescorer | None = None
) -> Scored:
    """Compute the margin of every line over all sentences of the bitext, and with a rescorer its probability.

    Sentences that are equal but for case, width, punctuation and spaces are one, as in mining: copies would be one
    another's neighbours and lower every margin.

    Args:
        encoder: of both sides.
        bitext: what to score.
        k: neighbours of a sentence.
        margin: one of `emsmine.mining.selection.MARGINS`.
        device: where a large search multiplies; the result is the same everywhere.
        rescorer: None: margins only.
    """
    sides = encode_usable(encoder, bitext.source), encode_usable(encoder, bitext.target)
    second_look = None if rescorer is None else SecondLook(rescorer, bitext.source, bitext.target)
    places = bitext.source.places, bitext.target.places
    return score_vectors(*sides, *places, bitext.counts, k, margin, device, second_look)


def score_vectors(
    left: Embedded,
    right: Embedded,
    source_places: Sequence[int],
    target_places: Sequence[int],
    counts: Mapping[str, int],
    k: int,
    margin: str,
    device: str,
    second_look: SecondLook | None = None,
) -> Scored:
    """Compute the margin of every line of a bitext whose sentences have their vectors, and perhaps its probability.

    Args:
        left: vectors of the distinct sentences of the source.
        right: of the target.
        source_places: for every line, which of those its source is; -1 for none.
        target_places: the same for the target.
        counts: what was counted before.
        k: as in `score`, and so on.
        margin: as in `score`.
        device: as in `score`.
        second_look: the scorer and both sides; None: margins only.
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
    all_scores = all_margins
    if second_look is not None:
        pool = candidates(forward, backward, margin=margin)
        all_scores = np.full(len(source), np.nan)
        lines = source[usable], target[usable], all_margins[usable].astype(np.float32)
        all_scores[usable] = _probabilities(second_look, pool, (left, right), *lines, margin)
    unusable = {"source.no_vector": left.num_unusable, "target.no_vector": right.num_unusable}
    found = {**counts, **unusable, "undefined_margin": undefined, "scored": len(usable) - undefined}
    return Scored(
        all_scores,
        all_margins,
        all_cosines,
        {name: number for name, number in found.items() if number or name == "scored"},
    )


def _probabilities(
    second_look: SecondLook,
    pool: Candidates,
    sides: tuple[Embedded, Embedded],
    source: npt.NDArray[np.int64],
    target: npt.NDArray[np.int64],
    margins: npt.NDArray[np.float32],
    margin: str,
) -> npt.NDArray[np.float32]:
    """Read every line again; it competes with the candidates that mining would read.

    Args:
        second_look: the scorer and the texts.
        pool: candidates, by rows of vectors.
        sides: vectors of both sides.
        source: the row of the source of every line.
        target: of its target.
        margins: of every line.
        margin: what all margins are.
    """
    worth = worth_reading(pool, margin, SelectSettings.cosine_floor)
    # Those of the pool first: of a pair that stands in both, the margin is that of mining to the last bit.
    rows = np.concatenate([pool.source_ids[worth], source]), np.concatenate([pool.target_ids[worth], target])
    keys, first, places = np.unique(rows[0] * len(sides[1].ids) + rows[1], return_index=True, return_inverse=True)
    all_margins = np.concatenate([pool.margin[worth], margins])[first]
    flags = np.zeros(len(keys), dtype=bool)
    ids = sides[0].ids[rows[0][first]], sides[1].ids[rows[1][first]]
    read = Candidates.ordered(*ids, np.zeros(len(keys), dtype=np.float32), all_margins, flags, flags)
    found = rescore_all(second_look.rescorer, read, second_look.source, second_look.target, margin=margin)
    # Back into the order of the keys, which is that of the ids.
    by_key = np.lexsort((found.target_ids, found.source_ids))
    return found.score[by_key][places[len(places) - len(source) :]]


def _rows(places: Sequence[int], side: Embedded) -> npt.NDArray[np.int64]:
    """Return the row of the vector of each line; -1 where there is none."""
    # One more, so that place -1 finds -1.
    row_of = np.full(len(side.ids) + side.num_unusable + 1, -1, dtype=np.int64)
    row_of[side.ids] = np.arange(len(side.ids))
    return row_of[np.asarray(places, dtype=np.int64)]


def scored_lines(lines: Iterable[bytes], scores: npt.NDArray[np.float64], threshold: float | None) -> Iterator[bytes]:
    """Yield `score TAB line` in the order of the file; with a threshold, only lines that reach it."""
    for line, score in zip(lines, scores.tolist(), strict=True):
        if threshold is None or score >= threshold:
            yield b"%.6f\t%s\n" % (score, line)


def explained_lines(rescorer: Rescorer, bitext: Bitext, scored: Scored, threshold: float | None) -> Iterator[bytes]:
    """Yield for each scored line its scores, both sentences, and which words found what partner."""
    from emsmine.pipelines.direct.explain import explain_pair, format_explanation

    langs = bitext.source.lang, bitext.target.lang
    places = zip(bitext.source.places, bitext.target.places, strict=True)
    for number, ((source, target), score) in enumerate(zip(places, scored.scores.tolist(), strict=True)):
        if source < 0 or target < 0 or (threshold is not None and not score >= threshold):
            continue
        texts = bitext.source.texts[source], bitext.target.texts[target]
        head = (
            f"line {number + 1}: score {score:.6f}, margin {scored.margins[number]:.4f}, cosine "
            f"{scored.cosines[number]:.4f}\n  {texts[0]}\n  {texts[1]}\n"
        )
        shown = format_explanation(explain_pair(rescorer, texts, langs))
        yield printable(f"{head}{shown}\n\n", lines=True).encode("utf-8")
