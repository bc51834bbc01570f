"""What every encoder shares."""

import numpy as np
import pytest

from emsmine.encoder.protocol import usable_rows


@pytest.mark.parametrize(
    ("row", "usable"),
    [
        ((0.0, 1.0), True),
        ((0.6, -0.8), True),
        ((1e-40, 0.0), True),
        ((0.0, 0.0), False),
        ((0.0, -0.0), False),
        ((np.nan, 1.0), False),
        ((np.inf, 0.0), False),
        ((-np.inf, np.nan), False),
    ],
)
def test_usable_rows(row: tuple[float, float], usable: bool) -> None:
    rows = np.array([(1.0, 0.0), row], dtype=np.float32)
    assert usable_rows(rows).tolist() == [True, usable]
    assert usable_rows(rows[:0]).tolist() == []
