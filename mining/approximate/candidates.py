"""Entries that may be among the k nearest of a block of queries, by approximate scores, until they are scored exactly.

An approximate score is within `error` of the exact one. So once k rows of a query have been seen, its k-th best score
is at least the k-th best approximate one less the error, and an entry whose own score and error do not reach that is
ruled out. What is left is kept; where that is more than there is room for, it is scored exactly and the k best stay.

Shape suffixes: N queries of the block, K neighbours, D dimensions; Q x M tile of scores; H entries; U queries that have
some.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.exact.duplicates import distinct_rows
from emsmine.mining.neighbours import Float32Array, Int64Array, Neighbours, descending_bits, exact_cosine, top_k
from emsmine.mining.rounding import ROUNDING, slices

Fetch = Callable[[Int64Array], Float32Array]
"""Gives the unit vectors float32 [H, D] of base rows int64 [H]."""

KEPT_ENTRIES = 1 << 18
"""Entries that are kept before they are scored, beside a few for each neighbour."""
_KEPT_PER_NEIGHBOUR = 4
_FETCHED_VALUES = 1 << 21  # values of vectors held while entries are scored: 8 MiB in float32
_RESCORED_VALUES = 1 << 16  # values per side while rescoring: within a processor's cache in float64
_MERGED_ENTRIES = 1 << 17
_COUNTED_TOGETHER = 1 << 12  # entries that come before limits are raised
_DENSE_ENTRIES = 1 << 14  # so many of one tile are suspected to be copies of each other
_GROUPS_PER_NEIGHBOUR = 4


class EntryCollector:
    """What a block of queries has seen.

    Args:
        query_ND: unit rows.
        fetch: reads base vectors by row.
        base_ids: id of each base row.
        k: neighbours per query.
        error: bound of the error of approximate scores.
        capacity: entries kept at a time; by default what is enough but for rows that nearly tie.
    """

    def __init__(
        self,
        query_ND: Float32Array,
        fetch: Fetch,
        base_ids: Int64Array,
        k: int,
        error: float,
        capacity: int | None = None,
    ) -> None:
        self._query, self._fetch, self._ids, self._k = query_ND, fetch, base_ids, k
        self._error = np.float32(error)
        num_queries = len(query_ND)
        self._best_NK = np.full((num_queries, k), -np.inf, dtype=np.float32)
        self._limit_N = np.full(num_queries, -np.inf, dtype=np.float32)
        self._exact = Neighbours.empty(num_queries, k)
        size = KEPT_ENTRIES + _KEPT_PER_NEIGHBOUR * num_queries * k if capacity is None else capacity
        self._query_H = np.empty(size, dtype=np.int32)
        self._row_H = np.empty(size, dtype=np.int64)
        self._score_H = np.empty(size, dtype=np.float32)
        self._count = 0
        self._counted = 0  # the first entries, whose scores are in `_best_NK` already

    def add(self, query_Q: NDArray[np.intp], rows_M: Int64Array, scores_QM: Float32Array) -> None:
        """Take in the scores of some queries and some rows that they have not seen before.

        Shapes: query_Q intp [Q], distinct; rows_M int64 [M], distinct; scores_QM float32, C-contiguous.
        """
        limit_Q = self._limit_N[query_Q]
        new_Q = np.flatnonzero(np.isneginf(limit_Q))
        if new_Q.size and len(rows_M) >= self._k:
            whole = new_Q.size == len(query_Q)
            limit_Q[new_Q] = self._lowest(_kth_at_least(scores_QM if whole else scores_QM[new_Q], self._k))
            self._limit_N[query_Q] = limit_Q
        is_hit_QM = scores_QM >= limit_Q[:, None]
        flat_H = np.flatnonzero(is_hit_QM)
        if flat_H.size > _DENSE_ENTRIES:
            is_hit_QM &= self._may_be_nearest(rows_M)
            flat_H = np.flatnonzero(is_hit_QM)
        if not flat_H.size:
            return
        position_H, column_H = np.divmod(flat_H, len(rows_M))
        query_H, row_H, score_H = query_Q[position_H], rows_M[column_H], scores_QM.reshape(-1)[flat_H]
        for part in slices(0, flat_H.size, max(1, len(self._query_H) // 4)):
            self._keep(query_H[part], row_H[part], score_H[part])
        if self._count - self._counted >= _COUNTED_TOGETHER:
            self._raise_limits()

    def _lowest(self, kth: Float32Array) -> Float32Array:
        """Return the lowest approximate score of an entry that may be among the k best, by the k-th best one."""
        lowest: Float32Array = kth - (2 * self._error + ROUNDING)
        return lowest

    def _may_be_nearest(self, rows_M: Int64Array) -> NDArray[np.bool_]:
        """Tell which rows have fewer than k copies of a lower id among these rows; others are nobody's neighbours."""
        distinct = distinct_rows(self._fetch(rows_M), self._ids[rows_M])
        rank = np.arange(len(rows_M)) - np.repeat(distinct.first[:-1], np.diff(distinct.first))
        return np.isin(self._ids[rows_M], distinct.members[rank < self._k])

    def _raise_limits(self) -> None:
        """Merge the scores that came since the last time into the k best approximate ones of their queries."""
        here = slice(self._counted, self._count)
        self._counted = self._count
        keys_H = self._query_H[here].astype(np.uint64) << np.uint64(32) | descending_bits(self._score_H[here])
        order_H = np.argsort(keys_H)
        query_H, score_H = self._query_H[here][order_H], self._score_H[here][order_H]
        is_first_H = np.ones(query_H.size, dtype=bool)
        is_first_H[1:] = query_H[1:] != query_H[:-1]
        number_H, first_U = np.cumsum(is_first_H) - 1, np.flatnonzero(is_first_H)
        rank_H, query_U = np.arange(query_H.size) - first_U[number_H], query_H[first_U]
        best = np.full((len(query_U), 2 * self._k), -np.inf, dtype=np.float32)
        best[:, : self._k] = self._best_NK[query_U]
        is_best_H = rank_H < self._k
        best[number_H[is_best_H], self._k + rank_H[is_best_H]] = score_H[is_best_H]
        best.partition(self._k, axis=1)
        self._best_NK[query_U] = best[:, self._k :]
        self._limit_N[query_U] = np.maximum(self._limit_N[query_U], self._lowest(best[:, self._k]))

    def _keep(self, query_H: NDArray[np.intp], row_H: Int64Array, score_H: Float32Array) -> None:
        if self._count + len(query_H) > len(self._query_H):
            self._drop()
            if self._count > len(self._query_H) // 2:
                self._settle()
        end = self._count + len(query_H)
        part = slice(self._count, end)
        self._query_H[part], self._row_H[part], self._score_H[part] = query_H, row_H, score_H
        self._count = end

    def _drop(self) -> None:
        """Forget the entries that have been ruled out since they came."""
        self._raise_limits()
        here = slice(self._count)
        kept = np.flatnonzero(self._score_H[here] >= self._limit_N[self._query_H[here]])
        for values in (self._query_H, self._row_H, self._score_H):
            values[: kept.size] = values[kept]
        self._count = self._counted = kept.size

    def _settle(self) -> None:
        """Score all entries exactly, each base row read once, and merge them into the k best of their queries."""
        here = slice(self._count)
        query_H, row_H, score_H = self._query_H[here], self._row_H[here], self._score_H[here]
        order_H = np.argsort(row_H)
        for part in slices(0, self._count, max(1, _FETCHED_VALUES // self._query.shape[1])):
            entries = order_H[part]
            score_H[entries] = self._exact_scores(query_H[entries], row_H[entries])
        order_H = np.argsort(query_H, kind="stable")
        for part in slices(0, self._count, _MERGED_ENTRIES):
            self._merge(query_H[order_H[part]], row_H[order_H[part]], score_H[order_H[part]])
        self._count = self._counted = 0
        lowest_N = self._exact.cosine[:, -1] - (self._error + ROUNDING)
        np.maximum(self._limit_N, lowest_N, out=self._limit_N)

    def _exact_scores(self, query_H: NDArray[np.int32], row_H: Int64Array) -> Float32Array:
        """Score entries, ordered by row, exactly."""
        is_first_H = np.ones(row_H.size, dtype=bool)
        is_first_H[1:] = row_H[1:] != row_H[:-1]
        vectors, place_H = self._fetch(row_H[is_first_H]), np.cumsum(is_first_H) - 1
        cosine_H = np.empty(row_H.size, dtype=np.float32)
        for part in slices(0, row_H.size, max(1, _RESCORED_VALUES // self._query.shape[1])):
            cosine_H[part] = exact_cosine(self._query.take(query_H[part], axis=0), vectors.take(place_H[part], axis=0))
        return cosine_H

    def _merge(self, query_H: NDArray[np.int32], row_H: Int64Array, cosine_H: Float32Array) -> None:
        """Merge exactly scored entries, ordered by query."""
        span = slice(int(query_H[0]), int(query_H[-1]) + 1)
        ids, cosine = self._exact.ids[span], self._exact.cosine[span]
        rows, ranks = np.nonzero(ids >= 0)
        merged = top_k(
            np.concatenate([rows, query_H.astype(np.intp) - span.start]),
            np.concatenate([ids[rows, ranks], self._ids[row_H]]),
            np.concatenate([cosine[rows, ranks], cosine_H]),
            len(ids),
            self._k,
        )
        ids[:], cosine[:] = merged.ids, merged.cosine

    def nearest(self) -> Neighbours:
        """Return the k nearest of each query among all rows that it has seen, by id."""
        self._drop()
        if self._count:
            self._settle()
        return self._exact


def _kth_at_least(scores_QM: Float32Array, k: int) -> Float32Array:
    """Bound the k-th largest of each row from below: at least k groups of scores reach what k group maxima reach."""
    num_queries, num_rows = scores_QM.shape
    group = max(1, num_rows // max(_GROUPS_PER_NEIGHBOUR * k, 16))
    num_groups = num_rows // group
    maxima = scores_QM[:, : group * num_groups].reshape(num_queries, group, num_groups).max(axis=1)
    kth: Float32Array = np.partition(maxima, num_groups - k, axis=1)[:, num_groups - k]
    return kth
