"""Score the entries of a tile that may belong to a top k, and merge those that do.

Usually these are few, and each is scored from its two vectors. Where vectors are nearly but not quite equal, rounding
rules nothing out: every entry of the tile is one. Then a product in float64 scores a block of them at a time, and what
float32 rounds it to is what it would round any other sum to, but for scores next to a midpoint of two float32, which
are looked at singly. So the results are the same to the bit.

Shape suffixes: H hits (entries), Q x B block of entries, D dimensions, K neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.exact.operands import Side
from emsmine.mining.neighbours import Float32Array, Neighbours, descending_bits, exact_cosine, top_k
from emsmine.mining.rounding import ROUNDING, float32_error, float64_error, slices

_RESCORED_VALUES = 2**16  # values per side while rescoring: within a processor's cache in float64
# Hits that are worth a product, and their least share of the block of all their queries and bases.
_DENSE_HITS = 2**14
_DENSE_SHARE = 1 / 2
_MISSING = np.uint64(2**64 - 1)

Positions = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Searched:
    """One side and its nearest so far, which are updated in place."""

    side: Side
    best: Neighbours

    @property
    def num_rows(self) -> int:
        """Rows that are searched."""
        return self.best.num_rows


def refine(
    query: Searched,
    base: Searched,
    span: slice,
    query_H: Positions,
    base_H: Positions,
    floor_H: Float32Array,
    is_rounded: bool,
) -> None:
    """Score the hits exactly and merge those that are among the k best so far.

    Args:
        span: where the query rows of this tile lie.
        floor_H: a lower bound of the k-th best of each hit's query.
        is_rounded: the hits come from rounded vectors, and most are ruled out by a look in float32.
    """
    block = _Block.of(query_H, base_H)
    if block:
        query_H, base_H, cosine_H = block.best(query, base)
        if query_H.size:
            _merge(query.best, span, query_H, base_H, cosine_H)
        return
    kth_H = np.maximum(floor_H, query.best.cosine[query_H, -1])
    if is_rounded:
        limit_H = kth_H - np.float32(2 * float32_error(base.side.vectors.shape[1]) + ROUNDING)
        kept = _scores(query.side, base.side, query_H, base_H, np.vecdot) >= limit_H
        query_H, base_H, kth_H = query_H[kept], base_H[kept], kth_H[kept]
    cosine_H = _scores(query.side, base.side, query_H, base_H, exact_cosine)
    kept = cosine_H >= kth_H
    if kept.any():
        _merge(query.best, span, query_H[kept], base_H[kept], cosine_H[kept])


def _scores(
    query: Side, base: Side, query_H: Positions, base_H: Positions, score: Callable[[Any, Any], Float32Array]
) -> Float32Array:
    scores_H = np.empty(query_H.size, dtype=np.float32)
    for part in slices(0, query_H.size, max(1, _RESCORED_VALUES // base.vectors.shape[1])):
        scores_H[part] = score(query.take(query_H[part]), base.take(base_H[part]))
    return scores_H


def _merge(best: Neighbours, span: slice, query_H: Positions, base_H: Positions, cosine_H: Float32Array) -> None:
    """Merge entries into the neighbours of the query rows that they belong to, all within `span`."""
    is_touched = np.zeros(span.stop - span.start, dtype=bool)
    is_touched[query_H - span.start] = True
    touched = np.flatnonzero(is_touched) + span.start
    number = np.cumsum(is_touched) - 1
    old_rows, old_ranks = np.nonzero(best.ids[touched] >= 0)
    merged = top_k(
        np.concatenate([old_rows, number[query_H - span.start]]),
        np.concatenate([best.ids[touched[old_rows], old_ranks], base_H]),
        np.concatenate([best.cosine[touched[old_rows], old_ranks], cosine_H]),
        len(touched),
        best.k,
    )
    best.ids[touched], best.cosine[touched] = merged.ids, merged.cosine


@dataclass(frozen=True, eq=False)
class _Block:
    """Hits that fill most of a block of entries.

    Shapes: query [Q], base [B], distinct and ascending; row_H, column_H: the place of each hit in the block.
    """

    query: Positions
    base: Positions
    row_H: Positions
    column_H: Positions

    @classmethod
    def of(cls, query_H: Positions, base_H: Positions) -> "_Block | None":
        """Return the block of the hits; None if it is sparse or small."""
        if query_H.size < _DENSE_HITS:
            return None
        (query, row_H), (base, column_H) = _numbered(query_H), _numbered(base_H)
        if query_H.size < _DENSE_SHARE * query.size * base.size:
            return None
        return cls(query, base, row_H, column_H)

    def best(self, query: Searched, base: Searched) -> tuple[Positions, Positions, Float32Array]:
        """Score all hits, and return query, base and score of the k best of each query."""
        scores_QB = self._scores(query.side, base.side)
        keys_QB = np.full(scores_QB.shape, _MISSING)
        keys = descending_bits(scores_QB[self.row_H, self.column_H]).astype(np.uint64) << np.uint64(32)
        # Numbers of distinct vectors ascend with their ids; a key orders as the total order does.
        keys_QB[self.row_H, self.column_H] = keys | self.base[self.column_H].astype(np.uint64)
        k = min(query.best.k, len(self.base))
        nearest_QK = np.partition(keys_QB, k - 1, axis=1)[:, :k]
        row, rank = np.nonzero(nearest_QK != _MISSING)
        found = (nearest_QK[row, rank] & np.uint64(0xFFFFFFFF)).astype(np.intp)
        return self.query[row], found, scores_QB[row, np.searchsorted(self.base, found)]

    def _scores(self, query: Side, base: Side) -> Float32Array:
        """Return what `exact_cosine` gives for every entry of the block."""
        query_QD, base_BD = query.take(self.query), base.take(self.base)
        product_QB = query_QD.astype(np.float64) @ base_BD.astype(np.float64).T
        error = float64_error(query_QD.shape[1])
        scores_QB = product_QB.astype(np.float32)
        is_sure_QB = (product_QB - error).astype(np.float32) == (product_QB + error).astype(np.float32)
        row, column = np.nonzero(~is_sure_QB)
        for part in slices(0, row.size, max(1, _RESCORED_VALUES // query_QD.shape[1])):
            scores_QB[row[part], column[part]] = exact_cosine(query_QD[row[part]], base_BD[column[part]])
        return scores_QB


def _numbered(values_H: Positions) -> tuple[Positions, Positions]:
    """List the distinct values, ascending, and the place of each value in that list; the values lie close together."""
    lowest = values_H.min()
    occurs = np.zeros(values_H.max() - lowest + 1, dtype=bool)
    occurs[values_H - lowest] = True
    return np.flatnonzero(occurs) + lowest, (np.cumsum(occurs) - 1)[values_H - lowest]
