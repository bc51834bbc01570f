"""The search of inverted lists list by list: what a brute force over the lists finds, in bounded memory."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.mining.approximate import candidates as ivf_candidates
from emsmine.mining.approximate import scan
from emsmine.mining.approximate.candidates import EntryCollector
from emsmine.mining.approximate.loader import load_faiss
from emsmine.mining.approximate.scan import StoredLists, block_rows, search_lists
from emsmine.mining.approximate.search import rescore
from emsmine.mining.neighbours import Neighbours, exact_cosine, top_k
from emsmine.mining.rounding import stored_error

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


def unit(rng: np.random.Generator, rows: int, dim: int) -> Float32:
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def index_of(base: Float32, list_of_row: Int64, num_lists: int) -> Any:
    """Put each row into the list that is asked for."""
    faiss, dim = load_faiss(), base.shape[1]
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(np.eye(num_lists, dim, dtype=np.float32))
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(quantizer, dim, num_lists, half, faiss.METRIC_INNER_PRODUCT, False)
    index.is_trained = True
    rows = np.arange(len(base))
    index.add_core(len(base), faiss.swig_ptr(base), faiss.swig_ptr(rows), faiss.swig_ptr(list_of_row))
    index.referenced_objects = [quantizer]
    return index


def stored(base: Float32, list_of_row: Int64, num_lists: int) -> StoredLists:
    return StoredLists(index_of(base, list_of_row, num_lists), base.shape[1])


def brute_force(query: Float32, lists: Int64, base: Float32, list_of_row: Int64, ids: Int64, k: int) -> Neighbours:
    row, place = np.nonzero((lists[:, :, None] == list_of_row).any(axis=1))
    return top_k(row, ids[place], exact_cosine(query[row], base[place]), len(query), k)


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.cosine, expected.cosine)


def probes(rng: np.random.Generator, queries: int, num_lists: int, count: int) -> Int64:
    return np.sort(rng.random((queries, num_lists)).argsort(axis=1)[:, :count], axis=1)


@pytest.mark.parametrize("use_torch", [False, True])
@pytest.mark.parametrize(("dim", "k", "count"), [(24, 4, 3), (33, 1, 7), (7, 30, 2), (300, 4, 20)])
def test_finds_what_a_brute_force_over_the_lists_finds(dim: int, k: int, count: int, use_torch: bool) -> None:
    rng = np.random.default_rng(dim)
    base, query = unit(rng, 1500, dim), unit(rng, 40, dim)
    ids, list_of_row = rng.permutation(1500).astype(np.int64) + (3 << 40), rng.integers(0, 19, 1500)
    lists = probes(rng, 40, 20, count)  # list 19 is empty
    opened = stored(base, list_of_row, 20)
    found = search_lists(query, lists, opened, base.__getitem__, ids, k, use_torch=use_torch)
    assert_same(found, brute_force(query, lists, base, list_of_row, ids, k))


def test_lists_that_hold_fewer_than_k_rows() -> None:
    rng = np.random.default_rng(1)
    base, query, list_of_row = unit(rng, 12, 8), unit(rng, 5, 8), np.array([0] * 9 + [1, 1, 3])
    lists = np.array([[1, 3], [0, 1], [2, 3], [2, 4], [0, 3]])
    found = search_lists(query, lists, stored(base, list_of_row, 5), base.__getitem__, np.arange(12), 10)
    assert (found.ids >= 0).sum(axis=1).tolist() == [3, 10, 1, 0, 10]
    assert_same(found, brute_force(query, lists, base, list_of_row, np.arange(12), 10))


@pytest.mark.parametrize("capacity", [None, 5, 64])
@pytest.mark.parametrize("kind", ["copies", "near copies", "all but one"])
def test_ties_go_to_the_smaller_id_however_little_room_there_is(
    kind: str, capacity: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    base = np.repeat(unit(rng, 6, 40), 100, axis=0)
    if kind == "near copies":  # by units in the last place: float16, and float32 products, cannot tell them apart
        base += (rng.integers(-2, 3, base.shape) * 2.0**-26).astype(np.float32)
    elif kind == "all but one":
        base[::50] = unit(rng, 12, 40)
    query = np.concatenate([base[::60], unit(rng, 10, 40)])
    ids, list_of_row = rng.permutation(600).astype(np.int64), np.repeat(np.arange(3), 200)
    lists = probes(rng, len(query), 3, 2)
    if capacity is not None:
        monkeypatch.setattr(ivf_candidates, "KEPT_ENTRIES", capacity)
        monkeypatch.setattr(ivf_candidates, "_KEPT_PER_NEIGHBOUR", 0)
        monkeypatch.setattr(ivf_candidates, "_DENSE_ENTRIES", 3 * capacity)
    found = search_lists(query, lists, stored(base, list_of_row, 3), base.__getitem__, ids, 4)
    assert_same(found, brute_force(query, lists, base, list_of_row, ids, 4))


def test_copies_are_neither_kept_nor_scored_one_by_one() -> None:
    rng = np.random.default_rng(3)
    base = np.repeat(unit(rng, 1, 16), 20_000, axis=0)
    query = np.concatenate([base[:300], unit(rng, 300, 16)])
    asked: list[int] = []

    def fetch(rows: Int64) -> Float32:
        asked.append(len(rows))
        return base[rows]

    list_of_row = np.zeros(20_000, np.int64)
    lists = np.zeros((600, 1), np.int64)
    found = search_lists(query, lists, stored(base, list_of_row, 1), fetch, np.arange(20_000), 4)
    np.testing.assert_array_equal(found.ids, np.tile(np.arange(4), (600, 1)))
    # Once per tile to tell copies apart; of 12 million entries that tie, k of each part are scored.
    assert sum(asked) < 10 * 20_000
    assert max(asked) <= 2048


def test_parts_blocks_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    base, query = unit(rng, 900, 12), unit(rng, 70, 12)
    list_of_row, lists = rng.integers(0, 8, 900), probes(rng, 70, 8, 3)
    opened = stored(base, list_of_row, 8)
    whole = search_lists(query, lists, opened, base.__getitem__, np.arange(900), 4)
    for name, size in (("_QUERIES", 3), ("_ROWS", 7), ("_SCORES", 50)):
        monkeypatch.setattr(scan, name, size)
    monkeypatch.setattr(ivf_candidates, "_FETCHED_VALUES", 40)
    monkeypatch.setattr(ivf_candidates, "_RESCORED_VALUES", 30)
    monkeypatch.setattr(ivf_candidates, "_MERGED_ENTRIES", 11)
    assert_same(search_lists(query, lists, opened, base.__getitem__, np.arange(900), 4), whole)
    for row in range(70):
        alone = search_lists(query[row : row + 1], lists[row : row + 1], opened, base.__getitem__, np.arange(900), 4)
        assert_same(alone, Neighbours(whole.ids[row : row + 1], whole.cosine[row : row + 1]))


def test_agrees_with_the_scan_of_faiss() -> None:
    rng = np.random.default_rng(5)
    base, query = unit(rng, 3000, 32), unit(rng, 100, 32)
    list_of_row, lists = rng.integers(0, 30, 3000), probes(rng, 100, 30, 6)
    index = index_of(base, list_of_row, 30)
    index.nprobe = 6
    _, proposed = index.search_preassigned(query, 12, lists, np.zeros(lists.shape, np.float32))
    theirs = rescore(query, proposed, base.__getitem__, np.arange(3000), 4)
    opened = StoredLists(index, 32)
    assert_same(search_lists(query, lists, opened, base.__getitem__, np.arange(3000), 4), theirs)


def test_the_error_of_stored_rows_is_bounded() -> None:
    rng = np.random.default_rng(6)
    for dim in (1, 3, 64, 1024):
        # Values half-way between two of float16, all of the sign of the query's.
        base = (1 + (2 * rng.integers(0, 2, (200, dim)) + 1) * 2.0**-11).astype(np.float32)
        base = np.concatenate([base / np.linalg.norm(base, axis=1, keepdims=True), unit(rng, 200, dim)])
        query = np.concatenate([base[:200], unit(rng, 200, dim)])
        opened = stored(base, np.zeros(400, np.int64), 1)
        np.testing.assert_array_equal(opened.rows(0), np.arange(400))
        product = query @ opened.vectors(0, slice(None), use_torch=False).T
        exact = query.astype(np.float64) @ base.astype(np.float64).T
        largest = np.abs(product - exact).max()
        assert 0.1 * stored_error(dim) < largest <= stored_error(dim) or dim == 1


def test_bounds_hold_where_scores_are_as_wrong_as_they_may_be() -> None:
    rng = np.random.default_rng(7)
    base, query, error = unit(rng, 400, 6), unit(rng, 40, 6), 0.05
    exact = exact_cosine(np.repeat(query, 400, axis=0), np.tile(base, (40, 1))).reshape(40, 400)
    candidates = EntryCollector(query, base.__getitem__, np.arange(400), 5, error, capacity=300)
    for start in range(0, 400, 25):
        rows = np.arange(start, start + 25)
        wrong = exact[:, rows] + rng.choice([-error, error], (40, 25)).astype(np.float32)
        candidates.add(np.arange(40), rows, np.ascontiguousarray(wrong))
    everything = np.tile(np.arange(400), (40, 1))
    assert_same(candidates.nearest(), rescore(query, everything, base.__getitem__, np.arange(400), 5))


def test_hardly_more_than_the_k_nearest_are_scored_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    base, query = unit(rng, 4000, 32), unit(rng, 300, 32)
    scored: list[int] = []

    def counted(left: Float32, right: Float32) -> Float32:
        scored.append(len(left))
        return exact_cosine(left, right)

    monkeypatch.setattr(ivf_candidates, "exact_cosine", counted)
    opened = stored(base, rng.integers(0, 40, 4000), 40)
    search_lists(query, np.tile(np.arange(40), (300, 1)), opened, base.__getitem__, np.arange(4000), 4)
    assert 300 * 4 <= sum(scored) < 1.15 * 300 * 4


def test_blocks_are_of_equal_size_and_bounded() -> None:
    assert block_rows(100_000, 1) == 100_000
    assert block_rows(100_000, 40) == 50_000
    assert block_rows(0, 3) == 1
    assert block_rows(10, 1 << 23) == 1


def test_other_kinds_of_index_are_refused() -> None:
    faiss = load_faiss()
    quantizer = faiss.IndexFlatIP(8)
    with pytest.raises(ValueError, match="IndexIVFFlat with 32 bytes a row cannot be searched list by list"):
        StoredLists(faiss.IndexIVFFlat(quantizer, 8, 2, faiss.METRIC_INNER_PRODUCT), 8)
    by_residual = faiss.IndexIVFScalarQuantizer(
        quantizer, 8, 2, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, True
    )
    with pytest.raises(ValueError, match="needs 8 float16 values a row"):
        StoredLists(by_residual, 8)
