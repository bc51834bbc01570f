"""Which lists of an earlier search still hold, worked out by hand, and what they tie with."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.mining.exact.incremental import (
    Renumbering,
    TiedNeighbours,
    carry_over,
    merge_tied,
    search_both_new,
    search_both_tied,
    shorten,
)
from emsmine.mining.neighbours import Neighbours

INF = -np.inf


def ranked(ids: list[list[int]], cosine: list[list[float]], tied: list[bool]) -> TiedNeighbours:
    return TiedNeighbours(Neighbours(np.array(ids, np.int64), np.array(cosine, np.float32)), np.array(tied))


def listed(found: TiedNeighbours) -> list[tuple[list[int], list[float], bool]]:
    rows = zip(found.neighbours.ids.tolist(), found.neighbours.cosine.tolist(), found.tied.tolist(), strict=True)
    return [(ids, [round(value, 3) for value in cosine], tied) for ids, cosine, tied in rows]


def numbering(pairs: dict[int, int], num_old: int) -> Renumbering:
    old = sorted(pairs)
    return Renumbering(np.array(old, np.int64), np.array([pairs[number] for number in old], np.int64), num_old)


KEPT = {1: 11, 2: 12, 3: 13, 4: 14}


def test_a_list_tells_whether_more_are_as_near() -> None:
    found = Neighbours(
        np.array([[5, 6, 7], [5, 6, 7], [5, 6, -1], [5, -1, -1]], np.int64),
        np.array([[0.9, 0.5, 0.5], [0.9, 0.9, 0.5], [0.5, 0.5, INF], [0.5, INF, INF]], np.float32),
    )
    assert shorten(found).tied.tolist() == [True, False, False, False]
    assert shorten(found).neighbours.ids.tolist() == [[5, 6], [5, 6], [5, 6], [5, -1]]


def test_all_that_is_still_there_keeps_its_list_under_new_ids() -> None:
    lists, holds = carry_over(ranked([[2, 1]], [[0.9, 0.5]], [False]), numbering(KEPT, 4), 2)
    assert (listed(lists), holds.tolist()) == ([([12, 11], [0.9, 0.5], False)], [True])


@pytest.mark.parametrize(("tied", "holds"), [(False, True), (True, False)])
def test_equal_cosines_are_sorted_by_new_ids_and_hidden_ones_need_a_search(tied: bool, holds: bool) -> None:
    # Ids 3 and 4 change places: were a fifth sentence as near, it might now come before both.
    lists, found = carry_over(ranked([[3, 4]], [[0.5, 0.5]], [tied]), numbering({3: 14, 4: 13}, 2), 2)
    assert found.tolist() == [holds]
    assert lists.neighbours.ids.tolist() == [[13, 14]]


def test_hidden_ties_are_no_matter_where_nothing_went_and_nothing_moved() -> None:
    lists, holds = carry_over(ranked([[1, 2]], [[0.9, 0.5]], [True]), numbering(KEPT, 4), 2)
    assert (listed(lists), holds.tolist()) == ([([11, 12], [0.9, 0.5], True)], [True])
    # A fifth earlier sentence is gone; it may have been the one that tied.
    assert carry_over(ranked([[1, 2]], [[0.9, 0.5]], [True]), numbering(KEPT, 5), 2)[1].tolist() == [False]


def test_a_full_list_that_lost_an_entry_does_not_hold_but_one_of_the_whole_base_does() -> None:
    gone = numbering({2: 12}, 2)
    lists, holds = carry_over(ranked([[1, 2], [2, 1]], [[0.9, 0.5], [0.9, 0.5]], [False, False]), gone, 2)
    assert holds.tolist() == [False, False]
    short = ranked([[1, 2, -1]], [[0.9, 0.5, INF]], [False])
    lists, holds = carry_over(short, gone, 2)
    assert (listed(lists), holds.tolist()) == ([([12, -1], [0.5, INF], False)], [True])


@pytest.mark.parametrize(
    ("cosine", "tied", "kept", "holds", "ties"),
    [
        ([0.9, 0.8, 0.7], True, [1, 2, 3], True, False),  # the second is above the edge: certain
        ([0.9, 0.7, 0.7], False, [1, 2, 3], True, True),  # at the edge, all of which is named
        ([0.9, 0.7, 0.7], True, [1, 3, 2], False, True),  # at the edge, part of which is not named, and ids moved
        ([0.9, 0.7, 0.7], True, [1, 2, 3], True, True),  # the same, but ids did not move
        ([0.9, 0.8, 0.7], False, [1, 3], True, False),  # one gone, two are left
        ([0.9, 0.8, 0.7], True, [1, 3], False, True),  # one gone, and the last is not certain
        ([0.9, 0.8, 0.7], False, [3], False, False),  # two gone
    ],
)
def test_longer_lists_stand_losses(cosine: list[float], tied: bool, kept: list[int], holds: bool, ties: bool) -> None:
    # `kept` lists the earlier ids that are left, in the order of their new ids.
    numbers = numbering({old: 10 + place for place, old in enumerate(kept)}, 3)
    lists, found = carry_over(ranked([[1, 2, 3]], [cosine], [tied]), numbers, 2)
    assert found.tolist() == [holds]
    if holds:
        assert lists.tied.tolist() == [ties]


def test_more_neighbours_than_there_are_cannot_be_carried_over() -> None:
    with pytest.raises(ValueError, match="3 neighbours wanted, the earlier lists have 2"):
        carry_over(ranked([[1, 2]], [[0.9, 0.5]], [False]), numbering(KEPT, 4), 3)


def test_a_tie_that_a_part_hides_is_not_forgotten() -> None:
    left = ranked([[1, 2]], [[0.9, 0.5]], [True])
    assert listed(merge_tied([left, ranked([[7, -1]], [[0.4, INF]], [False])])) == [([1, 2], [0.9, 0.5], True)]
    # Two better ones push the tie out; one that equals them is seen.
    assert listed(merge_tied([left, ranked([[7, 8]], [[0.8, 0.7]], [False])])) == [([1, 7], [0.9, 0.8], False)]
    assert listed(merge_tied([left, ranked([[7, 8]], [[0.9, 0.9]], [False])])) == [([1, 7], [0.9, 0.9], True)]


def test_parts_may_name_the_same_sentence() -> None:
    left = ranked([[1, 2]], [[0.9, 0.5]], [False])
    assert listed(merge_tied([left, left])) == [([1, 2], [0.9, 0.5], False)]


def test_held_rows_are_searched_among_new_ones_only() -> None:
    vectors: NDArray[np.float32] = np.eye(2, dtype=np.float32)
    ids = np.array([3, 4], np.int64)
    held = np.array([True, False])
    forward, backward = search_both_new(vectors, vectors, 2, ids, ids, held, held)
    expected = [([4, -1], [0.0, INF], False), ([4, 3], [1.0, 0.0], False)]
    assert listed(forward) == listed(backward) == expected
    nothing = np.zeros(2, dtype=bool)
    for found, whole in zip(
        search_both_new(vectors, vectors, 2, ids, ids, nothing, nothing),
        search_both_tied(vectors, vectors, 2, ids, ids),
        strict=True,
    ):
        assert listed(found) == listed(whole)


def test_rows_are_taken_spread_and_joined() -> None:
    lists = ranked([[1, 2], [3, -1]], [[0.9, 0.5], [0.4, INF]], [True, False])
    assert listed(lists.take(np.array([1]))) == [([3, -1], [0.4, INF], False)]
    spread = lists.spread(np.array([2, 0]), 3)
    assert spread.neighbours.ids.tolist() == [[3, -1], [-1, -1], [1, 2]]
    assert spread.tied.tolist() == [False, False, True]
    assert listed(TiedNeighbours.concatenate([lists, lists.take(np.array([0]))]))[2] == listed(lists)[0]
    assert TiedNeighbours.unsure(lists.neighbours).tied.tolist() == [True, False]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tied must be bool \[1\]"):
        TiedNeighbours(Neighbours.empty(1, 2), np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="no parts"):
        merge_tied([])


def test_renumbering_knows_what_is_gone_and_whether_the_order_stayed() -> None:
    numbers = numbering({2: 7, 5: 9}, 2)
    assert numbers(np.array([[5, 2], [3, -1], [9, 1]], np.int64)).tolist() == [[9, 7], [-1, -1], [-1, -1]]
    assert numbers.keeps_order
    assert not numbering({2: 9, 5: 7}, 2).keeps_order
    assert not numbering({2: 7, 5: 9}, 3).keeps_order
    assert numbering({}, 0)(np.array([4], np.int64)).tolist() == [-1]
