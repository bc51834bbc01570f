"""The token vectors that sentences are compared by: the table of a mean-of-vectors encoder, projected and rounded.

Vectors and weights are whole numbers, so that every sum of the comparison is exact: a score does not depend on which
other pairs are scored beside it, on padding or on the machine.

Shapes legend: V pieces, D width of the encoder's table, W width of the projection, T tokens, N sentences.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from emsmine.mining.scoring.ragged import Int64Array, TokenLists

FloatArray = NDArray[np.float32]

UNIT = 127
"""Length of a rounded token vector."""
WEIGHT_UNIT = 256
"""A rounded weight of 1."""
LARGEST_WEIGHT = 1 << 14
_COARSER = 16
_LARGEST_COARSE = 1023
"""Sentence vectors take weights in coarser steps: 1023 · 127 · 120 tokens is below 2^24, so float32 sums are exact."""
NUM_SPECIAL = 2
"""Pieces that stand for no text: padding and unknown. Their vectors are zero, so they match nothing."""
_ROWS = 1 << 14
SENTENCE_UNIT = 4000
"""Length of a rounded sentence vector: with it, no sum of products passes 2^24, so float32 holds each exactly."""


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """Rounded unit vectors and weights of all pieces.

    Shapes: vectors int8 [V, W]; weights int32 [V].
    """

    vectors: NDArray[np.int8]
    weights: NDArray[np.int32]

    @functools.cached_property
    def real_vectors(self) -> FloatArray:
        """The vectors as float32, which products want: made once, as that takes longer than the products."""
        return self.vectors.astype(np.float32)

    def sentence_vectors(self, sentences: TokenLists) -> FloatArray:
        """Return the weighted sums of token vectors, scaled to `SENTENCE_UNIT` and rounded; zeros where there are none.

        Returns: float32 [N, W], whole numbers.
        """
        starts = sentences.offsets
        result = np.zeros((len(starts) - 1, self.vectors.shape[1]), dtype=np.float32)
        weights = np.clip(np.rint(self.weights / _COARSER), 1, _LARGEST_COARSE).astype(np.float32)
        table = torch.from_numpy(self.real_vectors)
        for first in range(0, len(result), _ROWS):
            stop = min(first + _ROWS, len(result))
            ids = sentences.ids[starts[first] : starts[stop]].astype(np.int64)
            sums = torch.nn.functional.embedding_bag(
                torch.from_numpy(ids),
                table,
                torch.from_numpy(starts[first:stop] - starts[first]),
                mode="sum",
                per_sample_weights=torch.from_numpy(weights[ids]),
            ).double()
            unit = sums / sums.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1)
            result[first:stop] = torch.round(unit * SENTENCE_UNIT).numpy()
        return result


def token_vectors(table_VD: FloatArray, projection_DW: FloatArray, log_weights_V: FloatArray) -> TokenVectors:
    """Project a table, scale its rows to unit length and round.

    Args:
        table_VD: token vectors of the encoder.
        projection_DW: learned.
        log_weights_V: logarithm of the weight of each piece; 0 is a weight of 1.
    """
    vectors = np.zeros((len(table_VD), projection_DW.shape[1]), dtype=np.int8)
    for first in range(0, len(table_VD), _ROWS):
        projected = table_VD[first : first + _ROWS] @ projection_DW
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        vectors[first : first + _ROWS] = np.rint(projected * (UNIT / np.maximum(norms, 1e-12)))
    vectors[:NUM_SPECIAL] = 0
    weights = np.exp(np.clip(log_weights_V.astype(np.float64), -8, 8)) * WEIGHT_UNIT
    return TokenVectors(vectors, np.clip(np.rint(weights), 1, LARGEST_WEIGHT).astype(np.int32))


def cosines(source: FloatArray, target: FloatArray, source_rows: Int64Array, target_rows: Int64Array) -> FloatArray:
    """Return the cosines of pairs of `TokenVectors.sentence_vectors`.

    Shapes: source [N, W]; target [M, W]; rows [P] → float32 [P].
    """
    result = np.empty(len(source_rows), dtype=np.float32)
    for first in range(0, len(source_rows), _ROWS):
        part = slice(first, first + _ROWS)
        np.einsum("pw,pw->p", source[source_rows[part]], target[target_rows[part]], out=result[part])
    return result / np.float32(SENTENCE_UNIT**2)
