"""Score a pair by how far its cosine stands out from the neighbourhoods of both sentences.

Reference: Artetxe and Schwenk 2019, "Margin-based Parallel Corpus Mining with Multilingual Sentence Embeddings", ACL,
section 3.1: score(x, y) = margin(cos(x, y), sum_z cos(x, z) / 2k + sum_z cos(y, z) / 2k), where z runs over the k
nearest neighbours on the other side; absolute margin(a, b) = a, distance a - b, ratio a / b.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emsmine.mining.neighbours import Neighbours
from emsmine.mining.selection import MARGINS

# A mean closer to zero than this is rounding noise of float32 cosines; a ratio to it would be an arbitrary, huge score.
SMALLEST_MEAN = 1e-6


def mean_similarity(neighbours: Neighbours) -> NDArray[np.float32]:
    """Average each row's cosine over the neighbours that it has.

    Missing neighbours are left out of both the sum and the count: on a side with fewer than k sentences the mean is
    taken over all of them. Margins are comparable only if the neighbours were merged over the whole base first.

    Returns: float32 [N]; NaN for a row without any neighbour.
    """
    exists_NK = neighbours.ids >= 0
    counts_N = exists_NK.sum(axis=1)
    sums_N = np.where(exists_NK, neighbours.cosine, 0.0).sum(axis=1, dtype=np.float64)
    means_N = np.full(neighbours.num_rows, np.nan)
    np.divide(sums_N, counts_N, out=means_N, where=counts_N > 0)
    return means_N.astype(np.float32)


def margin_scores(
    cosine: ArrayLike, mean_source: ArrayLike, mean_target: ArrayLike, kind: str = "ratio"
) -> NDArray[np.float64]:
    """Compute the margin of each pair from its cosine and the mean similarities of its two sentences.

    A ratio to a mean of zero (under 1e-6) or less says nothing about how much the pair stands out, and two negatives
    would make a bad pair look good. So it is undefined: NaN, which no retrieval selects. The same holds for ratio and
    distance where a side has no neighbours, hence no mean.

    Args:
        cosine: cosine of each pair.
        mean_source: `mean_similarity` of the pair's source sentence.
        mean_target: `mean_similarity` of the pair's target sentence.
        kind: one of `MARGINS`.

    Shapes: all three broadcast against each other.
    Returns: float64, NaN where undefined.
    Raises: ValueError for an unknown kind.
    Reference: Artetxe and Schwenk 2019, section 3.1. With k neighbours on both sides the mean of the two means is
        their sum over 2k.
    """
    if kind not in MARGINS:
        raise ValueError(f"margin: unknown kind {kind!r}; choose one of {', '.join(MARGINS)}")
    cosine, mean_source, mean_target = np.broadcast_arrays(
        np.asarray(cosine, dtype=np.float64),
        np.asarray(mean_source, dtype=np.float64),
        np.asarray(mean_target, dtype=np.float64),
    )
    if kind == "absolute":
        return cosine.copy()
    mean = (mean_source + mean_target) / 2
    if kind == "distance":
        return np.asarray(cosine - mean)
    scores = np.full(cosine.shape, np.nan)
    np.divide(cosine, mean, out=scores, where=mean >= SMALLEST_MEAN)
    return scores
