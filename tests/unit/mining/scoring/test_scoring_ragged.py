"""Sets of hashes per sentence, against Python's sets."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.mining.scoring.ragged import HashSets

HASHES = st.sampled_from([0, 1, 2, 3, 1 << 16, 1 << 31, (1 << 32) - 1])
SETS = st.lists(st.lists(HASHES, max_size=6), min_size=1, max_size=6)


@settings(deadline=None, max_examples=100)
@given(SETS, SETS, st.data())
def test_sizes_and_what_is_shared(left: list[list[int]], right: list[list[int]], data: st.DataObject) -> None:
    one, other = HashSets.of(left), HashSets.of(right)
    number = data.draw(st.integers(0, 12))
    rows = [data.draw(st.lists(st.integers(0, len(s) - 1), min_size=number, max_size=number)) for s in (left, right)]
    first, second = (np.array(row, dtype=np.int64) for row in rows)
    assert one.sizes(first).tolist() == [len(set(left[row])) for row in rows[0]]
    expected = [len(set(left[a]) & set(right[b])) for a, b in zip(*rows, strict=True)]
    assert one.shared(first, other, second).tolist() == expected
    assert other.shared(second, one, first).tolist() == expected


def test_the_order_inside_a_set_and_copies_change_nothing() -> None:
    one, other = HashSets.of([[5, 3, 5], []]), HashSets.of([(3, 5), ()])
    assert one.values.tolist() == other.values.tolist() == [3, 5]
    assert one.offsets.tolist() == other.offsets.tolist() == [0, 2, 2]
    assert (one.values.dtype, one.offsets.dtype) == (np.uint32, np.int64)


def test_no_sentences_and_no_pairs() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    empty, some = HashSets.of([]), HashSets.of([[1]])
    assert empty.offsets.tolist() == [0]
    assert empty.shared(nothing, some, nothing).tolist() == []
    assert some.shared(nothing, empty, nothing).tolist() == []
