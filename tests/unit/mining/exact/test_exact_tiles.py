"""The parts of the exact search that its results do not show: copies, fall-back, memory, the choice of the product."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from numpy.typing import NDArray

from emsmine.errors import ConfigError
from emsmine.mining.exact import float32 as knn_float32
from emsmine.mining.exact import int8 as knn_int8
from emsmine.mining.exact import refine
from emsmine.mining.exact import search as knn
from emsmine.mining.exact import tiles as knn_tiles
from emsmine.mining.exact.float32 import Float32Products
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours, exact_cosine, top_k

Array = NDArray[np.float32]
needs_int8 = pytest.mark.skipif(
    not knn_int8.int8_products_are_exact(), reason="this processor does not multiply int8 exactly"
)


def unit_rows(seed: int, num_rows: int, dim: int, spread: float | None = None) -> Array:
    """Random directions, or directions close to the first axis."""
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim))
    if spread is not None:
        rows = np.eye(dim)[0] + spread * rows
    unit: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def as_bytes(found: tuple[Neighbours, Neighbours]) -> list[bytes]:
    return [array.tobytes() for side in found for array in (side.ids, side.cosine)]


def test_many_copies_cost_no_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.repeat(unit_rows(1, 3, 64), 3000, axis=0)
    num_scored = 0
    exact = exact_cosine

    def counted(left: Array, right: Array) -> Array:
        nonlocal num_scored
        num_scored += len(left)
        return exact(left, right)

    monkeypatch.setattr(refine, "exact_cosine", counted)
    forward, backward = search_both(rows, rows, 4, source_ids=np.arange(9000)[::-1].copy())
    assert num_scored <= 2 * 9
    assert forward.ids[[0, 3000, 8999]].tolist() == [[0, 1, 2, 3], [3000, 3001, 3002, 3003], [6000, 6001, 6002, 6003]]
    assert backward.ids[[0, 8999]].tolist() == [[6000, 6001, 6002, 6003], [0, 1, 2, 3]]


def by_single_scores(source: Array, target: Array, k: int) -> tuple[Neighbours, Neighbours]:
    """Score every entry from its two vectors, and sort."""
    row, column = (part.ravel() for part in np.indices((len(source), len(target))))
    cosine = exact_cosine(source[row], target[column])
    return top_k(row, column, cosine, len(source), k), top_k(column, row, cosine, len(target), k)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("spread", [1e-8, 3e-7, 1e-5])
def test_nearly_equal_vectors_are_scored_by_the_block_and_to_the_bit(
    precision: knn.Precision, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of such vectors no product in float32 rules any out; scores are all equal, or differ in their last bits.
    rng = np.random.default_rng(3)
    centre = rng.standard_normal(32)
    sides = [centre / np.linalg.norm(centre) + spread * rng.standard_normal((num, 32)) for num in (300, 260)]
    source, target = ((side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in sides)
    num_single = 0
    exact = exact_cosine

    def counted(left: Array, right: Array) -> Array:
        nonlocal num_single
        num_single += len(left)
        return exact(left, right)

    monkeypatch.setattr(refine, "exact_cosine", counted)
    monkeypatch.setattr(refine, "_DENSE_HITS", 512)
    found = search_both(source, target, 5, precision=precision, source_tile_rows=128, target_tile_rows=96)
    assert num_single < 0.05 * 2 * len(source) * len(target)
    assert as_bytes(found) == as_bytes(by_single_scores(source, target, 5))
    # If the bound of float64 says nothing, all entries are scored singly, with the same result.
    monkeypatch.setattr(refine, "float64_error", lambda dim: 1.0)
    assert as_bytes(search_both(source, target, 5, precision=precision)) == as_bytes(found)
    assert num_single > 0.5 * 2 * len(source) * len(target)


@pytest.mark.parametrize("k", [1, 40])
def test_blocks_of_hits_agree_with_single_hits(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = unit_rows(1, 70, 16, 0.2), unit_rows(2, 50, 16, 0.2)
    target[7] = target[3]
    expected = as_bytes(search_both(source, target, k, target_ids=np.arange(50)[::-1].copy()))
    monkeypatch.setattr(refine, "_DENSE_HITS", 1)
    monkeypatch.setattr(refine, "_DENSE_SHARE", 0.0)
    assert as_bytes(search_both(source, target, k, target_ids=np.arange(50)[::-1].copy())) == expected


def test_float64_products_stay_within_their_bound() -> None:
    left, right = unit_rows(1, 200, 384), unit_rows(2, 200, 384)
    left, right = np.concatenate([left, right[:50]]), np.concatenate([right, left[:50]])
    product = left.astype(np.float64) @ right.astype(np.float64).T
    single = np.vecdot(left.astype(np.float64)[:, None], right.astype(np.float64)[None])
    assert 0 < np.abs(product - single).max() < refine.float64_error(384) < 1e-12


def test_rows_of_equal_hash_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.concatenate([unit_rows(1, 20, 8), unit_rows(1, 10, 8)])
    expected = as_bytes(search_both(rows, rows, 3))
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda row: int(row[0] > 0))
    assert as_bytes(search_both(rows, rows, 3)) == expected


def test_equal_cosines_are_ordered_by_id_also_around_zero() -> None:
    cosine = np.array([0.0, -0.0, 0.0, -0.25, 0.5, -0.5], dtype=np.float32)
    best = top_k(np.array([0, 0, 0, 0, 1, 1]), np.array([7, 3, 5, 1, 2, 4]), cosine, 2, 4)
    assert best.ids.tolist() == [[3, 5, 7, 1], [2, 4, -1, -1]]
    # Without ties the order comes from another sort.
    assert top_k(np.zeros(3, dtype=np.intp), np.arange(3), cosine[3:], 1, 3).ids.tolist() == [[1, 0, 2]]


@needs_int8
def test_a_tie_that_is_seen_later_wins_by_its_lower_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded rows are sorted by their largest value, so the blocks of a tile are not in the order of ids."""
    monkeypatch.setattr(knn_tiles, "_FLAGGED_BLOCKS", 1)
    first = np.eye(64, dtype=np.float32)[:1]
    tied = unit_rows(1, 512, 64)
    tied[:, 0] = 0
    tied *= 0.8 / np.linalg.norm(tied, axis=1, keepdims=True)
    tied[:, 0] = 0.6
    for found in (search_both(first, tied, 3, precision="int8")[0], search_both(tied, first, 3, precision="int8")[1]):
        assert found.ids.tolist() == [[0, 1, 2]]


