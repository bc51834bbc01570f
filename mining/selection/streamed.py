"""Score and choose pairs as `emsmine.mining.selection.retrieve` does, without holding the candidates.

The same pairs in the same order, with the same counts, marks and bits. In memory are the lists of the smaller side
(8 k bytes a sentence), about ten bytes for every sentence of both sides, and a buffer of fixed size:

1. Pass over the lists of the smaller side, which are held, then over those of the other side for their means.
2. Pass over the lists of the other side again. Each entry is compared with the held lists, which tells whether both
   directions have the pair. A pair that only they have is scored at once, a held one at the end: each pair once.
3. Scored pairs that reach the limits are sorted, on the disk if need be, and chosen from the best on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from emsmine.mining.neighbours import BoolArray, Float32Array, Int64Array, Neighbours, descending_bits
from emsmine.mining.selection.choose import PairSelector
from emsmine.mining.selection.lists import HeldLists, Neighbourhoods, flat_entries
from emsmine.mining.selection.margin import margin_scores
from emsmine.mining.selection.numbering import Numbering
from emsmine.mining.selection.retrieve import Candidates, check_distinct, check_limits
from emsmine.mining.selection.sort import NumberedPairs, PairSorter
from emsmine.mining.selection.suspicion import Suspicion, mark

UNDEFINED = "undefined_margin"
BELOW_THRESHOLD = "below_threshold"
BELOW_FLOOR = "below_cosine_floor"
_HELD_ROWS = 1 << 14
"""Held lists whose pairs are scored at a time."""


class Direction(Protocol):
    """The lists of one direction in pieces; every call begins again with the first."""

    def ids(self) -> Iterable[Int64Array]:
        """Return the ids of the sentences that have lists."""

    def lists(self) -> Iterable[tuple[Int64Array, Neighbours]]:
        """Return ids of sentences and their lists."""


@dataclass(frozen=True)
class Dropped:
    """Candidates that are not eligible for one reason: their number, and the first of them in the total order."""

    num_pairs: int = 0
    source_id: int = -1
    target_id: int = -1
    margin: float = np.nan
    cosine: float = np.nan


@dataclass
class _First:
    """The first in the total order of the pairs that one reason excludes."""

    num_pairs: int = 0
    place: tuple[int, int, int] | None = None
    scores: tuple[float, float] = (np.nan, np.nan)

    def add(self, pairs: NumberedPairs) -> None:
        self.num_pairs += len(pairs)
        bits = descending_bits(pairs.margin)
        best = pairs.take(np.flatnonzero(bits == bits.min()))
        first = int(np.lexsort((best.target, best.source))[0])
        place = int(bits.min()), int(best.source[first]), int(best.target[first])
        if self.place is None or place < self.place:
            self.place, self.scores = place, (float(best.margin[first]), float(best.cosine[first]))


@dataclass
class _Scorer:
    """Scores pairs, counts those under a limit and passes the others on."""

    source: Neighbourhoods
    target: Neighbourhoods
    sorter: PairSorter
    margin: str
    threshold: float
    cosine_floor: float
    num_pairs: int = 0
    excluded: dict[str, _First] = field(
        default_factory=lambda: {reason: _First() for reason in (UNDEFINED, BELOW_THRESHOLD, BELOW_FLOOR)}
    )

    def add(
        self,
        source: Int64Array,
        target: Int64Array,
        cosine: Float32Array,
        in_forward: BoolArray,
        in_backward: BoolArray,
    ) -> None:
        means = self.source.mean[source], self.target.mean[target]
        # Limits are compared with what is stored.
        margin = margin_scores(cosine, *means, self.margin).astype(np.float32)
        pairs = NumberedPairs(source, target, cosine, margin, in_forward, in_backward)
        self.num_pairs += len(pairs)
        exact_margin, exact_cosine = margin.astype(np.float64), cosine.astype(np.float64)
        is_eligible = (exact_margin >= self.threshold) & (exact_cosine >= self.cosine_floor)
        undefined = np.isnan(exact_margin)
        below = exact_margin < self.threshold
        for reason, mask in (
            (UNDEFINED, undefined),
            (BELOW_THRESHOLD, below),
            (BELOW_FLOOR, ~(undefined | below | is_eligible)),
        ):
            if mask.any():
                self.excluded[reason].add(pairs.take(np.flatnonzero(mask)))
        if is_eligible.any():
            self.sorter.add(pairs.take(np.flatnonzero(is_eligible)))


@dataclass(frozen=True, eq=False)
class Selection:
    """Scored candidates, of which the eligible ones are still to be chosen from.

    Args:
        num_candidates: distinct pairs in either direction.
        num_eligible: those that reach both limits.
        dropped: the others by reason; a reason without any is left out.
    """

    num_candidates: int
    num_eligible: int
    dropped: dict[str, Dropped]
    _scorer: _Scorer

    def choose(self, retrieval: str = "max") -> Iterator[tuple[Candidates, Suspicion]]:
        """Choose pairs and mark the suspicious ones; to be called once.

        Args:
            retrieval: see `emsmine.mining.selection.retrieve.select`.

        Returns: the chosen pairs, best first, in pieces.
        Raises: ValueError for an unknown retrieval.
        """
        source, target = self._scorer.source.numbering, self._scorer.target.numbering
        chooser = PairSelector(retrieval, len(source), len(target))
        for pairs in self._scorer.sorter.best_first():
            yield self._described(
                pairs.take(chooser.choose(pairs.source, pairs.target, pairs.in_forward, pairs.in_backward))
            )

    def eligible(self) -> Iterator[tuple[Candidates, Suspicion]]:
        """Return all eligible candidates, best first, in pieces, and what is suspicious; to be called once."""
        for pairs in self._scorer.sorter.best_first():
            yield self._described(pairs)

    def _described(self, pairs: NumberedPairs) -> tuple[Candidates, Suspicion]:
        scorer, source, target = self._scorer, self._scorer.source, self._scorer.target
        marks = mark(
            pairs.cosine,
            source.few[pairs.source] | target.few[pairs.target],
            source.typical,
            target.typical,
            margin=scorer.margin,
            threshold=scorer.threshold,
        )
        named = Candidates(
            source.numbering.ids_of(pairs.source),
            target.numbering.ids_of(pairs.target),
            pairs.cosine,
            pairs.margin,
            pairs.in_forward,
            pairs.in_backward,
        )
        return named, marks


def score_streamed(
    forward: Direction,
    backward: Direction,
    sorter: PairSorter,
    *,
    margin: str = "ratio",
    threshold: float = -np.inf,
    cosine_floor: float = -np.inf,
) -> Selection:
    """Score every pair that is among the k nearest in at least one direction.

    Args:
        forward: target neighbours of each source, over the whole target side.
        backward: source neighbours of each target, over the whole source side.
        sorter: takes the eligible pairs; to be closed by the caller after `Selection.choose`.
        margin: one of `emsmine.mining.selection.MARGINS`.
        threshold, cosine_floor: see `emsmine.mining.selection.retrieve.select`.

    Raises: ValueError for ids that do not match the neighbours, a neighbour named twice by a row, an unknown margin, or
        a limit that is NaN.
    """
    check_limits(threshold, cosine_floor)
    source = Neighbourhoods(Numbering.of(forward.ids(), "source"))
    target = Neighbourhoods(Numbering.of(backward.ids(), "target"))
    scorer = _Scorer(source, target, sorter, margin, threshold, cosine_floor)
    _score(forward, backward, scorer)
    source.forget_means()
    target.forget_means()
    dropped = {}
    for reason, first in scorer.excluded.items():
        if first.place:
            source_id, target_id = (
                int(side.numbering.ids_of(np.array([number]))[0])
                for side, number in zip((source, target), first.place[1:], strict=True)
            )
            dropped[reason] = Dropped(first.num_pairs, source_id, target_id, *first.scores)
    return Selection(scorer.num_pairs, sorter.num_pairs, dropped, scorer)


def _score(forward: Direction, backward: Direction, scorer: _Scorer) -> None:
    """Pass over the lists; those of the smaller side are held until all pairs are scored."""
    source, target = scorer.source, scorer.target
    holds_source = len(source.numbering) <= len(target.numbering)
    (held_lists, own), (other_lists, other) = (forward, source), (backward, target)
    if not holds_source:
        (held_lists, own), (other_lists, other) = (other_lists, other), (held_lists, own)
    held = HeldLists(0, 1)
    for numbers, base_NK, neighbours in _numbered(held_lists, own, other):
        held = held if len(held) else HeldLists(len(own.numbering), neighbours.k)
        held.hold(numbers, base_NK, neighbours.cosine)
    for _ in _numbered(other_lists, other, own):
        pass

    def score(
        rows: Int64Array, base: Int64Array, cosine: Float32Array, in_held: BoolArray, in_other: BoolArray
    ) -> None:
        if holds_source:
            scorer.add(rows, base, cosine, in_held, in_other)
        else:
            scorer.add(base, rows, cosine, in_other, in_held)

    for ids, neighbours in other_lists.lists():
        numbers = other.numbering.numbers_of(ids)
        base, rows, cosine = flat_entries(numbers, _numbers_of(neighbours, own), neighbours.cosine)
        new = np.flatnonzero(~held.match(rows, base, cosine))
        score(rows[new], base[new], cosine[new], np.zeros(new.size, dtype=bool), np.ones(new.size, dtype=bool))
    for rows, base, cosine, in_other in held.entries(_HELD_ROWS):
        score(rows, base, cosine, np.ones(len(rows), dtype=bool), in_other)


def _numbered(
    direction: Direction, own: Neighbourhoods, other: Neighbourhoods
) -> Iterator[tuple[Int64Array, Int64Array, Neighbours]]:
    """Check lists and take their facts; returns numbers of rows, of neighbours (-1 for missing), and the lists."""
    for ids, neighbours in direction.lists():
        check_distinct(neighbours, ids, own.numbering.side)
        numbers = own.numbering.numbers_of(ids)
        own.add(numbers, neighbours)
        yield numbers, _numbers_of(neighbours, other), neighbours
    own.close()


def _numbers_of(neighbours: Neighbours, other: Neighbourhoods) -> Int64Array:
    exists_NK = neighbours.ids >= 0
    if exists_NK.all():
        return other.numbering.numbers_of(neighbours.ids)
    numbers_NK = np.full(neighbours.ids.shape, -1, dtype=np.int64)
    numbers_NK[exists_NK] = other.numbering.numbers_of(neighbours.ids[exists_NK])
    return numbers_NK
