"""Candidates and retrieval on hand-made neighbours."""

import numpy as np
import pytest
from numpy.typing import ArrayLike

from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours, merge
from emsmine.mining.selection import RETRIEVALS
from emsmine.mining.selection.retrieve import Candidates, candidates, rows_of, select


def neighbours(ids: ArrayLike, cosine: ArrayLike) -> Neighbours:
    return Neighbours(np.array(ids, dtype=np.int64), np.array(cosine, dtype=np.float32))


def scored(*pairs: tuple[int, int, float], cosine: ArrayLike = 0.5) -> Candidates:
    """Candidates from (source id, target id, margin) in any order."""
    source_ids, target_ids, margin = zip(*pairs, strict=True)
    size = len(pairs)
    return Candidates.ordered(
        np.array(source_ids, dtype=np.int64),
        np.array(target_ids, dtype=np.int64),
        np.broadcast_to(np.asarray(cosine, dtype=np.float32), size).copy(),
        np.array(margin, dtype=np.float32),
        np.ones(size, dtype=bool),
        np.ones(size, dtype=bool),
    )


# y0 is a hub: near to everything. Means: x0 0.79, x1 0.60; y0 0.85, y1 0.54.
#   ratio(x0, y0) = 0.80 / 0.820 = 0.9756   ratio(x0, y1) = 0.78 / 0.665 = 1.1729
#   ratio(x1, y0) = 0.90 / 0.725 = 1.2414   ratio(x1, y1) = 0.30 / 0.570 = 0.5263
HUB_FORWARD = neighbours([[0, 1], [0, 1]], [[0.80, 0.78], [0.90, 0.30]])
HUB_BACKWARD = neighbours([[1, 0], [0, 1]], [[0.90, 0.80], [0.78, 0.30]])


def test_candidates_by_hand() -> None:
    pairs = candidates(HUB_FORWARD, HUB_BACKWARD)
    assert pairs.pairs() == [(1, 0), (0, 1), (0, 0), (1, 1)]
    np.testing.assert_allclose(pairs.margin, [1.2414, 1.1729, 0.9756, 0.5263], atol=5e-5)
    np.testing.assert_allclose(pairs.cosine, [0.9, 0.78, 0.8, 0.3])
    assert pairs.in_forward.all()
    assert pairs.in_backward.all()


@pytest.mark.parametrize("retrieval", RETRIEVALS)
def test_the_best_margin_wins_over_the_nearest_cosine(retrieval: str) -> None:
    """stopes takes the nearest cosine by default, which would give x0 the hub y0."""
    assert select(candidates(HUB_FORWARD, HUB_BACKWARD), retrieval).pairs() == [(1, 0), (0, 1)]


def test_ids_may_be_sparse_and_unsorted() -> None:
    source_ids, target_ids = np.array([5 << 40, 3]), np.array([8, 2 << 40])
    forward = neighbours([[8, 2 << 40], [8, 2 << 40]], HUB_FORWARD.cosine)
    backward = neighbours([[3, 5 << 40], [5 << 40, 3]], HUB_BACKWARD.cosine)
    pairs = candidates(forward, backward, source_ids, target_ids)
    assert pairs.pairs() == [(3, 8), (5 << 40, 2 << 40), (5 << 40, 8), (3, 2 << 40)]
    np.testing.assert_allclose(pairs.margin, [1.2414, 1.1729, 0.9756, 0.5263], atol=5e-5)


def test_missing_neighbours_never_become_a_pair() -> None:
    """stopes replaces a missing neighbour (-1) by index 0, which makes a pair with sentence 0."""
    nothing = -np.inf
    forward = neighbours([[-1, -1], [1, -1], [-1, -1]], [[nothing, nothing], [0.8, nothing], [nothing, nothing]])
    backward = neighbours([[-1, -1], [1, -1]], [[nothing, nothing], [0.8, nothing]])
    pairs = candidates(forward, backward)
    assert pairs.pairs() == [(1, 1)]
    # Means over the one neighbour that exists: the ratio is 0.8 / 0.8, not 0.8 / 0.4.
    assert pairs.margin.tolist() == [1.0]
    for retrieval in RETRIEVALS:
        assert select(pairs, retrieval).pairs() == [(1, 1)]


