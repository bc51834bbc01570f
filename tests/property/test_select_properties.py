"""Selection piece by piece equals selection with all candidates in memory: pairs, order, bits, counts, marks."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.mining.neighbours import Int64Array, Neighbours
from emsmine.mining.selection import MARGINS, RETRIEVALS
from emsmine.mining.selection.retrieve import Candidates, candidates, select
from emsmine.mining.selection.sort import NumberedPairs, PairSorter
from emsmine.mining.selection.streamed import score_streamed
from emsmine.mining.selection.suspicion import suspicion

QUICK = settings(deadline=None, max_examples=150)


class MemoryScratch:
    """What a task puts on the disk, in memory; counts what it holds."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.closed = False

    def append(self, data: npt.NDArray[Any]) -> None:
        self.data += data.tobytes()

    def read(self, start: int, num_bytes: int) -> bytes:
        assert start + num_bytes <= len(self.data)
        return bytes(self.data[start : start + num_bytes])

    def close(self) -> None:
        self.closed = True


@dataclass
class Cut:
    """Lists in pieces, in the order of their rows."""

    row_ids: Int64Array
    neighbours: Neighbours
    cuts: list[int]

    def pieces(self) -> Iterator[slice]:
        ends = [0, *sorted(cut % (len(self.row_ids) + 1) for cut in self.cuts), len(self.row_ids)]
        return (slice(start, stop) for start, stop in itertools.pairwise(ends))

    def ids(self) -> Iterator[Int64Array]:
        return (self.row_ids[piece] for piece in self.pieces())

    def lists(self) -> Iterator[tuple[Int64Array, Neighbours]]:
        for piece in self.pieces():
            yield self.row_ids[piece], Neighbours(self.neighbours.ids[piece], self.neighbours.cosine[piece])


@st.composite
def side_ids(draw: st.DrawFn) -> Int64Array:
    """Ids as the pipeline gives them (runs of shards), with gaps, or without any order."""
    shards = draw(st.lists(st.integers(0, 8), max_size=3))
    ids = np.concatenate([np.zeros(0, np.int64), *((n << 40) + np.arange(rows) for n, rows in enumerate(shards))])
    ids = np.delete(ids, [place for place in draw(st.sets(st.integers(0, 20), max_size=2)) if place < ids.size])
    return ids if draw(st.booleans()) else np.array(draw(st.permutations(ids.tolist())), np.int64)


def invent_lists(rng: np.random.Generator, row_ids: Int64Array, base: Int64Array, scores: list[float]) -> Neighbours:
    """Lists as a sloppy approximate search might give them: distinct ids, any cosines, some of them missing."""
    k = int(rng.integers(1, 5))
    ids, cosine = np.full((len(row_ids), k), -1, np.int64), np.full((len(row_ids), k), -np.inf, np.float32)
    for row in range(len(row_ids)):
        found = min(base.size, k if rng.random() < 0.8 else int(rng.integers(0, k + 1)))
        ids[row, :found] = rng.permutation(base)[:found]
        cosine[row, :found] = -np.sort(-rng.choice(scores, found))
    return Neighbours(ids, cosine)


