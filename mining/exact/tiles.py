"""Walk through all tiles of the score matrix and keep the nearest of both sides.

A tile's product proposes. Its block maxima tell which blocks may hold an entry among the k best of its row or column;
the entries of those blocks that may are scored in float64 and merged.

Memory beside the vectors and the result, in bytes, for tiles of R x C and vectors of D dimensions, whatever N and M:
4 RC for the product (8 RC if it is taken of rounded vectors, for those that are taken again), RC for maxima and limits
(30 RC if k is larger than C / 32 or R / 32), 24 D max(R, C) while rows are prepared, 2^27 for source rows that are kept
rounded, and less than 2^26 for entries that are looked at. Per row of a side come about 100 bytes for hashes, groups
and ids.

Shape suffixes: R x C tile, B rows or columns of a block, W blocks of columns, G blocks of rows, Q query positions, F
flagged blocks, H hits (entries that may belong to a top k).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.exact.float32 import Float32Products
from emsmine.mining.exact.operands import BLOCK, Factor, Products, block_maxima
from emsmine.mining.exact.refine import Positions, Searched, refine
from emsmine.mining.neighbours import Float32Array, Neighbours
from emsmine.mining.rounding import LENGTH, ROUNDING, slices
from emsmine.progress import report

KEPT_BYTES = 2**27
"""Source rows that are kept ready to be multiplied."""
_FLAGGED_BLOCKS = 2**13  # blocks whose entries are looked at together
_LOWEST_LIMIT = np.float32(-2.0)  # under any cosine
# If more of the blocks are flagged, the product in float32 is cheaper than to look into them.
_DENSE = 1 / 3


def search_tiles(
    source: Searched, target: Searched, products: Products, fallback: Float32Products | None, tile: tuple[int, int]
) -> None:
    """Fill in the nearest of both sides.

    Args:
        products: multiply the tiles.
        fallback: multiply tiles again whose rounded products rule too little out.
        tile: source and target rows of a tile.
    """
    rows_kept = max(tile[0], KEPT_BYTES // products.bytes_per_row // tile[0] * tile[0])
    for kept in slices(0, source.num_rows, rows_kept):
        lefts = [products.left(source.side, span) for span in slices(kept.start, kept.stop, tile[0])]
        for span in slices(0, target.num_rows, tile[1]):
            right = products.right(target.side, span)
            share = (span.stop - span.start) / (source.num_rows * target.num_rows)
            for left in lefts:
                _search_tile(source, target, products, fallback, left, right)
                report((left.span.stop - left.span.start) * share)


def _search_tile(
    source: Searched,
    target: Searched,
    products: Products,
    fallback: Float32Products | None,
    left: Factor,
    right: Factor,
) -> None:
    """Update the neighbours of both sides with the scores of one tile."""
    tile = _Tile(products.multiply(left, right), left, right, uses_torch=products.uses_torch)
    flagged = tile.flag_rows(source.best), tile.flag_columns(target.best)
    is_rounded = fallback is not None
    if fallback and sum(found.blocks.size for found in flagged) > _DENSE * 2 * tile.scores_RC.size / BLOCK:
        left, right = fallback.again(source.side, left, target.side, right)
        tile = _Tile(fallback.multiply(left, right), left, right, uses_torch=products.uses_torch)
        flagged = tile.flag_rows(source.best), tile.flag_columns(target.best)
        is_rounded = False
    for row_H, column_H in tile.row_hits(flagged[0]):
        refine(source, target, left.span, left.rows[row_H], right.rows[column_H], flagged[0].floor_Q[row_H], is_rounded)
    for row_H, column_H in tile.column_hits(flagged[1]):
        refine(
            target, source, right.span, right.rows[column_H], left.rows[row_H], flagged[1].floor_Q[column_H], is_rounded
        )


@dataclass(frozen=True, eq=False)
class _Flagged:
    """Blocks that may hold hits: their numbers in the flat array of maxima, and the limits of all entries.

    floor_Q is a lower bound of the exact score of each query's k-th nearest.
    """

    blocks: Positions
    limits: Float32Array
    floor_Q: Float32Array


class _Tile:
    """The scores of a tile and their block maxima."""

    def __init__(self, scores_RC: NDArray[Any], left: Factor, right: Factor, *, uses_torch: bool) -> None:
        self.scores_RC, self.left, self.right = scores_RC, left, right
        num_rows, num_columns = scores_RC.shape
        # A block is every (C/B)-th column, or every (R/B)-th row: see `Products`.
        self._by_row_RBW = scores_RC.reshape(num_rows, BLOCK, num_columns // BLOCK)
        self._by_column_BGC = scores_RC.reshape(BLOCK, num_rows // BLOCK, num_columns)
        self._row_maxima_RW, self._column_maxima_GC = block_maxima(scores_RC, use_torch=uses_torch)

    def flag_rows(self, best: Neighbours) -> _Flagged:
        """Find the blocks of columns that may hold one of the k best of a row."""
        floor_R = _floor(best, self.left, self.right, self._row_maxima_RW, self.scores_RC)
        limits_RW = _limits(self.left, floor_R, self.right)
        return _Flagged(np.flatnonzero(self._row_maxima_RW >= limits_RW), limits_RW, floor_R)

    def flag_columns(self, best: Neighbours) -> _Flagged:
        """Find the blocks of rows that may hold one of the k best of a column."""
        floor_C = _floor(best, self.right, self.left, self._column_maxima_GC.T, self.scores_RC.T)
        limits_GC = _limits(self.right, floor_C, self.left, by_block=True)
        return _Flagged(np.flatnonzero(self._column_maxima_GC >= limits_GC), limits_GC, floor_C)

    def row_hits(self, flagged: _Flagged) -> Iterator[tuple[Positions, Positions]]:
        """Yield row and column of the entries that may be among the k best of their row, a bounded number at a time."""
        num_blocks = self._row_maxima_RW.shape[1]
        for part in slices(0, flagged.blocks.size, _FLAGGED_BLOCKS):
            row, block = np.divmod(flagged.blocks[part], num_blocks)
            hit, member = np.nonzero(self._by_row_RBW[row, :, block] >= flagged.limits[row, block][:, None])
            yield self._real(row[hit], member * num_blocks + block[hit])

    def column_hits(self, flagged: _Flagged) -> Iterator[tuple[Positions, Positions]]:
        """Yield row and column of the entries that may be among the k best of their column."""
        num_blocks, num_columns = self._column_maxima_GC.shape
        for part in slices(0, flagged.blocks.size, _FLAGGED_BLOCKS):
            block, column = np.divmod(flagged.blocks[part], num_columns)
            member, hit = np.nonzero(self._by_column_BGC[:, block, column] >= flagged.limits[block, column])
            yield self._real(member * num_blocks + block[hit], column[hit])

    def _real(self, row_H: Positions, column_H: Positions) -> tuple[Positions, Positions]:
        """Leave out repeated rows and columns."""
        real_H = self.left.real[row_H] & self.right.real[column_H]
        return row_H[real_H], column_H[real_H]


def _floor(
    best: Neighbours, query: Factor, base: Factor, maxima_QW: Float32Array, scores_QC: NDArray[Any]
) -> Float32Array:
    """Bound each query's k-th best exact score from below, by those so far and by this tile.

    Distinct blocks hold distinct entries, so k blocks whose maxima reach a value prove k entries that do. Where a tile
    has fewer than k blocks, its entries themselves are counted.
    """
    kth_Q = best.cosine[query.rows, -1]
    floor_Q: Float32Array = np.maximum(kth_Q, _LOWEST_LIMIT)
    if np.isfinite(kth_Q).all():
        return floor_Q
    values, scale, error = maxima_QW, base.block_scale, base.block_error
    if values.shape[1] < best.k:
        values, scale, error = scores_QC[:, base.real], base.scale[base.real], base.error[base.real]
    if values.shape[1] < best.k:
        return floor_Q
    scores = values * scale * query.scale[:, None]
    scores -= np.float32(LENGTH) * error + query.error[:, None] * (np.float32(LENGTH) + error)
    position = values.shape[1] - best.k
    kth_Q = np.partition(np.ascontiguousarray(scores), position, axis=1)[:, position]
    np.maximum(floor_Q, kth_Q - ROUNDING, out=floor_Q)
    return floor_Q


def _limits(query: Factor, floor_Q: Float32Array, base: Factor, *, by_block: bool = False) -> Float32Array:
    """Return the smallest entry of a query in a block that may reach the query's floor, [Q, W]; by block, [W, Q].

    It is (floor - LENGTH error_base - error_query (LENGTH + error_base)) / (scale_query scale_base), see `operands`:
    what the query asks times what the block offers.
    """
    if query.slack is not None and base.slack is not None:
        limit_Q = floor_Q - (ROUNDING + np.float32(query.slack))
        num_blocks = len(base.block_scale)
        if by_block:
            return np.broadcast_to(limit_Q, (num_blocks, len(limit_Q)))
        return np.broadcast_to(limit_Q[:, None], (len(limit_Q), num_blocks))
    length = np.float32(LENGTH)
    constant = (floor_Q - ROUNDING - length * query.error) / query.scale
    demand_Q2 = np.stack([constant, -(length + query.error) / query.scale], axis=1)
    supply_W2 = np.stack([1 / base.block_scale, base.block_error / base.block_scale], axis=1)
    limits: Float32Array = supply_W2 @ demand_Q2.T if by_block else demand_Q2 @ supply_W2.T
    return limits
