"""Mark chosen pairs whose margin says less than it seems to; nothing is dropped here.

A ratio margin is high when a pair stands out, and also when both sentences have no good neighbours at all: text of
another language, codes, garbage. The cosine tells the two apart, measured against a typical neighbourhood instead of
the pair's own.
"""

from dataclasses import dataclass

import numpy as np

from emsmine.mining.knn import Int64Array, Neighbours, check_ids
from emsmine.mining.margin import margin_scores, mean_similarity
from emsmine.mining.retrieve import BoolArray, Candidates, rows_of

LOW_COSINE = "low_cosine"
FEW_NEIGHBOURS = "few_neighbours"
REASONS = (LOW_COSINE, FEW_NEIGHBOURS)


@dataclass(frozen=True, eq=False)
class Suspicion:
    """What is suspicious about each of P pairs.

    `low_cosine`: in a typical neighbourhood the cosine would not have reached the threshold; the pair owes its place
    to the emptiness around its sentences. `few_neighbours`: a sentence of the pair has fewer than k neighbours, so its
    mean similarity is one over fewer than those of other pairs, or other collections.

    Shapes: bool [P] each.
    """

    low_cosine: BoolArray
    few_neighbours: BoolArray

    def labels(self) -> list[str]:
        """Return the reasons of each pair, joined by commas in the order of `REASONS`; "" for nothing suspicious."""
        flags = zip(self.low_cosine.tolist(), self.few_neighbours.tolist(), strict=True)
        return [",".join(reason for reason, holds in zip(REASONS, row, strict=True) if holds) for row in flags]


def suspicion(
    chosen: Candidates,
    forward: Neighbours,
    backward: Neighbours,
    source_ids: Int64Array | None = None,
    target_ids: Int64Array | None = None,
    *,
    margin: str = "ratio",
    threshold: float = -np.inf,
) -> Suspicion:
    """Mark the pairs among `chosen` that are suspicious.

    The typical neighbourhood of a side is the median of the mean similarities of all its sentences. So `low_cosine` is a
    limit on the cosine that the collection itself sets: threshold × typical mean for ratio margins, threshold + typical
    mean for distance; none for absolute margins, which no neighbourhood enters.

    Args:
        chosen: pairs of `select`.
        forward, backward, source_ids, target_ids, margin: what `candidates` was given.
        threshold: what `select` was given; compared in float64.

    Returns: flags in the order of `chosen`. Without a positive typical mean no ratio margin is typical: no low cosine.
    Raises: ValueError for ids that do not match the neighbours, an unknown margin, or a threshold that is NaN.
    """
    if np.isnan(threshold):
        raise ValueError(f"suspicion: threshold {threshold} must be a number")
    source_ids = check_ids(source_ids, forward.num_rows, "source")
    target_ids = check_ids(target_ids, backward.num_rows, "target")
    # Rounded as the margins of the candidates are: a pair in a typical neighbourhood must not fail by a rounding error.
    typical = margin_scores(chosen.cosine, _typical(forward), _typical(backward), margin).astype(np.float32)
    source_row = rows_of(chosen.source_ids, source_ids, "source")
    target_row = rows_of(chosen.target_ids, target_ids, "target")
    few = (forward.ids < 0).any(axis=1)[source_row] | (backward.ids < 0).any(axis=1)[target_row]
    return Suspicion(typical.astype(np.float64) < threshold, few)


def _typical(neighbours: Neighbours) -> np.float32:
    means = mean_similarity(neighbours)
    known = means[~np.isnan(means)]
    return np.float32(np.median(known)) if known.size else np.float32(np.nan)
