"""The k nearest neighbours of many rows: the result of a search, and its associative merge.

Shape suffixes: N query rows, K neighbours, D dimensions, H entries (query, base) of any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.rounding import NORM_TOLERANCE

LARGE_SEARCH = 2**36
"""Multiplications, N M D, from which a search pays for what it must load or prepare: torch, int8 rows, a GPU."""

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

NOT_GIVEN: Any = np.zeros(0, dtype=np.uint32)
"""Stands for a column that was not given."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest base rows of each query row, by id.

    Rows are sorted by cosine descending, then id ascending. A missing neighbour (fewer than k base rows) has id -1
    and cosine -inf, never id 0.

    Shapes: ids int64 [N, K]; cosine float32 [N, K].
    """

    ids: Int64Array
    cosine: Float32Array

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.cosine.shape:
            raise ValueError(
                f"neighbours: ids {self.ids.shape} and cosine {self.cosine.shape} must share one shape [N, K]"
            )
        if self.ids.dtype != np.int64 or self.cosine.dtype != np.float32:
            raise ValueError(
                f"neighbours: ids must be int64 and cosine float32, got {self.ids.dtype} and {self.cosine.dtype}"
            )

    @property
    def num_rows(self) -> int:
        """Number of query rows."""
        return len(self.ids)

    @property
    def k(self) -> int:
        """Width: neighbours asked for, of which some may be missing."""
        return int(self.ids.shape[1])

    @classmethod
    def empty(cls, num_rows: int, k: int) -> "Neighbours":
        """Build the result in which every neighbour is missing: the neutral element of `merge`."""
        return cls(np.full((num_rows, k), -1, dtype=np.int64), np.full((num_rows, k), -np.inf, dtype=np.float32))


def merge(parts: Sequence[Neighbours]) -> Neighbours:
    """Merge the neighbours that the same query rows have in several parts of the base.

    Associative and commutative, so parts may be merged in any grouping. An id that several parts hold is kept once,
    with its highest cosine. Rows of a part need not be sorted.

    Args:
        parts: at least one; the same number of rows and the same k.

    Returns: the k best of all parts in the total order (cosine descending, id ascending).
    Raises: ValueError when there is no part, or when rows or k differ.
    """
    if not parts:
        raise ValueError("merge: no parts given; use Neighbours.empty(num_rows, k) for an empty base")
    shapes = {part.ids.shape for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"merge: parts have shapes {sorted(shapes)}; all need the same rows and the same k")
    num_rows, k = parts[0].ids.shape
    rows = np.concatenate([np.nonzero(part.ids >= 0)[0] for part in parts])
    ids = np.concatenate([part.ids[part.ids >= 0] for part in parts])
    cosine = np.concatenate([part.cosine[part.ids >= 0] for part in parts])
    order = np.lexsort((-cosine, ids, rows))
    rows, ids, cosine = rows[order], ids[order], cosine[order]
    distinct = np.ones(rows.size, dtype=bool)
    distinct[1:] = (rows[1:] != rows[:-1]) | (ids[1:] != ids[:-1])
    return top_k(rows[distinct], ids[distinct], cosine[distinct], num_rows, k)


def top_k(rows_H: NDArray[np.intp], ids_H: Int64Array, cosine_H: Float32Array, num_rows: int, k: int) -> Neighbours:
    """Keep the k best entries of each row; an id may occur once per row."""
    order = _total_order(rows_H, ids_H, cosine_H)
    rows = rows_H[order]
    position = np.arange(rows.size)
    is_first = np.ones(rows.size, dtype=bool)
    is_first[1:] = rows[1:] != rows[:-1]
    rank = position - np.maximum.accumulate(np.where(is_first, position, 0))
    kept = rank < k
    rows, rank, order = rows[kept], rank[kept], order[kept]
    best = Neighbours.empty(num_rows, k)
    best.ids[rows, rank] = ids_H[order]
    best.cosine[rows, rank] = cosine_H[order]
    return best


def _total_order(rows_H: NDArray[np.intp], ids_H: Int64Array, cosine_H: Float32Array) -> NDArray[np.intp]:
    """Sort by row, then cosine descending, then id.

    Row and cosine fit into one number, and one sort of numbers is several times faster than three in turn, which are
    done only if two cosines of a row are equal.
    """
    keys = (rows_H.astype(np.uint64) << np.uint64(32)) | descending_bits(cosine_H)
    order = np.argsort(keys)
    ordered = keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        return np.lexsort((ids_H, keys))
    return order


def descending_bits(scores: Float32Array) -> NDArray[np.uint32]:
    """Turn scores into integers that ascend as the scores descend; equal for 0.0 and -0.0, largest for NaN.

    Shapes: any; uint32 of the same.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    # The bits of positive numbers ascend with the number, those of negative ones descend.
    descending = np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF))
    descending[np.isnan(scores)] = np.uint32(0xFFFFFFFF)
    return descending


