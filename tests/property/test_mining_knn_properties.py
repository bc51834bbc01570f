"""Every engine of the exact search against brute force in float64, and the error bounds that its exactness rests on."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emsmine.mining.exact import search as knn
from emsmine.mining.exact.float32 import Float32Products
from emsmine.mining.exact.int8 import Int8Products, Rotation, int8_products_are_exact
from emsmine.mining.exact.operands import Factor, Products, Side, per_block
from emsmine.mining.exact.search import search_both
from emsmine.mining.exact.tiles import _Tile
from emsmine.mining.neighbours import Neighbours
from emsmine.mining.rounding import LENGTH

Array = NDArray[np.float32]
QUICK = settings(deadline=None, max_examples=40)
ENGINES = ["numpy", "onednn", *(["int8"] if int8_products_are_exact() else [])]


def normalised(rows: NDArray[np.float64]) -> Array:
    unit: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@st.composite
def clouds(draw: st.DrawFn, dim: int, centre: NDArray[np.float64]) -> Array:
    """Unit rows: random, close together, sparse, with exact ties, with one large dimension, with copies."""
    num_rows = draw(st.integers(1, 150))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = generator.standard_normal((num_rows, dim))
    kind = draw(st.sampled_from(["random", "close", "closest", "one-hot", "ties", "peaked"]))
    if kind in ("close", "closest"):
        rows = centre + rows * (1e-2 if kind == "close" else 1e-7)
    elif kind == "one-hot":
        rows = np.eye(dim)[generator.integers(0, dim, num_rows)] * generator.choice([-1.0, 1.0], (num_rows, 1))
    elif kind == "ties":
        rows = np.sign(rows) * (generator.random(rows.shape) < 0.1)
        rows[~rows.any(axis=1), 0] = 1.0
    elif kind == "peaked":
        rows[:, :2] *= 50
    if draw(st.booleans()):
        rows = rows[generator.integers(0, num_rows, num_rows)]
    return normalised(rows)


@st.composite
def searches(draw: st.DrawFn) -> tuple[Array, Array]:
    dim = draw(st.sampled_from([32, 33, 37, 48, 96]))
    centre = np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal(dim)
    return draw(clouds(dim, centre)), draw(clouds(dim, centre))


def search(engine: str, *args: Any, **options: Any) -> tuple[Neighbours, Neighbours]:
    """Search by a given engine however small the work is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "LARGE_SEARCH", 0 if engine == "onednn" else 2**60)
        return search_both(*args, precision="int8" if engine == "int8" else "fp32", **options)


