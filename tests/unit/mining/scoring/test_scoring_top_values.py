"""The largest values of each sentence, kept while they come in pieces: against sorting all at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.mining.scoring.top_values import TopValues

NUM_SENTENCES = 4
VALUES = st.sampled_from([-3.5, -0.25, 0.0, 0.125, 0.5, 7.0])
STREAM = st.lists(st.tuples(st.integers(0, NUM_SENTENCES - 1), VALUES), max_size=30)


def taken(stream: list[tuple[int, float]], ends: list[int], k: int) -> TopValues:
    found = TopValues(NUM_SENTENCES, k)
    bounds = sorted({0, len(stream), *(end % (len(stream) + 1) for end in ends)})
    for start, stop in itertools.pairwise(bounds):
        part = stream[start:stop]
        found.add(np.array([n for n, _ in part], dtype=np.int64), np.array([v for _, v in part], dtype=np.float32))
    return found


@settings(deadline=None, max_examples=150)
@given(STREAM, st.lists(st.integers(0, 30), max_size=6), st.integers(1, 5))
def test_any_cutting_gives_the_largest(stream: list[tuple[int, float]], ends: list[int], k: int) -> None:
    found = taken(stream, ends, k)
    for sentence in range(NUM_SENTENCES):
        own = sorted((value for number, value in stream if number == sentence), reverse=True)
        assert found.values[sentence].tolist() == (own + [-np.inf] * k)[:k]


@settings(deadline=None, max_examples=100)
@given(STREAM.filter(bool), st.lists(st.integers(0, 30), max_size=6), st.integers(2, 4))
def test_the_best_beside_a_value(stream: list[tuple[int, float]], ends: list[int], k: int) -> None:
    found = taken(stream, ends, k)
    sentences = np.array([number for number, _ in stream], dtype=np.int64)
    values = np.array([value for _, value in stream], dtype=np.float32)
    expected = []
    for place, (number, _) in enumerate(stream):
        others = [value for at, (other, value) in enumerate(stream) if other == number and at != place]
        expected.append(max(others, default=-np.inf))
    assert found.best_other(sentences, values).tolist() == expected


def test_nothing_taken() -> None:
    found = TopValues(2, 3)
    found.add(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    assert np.isneginf(found.values).all()
    assert found.values.dtype == np.float32
    assert TopValues(0, 2).values.shape == (0, 2)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_equal_values_count_each(k: int) -> None:
    found = TopValues(1, k)
    found.add(np.zeros(2, dtype=np.int64), np.array([0.5, 0.5], dtype=np.float32))
    assert found.values[0].tolist() == ([0.5, 0.5] + [-np.inf] * 2)[:k]
