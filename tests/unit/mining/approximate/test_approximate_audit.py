"""Sampling by hash, recall, intervals, and what an audit says of pairs, on cases worked out by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.mining.approximate.audit import (
    ENOUGH_PAIRS,
    OtherSide,
    audit_direction,
    neighbour_recall,
    pair_agreement,
    verdicts,
    wilson_interval,
)
from emsmine.mining.approximate.sample import RowSample, sample_keys
from emsmine.mining.neighbours import Neighbours


def neighbours(rows: list[list[tuple[int, float]]]) -> Neighbours:
    return Neighbours(
        np.array([[i for i, _ in row] for row in rows], np.int64).reshape(len(rows), -1),
        np.array([[c for _, c in row] for row in rows], np.float32).reshape(len(rows), -1),
    )


@pytest.mark.parametrize(
    ("found", "total", "low", "high"),
    # 81 of 263: the example of Newcombe 1998, Statistics in Medicine 17, table I (method 3).
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0), (0, 0, 0.0, 1.0)],
)
def test_interval(found: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(found, total) == pytest.approx((low, high), abs=5e-5)


def hashes(rows: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, 16)).astype(np.uint8)


def test_a_sample_is_the_same_however_the_rows_are_cut() -> None:
    text_hashes, ids = hashes(1000), np.arange(1000, dtype=np.int64)
    vectors = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    expected = np.lexsort((ids, sample_keys(text_hashes, 3)))[:50]
    for step in (1000, 999, 77, 10):
        sample = RowSample(50, 3)
        for start in range(0, 1000, step):
            part = slice(start, start + step)
            sample.add(text_hashes[part], ids[part], vectors[part])
        found, rows = sample.rows()
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(rows, vectors[expected])


def test_samples_of_two_salts_differ_and_are_spread_evenly() -> None:
    text_hashes = hashes(4000)
    first, second = (set(np.argsort(sample_keys(text_hashes, salt))[:400].tolist()) for salt in (1, 2))
    assert 10 < len(first & second) < 80  # 40 by chance
    assert len(np.unique(sample_keys(text_hashes, 1))) == 4000
    # Hashes that differ in their last bit only still give unrelated keys.
    close = np.zeros((256, 16), np.uint8)
    close[:, 15] = np.arange(256)
    assert np.corrcoef(np.arange(256), sample_keys(close, 1).astype(np.float64))[0, 1] < 0.2


def test_equal_hashes_are_taken_by_id() -> None:
    sample = RowSample(3, 1)
    for ids in ([5, 3], [4, 9, 1], [8, 2, 7], [0], [6]):
        sample.add(np.zeros((len(ids), 16), np.uint8), np.array(ids, np.int64), np.ones((len(ids), 1), np.float32))
    assert sample.rows()[0].tolist() == [0, 1, 2]


def test_a_sample_of_nothing() -> None:
    with pytest.raises(ValueError, match="no block"):
        RowSample(3, 1).rows()
    sample = RowSample(3, 1)
    sample.add(hashes(0), np.zeros(0, np.int64), np.zeros((0, 7), np.float32))
    assert sample.rows()[1].shape == (0, 7)


def test_recall_counts_equal_cosines_whatever_their_ids() -> None:
    exact = neighbours([[(1, 0.9), (2, 0.8)], [(1, 0.9), (2, 0.8)], [(1, 0.5), (-1, -np.inf)], [(-1, -np.inf)] * 2])
    found = neighbours([[(1, 0.9), (7, 0.8)], [(1, 0.9), (7, 0.7)], [(-1, -np.inf)] * 2, [(-1, -np.inf)] * 2])
    assert neighbour_recall(exact, found).tolist() == [1.0, 0.5, 0.0, 1.0]


def test_pairs_of_an_audit_by_hand() -> None:
    # Query 100: its pair is target 1 (margin 0.9 / ((0.75 + 0.65) / 2)); the run found it, but missed target 2.
    # Query 101: its pair is target 3; the run missed it, though target 3 lists the query: found from the other side.
    # Query 102: its pair is target 4; nobody found it.
    exact = neighbours([[(1, 0.9), (2, 0.6)], [(3, 0.8), (2, 0.4)], [(4, 0.7), (2, 0.3)]])
    found = neighbours([[(1, 0.9), (5, 0.5)], [(2, 0.4), (5, 0.2)], [(2, 0.3), (5, 0.1)]])
    other = OtherSide(
        np.array([1, 2, 3, 4, 5], np.int64),
        neighbours(
            [
                [(100, 0.9), (9, 0.4)],
                [(9, 0.7), (8, 0.7)],
                [(101, 0.8), (9, 0.4)],
                [(8, 0.8), (9, 0.8)],
                [(8, 0.1), (9, 0.1)],
            ]
        ),
    )
    report = audit_direction(np.array([100, 101, 102], np.int64), exact, found, other)
    assert report["queries"] == 3
    assert report["recall"] == pytest.approx((1 + 1 + 1) / 6)
    ratio = {row["threshold"]: row for row in report["pairs"]["ratio"]}
    true = [0.9 / 0.7, 0.8 / 0.6, 0.7 / 0.65]
    assert [ratio[t]["pairs"] for t in (1.0, 1.1, 1.3, 1.35)] == [
        sum(m >= t for m in true) for t in (1.0, 1.1, 1.3, 1.35)
    ]
    assert [ratio[t]["found"] for t in (1.0, 1.1, 1.3)] == [2, 2, 1]
    assert ratio[1.0]["recall"] == pytest.approx(2 / 3)
    assert (ratio[2.0]["recall"], ratio[2.0]["precision"]) == (None, None)
    # The run takes target 1 for 100, 3 for 101 (listed by 3), and for 102 the better of 2 and 5: no pair.
    rival = 0.3 / ((0.2 + 0.7) / 2), 0.1 / ((0.2 + 0.1) / 2)
    assert max(rival) < 1.0
    assert [(ratio[t]["seen"], ratio[t]["precision"]) for t in (1.0, 1.3)] == [(2, 1.0), (2, 0.5)]
    assert report["nearest"] == pytest.approx(1 / 3)
    seen = [0.9 / ((0.7 + 0.65) / 2), 0.8 / ((0.3 + 0.6) / 2)]
    errors = [seen[0] - true[0], seen[1] - true[1]]
    assert report["margin_error"]["mean"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert report["margin_error"]["p95"] == pytest.approx(np.quantile(errors, 0.95), rel=1e-5)
    absolute = {row["threshold"]: row for row in report["pairs"]["absolute"]}
    assert (absolute[0.75]["pairs"], absolute[0.75]["found"]) == (2, 2)


def test_a_wrong_pair_and_an_inflated_margin_cost_precision() -> None:
    # Query 100: target 1 was missed, target 2 stands in for it. Query 101: the second neighbour was missed, so that
    # the margin of its pair looks higher than it is.
    exact = neighbours([[(1, 0.9), (2, 0.8)], [(3, 0.8), (2, 0.78)]])
    found = neighbours([[(2, 0.8), (4, 0.3)], [(3, 0.8), (4, 0.3)]])
    other = OtherSide(np.array([1, 2, 3, 4], np.int64), neighbours([[(9, 0.6), (8, 0.6)], *[[(9, 0.7), (8, 0.7)]] * 3]))
    ratio = audit_direction(np.array([100, 101], np.int64), exact, found, other)["pairs"]["ratio"]
    rows = {row["threshold"]: row for row in ratio}
    # True margins are 0.9 / 0.725 = 1.24 and 0.8 / 0.745 = 1.07; the run sees 0.8 / 0.625 = 1.28 twice.
    names = ("pairs", "found", "recall", "seen", "precision")
    assert [rows[1.05][name] for name in names] == [2, 1, 0.5, 2, 0.5]
    assert [rows[1.2][name] for name in names] == [1, 0, 0.0, 2, 0.0]
    assert [rows[1.25][name] for name in names] == [0, 0, None, 2, 0.0]
    assert [rows[1.3][name] for name in names] == [0, 0, None, 0, None]


def test_another_candidate_that_looks_better_costs_precision() -> None:
    # Margins are 1.22 and 1.20; with the third neighbour missing they look like 1.44 and 1.45, the other way round.
    exact = neighbours([[(1, 0.9), (2, 0.8), (3, 0.79)]])
    found = neighbours([[(1, 0.9), (2, 0.8), (4, 0.1)]])
    other = OtherSide(np.arange(1, 5), neighbours([[(9, mean)] * 3 for mean in (0.65, 0.5, 0.79, 0.79)]))
    report = audit_direction(np.array([100], np.int64), exact, found, other)
    (row,) = (row for row in report["pairs"]["ratio"] if row["threshold"] == 1.2)
    assert [row[name] for name in ("pairs", "found", "seen", "precision")] == [1, 1, 1, 0.0]


def many(*kinds: tuple[int, Any, Any]) -> tuple[Neighbours, Neighbours]:
    """Repeat (number, exact neighbours, found neighbours) for as many queries."""
    rows = [(exact, found) for number, exact, found in kinds for _ in range(number)]
    return neighbours([exact for exact, _ in rows]), neighbours([found for _, found in rows])


NEAR = [(1, 0.9), (2, 0.6)]  # 1.2 times its mean
FLAT = [(1, 0.61), (2, 0.6)]  # 1.008 times


def test_agreement_counts_missed_and_inflated_pairs() -> None:
    assert pair_agreement(*many((60, NEAR, NEAR), (40, FLAT, FLAT))) == 1.0
    # Neighbours that are no pairs may be missed.
    assert pair_agreement(*many((60, NEAR, NEAR), (40, FLAT, [(5, 0.6), (6, 0.6)]))) == 1.0
    # Six pairs are missed: recall 0.9.
    missed = many((54, NEAR, NEAR), (6, NEAR, [(2, 0.6), (5, 0.59)]))
    assert pair_agreement(*missed) == pytest.approx(0.9)
    # 15 that are no pairs look like some, as their second neighbour is missing: precision 60 / 75.
    inflated = many((60, NEAR, NEAR), (15, FLAT, [(1, 0.61), (7, 0.3)]))
    assert pair_agreement(*inflated) == pytest.approx(0.8)
    # Another sentence in the place of the nearest is no pair, whatever its margin.
    assert pair_agreement(*many((40, NEAR, NEAR), (20, NEAR, [(7, 0.9), (2, 0.6)]))) == pytest.approx(2 / 3)


def test_agreement_of_few_pairs_is_that_of_the_nearest() -> None:
    few = many((ENOUGH_PAIRS - 1, NEAR, NEAR), (151, FLAT, [(5, 0.6), (6, 0.6)]))
    assert pair_agreement(*few) == pytest.approx((ENOUGH_PAIRS - 1) / 200)
    enough = many((ENOUGH_PAIRS, NEAR, NEAR), (150, FLAT, [(5, 0.6), (6, 0.6)]))
    assert pair_agreement(*enough) == 1.0
    nothing = Neighbours.empty(3, 2)
    assert pair_agreement(nothing, nothing) == 1.0
    # With one neighbour no margin says anything.
    assert pair_agreement(*many((90, [(1, 0.9)], [(1, 0.9)]), (10, [(1, 0.9)], [(-1, -np.inf)]))) == pytest.approx(0.9)


def report_of(**rows: tuple[int, float, int, float | None]) -> dict[str, Any]:
    pairs = [
        {"threshold": float(name[1:]) / 100, "pairs": n, "recall": recall, "seen": seen, "precision": precision}
        for name, (n, recall, seen, precision) in rows.items()
    ]
    return {"queries": 400, "nearest": 0.7, "pairs": {"ratio": pairs}}


def test_pairs_that_are_missed_and_pairs_that_are_wrong_are_judged_apart() -> None:
    rows = {"t100": (300, 0.1, 300, 0.1), "t105": (200, 0.99, 210, 0.96), "t120": (100, 0.97, 101, 0.98)}
    found = verdicts(report_of(**rows, t125=(90, 0.2, 90, 0.2)))
    assert [(item.limit, item.share, item.number) for item in found] == [
        ("min_recall", 0.99, 200),
        ("min_precision", 0.96, 210),
        ("min_recall", 0.97, 100),
        ("min_precision", 0.98, 101),
    ]
    assert found[1].what == "of the pairs with a ratio margin of 1.05 or more that were found are right"
    assert found[1].interval == pytest.approx(wilson_interval(0.96 * 210, 210))
    assert found[2].what == "of the pairs with a ratio margin of 1.2 or more were found"
    assert [item.share for item in verdicts(report_of(t105=(ENOUGH_PAIRS, 0.9, 0, None)))] == [0.9, 0.0]
    (nearest,) = verdicts(report_of(t105=(ENOUGH_PAIRS - 1, 0.2, 0, None)))
    assert (nearest.what, nearest.share, nearest.number) == ("of the nearest neighbours were found", 0.7, 400)
    assert nearest.limit == "min_precision"


def test_a_margin_at_the_threshold_reaches_it() -> None:
    one = neighbours([[(1, 0.5)]])
    other = OtherSide(np.array([1], np.int64), neighbours([[(100, 0.5)]]))
    pairs = audit_direction(np.array([100], np.int64), one, one, other)["pairs"]
    assert [row["found"] for row in pairs["absolute"] if row["threshold"] in (0.5, 0.55)] == [1, 0]
    assert [(row["pairs"], row["found"]) for row in pairs["ratio"][:2]] == [(1, 1), (0, 0)]


def test_an_audit_without_neighbours() -> None:
    nothing = Neighbours.empty(3, 2)
    other = OtherSide(np.zeros(0, np.int64), Neighbours.empty(0, 2))
    report = audit_direction(np.arange(3), nothing, nothing, other)
    assert (report["recall"], report["pairs"]["ratio"][0]["pairs"]) == (1.0, 0)
    with pytest.raises(ValueError, match="other side"):
        audit_direction(np.arange(1), neighbours([[(3, 0.5)]]), neighbours([[(3, 0.5)]]), other)
