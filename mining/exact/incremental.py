"""Add rows to an exact search without searching the old rows among each other again.

Neighbours alone are not enough to do so: of sentences that tie at rank k the list names those with the lowest ids, and
ids change from one run to the next. A list of `TiedNeighbours` therefore also says whether anything that it does not
name is as near as its last entry. With this every decision below is exact: the lists are those of one search over
everything.

Write T for the base of a query (all rows of the other side), c(x) for the cosine of x and the query, and `before` for
the total order: cosine descending, then id ascending.

Shape suffixes: N query rows, M rows of the other side, K neighbours, J neighbours of an earlier run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.exact.gpu import Gpu
from emsmine.mining.exact.int8 import SMALLEST_DIM, int8_products_are_exact
from emsmine.mining.exact.search import Precision, search_both
from emsmine.mining.neighbours import (
    LARGE_SEARCH,
    BoolArray,
    Float32Array,
    Int64Array,
    Neighbours,
    merge,
    rows_among,
    top_k,
)

# Multiplications N M D from which a search of everything would take products of int8, and has torch loaded for it; and
# those from which a part of it does better with int8 (measured at D = 384: between 2^33 and 2^34).
_LARGE_PART = 2**34


@dataclass(frozen=True, eq=False)
class TiedNeighbours:
    """The k nearest of each query row within some base, and whether the base holds more that are as near.

    Shapes: neighbours [N, K]; tied bool [N]: a base row that the list does not name has exactly the cosine of the last
    one that it names. False where the list names the whole base.
    """

    neighbours: Neighbours
    tied: BoolArray

    def __post_init__(self) -> None:
        if self.tied.shape != (self.neighbours.num_rows,) or self.tied.dtype != np.bool_:
            raise ValueError(
                f"ranked: tied must be bool [{self.neighbours.num_rows}], got {self.tied.dtype} {self.tied.shape}"
            )

    @classmethod
    def empty(cls, num_rows: int, k: int) -> "TiedNeighbours":
        """Build the result of a search in an empty base."""
        return cls(Neighbours.empty(num_rows, k), np.zeros(num_rows, dtype=bool))

    @classmethod
    def unsure(cls, neighbours: Neighbours) -> "TiedNeighbours":
        """Take neighbours of which it is not known whether others are as near as the last one."""
        return cls(neighbours, neighbours.ids[:, -1] >= 0)

    @classmethod
    def concatenate(cls, parts: "Sequence[TiedNeighbours]") -> "TiedNeighbours":
        """Put the rows of several results, at least one, below each other."""
        ids, cosine = (np.concatenate([getattr(part.neighbours, name) for part in parts]) for name in ("ids", "cosine"))
        return cls(Neighbours(ids, cosine), np.concatenate([part.tied for part in parts]))

    def take(self, rows: NDArray[np.intp]) -> "TiedNeighbours":
        """Copy some rows."""
        return TiedNeighbours(Neighbours(self.neighbours.ids[rows], self.neighbours.cosine[rows]), self.tied[rows])

    def spread(self, rows: NDArray[np.intp], num_rows: int) -> "TiedNeighbours":
        """Put row i at `rows[i]` of a result of `num_rows` rows, the others of which name nothing."""
        whole = TiedNeighbours.empty(num_rows, self.neighbours.k)
        whole.neighbours.ids[rows], whole.neighbours.cosine[rows] = self.neighbours.ids, self.neighbours.cosine
        whole.tied[rows] = self.tied
        return whole


def shorten(found: Neighbours) -> TiedNeighbours:
    """Turn the k + 1 nearest into the k nearest and what they tie with."""
    ids, cosine = found.ids, found.cosine
    tied = (ids[:, -1] >= 0) & (cosine[:, -1] == cosine[:, -2])
    return TiedNeighbours(Neighbours(ids[:, :-1].copy(), cosine[:, :-1].copy()), tied)


def merge_tied(parts: Sequence[TiedNeighbours]) -> TiedNeighbours:
    """Merge the lists that the same queries have in several parts of the base; the parts may overlap.

    Associative and commutative. Let f be the cosine at rank k of the merged list F, and x a base row outside F with
    c(x) = f. If no part names x, then the list of its part is full, ends at a cosine of at least f, and cannot end at
    more: k rows would be nearer than f. So it ends at f and is tied. Conversely a full part that is tied and ends at f
    hides a row of cosine f that k rows are before, thus one outside F.

    Args:
        parts: at least one; the same number of rows and the same k.

    Raises: ValueError when there is no part, or when rows or k differ.
    """
    widened = merge([_widen(part.neighbours) for part in parts]) if parts else merge([])
    merged = shorten(widened)
    last = merged.neighbours.cosine[:, -1]
    for part in parts:
        merged.tied[part.tied & (part.neighbours.cosine[:, -1] == last)] = True
    return merged


def _widen(found: Neighbours) -> Neighbours:
    missing = Neighbours.empty(found.num_rows, 1)
    return Neighbours(np.hstack([found.ids, missing.ids]), np.hstack([found.cosine, missing.cosine]))


def search_both_tied(
    source_ND: Float32Array,
    target_MD: Float32Array,
    k: int,
    source_ids: Int64Array,
    target_ids: Int64Array,
    precision: Precision = "auto",
    gpu: Gpu | None = None,
) -> tuple[TiedNeighbours, TiedNeighbours]:
    """Search as `emsmine.mining.exact.search.search_both` does, vectors checked before; see there for the arguments."""
    found = search_both(
        source_ND,
        target_MD,
        k + 1,
        source_ids=source_ids,
        target_ids=target_ids,
        precision=precision,
        gpu=gpu,
        validate=False,
    )
    return shorten(found[0]), shorten(found[1])


def search_both_new(
    source_ND: Float32Array,
    target_MD: Float32Array,
    k: int,
    source_ids: Int64Array,
    target_ids: Int64Array,
    source_held: BoolArray,
    target_held: BoolArray,
    gpu: Gpu | None = None,
) -> tuple[TiedNeighbours, TiedNeighbours]:
    """Search all but held sources among held targets: what lists that are still right (`carry_over`) lack.

    A row that is not held gets its neighbours on the whole other side, a held one those among the rows that are not.

    Args:
        source_held: sources whose lists are carried over.
        target_held: the same for targets.
        gpu: see `emsmine.mining.exact.search.search_both`.

    Shapes: source_ND float32 [N, D], target_MD float32 [M, D], unit rows, C-contiguous; ids int64; held bool.
    Returns: (forward, backward) of N and M rows.
    """
    old_rows, new_rows = np.flatnonzero(source_held), np.flatnonzero(~source_held)
    new_columns = np.flatnonzero(~target_held)
    (num_rows, dim), num_columns = source_ND.shape, len(target_MD)
    is_large = num_rows * num_columns * dim >= LARGE_SEARCH and dim >= SMALLEST_DIM and int8_products_are_exact()
    from_new, from_old = (
        search_both_tied(
            source_ND[rows],
            target_MD[columns],
            k,
            source_ids[rows],
            target_ids[columns],
            "int8" if is_large and len(rows) * num_targets * dim >= _LARGE_PART else "auto",
            gpu,
        )
        for rows, columns, num_targets in (
            (new_rows, slice(None), num_columns),
            (old_rows, new_columns, len(new_columns)),
        )
    )
    forward = merge_tied([from_new[0].spread(new_rows, num_rows), from_old[0].spread(old_rows, num_rows)])
    return forward, merge_tied([from_new[1], from_old[1].spread(new_columns, num_columns)])


@dataclass(frozen=True, eq=False)
class Renumbering:
    """The rows of an earlier base that are still there with the very same vector, under their old and new ids.

    Args:
        old_ids: ascending, distinct.
        new_ids: of the same rows, distinct.
        num_old: rows of the earlier base, those included that are gone.

    Shapes: old_ids, new_ids int64 [M].
    """

    old_ids: Int64Array
    new_ids: Int64Array
    num_old: int

    @property
    def keeps_order(self) -> bool:
        """Whether all rows are still there, in the same order of ids: then ties are decided as they were."""
        return len(self.old_ids) == self.num_old and bool((np.diff(self.new_ids) > 0).all())

    def __call__(self, ids: Int64Array) -> Int64Array:
        """Return the new ids; -1 for rows that are gone, and for -1."""
        if not len(self.old_ids):
            return np.full_like(ids, -1)
        rows, known = rows_among(ids, self.old_ids)
        return np.where(known, self.new_ids[rows], -1)


def carry_over(earlier: TiedNeighbours, renumbering: Renumbering, k: int) -> tuple[TiedNeighbours, BoolArray]:
    """Turn lists of an earlier search into those of a search among the earlier rows that are still there, if possible.

    Let L be the earlier list of a query, with J >= k entries of which r are still there, and e its last cosine. The
    base T is now the rows that are still there. Which k of T are nearest is certain, whatever became of the ids, if

    - L had fewer than J entries: it named the whole base, so what is left of it is T; or
    - the k-th of the r has a cosine above e: every row with a cosine above e is named in L; or
    - it has cosine e, and L is not tied: every row with a cosine of e or more is named in L; or
    - it has cosine e, L is tied, but the base lost no row and kept its order: rows that L does not name still come
      after those that it names. (At least one of them has cosine e and is still there, so the new list is tied.)

    In all cases but the last what ties with the k-th is named in L. Every other list has to be searched again.

    Args:
        earlier: lists of J neighbours, by old ids.
        renumbering: of the base.
        k: neighbours wanted, at most J.

    Returns: the lists by new ids, and which of them hold; the others mean nothing.
    Raises: ValueError if k is larger than J.
    """
    old = earlier.neighbours
    if not 1 <= k <= old.k:
        raise ValueError(f"carry over: {k} neighbours wanted, the earlier lists have {old.k}")
    ids = renumbering(old.ids)
    rows_H, ranks_H = np.nonzero(ids >= 0)
    left = top_k(rows_H, ids[rows_H, ranks_H], old.cosine[rows_H, ranks_H], old.num_rows, k + 1)
    ranked = shorten(left)
    is_full, edge = old.ids[:, -1] >= 0, old.cosine[:, -1]
    last = ranked.neighbours.cosine[:, -1]
    at_edge = is_full & (last == edge)
    holds = ~is_full | (last > edge) | (at_edge & (~earlier.tied | renumbering.keeps_order))
    ranked.tied[at_edge & earlier.tied] = True
    return ranked, holds
