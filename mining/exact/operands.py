"""The factors of a tile's matrix product, and what the product proves about the scores.

A factor holds rows of one side in blocks of 32. Its matrix may be rounded; `error` bounds how far. For a row x of one
factor and a row y of the other, with entry p of the product, the exact score of the two rows satisfies

    |x·y - scale_x scale_y p| <= LENGTH error_y + error_x (LENGTH + error_y)

as x·y = (x̂ + e_x)·(ŷ + e_y) = x̂·ŷ + e_x·ŷ + x·e_y, where |x|, |y| <= LENGTH and |ŷ| <= |y| + |e_y|.

Shape suffixes: N rows of a side, P rows of a factor (whole blocks), W blocks of a factor, D dimensions, R x C tile of
scores.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import Float32Array, Int64Array

BLOCK = 32
"""Rows of one side that share a maximum."""


@dataclass(frozen=True, eq=False)
class Side:
    """The vectors of one side that are searched: `rows` of `vectors`, called 0, 1, … below."""

    vectors: Float32Array
    rows: Int64Array
    is_whole: bool

    def take(self, positions: NDArray[np.intp]) -> Float32Array:
        """Copy some vectors."""
        return self.vectors.take(positions if self.is_whole else self.rows[positions], axis=0)

    def span(self, span: slice) -> Float32Array:
        """Return consecutive vectors, without a copy where possible."""
        return self.vectors[span] if self.is_whole else self.vectors.take(self.rows[span], axis=0)


@dataclass(frozen=True, eq=False)
class Factor:
    """Some rows of a side, ready to be multiplied.

    Positions are filled up to whole blocks by repeating a row of the last block, so that each block still holds rows
    that no other block holds.

    Args:
        slack: bound of what the product of any two rows is off by, where it needs no scale; None where it does.

    Shapes: rows intp [P], which row of the side stands at each position; real bool [P], False for a repeated row;
    scale, error float32 [P]; block_scale (shared by a block), block_error (its largest) float32 [W].
    """

    span: slice
    rows: NDArray[np.intp]
    real: NDArray[np.bool_]
    matrix: Any
    scale: Float32Array
    error: Float32Array
    block_scale: Float32Array
    block_error: Float32Array
    slack: float | None = None


class Products(Protocol):
    """A way to multiply. The left factor is of the source side, the right one of the target side.

    A block of a factor is every W-th position, so that maxima run over long stretches of memory.
    """

    @property
    def bytes_per_row(self) -> int:
        """Memory of a left factor that must be kept while the target side is walked through."""

    def left(self, side: Side, span: slice) -> Factor:
        """Prepare source rows."""

    def right(self, side: Side, span: slice) -> Factor:
        """Prepare target rows."""

    def multiply(self, left: Factor, right: Factor) -> NDArray[Any]:
        """Return the product, [R, C], of float32 or int32; valid until the next call."""

    @property
    def uses_torch(self) -> bool:
        """Whether torch is loaded and may be used beside the product."""


def padded(size: int) -> int:
    """Round up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def ranks(num_rows: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Lay `num_rows` out in whole blocks: block w, every W-th position from w on, holds ranks 32 w to 32 w + 31.

    Returns: the rank at each position, and whether it stands there for the first time.
    """
    rank = np.arange(padded(num_rows)).reshape(-1, BLOCK).T.ravel()
    return np.minimum(rank, num_rows - 1), rank < num_rows


def per_block(values_P: Float32Array) -> Float32Array:
    """Return the largest value of each block, [W]."""
    largest: Float32Array = values_P.reshape(BLOCK, -1).max(axis=0)
    return largest


def block_maxima(scores_RC: NDArray[Any], *, use_torch: bool) -> tuple[Float32Array, Float32Array]:
    """Return the largest of each row's scores in each block of columns, and of each column's in each block of rows.

    Shapes: scores_RC of whole blocks. Returns: float32 [R, W] and [G, C].
    """
    num_rows, num_columns = scores_RC.shape
    # The 32 members of all blocks of rows are 32 stretches of memory, which numpy compares fastest.
    by_columns = np.maximum.reduce(scores_RC.reshape(BLOCK, -1), axis=0).reshape(-1, num_columns)
    by_rows = scores_RC.reshape(num_rows, BLOCK, -1)
    if not use_torch:
        return _as_float32(by_rows.max(axis=1)), _as_float32(by_columns)
    import torch

    # Along short stretches torch is several times as fast.
    return _as_float32(torch.amax(torch.from_numpy(by_rows), dim=1).numpy()), _as_float32(by_columns)


def _as_float32(values: NDArray[Any]) -> Float32Array:
    return values.astype(np.float32, copy=False)
