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

from emsmine.mining.neighbours import Int64Array, Neighbours, rows_among
from emsmine.mining.selection.margin import margin_scores, mean_similarity

THRESHOLDS = {
    "ratio": tuple(round(1 + 0.05 * n, 2) for n in range(21)),
    "distance": tuple(round(0.025 * n, 3) for n in range(21)),
    "absolute": tuple(round(0.05 * n, 2) for n in range(6, 20)),
}
"""Margins from which the recall of pairs is told, so that it is known for the threshold that `select` will get."""

DECIDING = (1.05, 1.1, 1.15, 1.2)
"""Ratio margins at which a search is judged: pairs are usually told from others at one of them."""
ENOUGH_PAIRS = 50
"""Fewer pairs at or above a margin say too little to judge a search by."""
_Z95 = 1.959963984540054


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


def neighbour_recall(exact: Neighbours, found: Neighbours) -> NDArray[np.float64]:
    """Compute the share of each query's exact neighbours that were found.

    A found neighbour counts if it is as near as the last exact one, whichever of equal ones it is.

    Returns: float64 [N]; 1 where there is no exact neighbour.
    """
    existing_N = (exact.ids >= 0).sum(axis=1)
    last_N = np.where(exact.ids >= 0, exact.cosine, np.float32(np.inf)).min(axis=1, initial=np.inf)
    good_N = ((found.ids >= 0) & (found.cosine >= last_N[:, None])).sum(axis=1)
    return np.where(existing_N > 0, np.minimum(good_N, existing_N) / np.maximum(existing_N, 1), 1.0)


def pair_agreement(exact: Neighbours, found: Neighbours) -> float:
    """Compute how well the pairs that follow from found neighbours agree with those from the exact ones.

    Neighbours are means to pairs: the nearest one is the partner, all k together are what it is measured against. A
    translation lies much nearer than the rest, so it is found long before the rest is; but while a part of the rest is
    missing, means are too low, margins too high, and pairs reach a threshold that should not. So two shares count: of
    the exact pairs at or above a margin that are found there (recall), and of the found ones that are exact
    (precision).

    Only one side of one direction is known here. Its mean stands for both: the pair of a query is its nearest
    neighbour, its margin that cosine over the mean of the query's own neighbourhood. So this is a cautious figure: a
    pair needs to be found in one direction only, and the mean of both sides errs less than the worse one.

    Returns: the lower of both shares, at the worst of the `DECIDING` margins that at least `ENOUGH_PAIRS` exact pairs
        reach. If there is none, the share of queries whose nearest neighbour was found; 1 without any.
    """
    has_N = exact.ids[:, 0] >= 0
    exact, found = _take(exact, has_N), _take(found, has_N)
    true_N, seen_N = _own_margin(exact), _own_margin(found)
    same_N = exact.ids[:, 0] == found.ids[:, 0]
    agreements = []
    for threshold in DECIDING:
        above_N, seen_above_N = true_N >= threshold, seen_N >= threshold
        if above_N.sum() >= ENOUGH_PAIRS:
            common = (same_N & above_N & seen_above_N).sum()
            agreements.append(float(common / max(above_N.sum(), seen_above_N.sum())))
    return min(agreements, default=float(same_N.mean()) if same_N.size else 1.0)


def _own_margin(neighbours: Neighbours) -> NDArray[np.float64]:
    """Ratio of the nearest neighbour's cosine to the mean of all k; -inf where it is undefined."""
    means_N = mean_similarity(neighbours)
    margin_N = margin_scores(neighbours.cosine[:, 0], means_N, means_N)
    return np.where(np.isnan(margin_N), -np.inf, margin_N)


@dataclass(frozen=True, eq=False)
class OtherSide:
    """What the run found for sentences of the other side, by id in ascending order.

    Shapes: ids int64 [C], distinct; neighbours: C rows.
    """

    ids: Int64Array
    neighbours: Neighbours

    def rows(self, wanted: Int64Array) -> Int64Array:
        """Return the row of each id.

        Raises: ValueError if one is not there.
        """
        rows, known = rows_among(wanted, self.ids)
        if not known.all():
            raise ValueError("audit: a neighbour is not among the sentences of the other side; this is a bug")
        return rows


