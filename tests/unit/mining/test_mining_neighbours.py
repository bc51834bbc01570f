"""Rows of ids."""

import numpy as np
import pytest

from emsmine.mining.neighbours import rows_among


@pytest.mark.parametrize(
    ("ids", "known", "rows"),
    [
        ([], [], []),
        ([3], [], [None]),
        ([], [3], []),
        ([7, 3, 5], [3, 5, 7], [2, 0, 1]),
        ([2, 4, 8, -1], [3, 5, 7], [None] * 4),
        ([5, 5, 9], [5, 5, 9, 9], [0, 0, 2]),
        ([[3, -1], [9, 5]], [3, 5], [[0, None], [None, 1]]),
        ([2**62], [-5, 2**62], [1]),
    ],
)
def test_rows_among(ids: object, known: list[int], rows: object) -> None:
    wanted = np.array(ids, dtype=np.int64)
    found, is_known = rows_among(wanted, np.array(known, dtype=np.int64))
    assert np.where(is_known, found, None).tolist() == rows
    assert (found.dtype, is_known.dtype) == (np.int64, np.bool_)
    # Whoever asks may take the row of an id that is not there, before it looks whether it is.
    assert not known or np.array(known)[found].shape == wanted.shape
