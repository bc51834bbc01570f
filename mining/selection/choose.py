"""Choose among pairs that come best first, piece by piece, with a few bytes of memory for each sentence."""

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import BoolArray
from emsmine.mining.selection import RETRIEVALS

IndexArray = NDArray[np.intp]

_ROUNDS = 8
"""Rounds of one-to-one selection over whole arrays, before the rest is done pair by pair."""
_PIECE = 1 << 20
_REST = 1 << 16
"""Pairs that are Python integers at a time."""


class PairSelector:
    """Remembers which sentences were chosen; see `emsmine.mining.selection.retrieve.select` for the retrievals.

    Args:
        retrieval: one of `RETRIEVALS`.
        num_source: sentences of the source side, which are numbered from 0.
        num_target: the same for the target side.

    Raises: ValueError for an unknown retrieval.
    """

    def __init__(self, retrieval: str, num_source: int, num_target: int) -> None:
        if retrieval not in RETRIEVALS:
            raise ValueError(f"select: unknown retrieval {retrieval!r}; choose one of {', '.join(RETRIEVALS)}")
        self._retrieval = retrieval
        self._free = np.ones(num_source, dtype=bool), np.ones(num_target, dtype=bool)
        # Place of a sentence's best pair in the piece; never read but for sentences of the piece.
        self._first = np.zeros(num_source, dtype=np.int32), np.zeros(num_target, dtype=np.int32)

    def choose(
        self, source: IndexArray, target: IndexArray, in_forward: BoolArray, in_backward: BoolArray
    ) -> IndexArray:
        """Choose among the next pairs, all of which come after those of earlier calls.

        Args:
            source: numbers of the sources, best pair first.
            target: numbers of the targets.
            in_forward: whether the target is a neighbour of the source.
            in_backward: whether the source is a neighbour of the target.

        Shapes: all [P].
        Returns: positions of the chosen pairs, ascending.
        """
        chosen = [np.zeros(0, dtype=np.intp)]
        for start in range(0, len(source), _PIECE):
            piece = slice(start, start + _PIECE)
            if self._retrieval == "max":
                found = self._one_to_one(source[piece], target[piece])
            else:
                is_chosen = np.ones(len(source[piece]), dtype=bool)
                if self._retrieval != "backward":
                    is_chosen &= self._first_of_each(0, source[piece], in_forward[piece])
                if self._retrieval != "forward":
                    is_chosen &= self._first_of_each(1, target[piece], in_backward[piece])
                found = np.flatnonzero(is_chosen)
            chosen.append(found + start)
        return np.concatenate(chosen)

    def _first_of_each(self, side: int, numbers: IndexArray, allowed: BoolArray) -> BoolArray:
        """Mark the first allowed pair of each sentence that had none yet: the best one, as pairs are in order."""
        free, first = self._free[side], self._first[side]
        positions = np.flatnonzero(allowed & free[numbers])
        candidates = numbers[positions]
        _keep_first(first, candidates, positions)
        taken = positions[first[candidates] == positions]
        free[numbers[taken]] = False
        is_first = np.zeros(len(numbers), dtype=bool)
        is_first[taken] = True
        return is_first

    def _one_to_one(self, source: IndexArray, target: IndexArray) -> IndexArray:
        """Take each pair, best first, whose sentences are both free.

        A pair that is the best one left of both its sentences is taken whatever happens to the others. So all of these
        are taken at once, round by round; few rounds settle nearly everything, and the rest is gone through one by one.
        """
        (source_free, target_free), (source_first, target_first) = self._free, self._first
        left = np.flatnonzero(source_free[source] & target_free[target])
        chosen = []
        for _ in range(_ROUNDS):
            sources, targets = source[left], target[left]
            _keep_first(source_first, sources, left)
            _keep_first(target_first, targets, left)
            taken = left[(source_first[sources] == left) & (target_first[targets] == left)]
            chosen.append(taken)
            source_free[source[taken]] = target_free[target[taken]] = False
            left = left[source_free[sources] & target_free[targets]]
            if not left.size:
                break
        for start in range(0, left.size, _REST):
            rest = left[start : start + _REST]
            chosen.append(self._pair_by_pair(rest, source[rest], target[rest]))
        return np.sort(np.concatenate(chosen))

    def _pair_by_pair(self, positions: IndexArray, source: IndexArray, target: IndexArray) -> IndexArray:
        is_free = self._free[0][source] & self._free[1][target]
        positions, source, target = positions[is_free], source[is_free], target[is_free]
        sources, targets = set[int](), set[int]()
        taken = np.zeros(len(positions), dtype=bool)
        for place, (one, other) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
            if one not in sources and other not in targets:
                sources.add(one)
                targets.add(other)
                taken[place] = True
        self._free[0][source[taken]] = self._free[1][target[taken]] = False
        return positions[taken]


def _keep_first(first: NDArray[np.int32], numbers: IndexArray, positions: IndexArray) -> None:
    """Note the first of the ascending positions at which each number stands."""
    first[numbers[::-1]] = positions[::-1]  # the last one assigned is the first one in order