def audit_direction(query_ids: Int64Array, exact: Neighbours, found: Neighbours, other: OtherSide) -> dict[str, Any]:
    """Compare found with exact neighbours of a sample, and what follows for pairs.

    The *pair* of a query is its best exact candidate by margin, as forward retrieval chooses it. In both margins that
    are compared the neighbourhood of the other sentence is the one that the run found (its error is measured where the
    other direction is audited). The pair is found if either direction lists it and its margin reaches the threshold.
    What the run takes for the pair is its best candidate in the same way; it is right if it is the pair, and the exact
    margin reaches the threshold as well.

    Args:
        query_ids: ids of the sampled queries.
        exact: their exact neighbours.
        found: what the run found for them.
        other: found neighbours of every id in `exact` and in `found`.

    Returns: JSON: `queries`, `recall` of neighbours with `interval`, `nearest` (the same of the nearest one alone),
        `margin_error` (absolute, of ratio margins of the pairs that were found: `mean`, `p95`), and `pairs`: per margin
        a list of {threshold, pairs, found, recall, interval, seen, precision}.
    """
    recall_N = neighbour_recall(exact, found)
    low, high = wilson_interval(float(recall_N.sum()), len(recall_N))
    has_N = exact.ids[:, 0] >= 0
    query_ids, exact, found = query_ids[has_N], _take(exact, has_N), _take(found, has_N)
    rows_NK, other_NK = _partners(exact, other)
    _, other_found_NK = _partners(found, other)
    means = mean_similarity(exact)[:, None], mean_similarity(found)[:, None]
    here = np.arange(len(query_ids))
    pairs: dict[str, Any] = {}
    errors = np.zeros(0)
    for margin, thresholds in THRESHOLDS.items():
        true_NK = _known(exact, margin_scores(exact.cosine, means[0], other_NK, margin))
        best_N = true_NK.argmax(axis=1)
        seen_NK = margin_scores(exact.cosine, means[1], other_NK, margin)
        true_N, seen_N = true_NK[here, best_N], seen_NK[here, best_N]
        listed_N = (found.ids == exact.ids[here, best_N][:, None]).any(axis=1)
        listed_N |= (other.neighbours.ids[rows_NK[here, best_N]] == query_ids[:, None]).any(axis=1)
        pair_N = np.where(listed_N, np.nan_to_num(seen_N, nan=-np.inf), -np.inf)
        rival_N = _known(found, margin_scores(found.cosine, means[1], other_found_NK, margin)).max(axis=1)
        pairs[margin] = [_agreement(threshold, true_N, pair_N, rival_N) for threshold in thresholds]
        if margin == "ratio":
            compared = listed_N & np.isfinite(true_N) & np.isfinite(seen_N)
            errors = np.abs(seen_N[compared] - true_N[compared])
    return {
        "queries": len(recall_N),
        "recall": float(recall_N.mean()) if recall_N.size else 1.0,
        "interval": [low, high],
        "nearest": float((exact.ids[:, 0] == found.ids[:, 0]).mean()) if here.size else 1.0,
        "margin_error": {
            "mean": float(errors.mean()) if errors.size else 0.0,
            "p95": float(np.quantile(errors, 0.95)) if errors.size else 0.0,
        },
        "pairs": pairs,
    }


def _take(neighbours: Neighbours, rows: NDArray[np.bool_]) -> Neighbours:
    return Neighbours(neighbours.ids[rows], neighbours.cosine[rows])


def _partners(neighbours: Neighbours, other: OtherSide) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Look up the row of each neighbour on the other side, and its mean similarity; anything where there is none."""
    rows_NK = np.zeros(neighbours.ids.shape, dtype=np.intp)
    exists_NK = neighbours.ids >= 0
    rows_NK[exists_NK] = other.rows(neighbours.ids[exists_NK])
    if not len(other.ids):
        return rows_NK, np.zeros(rows_NK.shape)
    return rows_NK, mean_similarity(other.neighbours)[rows_NK].astype(np.float64)


def _known(neighbours: Neighbours, margin_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((neighbours.ids >= 0) & ~np.isnan(margin_NK), margin_NK, -np.inf)


def _agreement(
    threshold: float, true_N: NDArray[np.float64], pair_N: NDArray[np.float64], rival_N: NDArray[np.float64]
) -> dict[str, Any]:
    """Count at one threshold.

    Args:
        true_N: exact margin of each query's pair.
        pair_N: its margin in the run; -inf if the run does not list it.
        rival_N: the best margin of all that the run found for the query.
    """
    above_N = true_N >= threshold
    found = int((above_N & (pair_N >= threshold)).sum())
    right = int((above_N & (pair_N >= threshold) & (pair_N >= rival_N)).sum())
    total, seen = int(above_N.sum()), int((np.maximum(pair_N, rival_N) >= threshold).sum())
    return {
        "threshold": threshold,
        "pairs": total,
        "found": found,
        "recall": found / total if total else None,
        "interval": list(wilson_interval(found, total)),
        "seen": seen,
        "precision": right / seen if seen else None,
    }


@dataclass(frozen=True)
class Verdict:
    """One thing that an audit found about pairs.

    Args:
        limit: what it is held against: `min_recall`, or `min_precision`.
        what: what was measured, for a message.
        share: what of it is right.
        interval: its 95 % interval.
        number: observations.
    """

    limit: str
    what: str
    share: float
    interval: tuple[float, float]
    number: int


def verdicts(report: dict[str, Any]) -> list[Verdict]:
    """Judge one direction as `pair_agreement` does, but by the margins of both sides.

    Pairs that are missed and pairs that are wrong are judged apart. Where too few sentences have a pair, the nearest
    neighbour stands for it; one that is missed leaves a wrong one in its place.

    Args:
        report: result of `audit_direction`.

    Returns: at least one.
    """
    found = []
    for row in report["pairs"]["ratio"]:
        if row["threshold"] in DECIDING and row["pairs"] >= ENOUGH_PAIRS:
            where = f"pairs with a ratio margin of {row['threshold']} or more"
            for limit, what, share, number in (
                ("min_recall", f"of the {where} were found", row["recall"], row["pairs"]),
                ("min_precision", f"of the {where} that were found are right", row["precision"] or 0.0, row["seen"]),
            ):
                found.append(Verdict(limit, what, share, wilson_interval(share * number, number), number))
    if not found:
        share, number = report["nearest"], report["queries"]
        interval = wilson_interval(share * number, number)
        found.append(Verdict("min_precision", "of the nearest neighbours were found", share, interval, number))
    return found
