"""The largest values that each sentence has among its candidates, kept while the candidates come piece by piece."""

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.scoring.ragged import Int64Array

FloatArray = NDArray[np.float32]


class TopValues:
    """The k largest values of each of N sentences, in any order of coming; -inf where there are fewer.

    Args:
        num_sentences: N.
        k: how many are kept.
    """

    def __init__(self, num_sentences: int, k: int) -> None:
        self.values = np.full((num_sentences, k), -np.inf, dtype=np.float32)

    def add(self, sentences: Int64Array, values: FloatArray) -> None:
        """Take a value for each of the sentences, which may come several times.

        Shapes: int64 [P]; float32 [P], no NaN.
        """
        order = np.lexsort((-values, sentences))
        ids, ranked = sentences[order], values[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else order
        place = np.arange(len(ids)) - np.repeat(starts, np.diff(np.append(starts, len(ids))))
        k = self.values.shape[1]
        for rank in range(min(k, int(place.max(initial=-1)) + 1)):
            here = place == rank
            rows = ids[here]
            both = np.concatenate([self.values[rows], ranked[here, None]], axis=1)
            self.values[rows] = -np.sort(-both, axis=1)[:, :k]

    def best_other(self, sentences: Int64Array, values: FloatArray) -> FloatArray:
        """Return the best value of each sentence beside the given one, which is among those taken; needs k of 2.

        Returns: float32 [P]; -inf where there is no other.
        """
        best, second = self.values[sentences, 0], self.values[sentences, 1]
        other: FloatArray = np.where(values >= best, second, best)
        return other
