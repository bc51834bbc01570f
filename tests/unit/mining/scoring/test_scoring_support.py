"""Pairs gain if their two documents hold other pairs: worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.mining.scoring.support import GAIN, LARGEST_SUPPORT, DocumentSupport, supported


def int64(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


# Document 7 holds three confident pairs with document 9: two of one source, and one of another. One pair is elsewhere.
SUPPORT = DocumentSupport(int64(7, 7, 7, 7), int64(9, 9, 9, 8), int64(0, 0, 1, 2), int64(5, 6, 7, 8))


def test_by_hand() -> None:
    # Three pairs of two sources are two translations; who is one of them has one other beside it.
    found = SUPPORT.of(int64(7, 7, 7, 7, 9, 1), int64(9, 9, 8, 8, 7, 1), np.array([1, 0, 1, 0, 0, 0], dtype=bool))
    assert found.dtype == np.int32
    assert found.tolist() == [1, 2, 0, 1, 0, 0]


def test_candidates_of_one_sentence_do_not_support_each_other() -> None:
    rivals = DocumentSupport(int64(1, 1, 1), int64(2, 2, 2), int64(4, 4, 4), int64(5, 6, 7))
    assert rivals.of(int64(1), int64(2), np.array([True])).tolist() == [0]


def test_order_and_copies_change_nothing() -> None:
    order = [3, 1, 0, 2, 1]
    columns = (int64(7, 7, 7, 7), int64(9, 9, 9, 8), int64(0, 0, 1, 2), int64(5, 6, 7, 8))
    again = DocumentSupport(*(column[order] for column in columns))
    where = int64(7, 7, 8), int64(8, 9, 9)
    flags = np.zeros(3, dtype=bool)
    assert again.of(*where, flags).tolist() == SUPPORT.of(*where, flags).tolist() == [1, 2, 0]


def test_nothing() -> None:
    empty = DocumentSupport(*[int64()] * 4)
    assert empty.of(int64(1), int64(2), np.array([False])).tolist() == [0]
    assert SUPPORT.of(int64(), int64(), np.zeros(0, dtype=bool)).tolist() == []


def test_the_gain_is_bounded() -> None:
    counts = np.array([0, 1, 7, LARGEST_SUPPORT, LARGEST_SUPPORT + 1, 1000], dtype=np.int32)
    found = supported(np.full(6, -1, dtype=np.float32), counts)
    assert found.dtype == np.float32
    assert found[0] == -1
    assert (np.diff(found[:4]) > 0).all()
    assert found[3] == found[4] == found[5]
    assert found[1] == pytest.approx(-1 + GAIN * np.log(2))