def brute_force(query: Array, base: Array, base_ids: NDArray[np.int64], k: int) -> tuple[Any, Any]:
    """Sort whole rows of scores; each pair is summed on its own, as the last bit may depend on the order."""
    exact = np.vecdot(query.astype(np.float64)[:, None], base.astype(np.float64)[None]).astype(np.float32)
    order = np.lexsort((np.broadcast_to(base_ids, exact.shape), -exact), axis=1)[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    cosine = np.take_along_axis(exact, order, axis=1)
    return (
        np.pad(base_ids[order], missing, constant_values=-1).tolist(),
        np.pad(cosine, missing, constant_values=-np.inf).tolist(),
    )


@pytest.mark.parametrize("engine", ENGINES)
@QUICK
@given(
    searches(), st.integers(1, 9), st.sampled_from([1, 31, 64, 2048]), st.sampled_from([1, 33, 96, 2048]), st.booleans()
)
def test_search_equals_brute_force(
    engine: str, sides: tuple[Array, Array], k: int, source_tile_rows: int, target_tile_rows: int, shuffled: bool
) -> None:
    generator = np.random.default_rng(len(sides[0]))
    ids = [
        (generator.permutation(len(side)) if shuffled else np.arange(len(side))).astype(np.int64) + (5 << 40)
        for side in sides
    ]
    forward, backward = search(
        engine,
        *sides,
        k,
        source_ids=ids[0],
        target_ids=ids[1],
        source_tile_rows=source_tile_rows,
        target_tile_rows=target_tile_rows,
    )
    assert (forward.ids.tolist(), forward.cosine.tolist()) == brute_force(*sides, ids[1], k)
    assert (backward.ids.tolist(), backward.cosine.tolist()) == brute_force(*sides[::-1], ids[0], k)


def products(engine: str, dim: int) -> Products:
    if engine == "int8":
        return Int8Products(dim, (150, 150))
    return Float32Products(dim, (150, 150), use_torch=engine == "onednn")


@pytest.mark.parametrize("engine", ENGINES)
@QUICK
@given(searches())
def test_no_score_is_further_off_than_its_bound(engine: str, sides: tuple[Array, Array]) -> None:
    made = products(engine, sides[0].shape[1])
    source, target = (Side(side, np.arange(len(side)), True) for side in sides)
    left, right = made.left(source, slice(0, len(sides[0]))), made.right(target, slice(0, len(sides[1])))
    found = made.multiply(left, right) * (left.scale.astype(np.float64)[:, None] * right.scale)
    exact = sides[0].astype(np.float64)[left.rows] @ sides[1].astype(np.float64)[right.rows].T
    bound = LENGTH * right.error + left.error[:, None] * (LENGTH + right.error)
    assert (np.abs(found - exact) <= bound).all()
    # The bound is also of use: a step of int8 is about a hundredth of the largest value of a block.
    assert bound.max() < (0.3 if engine == "int8" else 1e-4)
    for factor, size in ((left, len(sides[0])), (right, len(sides[1]))):
        blocks = np.arange(len(factor.rows)) % (len(factor.rows) // 32)
        assert sorted(factor.rows[factor.real].tolist()) == list(range(size))
        assert (factor.block_scale[blocks] == factor.scale).all()
        assert (factor.block_error[blocks] >= factor.error).all()
        # A repeated row stands in the block of the row that it repeats.
        home = dict(zip(factor.rows[factor.real].tolist(), blocks[factor.real].tolist(), strict=True))
        assert [home[row] for row in factor.rows.tolist()] == blocks.tolist()


@pytest.mark.skipif("int8" not in ENGINES, reason="this processor does not multiply int8 exactly")
@QUICK
@given(searches())
def test_the_error_of_a_rounded_row_is_its_distance(sides: tuple[Array, Array]) -> None:
    """Products are rarely as far off as their bound allows, so the terms of the bound are checked one by one."""
    made = Int8Products(sides[0].shape[1], (150, 150))
    rotation = Rotation(sides[0].shape[1])
    for side, prepare in zip(sides, (made.left, made.right), strict=True):
        factor = prepare(Side(side, np.arange(len(side)), True), slice(0, len(side)))
        rounded = factor.matrix.numpy() * factor.scale.astype(np.float64)[:, None]
        distance = np.linalg.norm(rotation(side[factor.rows]) - rounded, axis=1)
        assert (factor.error >= distance + rotation.error).all()
        assert (factor.error <= 1.001 * distance + rotation.error + 1e-6).all()


def factor(generator: np.random.Generator, num_blocks: int, error: float | None) -> Factor:
    """Positions with scales and errors as int8 has them, or one error and no scale as float32 has; no matrix."""
    num_rows = 32 * num_blocks
    block_scale = generator.uniform(1e-4, 1e-2, num_blocks).astype(np.float32)
    errors = generator.uniform(0, 0.1, num_rows).astype(np.float32)
    slack = None
    if error is not None:
        block_scale, errors = np.ones_like(block_scale), np.full_like(errors, error)
        slack = error * (2 * LENGTH + error)
    real, rows = np.ones(num_rows, dtype=bool), np.arange(num_rows)
    scale = np.tile(block_scale, 32)
    return Factor(slice(0, num_rows), rows, real, None, scale, errors, block_scale, per_block(errors), slack)


@QUICK
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.sampled_from([None, 1e-5, 0.1]), st.integers(0, 2**32)
)
def test_limits_and_floors_leave_room_for_the_whole_bound(
    rows: int, columns: int, k: int, error: float | None, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    left, right = factor(generator, rows, error), factor(generator, columns, error)
    approximate = generator.uniform(-1, 1, (len(left.rows), len(right.rows)))
    scales = left.scale.astype(np.float64)[:, None] * right.scale
    scores = np.rint(approximate / scales).astype(np.int32) if error is None else approximate.astype(np.float32)
    tile = _Tile(scores, left, right, uses_torch=bool(seed % 2))
    for query, base, flag, found in (
        (left, right, tile.flag_rows, scores * scales),
        (right, left, tile.flag_columns, (scores * scales).T),
    ):
        block_bound = LENGTH * base.block_error + query.error[:, None] * (LENGTH + base.block_error)
        bound = LENGTH * base.error + query.error[:, None] * (LENGTH + base.error)
        largest = found.reshape(len(found), 32, -1).max(axis=1)
        proven = largest - block_bound if len(base.block_error) >= k else found - bound
        kth = np.sort(proven, axis=1)[:, -k]
        flagged = flag(Neighbours.empty(len(query.rows), k))
        assert (flagged.floor_Q <= kth).all()
        assert (flagged.floor_Q >= kth - 1e-5).all()
        known = generator.uniform(-1, 1, (len(query.rows), 1)).astype(np.float32)
        limits = flag(Neighbours(np.zeros((len(known), 1), dtype=np.int64), known)).limits
        limits = limits if query is left else limits.T
        least = limits * (query.scale.astype(np.float64)[:, None] * base.block_scale)
        assert (least <= known - block_bound).all()
        assert (least >= known - block_bound - 1e-5).all()


@QUICK
@given(st.integers(1, 300), st.integers(0, 2**32))
def test_a_rotation_keeps_all_products(dim: int, seed: int) -> None:
    rows = normalised(np.random.default_rng(seed).standard_normal((6, dim)))
    rotation = Rotation(dim)
    rotated = rotation(rows).astype(np.float64)
    before = rows.astype(np.float64) @ rows.astype(np.float64).T
    assert np.abs(rotated @ rotated.T - before).max() <= 2.01 * rotation.error
