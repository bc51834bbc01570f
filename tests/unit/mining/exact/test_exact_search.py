"""Exact search in both directions and the merge of shards: hand-worked cases and refused input."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours, merge

Array = NDArray[np.float32]
# Unit vectors from Pythagorean triples: their cosines are short decimals.
EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
SHALLOW, STEEP = [0.8, 0.6], [0.6, 0.8]


def vectors(*rows: list[float]) -> Array:
    return np.array(rows, dtype=np.float32)


def unit_rows(generator: np.random.Generator, num_rows: int, dim: int) -> Array:
    rows = generator.standard_normal((num_rows, dim))
    unit: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_both_directions_by_hand() -> None:
    forward, backward = search_both(vectors(EAST, NORTH, WEST), vectors(SHALLOW, STEEP), 2)
    assert forward.ids.tolist() == [[0, 1], [1, 0], [1, 0]]
    np.testing.assert_allclose(forward.cosine, [[0.8, 0.6], [0.8, 0.6], [-0.6, -0.8]], atol=1e-7)
    assert backward.ids.tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(backward.cosine, [[0.8, 0.6], [0.8, 0.6]], atol=1e-7)


def test_given_ids_are_returned_and_break_ties() -> None:
    ids = np.array([7 << 40, 5, 1 << 40], dtype=np.int64)
    forward, backward = search_both(
        vectors(EAST), vectors(STEEP, STEEP, STEEP), 2, source_ids=np.array([9]), target_ids=ids
    )
    assert forward.ids.tolist() == [[5, 1 << 40]]
    assert backward.ids.tolist() == [[9, -1]] * 3


def test_all_equal_vectors_give_the_lowest_ids() -> None:
    forward, backward = search_both(vectors(*[EAST] * 70), vectors(*[EAST] * 90), 3, source_tile_rows=64)
    assert (forward.ids == [0, 1, 2]).all()
    assert (backward.ids == [0, 1, 2]).all()


def test_k_beyond_the_corpus_leaves_missing_neighbours() -> None:
    forward, backward = search_both(vectors(EAST, NORTH), vectors(STEEP), 4)
    assert forward.ids.tolist() == [[0, -1, -1, -1]] * 2
    assert np.isneginf(forward.cosine[:, 1:]).all()
    assert backward.ids.tolist() == [[1, 0, -1, -1]]


@pytest.mark.parametrize(("num_source", "num_target"), [(0, 3), (3, 0), (0, 0)])
def test_an_empty_side_gives_an_empty_result(num_source: int, num_target: int) -> None:
    rows = vectors(EAST, NORTH, WEST)
    forward, backward = search_both(rows[:num_source], rows[:num_target], 2)
    assert (forward.num_rows, forward.k) == (num_source, 2)
    assert (backward.num_rows, backward.k) == (num_target, 2)
    assert (forward.ids == -1).all()
    assert (backward.ids == -1).all()


@pytest.mark.parametrize("tiles", [(1, 1), (7, 5), (40, 300), (64, 64), (2048, 8192)])
def test_near_ties_follow_the_exact_score_whatever_the_tile(tiles: tuple[int, int]) -> None:
    """Matrix products in float32 misplace these: the targets differ from each other by about one rounding error."""
    generator = np.random.default_rng(3)
    source = unit_rows(generator, 40, 512)
    centre = unit_rows(generator, 1, 512)
    target = (centre + 2e-7 * generator.standard_normal((300, 512))).astype(np.float32)
    exact = (source.astype(np.float64) @ target.astype(np.float64).T).astype(np.float32)
    forward, backward = search_both(source, target, 8, source_tile_rows=tiles[0], target_tile_rows=tiles[1])
    assert (forward.ids == np.argsort(-exact, axis=1, kind="stable")[:, :8]).all()
    assert (backward.ids == np.argsort(-exact.T, axis=1, kind="stable")[:, :8]).all()


def test_the_score_of_a_pair_is_the_same_bits_in_both_directions() -> None:
    generator = np.random.default_rng(4)
    forward, backward = search_both(unit_rows(generator, 30, 100), unit_rows(generator, 20, 100), 30)
    by_source = np.zeros((30, 20), dtype=np.float32)
    by_source[np.arange(30)[:, None], forward.ids[:, :20]] = forward.cosine[:, :20]
    by_target = np.zeros((30, 20), dtype=np.float32)
    by_target[backward.ids, np.arange(20)[:, None]] = backward.cosine
    assert by_source.all()
    assert by_source.tobytes() == by_target.tobytes()


@pytest.mark.parametrize(
    ("bad_row", "message"),
    [
        ([np.nan, 1.0], r"2 of 4 source rows .*first: row 1, non-finite"),
        ([np.inf, 0.0], r"first: row 1, non-finite"),
        ([0.0, 0.0], r"first: row 1, norm 0\)"),
        ([0.0, 1.002], r"first: row 1, norm 1\.002\)"),
        ([3e30, 0.0], r"first: row 1, norm 3e\+30\)"),
    ],
)
def test_a_bad_row_is_refused_by_name(bad_row: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_both(vectors(EAST, bad_row, NORTH, bad_row), vectors(EAST), 1)


def test_the_target_side_is_checked_too() -> None:
    with pytest.raises(ValueError, match="1 of 2 target rows"):
        search_both(vectors(EAST), vectors(EAST, [0.0, 0.0]), 1)


def test_norms_within_the_tolerance_pass_and_the_check_can_be_left_out() -> None:
    slightly_long, zero = vectors([0.0, 1.0009]), vectors([0.0, 0.0])
    assert search_both(slightly_long, slightly_long, 1)[0].ids.tolist() == [[0]]
    assert search_both(zero, zero, 1, validate=False)[0].cosine.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        (vectors(EAST).astype(np.float64), vectors(EAST), {}, "source vectors must be float32"),
        (vectors(EAST), vectors(EAST)[0], {}, "target vectors must be float32"),
        (np.asfortranarray(vectors(EAST, NORTH)), vectors(EAST), {}, "not C-contiguous"),
        (vectors(EAST), vectors([0.0, 0.0, 1.0]), {}, "source has 2 dimensions and target 3"),
        (vectors(EAST), vectors(EAST), {"k": 0}, "k=0"),
        (vectors(EAST), vectors(EAST), {"source_tile_rows": 0}, "tiles 0 x"),
        (vectors(EAST), vectors(EAST), {"source_ids": np.array([0, 1])}, "source ids must be int64"),
        (vectors(EAST), vectors(EAST), {"source_ids": np.array([0.0])}, "source ids must be int64"),
        (vectors(EAST), vectors(EAST), {"target_ids": np.array([-1])}, "target ids hold -1"),
        (vectors(EAST, EAST), vectors(EAST), {"source_ids": np.array([4, 4])}, "id 4 occurs more than once"),
    ],
)
def test_bad_arguments_are_refused(source: Array, target: Array, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_both(source, target, **{"k": 1, **options})


def neighbours(ids: ArrayLike, cosine: ArrayLike) -> Neighbours:
    return Neighbours(np.array(ids, dtype=np.int64), np.array(cosine, dtype=np.float32))


def test_merge_keeps_the_best_of_all_parts_in_the_total_order() -> None:
    left = neighbours([[3, 8], [1, -1]], [[0.9, 0.5], [0.4, -np.inf]])
    right = neighbours([[2, 6], [-1, -1]], [[0.9, 0.7], [-np.inf, -np.inf]])
    merged = merge([left, right])
    assert merged.ids.tolist() == [[2, 3], [1, -1]]
    assert merged.cosine.tolist() == [[np.float32(0.9)] * 2, [np.float32(0.4), -np.inf]]


def test_merge_keeps_a_repeated_id_once_with_its_highest_cosine() -> None:
    merged = merge([neighbours([[5, 6]], [[0.9, 0.8]]), neighbours([[6, 5]], [[0.85, 0.2]])])
    assert merged.ids.tolist() == [[5, 6]]
    assert merged.cosine.tolist() == [[np.float32(0.9), np.float32(0.85)]]


def test_merge_refuses_no_parts_and_unlike_parts() -> None:
    with pytest.raises(ValueError, match="no parts"):
        merge([])
    with pytest.raises(ValueError, match=r"\(1, 2\), \(2, 2\)"):
        merge([Neighbours.empty(1, 2), Neighbours.empty(2, 2)])


def test_neighbours_refuse_unlike_arrays_and_narrow_ids() -> None:
    """stopes stores ids as uint32, where -1 becomes a valid-looking id."""
    with pytest.raises(ValueError, match="share one shape"):
        neighbours([[1, 2]], [[0.5]])
    with pytest.raises(ValueError, match="must be int64"):
        Neighbours(np.array([[1]], dtype=np.uint32), np.array([[0.5]], dtype=np.float32))