def test_k_beyond_both_corpora_pairs_what_exists_with_its_own_cosine() -> None:
    source = np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    target = np.array([[0.6, 0.8]], dtype=np.float32)
    pairs = candidates(*search_both(source, target, 4), margin="distance")
    assert pairs.pairs() == [(0, 0), (1, 0), (2, 0)]
    np.testing.assert_allclose(pairs.cosine, [0.8, 0.6, -0.6], atol=1e-7)


def test_each_pair_knows_the_directions_that_found_it() -> None:
    forward = neighbours([[0], [0]], [[0.9], [0.6]])
    backward = neighbours([[0], [1]], [[0.9], [0.5]])
    pairs = candidates(forward, backward, margin="absolute")
    assert pairs.pairs() == [(0, 0), (1, 0), (1, 1)]
    assert pairs.in_forward.tolist() == [True, True, False]
    assert pairs.in_backward.tolist() == [True, False, True]
    assert select(pairs, "forward").pairs() == [(0, 0), (1, 0)]
    assert select(pairs, "backward").pairs() == [(0, 0), (1, 1)]
    assert select(pairs, "intersect").pairs() == [(0, 0)]
    assert select(pairs, "max").pairs() == [(0, 0), (1, 1)]


def test_forward_ignores_a_better_pair_that_only_backward_found() -> None:
    ids, score = np.array([1, 1]), np.array([1.5, 1.25], dtype=np.float32)
    first, second = np.array([True, False]), np.array([False, True])
    pairs = Candidates(ids, np.array([7, 8]), score, score, in_forward=second, in_backward=first)
    assert select(pairs, "forward").pairs() == [(1, 8)]
    assert select(pairs, "backward").pairs() == [(1, 7)]
    assert select(pairs, "intersect").pairs() == []
    assert select(pairs, "max").pairs() == [(1, 7)]


def test_unlike_cosines_of_an_approximate_engine_count_once_with_the_higher() -> None:
    pairs = candidates(neighbours([[0]], [[0.70]]), neighbours([[0]], [[0.71]]), margin="absolute")
    assert pairs.cosine.tolist() == [np.float32(0.71)]


def test_a_row_that_names_a_neighbour_twice_is_refused() -> None:
    """Two shards that hold one sentence: its copies would fill the neighbourhood and pull the margin towards 1."""
    forward = neighbours([[9, 9, 8], [8, 9, -1]], [[0.8, 0.8, 0.2], [0.7, 0.1, -np.inf]])
    backward = neighbours([[4, 6], [6, 4]], [[0.8, 0.1], [0.7, 0.2]])
    source_ids, target_ids = np.array([4, 6]), np.array([9, 8])
    with pytest.raises(ValueError, match="source 4 has neighbour 9 twice"):
        candidates(forward, backward, source_ids, target_ids)
    with pytest.raises(ValueError, match="target 4 has neighbour 9 twice"):
        candidates(backward, forward, target_ids, source_ids)
    # Missing neighbours are no copies of each other.
    assert len(candidates(neighbours([[0, -1, -1]], [[0.5, -np.inf, -np.inf]]), neighbours([[0]], [[0.5]]))) == 1


def test_a_sentence_in_two_parts_counts_once() -> None:
    parts = [neighbours([[7, 8]], [[0.8, 0.2]]), neighbours([[7, 9]], [[0.8, 0.4]])]
    backward = neighbours([[0], [0], [0]], [[0.8], [0.2], [0.4]])
    pairs = candidates(merge(parts), backward, None, np.array([7, 8, 9]))
    assert pairs.pairs() == [(0, 7), (0, 9), (0, 8)]
    assert pairs.margin[0] == pytest.approx(0.8 / ((0.6 + 0.8) / 2))