@needs_int8
@pytest.mark.parametrize("spread", [None, 0.1, 1e-3, 1e-7])
def test_int8_gives_the_bytes_of_fp32(spread: float | None) -> None:
    source, target = unit_rows(1, 700, 64, spread), unit_rows(2, 900, 64, spread)
    options: dict[str, Any] = {"source_tile_rows": 256, "target_tile_rows": 320}
    expected = as_bytes(search_both(source, target, 4, precision="fp32"))
    assert as_bytes(search_both(source, target, 4, precision="int8", **options)) == expected


@needs_int8
def test_a_tile_where_rounding_rules_nothing_out_is_multiplied_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles: list[int] = []
    again = Float32Products.again

    def counted(*args: Any) -> Any:
        tiles.append(1)
        return again(*args)

    monkeypatch.setattr(Float32Products, "again", counted)
    close = unit_rows(1, 2000, 64, 1e-3)
    search_both(close, close, 2, precision="int8", source_tile_rows=500, target_tile_rows=500)
    assert len(tiles) == 16
    tiles.clear()
    apart = unit_rows(1, 2000, 256)
    search_both(apart, apart, 2, precision="int8", source_tile_rows=500, target_tile_rows=500)
    assert len(tiles) <= 7  # those that come first, when no row knows its neighbours


@needs_int8
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_memory_does_not_grow_with_the_product_of_the_sides(
    precision: knn.Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn_tiles, "KEPT_BYTES", 2**17)

    def peak(num_rows: int) -> float:
        source, target = unit_rows(1, num_rows, 32), unit_rows(2, num_rows, 32)
        tracemalloc.start()
        try:
            search_both(source, target, 2, precision=precision, source_tile_rows=256, target_tile_rows=256)
            return float(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    small, large = peak(1500), peak(6000)
    # One byte per score would be 34 MB.
    assert large - small < 300 * 2 * 4500
    assert large < 16e6


def test_unknown_and_impossible_precisions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(1, 5, 31)
    unknown: Any = "fp16"
    with pytest.raises(ValueError, match="precision 'fp16'; use auto, fp32 or int8"):
        search_both(rows, rows, 1, precision=unknown)
    with pytest.raises(ConfigError, match="at least 32 dimensions, these vectors have 31"):
        search_both(rows, rows, 1, precision="int8")
    monkeypatch.setattr(knn, "int8_products_are_exact", lambda: False)
    wide = unit_rows(1, 5, 64)
    with pytest.raises(ConfigError, match="does not multiply int8 exactly"):
        search_both(wide, wide, 1, precision="int8")
    monkeypatch.setattr(knn, "LARGE_SEARCH", 0)
    assert search_both(wide, wide, 1)[0].ids.ravel().tolist() == [0, 1, 2, 3, 4]


@needs_int8
def test_auto_rounds_large_searches_only() -> None:
    assert knn._precision("auto", 1024, 10**10) == (True, True)
    assert knn._precision("fp32", 1024, 10**10) == (False, True)
    assert knn._precision("auto", 31, 10**12) == (False, True)
    assert knn._precision("auto", 1024, 1000) == (False, False)
    assert knn._precision("int8", 1024, 1000) == (True, True)


def test_products_that_are_not_float32_are_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of torch may let oneDNN round to bfloat16; the self-test must see the difference."""
    knn_float32._packed_products_are_float32.cache_clear()
    multiply = knn_float32._multiply_packed

    def rounded(left: Array, packed: Any) -> Array:
        return multiply(torch.from_numpy(left).bfloat16().float().numpy(), packed)

    monkeypatch.setattr(knn_float32, "_multiply_packed", rounded)
    assert not knn_float32._packed_products_are_float32(64)
    knn_float32._packed_products_are_float32.cache_clear()


@needs_int8
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_number_of_threads_changes_nothing(precision: knn.Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "LARGE_SEARCH", 0)
    source, target = unit_rows(1, 400, 64, 0.01), unit_rows(2, 300, 64, 0.01)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = as_bytes(search_both(source, target, 5, precision=precision))
        torch.set_num_threads(2)
        assert as_bytes(search_both(source, target, 5, precision=precision)) == one
    finally:
        torch.set_num_threads(before)


@needs_int8
def test_zero_vectors_pass_if_the_check_is_left_out() -> None:
    zero = np.zeros((40, 64), dtype=np.float32)
    zero[1::2, 0] = -0.0  # other bytes, so not a copy
    found = search_both(zero, zero, 2, precision="int8", validate=False)
    assert found[0].ids.tolist() == [[0, 1]] * 40
    assert (found[0].cosine == 0).all()