@st.composite
def both_directions(draw: st.DrawFn) -> tuple[Cut, Cut]:
    source, target = draw(side_ids()), draw(side_ids())
    # Few values make ties; a zero mean makes undefined margins. Of 0.0 and -0.0 none is the higher, so that two
    # directions must not differ in that alone; searches never do.
    any_score = st.floats(-1, 1, width=32).map(lambda score: score + 0.0)
    values = st.sampled_from([-1.0, -0.25, 0.0, 1e-7, 0.25, 0.5, 0.75, 1.0]) | any_score
    scores = draw(st.lists(values, min_size=1, max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    forward, backward = invent_lists(rng, source, target, scores), invent_lists(rng, target, source, scores)
    cuts = st.lists(st.integers(0, 20), max_size=3)
    return Cut(source, forward, draw(cuts)), Cut(target, backward, draw(cuts))


def limit(scores: npt.NDArray[np.float32], which: float) -> float:
    """Return a limit that is one of the scores: the one at a place from 0 to 1 among them; none if below 0."""
    defined = np.sort(scores[~np.isnan(scores)].astype(np.float64))
    if which < 0 or not defined.size:
        return -np.inf
    return float(defined[int(which * (defined.size - 1))])


def counts_in_memory(pool: Candidates, threshold: float, floor: float) -> dict[str, tuple[int, str]]:
    """Count what is not eligible under the first reason that holds, with the first pair in the order of the pool."""
    margin, cosine = pool.margin.astype(np.float64), pool.cosine.astype(np.float64)
    reasons = ["" if c >= floor else "below_cosine_floor" for c in cosine]
    reasons = ["below_threshold" if m < threshold else reason for m, reason in zip(margin, reasons, strict=True)]
    reasons = ["undefined_margin" if np.isnan(m) else reason for m, reason in zip(margin, reasons, strict=True)]
    found = {}
    for reason in sorted(set(reasons) - {""}):
        first = reasons.index(reason)
        place = f"{pool.source_ids[first]}-{pool.target_ids[first]} {margin[first]} {cosine[first]}"
        found[reason] = reasons.count(reason), place
    return found


def one_by_one(pool: Candidates, retrieval: str) -> list[tuple[int, int]]:
    """Choose from the eligible pairs as the definition says."""
    first: list[dict[int, tuple[int, int]]] = [{}, {}]
    chosen = []
    for pair, *found in zip(pool.pairs(), pool.in_forward.tolist(), pool.in_backward.tolist(), strict=True):
        if retrieval == "max":
            if pair[0] not in first[0] and pair[1] not in first[1]:
                first[0][pair[0]] = first[1][pair[1]] = pair
                chosen.append(pair)
        else:
            for side in range(2):
                if found[side]:
                    first[side].setdefault(pair[side], pair)
    if retrieval == "max":
        return chosen
    wanted = [first[side] for side, name in enumerate(("forward", "backward")) if retrieval in (name, "intersect")]
    return [pair for pair in pool.pairs() if all(pair in best.values() for best in wanted)]


@QUICK
@given(
    both=both_directions(),
    margin=st.sampled_from(MARGINS),
    retrieval=st.sampled_from(RETRIEVALS),
    limits=st.tuples(*[st.sampled_from([-1.0, 0.5]) | st.floats(0, 1)] * 2),
    above=st.booleans(),
    buffer_pairs=st.integers(1, 9) | st.just(1000),
)
def test_piece_by_piece_equals_all_in_memory(
    both: tuple[Cut, Cut], margin: str, retrieval: str, limits: tuple[float, float], above: bool, buffer_pairs: int
) -> None:
    forward, backward = both
    whole = forward.neighbours, backward.neighbours, forward.row_ids, backward.row_ids
    pool = candidates(*whole, margin=margin)
    threshold, floor = limit(pool.margin, limits[0]), limit(pool.cosine, limits[1])
    if above:  # by less than float32 can tell
        threshold, floor = (float(np.nextafter(value, np.inf)) for value in (threshold, floor))
    expected = select(pool, retrieval, threshold=threshold, cosine_floor=floor)
    marks = suspicion(expected, *whole, margin=margin, threshold=threshold)
    eligible = pool.take(
        np.flatnonzero((pool.margin.astype(float) >= threshold) & (pool.cosine.astype(float) >= floor))
    )
    assert expected.pairs() == one_by_one(eligible, retrieval)

    opened: list[MemoryScratch] = []

    def open_scratch() -> MemoryScratch:
        opened.append(MemoryScratch())
        return opened[-1]

    sorter = PairSorter(buffer_pairs, open_scratch)
    selection = score_streamed(forward, backward, sorter, margin=margin, threshold=threshold, cosine_floor=floor)
    pieces = list(selection.choose(retrieval))
    sorter.close()
    assert len(opened) == (len(eligible) > buffer_pairs)
    assert all(scratch.closed for scratch in opened)
    assert [pair for chosen, _ in pieces for pair in chosen.pairs()] == expected.pairs()
    for name in ("score", "margin", "cosine", "in_forward", "in_backward"):
        values = b"".join(getattr(chosen, name).tobytes() for chosen, _ in pieces)
        assert values == getattr(expected, name).tobytes(), name
    assert [label for _, piece in pieces for label in piece.labels()] == marks.labels()
    assert selection.num_candidates == len(pool)
    assert selection.num_eligible == len(eligible)
    dropped = {
        reason: (drop.num_pairs, f"{drop.source_id}-{drop.target_id} {drop.margin} {drop.cosine}")
        for reason, drop in selection.dropped.items()
    }
    assert dropped == counts_in_memory(pool, threshold, floor)


@QUICK
@given(
    seed=st.integers(0, 2**32),
    num_pairs=st.integers(0, 200),
    num_margins=st.sampled_from([1, 2, 5, 1000]),
    buffer_pairs=st.integers(1, 70),
    ascending=st.booleans(),
    pieces=st.integers(1, 9),
    rescored=st.booleans(),
)
def test_sorting_through_the_disk_equals_sorting_in_memory(
    seed: int, num_pairs: int, num_margins: int, buffer_pairs: int, ascending: bool, pieces: int, rescored: bool
) -> None:
    rng = np.random.default_rng(seed)
    source, target = np.divmod(rng.permutation(400)[:num_pairs].astype(np.int64), 20)
    margin = (rng.integers(0, num_margins, num_pairs) / 8 - 1).astype(np.float32)
    margin[rng.random(num_pairs) < 0.1] = -0.0
    if ascending:  # every run lies wholly before the one that was put aside before it
        order = np.argsort(margin, kind="stable")
        source, target, margin = source[order], target[order], margin[order]
    flags = rng.random((2, num_pairs)) < 0.5
    cosine = rng.standard_normal(num_pairs).astype(np.float32)
    marks = np.zeros(num_pairs, np.uint32)
    pairs = NumberedPairs(source, target, cosine, margin, flags[0], flags[1])
    expected = Candidates.ordered(source, target, cosine, margin, flags[0], flags[1])
    if rescored:  # what was the margin is the score now
        other = rng.standard_normal(num_pairs).astype(np.float32)
        marks = rng.integers(0, 2**32, num_pairs).astype(np.uint32)
        pairs = NumberedPairs(source, target, cosine, other, flags[0], flags[1], margin, marks)
        expected = Candidates.ordered(source, target, cosine, other, flags[0], flags[1], margin)
    scratch = MemoryScratch()
    sorter = PairSorter(buffer_pairs, lambda: scratch)
    for part in np.array_split(np.arange(num_pairs), pieces):
        sorter.add(pairs.take(part))
    found = list(sorter.best_first())
    num_runs = -(-num_pairs // buffer_pairs)
    assert max((len(piece) for piece in found), default=0) <= max(buffer_pairs, num_runs)
    names = {name: name for name in ("score", "margin", "cosine", "in_forward", "in_backward")}
    for name, expected_name in {"source": "source_ids", "target": "target_ids", **names}.items():
        values = b"".join(getattr(piece, name).tobytes() for piece in found)
        assert values == getattr(expected, expected_name).tobytes(), name
    mark_of = dict(zip(zip(source.tolist(), target.tolist(), strict=True), marks.tolist(), strict=True))
    for piece in found:
        assert [mark_of[pair] for pair in zip(piece.source.tolist(), piece.target.tolist(), strict=True)] == (
            piece.mark.tolist()
        )
    assert len(scratch.data) == (24 * num_pairs if num_pairs > buffer_pairs else 0)


@pytest.mark.parametrize("margin", MARGINS)
def test_the_sides_may_be_of_any_size(margin: str) -> None:
    """The lists of the smaller side are held; swapping the sides swaps the pairs."""
    rng = np.random.default_rng(5)
    ids = [np.arange(size, dtype=np.int64) for size in (7, 60)]
    few = Neighbours(np.argsort(rng.random((7, 60)), axis=1)[:, :3], rng.random((7, 3), dtype=np.float32))
    many = Neighbours(np.argsort(rng.random((60, 7)), axis=1)[:, :2], rng.random((60, 2), dtype=np.float32))
    sides = Cut(ids[0], few, [3]), Cut(ids[1], many, [10, 30])
    found = []
    for one, other in (sides, sides[::-1]):
        sorter = PairSorter(16, MemoryScratch)
        pieces = list(score_streamed(one, other, sorter, margin=margin).choose())
        found.append([pair for chosen, _ in pieces for pair in chosen.pairs()])
    assert len(found[0]) == 7
    assert sorted(found[0]) == sorted((source, target) for target, source in found[1])
