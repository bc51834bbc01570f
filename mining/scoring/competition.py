"""What a pair competes with: the other candidates of its two sentences.

A translation stands out among them, whatever the domain: a number that says how far carries over where the score of
the pair alone does not.

Shapes legend: P pairs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.scoring.ragged import Int64Array
from emsmine.mining.scoring.top_values import TopValues

FloatArray = NDArray[np.float32]

SIDE_FEATURES = ("cosine ahead", "logit ahead", "best other logit", "mean cosine")
"""Of one sentence of a pair: how far cosine and logit are ahead of its best other candidate; the mean of its best."""
PAIR_FEATURES = ("ratio", "distance", "cosine", "logit")
"""Margins of the cosine to the mean of both neighbourhoods, and what the pair has by itself."""

NEIGHBOURHOOD = 4
"""Candidates of a sentence whose mean cosine is its neighbourhood."""
_SMALLEST_MEAN = 0.05
_LARGEST_LOGIT = 10.0
# Below what any candidate has: a sentence without another candidate is far ahead of it.
_LOWEST_COSINE = -0.2


@dataclass(frozen=True, eq=False)
class Competition:
    """The best cosines and logits among the candidates of each sentence of one side."""

    cosine: TopValues
    logit: TopValues

    @classmethod
    def empty(cls, num_sentences: int) -> "Competition":
        """Begin with no candidate."""
        return cls(TopValues(num_sentences, NEIGHBOURHOOD), TopValues(num_sentences, 2))

    def add(self, sentences: Int64Array, cosine: FloatArray, logit: FloatArray) -> None:
        """Take candidates: the sentence of this side, cosine and logit of each."""
        self.cosine.add(sentences, cosine)
        self.logit.add(sentences, logit)

    def side_features(self, sentences: Int64Array, cosine: FloatArray, logit: FloatArray) -> FloatArray:
        """Return `SIDE_FEATURES` of candidates that were added, float32 [P, 4]."""
        other_cosine = np.maximum(self.cosine.best_other(sentences, cosine), _LOWEST_COSINE)
        other_logit = np.clip(self.logit.best_other(sentences, logit), -_LARGEST_LOGIT, _LARGEST_LOGIT)
        columns = [
            cosine - other_cosine,
            np.clip(logit - other_logit, -_LARGEST_LOGIT, _LARGEST_LOGIT),
            other_logit,
            self.neighbourhood(sentences),
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def neighbourhood(self, sentences: Int64Array) -> FloatArray:
        """Return the mean cosine of the best candidates of each sentence, float32 [P]."""
        values = self.cosine.values[sentences]
        known = np.isfinite(values)
        sums = np.where(known, values, 0.0).sum(axis=1, dtype=np.float64)
        mean: FloatArray = (sums / np.maximum(known.sum(axis=1), 1)).astype(np.float32)
        return mean


def context_features(
    source: Competition,
    target: Competition,
    source_rows: Int64Array,
    target_rows: Int64Array,
    cosine: FloatArray,
    logit: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `SIDE_FEATURES` of both sides, float32 [P, 4] each, and `PAIR_FEATURES`, float32 [P, 4]."""
    one, other = (
        side.side_features(rows, cosine, logit) for side, rows in ((source, source_rows), (target, target_rows))
    )
    mean = np.maximum((one[:, -1] + other[:, -1]) / 2, _SMALLEST_MEAN)
    bounded = np.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return one, other, np.stack([cosine / mean, cosine - mean, cosine, bounded], axis=1).astype(np.float32)
