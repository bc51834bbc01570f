"""The search of inverted lists finds what a brute force over the lists of a query finds, however it is cut."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emsmine.mining.approximate import candidates, scan
from emsmine.mining.approximate import probes as faiss_lists
from emsmine.mining.approximate.build import IndexBuilder, training_rows
from emsmine.mining.approximate.probes import nearest_lists
from emsmine.mining.approximate.search import ApproximateIndex, Effort
from emsmine.mining.neighbours import Neighbours, exact_cosine, top_k


def unit(rng: np.random.Generator, rows: int, dim: int, distinct: int, ulps: int) -> NDArray[np.float32]:
    """Rows of which some are copies of others, or differ from them by units in the last place."""
    vectors = rng.standard_normal((max(1, distinct), dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = vectors[rng.integers(0, len(vectors), rows)]
    chosen += (rng.integers(-ulps, ulps + 1, chosen.shape) * 2.0**-25).astype(np.float32)
    return np.ascontiguousarray(chosen)


def brute_force(
    query: NDArray[np.float32],
    base: NDArray[np.float32],
    ids: NDArray[np.int64],
    centroids: NDArray[np.float32],
    width: int,
    k: int,
) -> Neighbours:
    """Score every row of the nearest lists; a row lies in the list that is nearest to it."""
    list_of_row = nearest_lists(base, centroids, 1)[:, 0]
    lists = nearest_lists(query, centroids, width)
    row, place = np.nonzero((lists[:, :, None] == list_of_row).any(axis=1))
    return top_k(row, ids[place], exact_cosine(query[row], base[place]), len(query), k)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 700),
    queries=st.integers(1, 25),
    dim=st.sampled_from([1, 2, 7, 16, 33]),
    k=st.integers(1, 40),
    width=st.integers(1, 20),
    copies=st.sampled_from([1, 2, 40]),
    ulps=st.sampled_from([0, 0, 1]),
    size=st.sampled_from([3, 50, 2048]),
    cut=st.integers(1, 25),
)
def test_the_k_nearest_of_the_lists_are_found_whatever_the_sizes(
    seed: int, rows: int, queries: int, dim: int, k: int, width: int, copies: int, ulps: int, size: int, cut: int
) -> None:
    rng = np.random.default_rng(seed)
    base = unit(rng, rows, dim, rows // copies, ulps)
    query = np.concatenate([unit(rng, queries, dim, queries, ulps), base[: queries // 2]])
    ids = rng.permutation(rows).astype(np.int64) * 3
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        builder = IndexBuilder("faiss-ivf", rows, base[: training_rows("faiss-ivf", rows)])
        builder.add(base)
        with Path(folder, "index").open("wb") as file:
            builder.write(file.write)
        index = ApproximateIndex("faiss-ivf", Path(folder, "index"), base.__getitem__, ids, dim)
        effort = Effort(width, min(k, rows))
        assert index._centroids is not None
        expected = brute_force(query, base, ids, index._centroids, width, k)
        whole = index.search(query, k, effort)
        for name in ("_QUERIES", "_ROWS", "_SCORES"):
            patch.setattr(scan, name, size)
        patch.setattr(scan, "BLOCK_PAIRS", size)
        patch.setattr(faiss_lists, "_BLOCK_SCORES", size)
        for name in ("KEPT_ENTRIES", "_DENSE_ENTRIES", "_FETCHED_VALUES", "_RESCORED_VALUES", "_MERGED_ENTRIES"):
            patch.setattr(candidates, name, size)
        patch.setattr(candidates, "_KEPT_PER_NEIGHBOUR", 0)
        parts = [index.search(query[start : start + cut], k, effort) for start in range(0, len(query), cut)]
    assert np.array_equal(whole.ids, expected.ids)
    assert np.array_equal(whole.cosine, expected.cosine)
    assert np.array_equal(np.concatenate([part.ids for part in parts]), expected.ids)
    assert np.array_equal(np.concatenate([part.cosine for part in parts]), expected.cosine)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 30),
    lists=st.integers(200, 600),
    probes=st.integers(1, 40),
    distinct=st.integers(1, 600),
    ulps=st.sampled_from([0, 1]),
)
def test_many_lists_in_groups_give_the_nearest(
    seed: int, queries: int, lists: int, probes: int, distinct: int, ulps: int
) -> None:
    rng = np.random.default_rng(seed)
    query, centroids = unit(rng, queries, 9, queries, 0), unit(rng, lists, 9, min(distinct, lists), ulps)
    exact = np.vecdot(query.astype(np.float64)[:, None], centroids.astype(np.float64)[None]).astype(np.float32)
    expected = np.sort(np.argsort(-exact, axis=1, kind="stable")[:, :probes], axis=1)
    assert np.array_equal(nearest_lists(query, centroids, probes), expected)
