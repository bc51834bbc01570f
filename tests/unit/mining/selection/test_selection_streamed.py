"""The parts of selection piece by piece: numbers for ids, held lists, sorting, choosing."""

import numpy as np
import pytest

from emsmine.mining.neighbours import Int64Array, Neighbours
from emsmine.mining.selection import streamed
from emsmine.mining.selection.choose import PairSelector
from emsmine.mining.selection.numbering import Numbering
from emsmine.mining.selection.sort import NumberedPairs, PairSorter, Scratch
from emsmine.mining.selection.streamed import HeldLists, Neighbourhoods, score_streamed
from emsmine.mining.selection.suspicion import few_neighbours, last_similarity, typical_similarity

SHARD = 1 << 40


def ids(*values: int) -> Int64Array:
    return np.array(values, dtype=np.int64)


def no_scratch() -> Scratch:
    raise AssertionError("the disk is not needed")


@pytest.mark.parametrize(
    "parts",
    [
        [ids(0, 1, 2), ids(SHARD, SHARD + 1), ids(), ids(3 * SHARD)],
        [ids(3 * SHARD, SHARD + 1), ids(2, 0), ids(SHARD, 1)],
        [ids(5)],
        [ids(4, 6), ids(5)],
        [ids()],
        [],
    ],
)
def test_ids_are_numbered_in_ascending_order(parts: list[Int64Array]) -> None:
    everything = np.sort(np.concatenate([ids(), *parts]))
    numbering = Numbering.of(parts, "source")
    assert len(numbering) == len(everything)
    assert numbering.numbers_of(everything).tolist() == list(range(len(everything)))
    assert numbering.ids_of(np.arange(len(everything))[::-1]).tolist() == everything[::-1].tolist()
    for unknown in {-1, 3, 7, SHARD - 1, SHARD + 2, 1 << 62} - set(everything.tolist()):
        with pytest.raises(ValueError, match=f"neighbour {unknown} is not among the {len(everything)} source ids"):
            numbering.numbers_of(ids(*everything[:1].tolist(), unknown))


