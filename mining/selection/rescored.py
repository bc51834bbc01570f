"""Choose among candidates that have another score than their margin, in bounded memory.

As in `emsmine.mining.selection.streamed`, pairs are sorted, on the disk if need be, and gone through from the best on.
In memory are about nine bytes for every sentence of a candidate, and a buffer of fixed size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import BoolArray, Float32Array, Int64Array
from emsmine.mining.selection.choose import PairSelector
from emsmine.mining.selection.numbering import Numbering
from emsmine.mining.selection.retrieve import Candidates, check_limits
from emsmine.mining.selection.sort import NumberedPairs, PairSorter


@dataclass(frozen=True, eq=False)
class Rescored:
    """Candidates in any order.

    Shapes: each array [P].
    """

    source_ids: Int64Array
    target_ids: Int64Array
    cosine: Float32Array
    margin: Float32Array
    in_forward: BoolArray
    in_backward: BoolArray
    score: Float32Array
    mark: NDArray[np.uint32]
    """Stays with the pair."""


@dataclass
class RescoredSelection:
    """Pairs chosen by their score, and how many were under a limit.

    Args:
        pieces: gives all candidates in pieces; called twice, with the same result.
        sorter: takes the eligible pairs; to be closed by the caller.
        threshold: lowest score, compared in float64.
        cosine_floor: lowest cosine, compared in float64.

    Raises: ValueError for a limit that is NaN.
    """

    pieces: Callable[[], Iterator[Rescored]]
    sorter: PairSorter
    threshold: float
    cosine_floor: float
    num_candidates: int = 0
    num_below_threshold: int = 0
    num_below_floor: int = 0

    def __post_init__(self) -> None:
        check_limits(self.threshold, self.cosine_floor)

    def choose(self, retrieval: str = "max") -> Iterator[tuple[Candidates, NDArray[np.uint32]]]:
        """Return the chosen pairs, best first, in pieces, and their marks; to be called once.

        Raises: ValueError for an unknown retrieval.
        """
        source, target = self._numberings()
        for piece in self.pieces():
            self.num_candidates += len(piece.score)
            reached = piece.score.astype(np.float64) >= self.threshold
            near = piece.cosine.astype(np.float64) >= self.cosine_floor
            self.num_below_threshold += int((~reached).sum())
            self.num_below_floor += int((reached & ~near).sum())
            rows = np.flatnonzero(reached & near)
            numbered = NumberedPairs(
                source.numbers_of(piece.source_ids[rows]),
                target.numbers_of(piece.target_ids[rows]),
                piece.cosine[rows],
                piece.margin[rows],
                piece.in_forward[rows],
                piece.in_backward[rows],
                piece.score[rows],
                piece.mark[rows],
            )
            self.sorter.add(numbered)
        chooser = PairSelector(retrieval, len(source), len(target))
        for pairs in self.sorter.best_first():
            chosen = pairs.take(chooser.choose(pairs.source, pairs.target, pairs.in_forward, pairs.in_backward))
            named = Candidates(
                source.ids_of(chosen.source),
                target.ids_of(chosen.target),
                chosen.cosine,
                chosen.margin,
                chosen.in_forward,
                chosen.in_backward,
                chosen.score,
            )
            yield named, chosen.mark

    def _numberings(self) -> tuple[Numbering, Numbering]:
        """Number the sentences of the candidates on both sides."""
        known = [np.zeros(0, dtype=np.int64) for _ in range(2)]
        for piece in self.pieces():
            for side, ids in enumerate((piece.source_ids, piece.target_ids)):
                known[side] = np.union1d(known[side], ids)
        return Numbering.of([known[0]], "source"), Numbering.of([known[1]], "target")
