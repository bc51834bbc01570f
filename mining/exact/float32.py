"""Products of float32 vectors, by numpy or by oneDNN through torch.

Shape suffixes: P rows of a factor, D dimensions, R x C tile of scores.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.exact.operands import BLOCK, Factor, Side, padded, ranks
from emsmine.mining.neighbours import Float32Array
from emsmine.mining.rounding import LENGTH, float32_error

# Any will do; the layout was as good for 64 to 2048 rows.
_EXPECTED_ROWS = 512


class Float32Products:
    """Products in float32."""

    def __init__(self, dim: int, tile: tuple[int, int], *, use_torch: bool) -> None:
        """Choose the library.

        Args:
            tile: the largest tile, in source and target rows.
            use_torch: multiply by oneDNN where torch offers it; otherwise by numpy.
        """
        self.uses_torch = use_torch
        self.bytes_per_row = 4 * dim
        self._is_packed = use_torch and _packed_products_are_float32(dim)
        self._error = np.float32(float32_error(dim))
        self._slack = float(self._error) * (2 * LENGTH + float(self._error))
        self._tile = tile

    @functools.cached_property
    def _buffer(self) -> Float32Array:
        return np.empty(padded(self._tile[0]) * padded(self._tile[1]), dtype=np.float32)

    def left(self, side: Side, span: slice) -> Factor:
        """Prepare source rows: a view where they are whole blocks."""
        num_rows = span.stop - span.start
        if num_rows == padded(num_rows):
            return self._factor(span, np.arange(span.start, span.stop), np.ones(num_rows, dtype=bool), side.span(span))
        rank, real = ranks(num_rows)
        return self._factor(span, rank + span.start, real, side.take(rank + span.start))

    def right(self, side: Side, span: slice) -> Factor:
        """Prepare target rows, laid out for oneDNN if that multiplies."""
        rank, real = ranks(span.stop - span.start)
        rows = rank + span.start
        return self._factor(span, rows, real, self._arrange(side.take(rows)))

    def again(self, source: Side, left: Factor, target: Side, right: Factor) -> tuple[Factor, Factor]:
        """Prepare the rows of two factors that were rounded, in the same order."""
        return (
            self._factor(left.span, left.rows, left.real, source.take(left.rows)),
            self._factor(right.span, right.rows, right.real, self._arrange(target.take(right.rows))),
        )

    def _arrange(self, matrix_CD: Float32Array) -> Any:
        return _reorder(matrix_CD) if self._is_packed else matrix_CD

    def _factor(self, span: slice, rows: NDArray[np.intp], real: NDArray[np.bool_], matrix: Any) -> Factor:
        ones, error = np.ones(len(rows), dtype=np.float32), np.full(len(rows), self._error)
        num_blocks = len(rows) // BLOCK
        slack = self._slack
        return Factor(span, rows, real, matrix, ones, error, ones[:num_blocks], error[:num_blocks], slack)

    def multiply(self, left: Factor, right: Factor) -> NDArray[Any]:
        """Return the product, float32 [R, C]."""
        if self._is_packed:
            return _multiply_packed(left.matrix, right.matrix)
        scores = self._buffer[: len(left.rows) * len(right.rows)].reshape(len(left.rows), len(right.rows))
        return np.matmul(left.matrix, right.matrix.T, out=scores)


@functools.cache
def _packed_products_are_float32(dim: int) -> bool:
    """Tell whether this torch has oneDNN's packed products and they are as exact as the bound of errors says.

    The operators are torch's own but not documented, and a global setting of torch can let them round to bfloat16.
    """
    import torch

    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    ):
        return False
    rows = np.random.default_rng(0).standard_normal((2 * 64, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = rows[:64].astype(np.float32), rows[64:].astype(np.float32)
    exact = left.astype(np.float64) @ right.astype(np.float64).T
    return bool(np.abs(_multiply_packed(left, _reorder(right)) - exact).max() <= 2 * float32_error(dim))


def _reorder(matrix_PD: Float32Array) -> Any:
    import torch

    return torch.ops.mkldnn._reorder_linear_weight(torch.from_numpy(matrix_PD), _EXPECTED_ROWS)


def _multiply_packed(left_RD: Float32Array, packed: Any) -> Float32Array:
    import torch

    with torch.no_grad():
        product = torch.ops.mkldnn._linear_pointwise(torch.from_numpy(left_RD), packed, None, "none", [], "")
    scores_RC: Float32Array = product.numpy()
    return scores_RC
