"""Products of vectors rounded to int8, with a proven bound of the error of each row.

A fixed orthogonal rotation first spreads each vector evenly over the dimensions: otherwise a few large ones would set
the scale and the others vanish in the rounding. The rows of a factor are sorted by their largest value, so that the 32
rows of a block, which share one scale, need about the same one.

Shape suffixes: P rows of a factor, D = A x B dimensions, R x C tile of scores, I x I an orthogonal matrix.
"""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.exact.operands import BLOCK, Factor, Side, padded, per_block, ranks
from emsmine.mining.neighbours import Float32Array
from emsmine.mining.rounding import LENGTH

SMALLEST_DIM = 32
"""Below, rounding saves nothing."""
_LARGEST = 127
_TINY = np.float32(1e-6)  # so that a block of zeros has a scale whose square can be divided by
_SEED = 20260101


class Int8Products:
    """Products of int8 by oneDNN through torch, summed exactly in int32."""

    uses_torch = True

    def __init__(self, dim: int, tile: tuple[int, int]) -> None:
        """Set the memory of a tile aside."""
        import torch

        self._rotation = Rotation(dim)
        self._buffer = torch.empty(padded(tile[0]) * padded(tile[1]), dtype=torch.int32)
        self.bytes_per_row = dim + 4 * 5

    def left(self, side: Side, span: slice) -> Factor:
        """Rotate and round source rows."""
        return self._round(side, span)

    def right(self, side: Side, span: slice) -> Factor:
        """Rotate and round target rows."""
        return self._round(side, span)

    def _round(self, side: Side, span: slice) -> Factor:
        import torch

        rotated = self._rotation(side.span(span))
        largest = np.maximum(rotated.max(axis=1), -rotated.min(axis=1))
        order = np.argsort(largest)
        rank, real = ranks(len(order))
        rows = order[rank]
        block_scale: Float32Array = np.maximum(per_block(largest[rows]), _TINY)
        block_scale /= np.float32(_LARGEST)
        scale: Float32Array = np.tile(block_scale, BLOCK)
        rotated = rotated[rows]
        # At most 127.00001 before rounding, so nothing is clipped.
        rounded = np.rint(rotated / scale[:, None])
        residual = rotated - rounded * scale[:, None]
        # The factor covers the sum in float32; the addend below that of the residuals, besides that of the rotation.
        length = np.sqrt(np.vecdot(residual, residual)) * np.float32(1 + rotated.shape[1] * 2.0**-24)
        error: Float32Array = length + np.float32(self._rotation.error + 4 * LENGTH * 2.0**-24)
        matrix = torch.from_numpy(rounded.astype(np.int8))
        return Factor(span, rows + span.start, real, matrix, scale, error, block_scale, per_block(error))

    def multiply(self, left: Factor, right: Factor) -> NDArray[Any]:
        """Return the product, int32 [R, C]."""
        import torch

        scores_RC = self._buffer[: len(left.rows) * len(right.rows)].view(len(left.rows), len(right.rows))
        torch._int_mm(left.matrix, right.matrix.t(), out=scores_RC)
        return scores_RC.numpy()


class Rotation:
    """An orthogonal matrix, the Kronecker product of two small ones behind random signs.

    `error` bounds the length of what float32 adds to a rotated vector: a product with an orthogonal I x I matrix errs
    by at most I 2^-24 times the product of the absolute values, whose length is at most the square root of I.
    """

    def __init__(self, dim: int) -> None:
        """Draw it; the same for every search."""
        rng = np.random.default_rng(_SEED)
        small = max(factor for factor in range(1, math.isqrt(dim) + 1) if dim % factor == 0)
        self._sides = [_orthogonal(size, rng) for size in (small, dim // small)]
        self._signs = np.where(rng.random(dim) < 0.5, np.float32(-1), np.float32(1))
        self.error = 1.05 * LENGTH * sum((len(side) + 2) * math.sqrt(len(side)) for side in self._sides) * 2.0**-24

    def __call__(self, vectors_PD: Float32Array) -> Float32Array:
        """Rotate, [P, D]."""
        left_II, right_II = self._sides
        signed = (vectors_PD * self._signs).reshape(-1, len(right_II)) @ right_II
        rotated: Float32Array = np.matmul(left_II, signed.reshape(-1, len(left_II), len(right_II)))
        return rotated.reshape(vectors_PD.shape)


def _orthogonal(size: int, rng: np.random.Generator) -> Float32Array:
    """A Hadamard matrix where there is one of this size, as all its entries are equally large; else a random one."""
    if size & (size - 1) == 0:
        matrix = np.ones((1, 1))
        while len(matrix) < size:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        return (matrix / math.sqrt(size)).astype(np.float32)
    return np.linalg.qr(rng.standard_normal((size, size)))[0].astype(np.float32)


@functools.cache
def int8_products_are_exact() -> bool:
    """Tell whether torch multiplies int8 here, and without saturation.

    Processors without VNNI instructions sum pairs of products in 16 bits, which overflow with large factors.
    """
    import torch

    rows = torch.full((BLOCK, 64), _LARGEST, dtype=torch.int8)
    rows[1::2] = -_LARGEST
    try:
        found = torch._int_mm(rows, rows.t())
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found, (rows.long() @ rows.long().t()).int())
