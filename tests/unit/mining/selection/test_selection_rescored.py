"""Selection by another score than the margin, piece by piece: what `select` chooses with all in memory."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.mining.selection import RETRIEVALS
from emsmine.mining.selection.rescored import Rescored, RescoredSelection
from emsmine.mining.selection.retrieve import Candidates, select
from emsmine.mining.selection.sort import PairSorter

SHARD = 1 << 40


class MemoryScratch:
    """What a task puts on the disk, in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def append(self, data: npt.NDArray[Any]) -> None:
        self.data += data.tobytes()

    def read(self, start: int, size: int) -> bytes:
        assert start + size <= len(self.data)
        return bytes(self.data[start : start + size])

    def close(self) -> None:
        self.data.clear()


def pool(seed: int, number: int, num_sentences: int = 9) -> Rescored:
    """Return candidates of two shards with few different scores, which have nothing to do with their margins."""
    rng = np.random.default_rng(seed)
    keys = rng.permutation(num_sentences**2)[:number]
    ids = [(part % 2) * SHARD + part for part in (keys // num_sentences, keys % num_sentences)]
    scores = rng.choice(np.array([0.1, 0.25, 0.5, 0.50000006, 0.9], np.float32), number)
    cosine = rng.choice(np.array([0.2, 0.35, 0.6], np.float32), number)
    margin = rng.uniform(0.9, 2, number).astype(np.float32)
    flags = rng.random((2, number)) < 0.6
    flags[1] |= ~flags[0]
    marks = rng.integers(0, 1 << 32, number, dtype=np.uint32)
    return Rescored(ids[0].astype(np.int64), ids[1].astype(np.int64), cosine, margin, flags[0], flags[1], scores, marks)


def columns(found: Rescored) -> list[npt.NDArray[Any]]:
    return list(vars(found).values())


def chosen(
    found: Rescored, retrieval: str, threshold: float, floor: float, buffer: int, ends: list[int]
) -> tuple[RescoredSelection, list[Candidates], npt.NDArray[np.uint32]]:
    bounds = sorted({0, len(found.score), *(end % (len(found.score) + 1) for end in ends)})

    def pieces() -> Iterator[Rescored]:
        for start, stop in itertools.pairwise(bounds):
            yield Rescored(*(column[start:stop] for column in columns(found)))

    selection = RescoredSelection(pieces, PairSorter(buffer, MemoryScratch), threshold, floor)
    parts = list(selection.choose(retrieval))
    return selection, [pairs for pairs, _ in parts], np.concatenate([np.zeros(0, np.uint32), *(m for _, m in parts)])


@settings(deadline=None, max_examples=120)
@given(
    st.integers(0, 1 << 20),
    st.integers(0, 60),
    st.sampled_from(RETRIEVALS),
    st.sampled_from([-np.inf, 0.0, 0.25, 0.50000003, 0.9, 1.0]),
    st.sampled_from([-np.inf, 0.35, 0.5]),
    st.integers(1, 70),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_the_same_as_in_memory(
    seed: int, number: int, retrieval: str, threshold: float, floor: float, buffer: int, ends: list[int]
) -> None:
    found = pool(seed, number)
    selection, parts, marks = chosen(found, retrieval, threshold, floor, buffer, ends)
    everything = Candidates.ordered(*columns(found)[:-1])
    expected = select(everything, retrieval, threshold=threshold, cosine_floor=floor)
    for name in ("source_ids", "target_ids", "cosine", "margin", "in_forward", "in_backward", "score"):
        ours = np.concatenate([getattr(expected, name)[:0], *(getattr(part, name) for part in parts)])
        assert ours.tobytes() == getattr(expected, name).tobytes(), name
    keys = zip(found.source_ids.tolist(), found.target_ids.tolist(), strict=True)
    mark_of = dict(zip(keys, found.mark.tolist(), strict=True))
    assert marks.tolist() == [mark_of[pair] for pair in expected.pairs()]
    below = found.score.astype(np.float64) < threshold
    assert selection.num_candidates == number
    assert selection.num_below_threshold == below.sum()
    assert selection.num_below_floor == (~below & (found.cosine.astype(np.float64) < floor)).sum()
    eligible = number - selection.num_below_threshold - selection.num_below_floor
    assert selection.sorter.num_pairs == eligible


@pytest.mark.parametrize("retrieval", RETRIEVALS)
def test_pieces_and_buffer_change_nothing(retrieval: str) -> None:
    found = pool(5, 70)
    results = []
    for buffer, ends in ((1, []), (1, list(range(70))), (7, [13, 50]), (1000, [])):
        _, parts, marks = chosen(found, retrieval, 0.2, 0.3, buffer, ends)
        rows = [row for part in parts for row in zip(part.pairs(), part.score.tolist(), strict=True)]
        results.append((rows, marks.tolist()))
    assert results[0][0]
    assert all(result == results[0] for result in results)


def test_by_hand() -> None:
    # The best margin has the worst score; the score decides.
    found = Rescored(
        np.array([1, 1, 2], dtype=np.int64),
        np.array([5, 6, 6], dtype=np.int64),
        *(np.array(values, dtype=np.float32) for values in ([0.9, 0.8, 0.7], [2.0, 1.5, 1.1])),
        *(np.ones(3, dtype=bool) for _ in range(2)),
        np.array([0.2, 0.9, 0.8], dtype=np.float32),
        np.array([3, 4, 5], dtype=np.uint32),
    )
    _, parts, marks = chosen(found, "max", 0.1, 0, 10, [])
    assert [pair for part in parts for pair in part.pairs()] == [(1, 6)]
    assert marks.tolist() == [4]
    _, parts, marks = chosen(found, "forward", 0.1, 0, 10, [])
    assert [pair for part in parts for pair in part.pairs()] == [(1, 6), (2, 6)]
    assert marks.tolist() == [4, 5]
    assert [part.margin.tolist() for part in parts] == [[1.5, pytest.approx(1.1)]]


def test_nothing_and_wrong_limits() -> None:
    selection, parts, marks = chosen(pool(0, 0), "max", 0.5, 0.35, 3, [])
    assert (selection.num_candidates, sum(map(len, parts)), marks.tolist()) == (0, 0, [])
    for threshold, floor in ((np.nan, 0.0), (0.5, np.nan)):
        with pytest.raises(ValueError, match="must be numbers"):
            chosen(pool(0, 3), "max", threshold, floor, 3, [])
    with pytest.raises(ValueError, match="'union'; choose one of"):
        chosen(pool(0, 3), "union", 0.5, 0.35, 3, [])