def test_empty_sides_give_no_candidates() -> None:
    for num_source, num_target in ((0, 0), (0, 3), (3, 0)):
        pairs = candidates(Neighbours.empty(num_source, 4), Neighbours.empty(num_target, 4))
        assert len(pairs) == 0
        assert [len(select(pairs, retrieval)) for retrieval in RETRIEVALS] == [0, 0, 0, 0]


def test_ids_that_do_not_belong_to_the_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbour 1 is not among the 1 target ids"):
        candidates(HUB_FORWARD, neighbours([[0]], [[0.8]]))
    with pytest.raises(ValueError, match="neighbour 1 is not among the 2 source ids"):
        candidates(HUB_FORWARD, HUB_BACKWARD, np.array([2, 0]))
    with pytest.raises(ValueError, match="source ids must be int64"):
        candidates(HUB_FORWARD, HUB_BACKWARD, np.array([1]))
    with pytest.raises(ValueError, match="unknown kind 'cosine'"):
        candidates(HUB_FORWARD, HUB_BACKWARD, margin="cosine")


def test_greedy_takes_the_best_free_pair() -> None:
    # (2, 1) loses its target to (1, 1), (1, 2) its source; (2, 3) comes after both.
    pairs = scored((1, 1, 1.5), (2, 1, 1.4), (1, 2, 1.3), (2, 3, 1.1), (3, 3, 1.2))
    assert select(pairs).pairs() == [(1, 1), (3, 3)]


def test_equal_margins_go_to_the_lower_ids() -> None:
    pairs = scored((2, 1, 1.0), (1, 2, 1.0), (1, 1, 1.0), (2, 2, 1.0))
    assert pairs.pairs() == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert select(pairs).pairs() == [(1, 1), (2, 2)]
    assert select(pairs, "forward").pairs() == [(1, 1), (2, 1)]


@pytest.mark.parametrize("retrieval", RETRIEVALS)
def test_the_threshold_holds_for_every_retrieval(retrieval: str) -> None:
    """LASER's mine_bitexts applies it in its max branch only."""
    pairs = scored((1, 1, 1.25), (2, 2, 1.125), (3, 3, 1.0))
    assert select(pairs, retrieval, threshold=1.125).pairs() == [(1, 1), (2, 2)]


def test_a_threshold_between_two_adjacent_float32_separates_them() -> None:
    lower, upper = 1.0, float(np.nextafter(np.float32(1), np.float32(2)))
    midpoint = (lower + upper) / 2
    assert np.float32(midpoint) == lower  # a comparison in float32 would let the lower one in
    assert select(scored((1, 1, upper), (2, 2, lower)), threshold=midpoint).pairs() == [(1, 1)]


def test_a_pair_under_the_cosine_floor_does_not_keep_its_sentences_from_others() -> None:
    pairs = scored((1, 1, 1.5), (1, 2, 1.4), cosine=[0.3, 0.6])
    assert select(pairs, cosine_floor=0.5).pairs() == [(1, 2)]
    assert select(pairs, "forward", cosine_floor=0.5).pairs() == [(1, 2)]


@pytest.mark.parametrize("retrieval", RETRIEVALS)
def test_undefined_margins_are_counted_and_never_chosen(retrieval: str) -> None:
    pairs = scored((3, 3, np.nan), (1, 1, 0.5), (2, 2, np.nan))
    assert pairs.pairs() == [(1, 1), (2, 2), (3, 3)]
    assert pairs.num_undefined == 2
    assert select(pairs, retrieval).pairs() == [(1, 1)]


def test_select_refuses_what_it_does_not_know() -> None:
    pairs = scored((1, 1, 1.0))
    with pytest.raises(ValueError, match="'union'; choose one of max, forward, backward, intersect"):
        select(pairs, "union")
    with pytest.raises(ValueError, match="threshold nan"):
        select(pairs, threshold=float("nan"))


