"""FAISS as a second engine: the same neighbours as ours."""

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.mining.approximate.search import search_both_flat
from emsmine.mining.exact.search import search_both


def unit(rng: np.random.Generator, rows: int, dim: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("rows", "columns", "k"), [(300, 500, 4), (1, 7, 4), (5, 2, 4), (40, 40, 1), (0, 3, 2), (3, 0, 2)]
)
def test_same_neighbours_as_the_exact_engine(rows: int, columns: int, k: int) -> None:
    rng = np.random.default_rng(rows + columns)
    source, target = unit(rng, rows, 24), unit(rng, columns, 24)
    source_ids = rng.permutation(rows).astype(np.int64) + (3 << 40)
    target_ids = rng.permutation(columns).astype(np.int64) + 5
    ours = search_both(source, target, k, source_ids=source_ids, target_ids=target_ids)
    theirs = search_both_flat(source, target, k, source_ids=source_ids, target_ids=target_ids)
    for left, right in zip(ours, theirs, strict=True):
        assert np.array_equal(left.ids, right.ids)
        assert np.array_equal(left.cosine, right.cosine)


def test_ties_go_to_the_smaller_id() -> None:
    rng = np.random.default_rng(7)
    source, target = unit(rng, 4, 8), np.repeat(unit(rng, 2, 8), 3, axis=0)
    ids = np.array([5, 3, 4, 2, 1, 0], dtype=np.int64)
    forward, _ = search_both_flat(source, target, 2, target_ids=ids)
    assert {tuple(row) for row in forward.ids.tolist()} <= {(3, 4), (0, 1)}


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    source, target = unit(rng, 50, 16), unit(rng, 60, 16)
    whole = search_both_flat(source, target, 3)[0]
    monkeypatch.setattr("emsmine.mining.approximate.search.FLAT_BLOCK_ROWS", 7)
    assert np.array_equal(search_both_flat(source, target, 3)[0].ids, whole.ids)


def test_bad_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="source"):
        search_both_flat(np.full((2, 4), np.nan, dtype=np.float32), np.eye(4, dtype=np.float32), 1)