def exact_cosine(left_HD: Float32Array, right_HD: Float32Array) -> Float32Array:
    """Compute the score of each pair of unit rows as a function of these two rows only.

    Shapes: left_HD, right_HD float32 [H, D]. Returns: float32 [H].
    """
    # A product of two float32 is exact in float64, and vecdot sums each row on its own, in an order set by D alone.
    # Another processor may sum in another order: that moves about one score in 10^8, by one unit in the last place.
    scores: Float32Array = np.vecdot(left_HD.astype(np.float64), right_HD.astype(np.float64)).astype(np.float32)
    return scores


def check_vectors(vectors_ND: Float32Array, side: str, *, rows: bool = True) -> None:
    """Refuse vectors that cannot be searched exactly.

    Args:
        side: what to call the vectors in the message, "source" or "target".
        rows: also check that every row is finite and of unit length.

    Raises: ValueError that names the fault and, for rows, the first bad row and the number of bad rows.
    """
    if vectors_ND.dtype != np.float32 or vectors_ND.ndim != 2 or vectors_ND.shape[-1] == 0:
        raise ValueError(f"search: {side} vectors must be float32 [N, D], got {vectors_ND.dtype} {vectors_ND.shape}")
    if not vectors_ND.flags.c_contiguous:
        raise ValueError(f"search: {side} vectors are not C-contiguous; pass numpy.ascontiguousarray(...)")
    if not rows:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
        bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))
    if bad.size:
        row = vectors_ND[bad[0]].astype(np.float64)
        fault = f"norm {np.linalg.norm(row):.6g}" if np.isfinite(row).all() else "non-finite values"
        raise ValueError(
            f"search: {bad.size} of {len(vectors_ND)} {side} rows are not finite unit vectors "
            f"(first: row {bad[0]}, {fault}); drop or normalise them before the search"
        )


def check_ids(ids: Int64Array | None, num_rows: int, side: str) -> Int64Array:
    """Return the ids of `num_rows` rows: row numbers when None.

    Raises: ValueError unless ids are int64, one per row, not negative (-1 means missing) and distinct.
    """
    if ids is None:
        return np.arange(num_rows, dtype=np.int64)
    if ids.dtype != np.int64 or ids.shape != (num_rows,):
        raise ValueError(f"search: {side} ids must be int64 [{num_rows}], got {ids.dtype} {list(ids.shape)}")
    ordered = np.sort(ids)
    if num_rows and ordered[0] < 0:
        raise ValueError(f"search: {side} ids hold {ordered[0]}; ids must be >= 0, as -1 means a missing neighbour")
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if repeated.size:
        raise ValueError(f"search: {side} id {repeated[0]} occurs more than once; ids must be distinct")
    return ids


def rows_among(ids: Int64Array, known_ids: Int64Array) -> tuple[Int64Array, BoolArray]:
    """Find the first row of each id.

    Args:
        ids: of any shape.
        known_ids: the id of each row, ascending.

    Returns:
        int64 and bool of the shape of `ids`: the row, and whether there is one; if there is none, the row is any.
    """
    if not len(known_ids):
        return np.zeros(ids.shape, dtype=np.int64), np.zeros(ids.shape, dtype=np.bool_)
    rows = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    return rows, known_ids[rows] == ids


LISTS_AT_ONCE = 8
"""Lists of neighbours of one shard that `search` merges at a time."""