def test_consecutive_ids_take_one_entry_of_the_table() -> None:
    parts = [np.arange(start, start + 1000) for start in (2000, 0, 1000, SHARD)]
    assert Numbering.of(parts, "target").starts.tolist() == [0, SHARD]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([ids(0, 1), ids(1)], "source id 1 occurs twice"),
        ([ids(7, 7)], "source id 7 occurs twice"),
        ([ids(3, 4, 5), ids(4)], "source id 4 occurs twice"),
        ([ids(0, -1)], "source id -1 is negative"),
        ([np.array([1], np.int32)], r"must be int64 \[N\], got int32"),
    ],
)
def test_ids_that_cannot_be_numbered_are_refused(parts: list[Int64Array], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Numbering.of(parts, "source")


def test_facts_do_not_depend_on_how_the_lists_are_cut() -> None:
    nothing = -np.inf
    cosine = np.array([[0.9, 0.5], [0.3, nothing], [0.8, 0.7], [nothing, nothing], [0.6, 0.1]], dtype=np.float32)
    lists = Neighbours(np.where(np.isinf(cosine), -1, np.array([[4, 7]])), cosine)
    facts = Neighbourhoods(Numbering.of([np.arange(5)], "source"))
    for piece in (slice(3, 5), slice(0, 3)):
        facts.add(np.arange(5)[piece], Neighbours(lists.ids[piece], lists.cosine[piece]))
    facts.close()
    np.testing.assert_allclose(facts.mean, [0.7, 0.3, 0.75, np.nan, 0.35], rtol=1e-6)
    assert facts.few.tolist() == few_neighbours(lists).tolist() == [False, True, False, True, False]
    # 0.5, 0.3, 0.7 and 0.1: the sentence without neighbours has none that is its last.
    assert facts.typical == typical_similarity(last_similarity(lists)) == pytest.approx(0.4)


def test_held_lists_meet_the_other_direction() -> None:
    held = HeldLists(3, 2)
    held.hold(ids(2, 0), np.array([[5, 6], [5, -1]]), np.array([[0.5, 0.4], [0.3, -np.inf]], dtype=np.float32))
    cosine = np.array([0.6, 0.3, 0.1, 0.2, 0.9], dtype=np.float32)
    met = held.match(ids(2, 2, 0, 1, 0), ids(5, 6, 6, 5, 7), cosine)
    assert met.tolist() == [True, True, False, False, False]
    for num_rows in (1, 2, 3):
        found = [np.concatenate(columns).tolist() for columns in zip(*held.entries(num_rows), strict=True)]
        assert found[:2] == [[0, 2, 2], [5, 5, 6]]
        np.testing.assert_allclose(found[2], [0.3, 0.6, 0.4], rtol=1e-6)
        assert found[3] == [False, True, True]


def pairs(*rows: tuple[int, int, float]) -> NumberedPairs:
    source, target, margin = zip(*rows, strict=True)
    scores, flags = np.array(margin, dtype=np.float32), np.ones(len(rows), dtype=bool)
    return NumberedPairs(ids(*source), ids(*target), scores, scores, flags, flags)


def test_a_buffer_that_is_just_full_needs_no_disk() -> None:
    sorter = PairSorter(3, no_scratch)
    sorter.add(pairs((1, 1, 0.5), (0, 2, 0.5)))
    sorter.add(pairs((7, 7, 2.0)))
    (piece,) = sorter.best_first()
    assert list(zip(piece.source.tolist(), piece.target.tolist(), strict=True)) == [(7, 7), (0, 2), (1, 1)]
    sorter = PairSorter(2, no_scratch)
    with pytest.raises(AssertionError, match="not needed"):
        sorter.add(pairs((1, 1, 0.5), (0, 2, 0.5), (7, 7, 2.0)))
    with pytest.raises(ValueError, match="a buffer of 0 pairs"):
        PairSorter(0, no_scratch)


def test_no_pair_at_all() -> None:
    assert list(PairSorter(3, no_scratch).best_first()) == []


def test_the_highest_numbers_fit() -> None:
    highest = (1 << 31) - 2
    sorter = PairSorter(4, no_scratch)
    sorter.add(pairs((highest, 0, 1.0), (0, highest, 1.0), (highest, highest, -1.0)))
    (piece,) = sorter.best_first()
    assert piece.source.tolist() == [0, highest, highest]
    assert piece.target.tolist() == [highest, 0, highest]
    assert piece.in_forward.all()


def test_the_rest_of_a_long_chain_is_gone_through_in_parts() -> None:
    """Each round settles one pair of a chain only, and the rest is longer than what is looked at one by one.

    Three chains by turns: a part of the rest ends between two pairs that share a sentence.
    """
    links, chains = (part.ravel() for part in np.indices((50_000, 3)))
    source, target = 3 * (links // 2) + chains, 3 * ((links + 1) // 2) + chains
    flags = np.ones(links.size, dtype=bool)
    chosen = PairSelector("max", 80_000, 80_000).choose(source, target, flags, flags)
    assert chosen.tolist() == np.flatnonzero(links % 2 == 0).tolist()


@pytest.mark.parametrize(
    ("retrieval", "chosen"),
    [
        ("max", [True, False, False, True]),
        ("forward", [True, False, True, False]),
        ("backward", [True, True, False, False]),
        ("intersect", [True, False, False, False]),
    ],
)
def test_choosing_remembers_earlier_pieces(retrieval: str, chosen: list[bool]) -> None:
    chooser, flag = PairSelector(retrieval, 2, 2), np.array([True])
    found = [chooser.choose(ids(source), ids(target), flag, flag).size for source, target in np.ndindex(2, 2)]
    assert found == chosen


class Lists:
    def __init__(self, rows: Int64Array, neighbours: Neighbours) -> None:
        self.rows, self.neighbours = rows, neighbours

    def ids(self) -> list[Int64Array]:
        return [self.rows]

    def lists(self) -> list[tuple[Int64Array, Neighbours]]:
        return [(self.rows, self.neighbours)]


def one_list(row: int, *base: int) -> Lists:
    cosine = np.linspace(0.9, 0.1, len(base), dtype=np.float32)[None]
    return Lists(ids(row), Neighbours(ids(*base)[None], cosine))


@pytest.mark.parametrize(("num_source", "num_target", "held"), [(2, 3, 2), (3, 2, 2), (3, 3, 3)])
def test_the_lists_of_the_smaller_side_are_held(
    monkeypatch: pytest.MonkeyPatch, num_source: int, num_target: int, held: int
) -> None:
    rows: set[int] = set()

    class Watched(HeldLists):
        def __init__(self, num_rows: int, k: int) -> None:
            super().__init__(num_rows, k)
            rows.add(num_rows)

    monkeypatch.setattr(streamed, "HeldLists", Watched)
    forward, backward = (
        Lists(np.arange(size), Neighbours(np.zeros((size, 1), np.int64), np.ones((size, 1), np.float32)))
        for size in (num_source, num_target)
    )
    selection = score_streamed(forward, backward, PairSorter(9, no_scratch))
    assert selection.num_candidates == num_source + num_target - 1
    assert max(rows) == held


def test_lists_that_cannot_be_right_are_refused_as_in_memory() -> None:
    sorter = PairSorter(4, no_scratch)
    with pytest.raises(ValueError, match="source 1 has neighbour 5 twice"):
        score_streamed(one_list(1, 5, 5), one_list(5, 1), sorter)
    with pytest.raises(ValueError, match="target 5 has neighbour 1 twice"):
        score_streamed(one_list(1, 5), one_list(5, 1, 1), sorter)
    with pytest.raises(ValueError, match="neighbour 6 is not among the 1 target ids"):
        score_streamed(one_list(1, 5, 6), one_list(5, 1), sorter)
    with pytest.raises(ValueError, match="unknown kind 'cosine'"):
        score_streamed(one_list(1, 5), one_list(5, 1), sorter, margin="cosine")
    with pytest.raises(ValueError, match="threshold nan"):
        score_streamed(one_list(1, 5), one_list(5, 1), sorter, threshold=np.nan)
    with pytest.raises(ValueError, match="'union'; choose one of"):
        list(score_streamed(one_list(1, 5), one_list(5, 1), sorter).choose("union"))
