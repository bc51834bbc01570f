"""Approximate search against a brute-force oracle: whatever is found is scored truly, and all lists find everything."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emsmine.mining.approximate.audit import wilson_interval
from emsmine.mining.approximate.build import IndexBuilder, training_rows
from emsmine.mining.approximate.choice import EXACT_ROWS, choose_index, choose_search, index_bytes, num_lists
from emsmine.mining.approximate.probes import nearest_lists
from emsmine.mining.approximate.sample import RowSample
from emsmine.mining.approximate.search import ApproximateIndex
from emsmine.mining.exact.search import search_both


def unit(rng: np.random.Generator, rows: int, dim: int, distinct: int) -> NDArray[np.float32]:
    """Rows of which some are copies of others, so that ties are common."""
    vectors = rng.standard_normal((max(1, distinct), dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors[rng.integers(0, len(vectors), rows)])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 400),
    queries=st.integers(0, 20),
    dim=st.sampled_from([1, 2, 7, 16]),
    k=st.integers(1, 6),
    copies=st.integers(1, 3),
    engine=st.sampled_from(["faiss-ivf", "faiss-hnsw"]),
    cut=st.integers(1, 400),
)
def test_what_is_found_is_scored_as_by_the_oracle(
    seed: int, rows: int, queries: int, dim: int, k: int, copies: int, engine: str, cut: int
) -> None:
    rng = np.random.default_rng(seed)
    base, query = unit(rng, rows, dim, rows // copies), unit(rng, queries, dim, queries)
    ids = rng.permutation(rows).astype(np.int64) * 3
    with TemporaryDirectory() as folder:
        path = Path(folder, "index")
        builder = IndexBuilder(engine, rows, base[: training_rows(engine, rows)])
        for start in range(0, rows, cut):
            builder.add(base[start : start + cut])
        with path.open("wb") as file:
            builder.write(file.write)
        index = ApproximateIndex(engine, path, base.__getitem__, ids, dim)
        found = index.search(query, k, index.efforts(k)[-1])
        parts = [index.search(query[row : row + 1], k, index.efforts(k)[-1]) for row in range(queries)]
    exact, _ = search_both(query, base, k, target_ids=ids)
    row_of = {int(number): row for row, number in enumerate(ids)}
    truth = {
        (q, i): v for q in range(queries) for i, v in zip(exact.ids[q].tolist(), exact.cosine[q].tolist(), strict=True)
    }
    for q in range(queries):
        seen = [i for i in found.ids[q].tolist() if i >= 0]
        assert len(set(seen)) == len(seen)
        assert [
            (-c, i) for c, i in zip(found.cosine[q].tolist(), found.ids[q].tolist(), strict=True) if i >= 0
        ] == sorted((-c, i) for c, i in zip(found.cosine[q].tolist(), found.ids[q].tolist(), strict=True) if i >= 0)
        for i, cosine in zip(found.ids[q].tolist(), found.cosine[q].tolist(), strict=True):
            if i >= 0:
                assert abs(cosine - float(query[q].astype(np.float64) @ base[row_of[i]].astype(np.float64))) < 1e-6
                assert truth.get((q, i), cosine) == cosine
        assert np.array_equal(parts[q].ids[0], found.ids[q])
    if engine == "faiss-ivf":
        assert np.array_equal(found.ids, exact.ids)
        assert np.array_equal(found.cosine, exact.cosine)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 30),
    lists=st.integers(1, 60),
    dim=st.sampled_from([2, 8, 33]),
    probes=st.integers(1, 70),
    distinct=st.integers(1, 60),
)
def test_lists_are_the_nearest_and_a_function_of_the_query(
    seed: int, queries: int, lists: int, dim: int, probes: int, distinct: int
) -> None:
    rng = np.random.default_rng(seed)
    query, centroids = unit(rng, queries, dim, queries), unit(rng, lists, dim, min(distinct, lists))
    found = nearest_lists(query, centroids, probes)
    exact = np.vecdot(query.astype(np.float64)[:, None], centroids.astype(np.float64)[None]).astype(np.float32)
    expected = np.sort(np.argsort(-exact, axis=1, kind="stable")[:, :probes], axis=1)
    assert np.array_equal(found, expected)
    assert all(np.array_equal(nearest_lists(query[q : q + 1], centroids, probes)[0], found[q]) for q in range(queries))


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 200),
    size=st.integers(1, 50),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    shift=st.integers(0, 2**40),
)
def test_a_sample_depends_on_the_texts_only(seed: int, rows: int, size: int, cuts: list[int], shift: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (rows, 16)).astype(np.uint8)
    vectors = np.arange(rows, dtype=np.float32)[:, None]
    chosen = []
    for edges, offset in (([0, rows], 0), (sorted({0, rows, *(min(cut, rows) for cut in cuts)}), shift)):
        sample = RowSample(size, 1)
        sample.add(hashes[:0], np.zeros(0, np.int64), vectors[:0])
        for start, stop in itertools.pairwise(edges):
            sample.add(hashes[start:stop], np.arange(start, stop, dtype=np.int64) + offset, vectors[start:stop])
        ids, found = sample.rows()
        assert len(ids) == min(size, rows)
        chosen.append((ids - offset).tolist())
        assert found[:, 0].tolist() == chosen[-1]
    assert chosen[0] == chosen[1]


@settings(deadline=None)
@given(total=st.integers(1, 10**6), share=st.floats(0, 1))
def test_the_interval_holds_the_share(total: int, share: float) -> None:
    found = round(share * total)
    low, high = wilson_interval(found, total)
    assert 0 <= low <= found / total + 1e-12
    assert found / total - 1e-12 <= high <= 1


@settings(deadline=None)
@given(source=st.integers(0, 10**11), target=st.integers(0, 10**11), dim=st.integers(1, 4096), memory=st.floats(0, 1e4))
def test_every_size_has_an_engine_and_a_reason(source: int, target: int, dim: int, memory: float) -> None:
    search = choose_search("auto", source, target)
    assert (search.engine == "exact") == (2 * source * target <= EXACT_ROWS * (source + target))
    assert choose_search("auto", target, source).engine == search.engine
    index = choose_index("auto", source, dim, memory)
    assert index.engine in ("exact", "faiss-ivf", "faiss-ivfpq")
    assert search.reason
    assert index.reason
    assert index_bytes(index.engine, source, dim) >= 0
    assert 1 <= num_lists(source) <= max(1, source)
