"""What every encoder offers, whatever is inside."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@runtime_checkable
class Encoder(Protocol):
    """Turn sentences into vectors.

    Attributes:
        name: for people, as in `ems:default`.
        dim: width of the vectors.
    """

    name: str
    dim: int

    def fingerprint(self) -> str:
        """Return a hash of all that decides a vector: weights, tokeniser, preprocessing, pooling, dtype."""
        ...

    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        """Encode sentences of one language.

        Args:
            sentences: texts; an empty one is allowed.
            lang: canonical code, as in `eng_Latn`; some encoders tokenise by language.

        Returns:
            float32 [N, dim] in input order, rows of unit length (a row of zeros where there is nothing to encode: an
            empty sentence). The values do not depend on how the sentences are cut into batches.
        """
        ...


def usable_rows(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell which rows are vectors of a sentence: finite, and not all zero.

    Shapes: float32 [N, D] → bool [N].
    """
    usable: npt.NDArray[np.bool_] = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    return usable


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Scale each row to unit length; rows of zeros stay zeros.

    Shapes: float32 [N, D] → float32 [N, D].
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: FloatArray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return result
