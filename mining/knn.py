"""Find exact k nearest neighbours in both directions, with one matrix product per tile.

The product of a tile only proposes: every score that leaves this module is recomputed from its two vectors in float64
and rounded to float32. Matrix products round differently with the shape of the tile, the number of threads and the
processor; without the second look the order of near-ties, and so the mined pairs, would depend on how the work was cut.

Shape suffixes: N source rows, M target rows, D dimensions, K neighbours, R x C one tile of N x M, B rows or columns of
a block inside a tile, H hits (entries of a tile that may belong to a top k).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NORM_TOLERANCE = 1e-3
# 32 was the fastest of 8..128 at tiles of 2048 x 8192: smaller blocks leave more maxima to compare, larger ones more
# entries to look at behind each promising maximum.
_BLOCK = 32
_RESCORED_VALUES = 2**18  # float64 values per side while rescoring: 2 MiB, within a processor's cache
_LOWEST_LIMIT = np.float32(-2.0)  # under any cosine, over the -inf that pads a ragged tile

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


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


def search_both(
    source_ND: Float32Array,
    target_MD: Float32Array,
    k: int,
    *,
    source_ids: Int64Array | None = None,
    target_ids: Int64Array | None = None,
    source_tile_rows: int = 2048,
    target_tile_rows: int = 8192,
    validate: bool = True,
) -> tuple[Neighbours, Neighbours]:
    """Find the k nearest targets of every source and the k nearest sources of every target.

    The result is exact and depends on the vectors and ids only, not on the tile sizes, the order of the rows, or the
    number of threads.

    Args:
        source_ND: unit rows.
        target_MD: unit rows of the same dimension.
        k: neighbours per row; where the other side has fewer rows, the rest are missing (-1).
        source_ids: distinct ids >= 0, in any order; row numbers when None.
        target_ids: the same for the target side.
        source_tile_rows: source rows per matrix product.
        target_tile_rows: target rows per matrix product; 4 bytes x source_tile_rows x target_tile_rows are held.
        validate: check that every row is finite and of length 1 within 1e-3. Pass False only for vectors that were
            checked when they were stored: exactness is proved from the unit length.

    Shapes: source_ND float32 [N, D]; target_MD float32 [M, D]; both C-contiguous.
    Returns: (forward, backward): forward has N rows of target ids, backward M rows of source ids, both K wide.
    Raises: ValueError on a wrong type, shape or id, and on the first row that is not finite or not of unit length.
    """
    if k < 1 or source_tile_rows < 1 or target_tile_rows < 1:
        raise ValueError(f"search: k={k}, tiles {source_tile_rows} x {target_tile_rows} rows; each must be at least 1")
    check_vectors(source_ND, "source", rows=validate)
    check_vectors(target_MD, "target", rows=validate)
    if source_ND.shape[1] != target_MD.shape[1]:
        raise ValueError(
            f"search: source has {source_ND.shape[1]} dimensions and target {target_MD.shape[1]}; "
            "encode both sides with the same encoder"
        )
    source = _Side(source_ND, check_ids(source_ids, len(source_ND), "source"), Neighbours.empty(len(source_ND), k))
    target = _Side(target_MD, check_ids(target_ids, len(target_MD), "target"), Neighbours.empty(len(target_MD), k))
    source_tile_rows = min(source_tile_rows, len(source_ND))
    target_tile_rows = min(target_tile_rows, len(target_MD))
    buffer = np.empty(_padded(source_tile_rows) * _padded(target_tile_rows), dtype=np.float32)
    for rows in _slices(len(source_ND), source_tile_rows):
        for columns in _slices(len(target_MD), target_tile_rows):
            _search_tile(source, target, rows, columns, buffer)
    return source.best, target.best


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
    """Give back the ids of `num_rows` rows: row numbers when None.

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


@dataclass(frozen=True)
class _Side:
    """One side of the search; `best` is filled in place, tile by tile."""

    vectors: Float32Array
    ids: Int64Array
    best: Neighbours


def _slices(size: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, size)) for first in range(0, size, max(step, 1))]


def _search_tile(source: _Side, target: _Side, rows: slice, columns: slice, buffer: Float32Array) -> None:
    """Update the neighbours of both sides with the scores of one tile."""
    scores_RC = _product(source.vectors[rows], target.vectors[columns], buffer)
    k, slack = source.best.k, _slack(source.vectors.shape[1])
    row_H, column_H = _row_hits(scores_RC, source.best.cosine[rows, -1], k, slack)
    _absorb(source, target, rows, row_H + rows.start, column_H + columns.start)
    row_H, column_H = _column_hits(scores_RC, target.best.cosine[columns, -1], k, slack)
    _absorb(target, source, columns, column_H + columns.start, row_H + rows.start)