def test_candidates_out_of_order_are_refused() -> None:
    pairs = scored((1, 1, 1.0), (2, 2, 0.5), (3, 3, np.nan))
    for wrong in ([1, 0], [2, 0], [0, 0]):
        with pytest.raises(ValueError, match="pairs 0 and 1 are out of order or equal"):
            pairs.take(np.array(wrong))


def test_candidates_refuse_wrong_columns() -> None:
    one, flag = np.array([1]), np.array([True])
    score = np.array([1.0], dtype=np.float32)
    with pytest.raises(ValueError, match="types"):
        Candidates(one, one, score.astype(np.float64), score, flag, flag)
    with pytest.raises(ValueError, match="shapes"):
        Candidates(one, one[:0], score, score, flag, flag)


def one_by_one(pool: Candidates) -> list[tuple[int, int]]:
    sources, targets, chosen = set[int](), set[int](), []
    for source, target in pool.pairs():
        if source not in sources and target not in targets:
            sources.add(source)
            targets.add(target)
            chosen.append((source, target))
    return chosen


def test_one_to_one_selection_of_chains_equals_going_through_them() -> None:
    # Each pair beats its neighbour in the chain by a little, so that each round settles one pair of it only.
    for shifts in ((0, 1), (1, 0)):  # neighbours in the chain share a source and a target by turns
        pool = scored(*(((link + shifts[0]) // 2, (link + shifts[1]) // 2, 2.0 - link / 100) for link in range(60)))
        assert select(pool).pairs() == one_by_one(pool) == [(n, n) for n in range(30)]
    rng = np.random.default_rng(0)
    for rows in (1, 5, 40, 300):
        numbers = np.unique(rng.integers(0, rows * rows, 4 * rows))
        # Few distinct margins: ties are broken by the ids.
        pool = scored(*((int(n) // rows, int(n) % rows, float(rng.integers(0, 9)) / 4) for n in numbers))
        assert select(pool).pairs() == one_by_one(pool)


@pytest.mark.parametrize("shuffled", [False, True])
def test_candidates_are_ordered_alike_whatever_order_they_come_in(shuffled: bool) -> None:
    rng = np.random.default_rng(1)
    source, target = (part.ravel().astype(np.int64) for part in np.indices((40, 30)))
    margin = rng.choice(np.array([-0.0, 0.0, -1.5, -1e30, 1e30, np.nan, 1.25, 1e-40], np.float32), source.size)
    order = rng.permutation(source.size) if shuffled else np.arange(source.size)
    source, target, margin = source[order], target[order], margin[order]
    pool = Candidates.ordered(source, target, margin.copy(), margin, margin > 0, margin > 1)
    expected = np.lexsort((target, source, -margin))
    assert pool.pairs() == list(zip(source[expected].tolist(), target[expected].tolist(), strict=True))
    assert pool.in_forward.tolist() == (margin > 0)[expected].tolist()


@pytest.mark.parametrize("known", [[0, 1, 2], [7, 8, 9], [9, 7, 8], [7, 9, 12]])
def test_rows_of_ids(known: list[int]) -> None:
    ids = np.array([known[2], known[0], known[2]], np.int64)
    assert rows_of(ids, np.array(known, np.int64), "source").tolist() == [2, 0, 2]
    for unknown in (min(known) - 1, max(known) + 1, 10):
        with pytest.raises(ValueError, match=f"neighbour {unknown} is not among the 3 source ids"):
            rows_of(np.array([known[1], unknown], np.int64), np.array(known, np.int64), "source")
    with pytest.raises(ValueError, match="not among the 0 source ids"):
        rows_of(np.array([1], np.int64), np.zeros(0, np.int64), "source")
    assert rows_of(np.zeros(0, np.int64), np.zeros(0, np.int64), "source").size == 0
