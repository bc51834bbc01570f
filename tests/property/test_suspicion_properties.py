"""Marking suspicious pairs changes no pair, and follows one limit on the cosine."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours
from emsmine.mining.selection import RETRIEVALS
from emsmine.mining.selection.margin import mean_similarity
from emsmine.mining.selection.retrieve import Candidates, candidates, select
from emsmine.mining.selection.suspicion import Suspicion, suspicion

QUICK = settings(deadline=None, max_examples=40)


@st.composite
def searched(draw: st.DrawFn) -> tuple[Neighbours, Neighbours]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    sides = []
    for _ in range(2):
        rows = generator.standard_normal((draw(st.integers(1, 40)), 6)) + draw(st.sampled_from([0.0, 1.0]))
        sides.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    forward, backward = search_both(sides[0], sides[1], draw(st.integers(1, 6)))
    return forward, backward


def mark(both: tuple[Neighbours, Neighbours], threshold: float, retrieval: str) -> tuple[Candidates, Suspicion]:
    chosen = select(candidates(*both), retrieval, threshold=threshold)
    return chosen, suspicion(chosen, *both, threshold=threshold)


@QUICK
@given(both=searched(), threshold=st.floats(0.5, 2), retrieval=st.sampled_from(RETRIEVALS))
def test_low_cosine_is_one_limit_and_means_a_neighbourhood_emptier_than_the_typical(
    both: tuple[Neighbours, Neighbours], threshold: float, retrieval: str
) -> None:
    chosen, found = mark(both, threshold, retrieval)
    low = found.low_cosine
    assert low.shape == (len(chosen),)
    if low.any() and not low.all():
        assert chosen.cosine[low].max() < chosen.cosine[~low].min()
    last = [np.median(side.cosine[np.arange(side.num_rows), (side.ids >= 0).sum(1) - 1]) for side in both]
    means = [mean_similarity(side)[ids] for side, ids in zip(both, (chosen.source_ids, chosen.target_ids), strict=True)]
    own = (means[0].astype(np.float64) + means[1]) / 2
    assert (own[low] < np.mean(last) + 1e-6).all()


@QUICK
@given(both=searched(), low=st.floats(0.5, 2), high=st.floats(0.5, 2))
def test_a_higher_threshold_unmarks_no_pair_that_it_keeps(
    both: tuple[Neighbours, Neighbours], low: float, high: float
) -> None:
    low, high = sorted((low, high))
    (before, first), (after, second) = (mark(both, threshold, "max") for threshold in (low, high))
    marked_before = dict(zip(before.pairs(), first.low_cosine.tolist(), strict=True))
    for pair, flag in zip(after.pairs(), second.low_cosine.tolist(), strict=True):
        assert flag >= marked_before[pair]


@QUICK
@given(both=searched(), seed=st.integers(0, 2**32))
def test_marks_go_by_id_not_by_row(both: tuple[Neighbours, Neighbours], seed: int) -> None:
    forward, backward = both
    generator = np.random.default_rng(seed)
    rows, columns = (generator.permutation(side.num_rows) for side in both)
    chosen, plain = mark(both, 1.1, "max")
    shuffled = suspicion(
        chosen,
        Neighbours(forward.ids[rows], forward.cosine[rows]),
        Neighbours(backward.ids[columns], backward.cosine[columns]),
        rows.astype(np.int64),
        columns.astype(np.int64),
        threshold=1.1,
    )
    assert shuffled.labels() == plain.labels()


@QUICK
@given(num=st.integers(1, 12), k=st.integers(1, 4), cosine=st.floats(0.01, 1), threshold=st.floats(0.5, 1))
def test_where_all_neighbourhoods_are_alike_nothing_is_low(num: int, k: int, cosine: float, threshold: float) -> None:
    k = min(k, num)
    ids = (np.arange(num)[:, None] + np.arange(k)) % num
    back = (np.arange(num)[:, None] - np.arange(k)) % num
    alike = np.full((num, k), cosine, dtype=np.float32)
    _, found = mark((Neighbours(ids, alike), Neighbours(back, alike)), threshold, "max")
    assert not found.low_cosine.any()
    assert not found.few_neighbours.any()
