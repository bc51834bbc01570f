"""Mark chosen pairs whose margin says less than it seems to; nothing is dropped here.

A ratio margin is high when a pair stands out, and also when both sentences have no good neighbours at all: text of
another language, codes, garbage. The cosine tells the two apart, measured against the typical neighbourhood of the
collection instead of the pair's own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import BoolArray, Float32Array, Int64Array, Neighbours, check_ids
from emsmine.mining.selection.margin import margin_scores
from emsmine.mining.selection.retrieve import Candidates, rows_of

LOW_COSINE = "low_cosine"
FEW_NEIGHBOURS = "few_neighbours"
REASONS = (LOW_COSINE, FEW_NEIGHBOURS)


@dataclass(frozen=True, eq=False)
class Suspicion:
    """What is suspicious about each of P pairs.

    `low_cosine`: in a typical neighbourhood the cosine would not have reached the threshold, so the pair owes its place
    to the emptiness around its sentences. `few_neighbours`: a sentence of the pair has fewer than k neighbours, so its
    mean similarity is one over fewer than those of other pairs, or other collections.

    Shapes: bool [P] each.
    """

    low_cosine: BoolArray
    few_neighbours: BoolArray

    def codes(self) -> NDArray[np.uint32]:
        """Return the reasons of each pair as bits, in the order of `REASONS`; `of_codes` reads them."""
        return self.low_cosine.astype(np.uint32) | (self.few_neighbours.astype(np.uint32) << np.uint32(1))

    @classmethod
    def of_codes(cls, codes: NDArray[np.uint32]) -> "Suspicion":
        """Read what `codes` returned."""
        return cls((codes & 1).astype(bool), (codes & 2).astype(bool))

    def labels(self) -> list[str]:
        """Return the reasons of each pair, joined by commas in the order of `REASONS`; "" for nothing suspicious."""
        labels = [""] * len(self.low_cosine)
        for pair in np.flatnonzero(self.low_cosine | self.few_neighbours).tolist():
            flags = self.low_cosine[pair], self.few_neighbours[pair]
            labels[pair] = ",".join(reason for reason, holds in zip(REASONS, flags, strict=True) if holds)
        return labels


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

    Typical for a side is the median, over all its sentences, of the similarity to the last of the k neighbours: nearer
    ones may be translations, and in a parallel collection most sentences have one. So `low_cosine` is a limit on the
    cosine that the collection itself sets: threshold × typical similarity for ratio margins, threshold + typical
    similarity for distance; none for absolute margins, which no neighbourhood enters.

    Args:
        chosen: pairs of `select`.
        forward, backward, source_ids, target_ids, margin: what `candidates` was given.
        threshold: what `select` was given; compared in float64.

    Returns: flags in the order of `chosen`. If the typical similarity is not positive, no cosine is low for a ratio.
    Raises: ValueError for ids that do not match the neighbours, an unknown margin, or a threshold that is NaN.
    """
    if np.isnan(threshold):
        raise ValueError(f"suspicion: threshold {threshold} must be a number")
    source_ids = check_ids(source_ids, forward.num_rows, "source")
    target_ids = check_ids(target_ids, backward.num_rows, "target")
    typical = [typical_similarity(last_similarity(neighbours)) for neighbours in (forward, backward)]
    source_row = rows_of(chosen.source_ids, source_ids, "source")
    target_row = rows_of(chosen.target_ids, target_ids, "target")
    few = few_neighbours(forward)[source_row] | few_neighbours(backward)[target_row]
    return mark(chosen.cosine, few, typical[0], typical[1], margin=margin, threshold=threshold)


def mark(
    cosine: Float32Array, few: BoolArray, typical_source: float, typical_target: float, *, margin: str, threshold: float
) -> Suspicion:
    """Mark pairs as `suspicion` does, from facts on the neighbourhoods.

    Args:
        cosine: cosine of each pair.
        few: whether a sentence of the pair has fewer than k neighbours.
        typical_source: `typical_similarity` of the source side.
        typical_target: the same for the target side.
        margin: one of `emsmine.mining.selection.MARGINS`.
        threshold: lowest margin of a chosen pair.

    Shapes: cosine, few [P].
    """
    return Suspicion(margin_scores(cosine, typical_source, typical_target, margin) < threshold, few)


def few_neighbours(neighbours: Neighbours) -> BoolArray:
    """Mark the rows, of [N], that lack a neighbour."""
    few: BoolArray = np.any(neighbours.ids < 0, axis=1)
    return few


def last_similarity(neighbours: Neighbours) -> Float32Array:
    """Return the similarity to the last neighbour that exists, of the rows that have any."""
    exists_NK = neighbours.ids >= 0
    last_N: Float32Array = np.where(exists_NK, neighbours.cosine, np.float32(np.inf)).min(axis=1, initial=np.inf)
    return last_N[exists_NK.any(axis=1)]


def typical_similarity(last: Float32Array) -> float:
    """Return the median of `last_similarity` of all rows of a side, in any order; NaN if there are none.

    The array is reordered, as that takes no second one.
    """
    return float(np.median(last, overwrite_input=True)) if last.size else np.nan