def _slack(dim: int) -> float:
    """Bound how far a matrix product can misplace a score against the recomputed threshold.

    Any order of summing `dim` products errs by at most dim * 2^-24 for unit rows (1.01: the tolerance of the norms).
    It counts twice because a threshold may itself come from a product; 2^-23 covers the roundings to float32.

    Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    return float(2 * 1.01 * (dim + 2) * 2.0**-24 + 2.0**-23)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _product(source_RD: Float32Array, target_CD: Float32Array, buffer: Float32Array) -> Float32Array:
    """Multiply one tile into the buffer, with both sides padded by -inf to whole blocks."""
    num_rows, num_columns = len(source_RD), len(target_CD)
    scores_RC = buffer[: _padded(num_rows) * _padded(num_columns)].reshape(_padded(num_rows), _padded(num_columns))
    scores_RC[num_rows:] = -np.inf
    scores_RC[:, num_columns:] = -np.inf
    np.matmul(source_RD, target_CD.T, out=scores_RC[:num_rows, :num_columns])
    return scores_RC


def _row_hits(
    scores_RC: Float32Array, kth_R: Float32Array, k: int, slack: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the entries that may be among the k best of their row, given each row's k-th best so far (-inf: none).

    Returns: (row, column) of each hit.
    """
    num_rows, num_columns = scores_RC.shape
    # A block is every (C/B)-th column, so that the maxima are taken over long contiguous runs, which numpy vectorises.
    blocks_RBW = scores_RC.reshape(num_rows, _BLOCK, num_columns // _BLOCK)
    maxima_RW = blocks_RBW.max(axis=1)
    limits = np.full(num_rows, _LOWEST_LIMIT)
    limits[: kth_R.size] = kth_R
    if not np.isfinite(kth_R).all():
        np.maximum(limits, _kth_largest(maxima_RW, scores_RC, k), out=limits)
    limits = np.maximum(limits - np.float32(slack), _LOWEST_LIMIT)
    row, block = np.divmod(np.flatnonzero(maxima_RW >= limits[:, None]), maxima_RW.shape[1])
    hit, member = np.nonzero(blocks_RBW[row, :, block] >= limits[row, None])
    return row[hit], member * maxima_RW.shape[1] + block[hit]


def _column_hits(
    scores_RC: Float32Array, kth_C: Float32Array, k: int, slack: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the entries that may be among the k best of their column: `_row_hits` without transposing the tile."""
    num_rows, num_columns = scores_RC.shape
    blocks_GBC = scores_RC.reshape(num_rows // _BLOCK, _BLOCK, num_columns)
    maxima_GC = blocks_GBC.max(axis=1)
    limits = np.full(num_columns, _LOWEST_LIMIT)
    limits[: kth_C.size] = kth_C
    if not np.isfinite(kth_C).all():
        np.maximum(limits, _kth_largest(maxima_GC.T, scores_RC.T, k), out=limits)
    limits = np.maximum(limits - np.float32(slack), _LOWEST_LIMIT)
    block, column = np.divmod(np.flatnonzero(maxima_GC >= limits), num_columns)
    hit, member = np.nonzero(blocks_GBC[block, :, column] >= limits[column, None])
    return block[hit] * _BLOCK + member, column[hit]


def _kth_largest(maxima_QW: Float32Array, scores_QC: Float32Array, k: int) -> Float32Array:
    """Bound each query's k-th best score from below: the k-th largest block maximum, or the score itself.

    Distinct blocks hold distinct entries, so k blocks whose maxima reach a value prove k entries that do.
    """
    values = maxima_QW if maxima_QW.shape[1] >= k else scores_QC
    if values.shape[1] < k:
        return np.full(len(values), -np.inf, dtype=np.float32)
    position = values.shape[1] - k
    return np.partition(np.ascontiguousarray(values), position, axis=1)[:, position]


def _absorb(query: _Side, base: _Side, queries: slice, query_H: NDArray[np.intp], base_H: NDArray[np.intp]) -> None:
    """Rescore the hits of one tile and merge them into the neighbours of the query rows `queries`."""
    cosine_H = np.empty(query_H.size, dtype=np.float32)
    for part in _slices(query_H.size, max(1, _RESCORED_VALUES // base.vectors.shape[1])):
        cosine_H[part] = exact_cosine(query.vectors[query_H[part]], base.vectors[base_H[part]])
    old = Neighbours(query.best.ids[queries], query.best.cosine[queries])
    old_rows, old_ranks = np.nonzero(old.ids >= 0)
    merged = top_k(
        np.concatenate([old_rows, query_H - queries.start]),
        np.concatenate([old.ids[old_rows, old_ranks], base.ids[base_H]]),
        np.concatenate([old.cosine[old_rows, old_ranks], cosine_H]),
        old.num_rows,
        old.k,
    )
    query.best.ids[queries], query.best.cosine[queries] = merged.ids, merged.cosine


def top_k(rows_H: NDArray[np.intp], ids_H: Int64Array, cosine_H: Float32Array, num_rows: int, k: int) -> Neighbours:
    """Keep the k best entries of each row; an id may occur once per row."""
    order = np.lexsort((ids_H, -cosine_H, rows_H))
    rows, ids, cosine = rows_H[order], ids_H[order], cosine_H[order]
    rank = np.arange(rows.size) - np.searchsorted(rows, rows)
    kept = rank < k
    best = Neighbours.empty(num_rows, k)
    best.ids[rows[kept], rank[kept]] = ids[kept]
    best.cosine[rows[kept], rank[kept]] = cosine[kept]
    return best
