"""What a pair competes with, worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.mining.scoring.competition import PAIR_FEATURES, SIDE_FEATURES, Competition, context_features

FLOATS = NDArray[np.float32]

# Source 0 has three candidates, source 1 only one, which target 2 shares with source 0.
ROWS = np.array([0, 0, 0, 1], dtype=np.int64), np.array([0, 1, 2, 2], dtype=np.int64)
COSINE = np.array([0.8, 0.5, 0.2, 0.6], dtype=np.float32)
LOGIT = np.array([3.0, -1.0, -4.0, 2.0], dtype=np.float32)


def features(rows: tuple[NDArray[np.int64], NDArray[np.int64]], cosine: FLOATS, logit: FLOATS) -> list[FLOATS]:
    sides = Competition.empty(2), Competition.empty(3)
    for side, own in zip(sides, rows, strict=True):
        side.add(own, cosine, logit)
    return list(context_features(*sides, *rows, cosine, logit))


def test_by_hand() -> None:
    assert SIDE_FEATURES == ("cosine ahead", "logit ahead", "best other logit", "mean cosine")
    assert PAIR_FEATURES == ("ratio", "distance", "cosine", "logit")
    source, target, pair = features(ROWS, COSINE, LOGIT)
    # Of source 0 the best is compared with the second, the others with the best. The neighbourhood is 1.5 / 3.
    # Source 1 has one candidate only, so it is ahead of a cosine of -0.2 and a logit of -10.
    expected = [[0.3, 4, -1, 0.5], [-0.3, -4, 3, 0.5], [-0.6, -7, 3, 0.5], [0.8, 10, -10, 0.6]]
    np.testing.assert_allclose(source, expected, rtol=1e-6)
    # Targets 0 and 1 have one candidate each; target 2 two, with a mean of 0.4.
    expected = [[1.0, 10, -10, 0.8], [0.7, 9, -10, 0.5], [-0.4, -6, 2, 0.4], [0.4, 6, -4, 0.4]]
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    means = [0.65, 0.5, 0.45, 0.5]
    expected = [[c / m, c - m, c, z] for c, m, z in zip(COSINE.tolist(), means, LOGIT.tolist(), strict=True)]
    np.testing.assert_allclose(pair, expected, rtol=1e-6, atol=1e-7)
    assert {part.dtype for part in (source, target, pair)} == {np.dtype(np.float32)}


def test_equals_are_not_ahead_of_each_other() -> None:
    rows = np.array([0, 0], dtype=np.int64), np.array([0, 1], dtype=np.int64)
    source, target, _ = features(rows, np.full(2, 0.5, np.float32), np.full(2, 1.5, np.float32))
    np.testing.assert_allclose(source, [[0, 0, 1.5, 0.5]] * 2)
    np.testing.assert_allclose(target, [[0.7, 10, -10, 0.5]] * 2, rtol=1e-6)


def test_the_neighbourhood_is_of_the_four_best() -> None:
    rows = np.zeros(6, dtype=np.int64), np.arange(6, dtype=np.int64)
    cosine = np.array([0.1, 0.9, 0.5, 0.3, 0.7, 0.2], dtype=np.float32)
    sides = Competition.empty(1), Competition.empty(6)
    for side, own in zip(sides, rows, strict=True):
        side.add(own, cosine, cosine)
    assert sides[0].neighbourhood(np.zeros(1, np.int64)).tolist() == pytest.approx([0.6])
    assert sides[1].neighbourhood(rows[1]).tolist() == pytest.approx(cosine.tolist())


def test_whatever_the_logits_features_are_bounded() -> None:
    rows = np.array([0, 0, 1], dtype=np.int64), np.array([0, 1, 2], dtype=np.int64)
    for cosine in (np.full(3, -1, np.float32), np.zeros(3, np.float32), np.ones(3, np.float32)):
        for part in features(rows, cosine, np.array([1e6, -1e6, 50], np.float32)):
            assert np.isfinite(part).all()
            # A mean below 0.05 divides as 0.05 does.
            assert np.abs(part).max() <= 20


def test_pieces_and_order_change_no_bit() -> None:
    rng = np.random.default_rng(1)
    keys = rng.permutation(6 * 7)[:30]
    rows = (keys // 7).astype(np.int64), (keys % 7).astype(np.int64)
    cosine, logit = (rng.choice([-0.25, 0.1, 0.3, 0.7], 30).astype(np.float32) for _ in range(2))

    def found(order: NDArray[np.int64], size: int) -> list[bytes]:
        sides = Competition.empty(6), Competition.empty(7)
        for start in range(0, 30, size):
            part = order[start : start + size]
            for side, own in zip(sides, rows, strict=True):
                side.add(own[part], cosine[part], logit[part])
        return [part.tobytes() for part in context_features(*sides, *rows, cosine, logit)]

    expected = found(np.arange(30), 30)
    for size in (1, 4, 29):
        assert found(rng.permutation(30), size) == expected
