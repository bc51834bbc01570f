"""Support by documents: a pair gains if other sentences of its two documents translate each other as well.

Shapes legend: P pairs, C confident pairs.
"""

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.scoring.ragged import Int64Array

FloatArray = NDArray[np.float32]

CONFIDENT = 0.0
"""Logit from which a pair supports its neighbours: a probability of 0.5."""
GAIN = 0.5
"""Weight of the support, see `supported`."""
LARGEST_SUPPORT = 15
"""More neighbours than these gain no more: long pages about one thing would carry anything."""


class DocumentSupport:
    """How many other pairs support each pair, where every sentence stands for its first place.

    Args:
        source_documents: document of the source of each confident pair.
        target_documents: of its target.
        source_sentences: its source.
        target_sentences: its target.

    Shapes: int64 [C] each.
    """

    def __init__(
        self,
        source_documents: Int64Array,
        target_documents: Int64Array,
        source_sentences: Int64Array,
        target_sentences: Int64Array,
    ) -> None:
        documents = np.stack([source_documents, target_documents], axis=1)
        self._pairs, pair_of = np.unique(documents, axis=0, return_inverse=True)
        counts = [_distinct(pair_of, side, len(self._pairs)) for side in (source_sentences, target_sentences)]
        # Three candidates of one sentence are one translation at most.
        self._counts = np.minimum(*counts)

    def of(
        self, source_documents: Int64Array, target_documents: Int64Array, is_confident: NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """Count the supporters of pairs; a confident pair is none of itself.

        Shapes: [P] each → int32 [P].
        """
        support = np.zeros(len(source_documents), dtype=np.int32)
        if not len(self._pairs) or not len(support):
            return support
        keys = np.concatenate([self._pairs, np.stack([source_documents, target_documents], axis=1)])
        _, code = np.unique(keys, axis=0, return_inverse=True)
        known, asked = code[: len(self._pairs)], code[len(self._pairs) :]
        count = np.zeros(int(code.max()) + 1, dtype=np.int32)
        count[known] = self._counts
        support[:] = np.maximum(count[asked] - is_confident, 0)
        return support


def _distinct(pair_of: NDArray[np.intp], sentences: Int64Array, num_pairs: int) -> NDArray[np.int64]:
    """Count the different sentences of each pair of documents."""
    each = np.unique(np.stack([pair_of.astype(np.int64), sentences], axis=1), axis=0)
    counts: NDArray[np.int64] = np.bincount(each[:, 0], minlength=num_pairs)
    return counts


def supported(logit: FloatArray, support: NDArray[np.int32]) -> FloatArray:
    """Return the logit of pairs with the gain by their support: GAIN · log(1 + min(support, LARGEST_SUPPORT)).

    Shapes: [P] each → float32 [P].
    """
    gain = GAIN * np.log1p(np.minimum(support, LARGEST_SUPPORT).astype(np.float64))
    return (logit + gain).astype(np.float32)
