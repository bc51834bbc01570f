"""Measure an approximate search on a sample of queries whose exact neighbours are known.

A query counts as one observation: its k neighbours are found or missed together more often than apart, so an interval
over single neighbours would be too narrow.

Shape suffixes: N sampled queries, K neighbours, B bytes of a hash.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.knn import Float32Array, Int64Array, Neighbours
from emsmine.mining.margin import margin_scores, mean_similarity

THRESHOLDS = {
    "ratio": tuple(round(1 + 0.05 * n, 2) for n in range(21)),
    "distance": tuple(round(0.025 * n, 3) for n in range(21)),
    "absolute": tuple(round(0.05 * n, 2) for n in range(6, 20)),
}
"""Margins from which the recall of pairs is told, so that it is known for the threshold that `select` will get."""

_Z95 = 1.959963984540054
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def wilson_interval(found: float, total: int) -> tuple[float, float]:
    """Compute the 95 % interval of a proportion.

    Args:
        found: successes; may be fractional where each observation is itself a share.
        total: observations.

    Returns: (low, high); (0, 1) without observations.
    Reference: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22.
    """
    if not total:
        return 0.0, 1.0
    share, z2 = found / total, _Z95 * _Z95
    middle = share + z2 / (2 * total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    scale = 1 + z2 / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def sample_keys(hash_NB: NDArray[np.uint8], salt: int) -> NDArray[np.uint64]:
    """Give each row a pseudo-random key from its text hash: the rows of smallest key are a random sample.

    The same texts are chosen however they are cut into shards; another salt chooses others.

    Shapes: hash_NB uint8 [N, 16]. Returns: uint64 [N].
    """
    halves = np.ascontiguousarray(hash_NB).view(np.uint64).reshape(len(hash_NB), 2)
    keys = halves[:, 0] ^ (halves[:, 1] * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(salt * 0x9E3779B9 + 1)
    # The finaliser of splitmix64: every bit of the hash moves every bit of the key.
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        keys = (keys ^ (keys >> np.uint64(shift))) * multiplier
    mixed: NDArray[np.uint64] = keys ^ (keys >> np.uint64(31))
    return mixed


class RowSample:
    """The `size` rows of smallest key among all that were added; equal keys by id. Holds at most about twice as many.

    Args:
        size: rows wanted.
        salt: see `sample_keys`.
    """

    def __init__(self, size: int, salt: int) -> None:
        self.size = size
        self._salt = salt
        self._parts: list[tuple[NDArray[np.uint64], Int64Array, Float32Array]] = []
        self._held = 0
        self._limit: np.uint64 | None = None

    def add(self, hash_NB: NDArray[np.uint8], ids_N: Int64Array, vectors_ND: Float32Array) -> None:
        """Offer rows with their text hashes and ids."""
        keys = sample_keys(hash_NB, self._salt)
        kept = np.flatnonzero(keys <= self._limit) if self._limit is not None else np.arange(len(keys))
        self._parts.append((keys[kept], ids_N[kept], vectors_ND[kept]))
        self._held += kept.size
        if self._held > 2 * self.size:
            self._prune()

    def _prune(self) -> None:
        if not self._parts:
            return
        keys, ids, vectors = (np.concatenate([part[n] for part in self._parts]) for n in range(3))
        first = np.lexsort((ids, keys))[: self.size]
        self._parts = [(keys[first], ids[first], vectors[first])]
        self._held = first.size
        if first.size == self.size and self.size:
            self._limit = keys[first[-1]]

    def rows(self) -> tuple[Int64Array, Float32Array]:
        """Return the ids [S] and vectors [S, D] of the sample, by key.

        Raises: ValueError if nothing was added, not even an empty block.
        """
        if not self._parts:
            raise ValueError("sample: no block of rows was added; add an empty one to give the dimension")
        self._prune()
        _, ids, vectors = self._parts[0]
        return ids, vectors


def neighbour_recall(exact: Neighbours, found: Neighbours) -> NDArray[np.float64]:
    """Compute the share of each query's exact neighbours that were found.

    A found neighbour counts if it is as near as the last exact one, whichever of equal ones it is.

    Returns: float64 [N]; 1 where there is no exact neighbour.
    """
    existing_N = (exact.ids >= 0).sum(axis=1)
    last_N = np.where(exact.ids >= 0, exact.cosine, np.float32(np.inf)).min(axis=1, initial=np.inf)
    good_N = ((found.ids >= 0) & (found.cosine >= last_N[:, None])).sum(axis=1)
    return np.where(existing_N > 0, np.minimum(good_N, existing_N) / np.maximum(existing_N, 1), 1.0)


@dataclass(frozen=True, eq=False)
class OtherSide:
    """What the run found for sentences of the other side, by id in ascending order.

    Shapes: ids int64 [C], distinct; neighbours: C rows.
    """

    ids: Int64Array
    neighbours: Neighbours

    def rows(self, wanted: Int64Array) -> NDArray[np.intp]:
        """Return the row of each id.

        Raises: ValueError if one is not there.
        """
        places = np.searchsorted(self.ids, wanted)
        known = places < len(self.ids)
        known[known] = self.ids[places[known]] == wanted[known]
        if not known.all():
            raise ValueError("audit: a neighbour is not among the sentences of the other side; this is a bug")
        return places


def audit_direction(query_ids: Int64Array, exact: Neighbours, found: Neighbours, other: OtherSide) -> dict[str, Any]:
    """Compare found with exact neighbours of a sample, and what follows for pairs.

    The *pair* of a query is its best exact candidate by margin, as forward retrieval chooses it. In both margins that
    are compared the neighbourhood of the other sentence is the one that the run found (its error is measured where the
    other direction is audited). The pair is found if either direction lists it and its margin reaches the threshold.

    Args:
        query_ids: ids of the sampled queries.
        exact: their exact neighbours.
        found: what the run found for them.
        other: found neighbours of every id in `exact`.

    Returns: JSON: `queries`, `recall` of neighbours with `interval`, `margin_error` (absolute, of ratio margins of the
        pairs that were found: `mean`, `p95`), and `pairs`: per margin a list of {threshold, pairs, found, recall,
        interval}.
    """
    recall_N = neighbour_recall(exact, found)
    low, high = wilson_interval(float(recall_N.sum()), len(recall_N))
    has_N = exact.ids[:, 0] >= 0
    query_ids, exact, found = query_ids[has_N], _take(exact, has_N), _take(found, has_N)
    rows_NK = np.zeros(exact.ids.shape, dtype=np.intp)
    rows_NK[exact.ids >= 0] = other.rows(exact.ids[exact.ids >= 0])
    other_NK = mean_similarity(other.neighbours)[rows_NK] if rows_NK.size else np.zeros(rows_NK.shape)
    means = mean_similarity(exact)[:, None], mean_similarity(found)[:, None]
    here = np.arange(len(query_ids))
    pairs: dict[str, Any] = {}
    errors = np.zeros(0)
    for margin, thresholds in THRESHOLDS.items():
        true_NK = margin_scores(exact.cosine, means[0], other_NK, margin)
        true_NK = np.where((exact.ids >= 0) & ~np.isnan(true_NK), true_NK, -np.inf)
        best_N = true_NK.argmax(axis=1)
        seen_NK = margin_scores(exact.cosine, means[1], other_NK, margin)
        true_N, seen_N = true_NK[here, best_N], seen_NK[here, best_N]
        listed_N = (found.ids == exact.ids[here, best_N][:, None]).any(axis=1)
        listed_N |= (other.neighbours.ids[rows_NK[here, best_N]] == query_ids[:, None]).any(axis=1)
        pairs[margin] = [
            _recall_from(threshold, true_N, np.where(listed_N, seen_N, -np.inf)) for threshold in thresholds
        ]
        if margin == "ratio":
            compared = listed_N & np.isfinite(true_N) & np.isfinite(seen_N)
            errors = np.abs(seen_N[compared] - true_N[compared])
    return {
        "queries": len(recall_N),
        "recall": float(recall_N.mean()) if recall_N.size else 1.0,
        "interval": [low, high],
        "margin_error": {
            "mean": float(errors.mean()) if errors.size else 0.0,
            "p95": float(np.quantile(errors, 0.95)) if errors.size else 0.0,
        },
        "pairs": pairs,
    }


def _take(neighbours: Neighbours, rows: NDArray[np.bool_]) -> Neighbours:
    return Neighbours(neighbours.ids[rows], neighbours.cosine[rows])


def _recall_from(threshold: float, true_N: NDArray[np.float64], seen_N: NDArray[np.float64]) -> dict[str, Any]:
    above = true_N >= threshold
    total = int(above.sum())
    found = int((above & (seen_N >= threshold)).sum())
    return {
        "threshold": threshold,
        "pairs": total,
        "found": found,
        "recall": found / total if total else None,
        "interval": list(wilson_interval(found, total)),
    }
