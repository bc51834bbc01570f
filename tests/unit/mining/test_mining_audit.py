"""Sampling by hash, recall, intervals, and what an audit says of pairs, on cases worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.mining.audit import (
    OtherSide,
    RowSample,
    audit_direction,
    neighbour_recall,
    sample_keys,
    wilson_interval,
)
from emsmine.mining.knn import Neighbours


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
        np.array([1, 2, 3, 4], np.int64),
        neighbours([[(100, 0.9), (9, 0.4)], [(9, 0.7), (8, 0.7)], [(101, 0.8), (9, 0.4)], [(8, 0.8), (9, 0.8)]]),
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
    assert ratio[2.0]["recall"] is None
    seen = [0.9 / ((0.7 + 0.65) / 2), 0.8 / ((0.3 + 0.6) / 2)]
    errors = [seen[0] - true[0], seen[1] - true[1]]
    assert report["margin_error"]["mean"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert report["margin_error"]["p95"] == pytest.approx(np.quantile(errors, 0.95), rel=1e-5)
    absolute = {row["threshold"]: row for row in report["pairs"]["absolute"]}
    assert (absolute[0.75]["pairs"], absolute[0.75]["found"]) == (2, 2)


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
