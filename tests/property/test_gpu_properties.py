"""The search on a GPU, with a processor in its place: the same bytes as its own search, and the terms of the proof."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emsmine.errors import ConfigError
from emsmine.mining.exact import gpu_tiles
from emsmine.mining.exact.gpu import Gpu, TileShape, row_bytes, tile_bytes, tile_shape
from emsmine.mining.exact.gpu_tiles import _Blocks, _floor, _Rows, _slack
from emsmine.mining.exact.operands import Side
from emsmine.mining.exact.refine import Searched
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours, descending_bits, top_k
from emsmine.mining.rounding import LENGTH, half_error

Array = NDArray[np.float32]
QUICK = settings(deadline=None, max_examples=40)
KINDS = ["random", "close", "closest", "one-hot", "ties", "halves"]


@st.composite
def sides(draw: st.DrawFn) -> tuple[Array, Array]:
    """Unit rows of two sides: random, close together, with ties, with copies; or such as float16 holds exactly."""
    dim, seed = draw(st.sampled_from([1, 7, 32, 48, 200])), draw(st.integers(0, 2**32))
    generator = np.random.default_rng(seed)
    centre, found = generator.standard_normal(dim) + 1e-3, []
    for _ in range(2):
        num_rows, kind = draw(st.integers(1, 150)), draw(st.sampled_from(KINDS))
        rows = generator.standard_normal((num_rows, dim))
        if kind in ("close", "closest"):
            rows = centre + rows * (1e-2 if kind == "close" else 1e-7)
        elif kind == "one-hot":
            rows = np.eye(dim)[generator.integers(0, dim, num_rows)] * generator.choice([-1.0, 1.0], (num_rows, 1))
        elif kind == "ties":
            rows = np.sign(rows) * (generator.random(rows.shape) < 0.2)
            rows[~rows.any(axis=1), 0] = 1.0
        if draw(st.booleans()):
            rows = rows[generator.integers(0, num_rows, num_rows)]
        unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        found.append(unit.astype(np.float16).astype(np.float32) if kind == "halves" else unit)
    return found[0], found[1]


def search(shape: TileShape, *args: Any, **options: Any) -> tuple[Neighbours, Neighbours]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_tiles, "tile_shape", lambda *_: shape)
        patch.setattr(gpu_tiles, "CHUNK_BLOCKS", 7)
        patch.setattr(gpu_tiles, "CHUNK_VALUES", 1000)
        return search_both(*args, gpu=Gpu("cpu", 2**30), **options)


TILES = st.sampled_from([1, 31, 32, 64, 2048])


@settings(deadline=None, max_examples=60)
@given(sides(), st.integers(1, 9), TILES, TILES, st.integers(1, 3), st.booleans())
def test_the_bytes_are_those_of_the_processor(
    pair: tuple[Array, Array], k: int, source_rows: int, target_rows: int, kept: int, shuffled: bool
) -> None:
    generator = np.random.default_rng(len(pair[0]))
    ids = [
        (generator.permutation(len(side)) if shuffled else np.arange(len(side))).astype(np.int64) + (5 << 40)
        for side in pair
    ]
    shape = TileShape(source_rows, target_rows, kept * source_rows, 0)
    found = search(shape, *pair, k, source_ids=ids[0], target_ids=ids[1], validate=False)
    expected = search_both(*pair, k, source_ids=ids[0], target_ids=ids[1], validate=False)
    for here, there in zip(found, expected, strict=True):
        assert here.ids.tolist() == there.ids.tolist()
        assert here.cosine.tobytes() == there.cosine.tobytes()


@QUICK
@given(sides())
def test_no_product_is_further_off_than_its_bound(pair: tuple[Array, Array]) -> None:
    rows = []
    for side in pair:
        searched = Searched(Side(side, np.arange(len(side)), True), Neighbours.empty(len(side), 1))
        rows.append(_Rows(searched, slice(0, len(side)), "cpu"))
    left, right = rows
    found = (left.float16 @ right.float16.T).double().numpy()
    exact = [side[row.row_P.numpy()].astype(np.float64) for side, row in zip(pair, rows, strict=True)]
    error = [row.error.double().numpy() for row in rows]
    bound = LENGTH * error[1] + error[0][:, None] * (LENGTH + error[1])
    assert (np.abs(found - exact[0] @ exact[1].T) <= bound).all()
    assert bound.max() < 4e-3
    for row, vectors, moved in zip(rows, exact, error, strict=True):
        # Products are rarely as far off as their bound allows, so its terms are checked one by one.
        distance = np.linalg.norm(vectors - row.float16.double().numpy(), axis=1)
        assert (moved >= distance + half_error(vectors.shape[1]) - 1e-10).all()
        assert (moved <= 1.001 * distance + half_error(vectors.shape[1]) + 1e-6).all()


@QUICK
@given(sides(), st.integers(1, 5))
def test_limits_and_floors_leave_room_for_the_whole_bound(pair: tuple[Array, Array], k: int) -> None:
    rows = []
    for side in pair:
        searched = Searched(Side(side, np.arange(len(side)), True), Neighbours.empty(len(side), k))
        rows.append(_Rows(searched, slice(0, len(side)), "cpu"))
    query, base = rows
    query.error.mul_(torch.linspace(1, 30, len(query.error)))
    base.error.mul_(torch.linspace(30, 1, len(base.error)))
    base.largest_error = float(base.error.max())
    scores = query.float16 @ base.float16.T
    slack = _slack(query, base)
    bound = LENGTH * base.error + query.error[:, None] * (LENGTH + base.error)
    assert bool((slack[:, None] >= bound).all())
    assert bool((slack - bound.amax(dim=1) <= 1e-5).all())
    blocks = _Blocks(scores.view(len(scores), 32, -1), scores)
    floor = _floor(blocks, blocks.by_query.amax(dim=1), slack, query, base)
    proven = (scores.float() - slack[:, None])[:, base.real_P].sort(dim=1, descending=True).values
    if proven.shape[1] >= k:
        assert bool((floor <= proven[:, k - 1].clamp(min=-2.0)).all())
    else:
        assert floor.tolist() == [-2.0] * len(floor)
    if proven.shape[1] >= k > blocks.by_query.shape[2]:
        assert bool((floor == proven[:, k - 1].clamp(min=-2.0)).all())


def test_the_bound_covers_what_rounding_a_sum_adds() -> None:
    """A sum of exact products: only its rounding to float16, and that in float32 before, move it."""
    sums = torch.rand(100_000, dtype=torch.float64) * LENGTH**2
    assert float((sums - sums.half().double()).abs().max()) <= 2 * half_error(1)
    assert 2 * half_error(1024) < 1e-3
    assert half_error(1024) - half_error(0) >= 0.5 * 1024 * 2.0**-22


@QUICK
@given(
    st.integers(1, 10**7),
    st.integers(1, 10**7),
    st.integers(1, 4096),
    st.integers(1, 300),
    st.integers(2**27, 2**37),
)
def test_tiles_fit_into_the_memory(num_rows: int, num_columns: int, dim: int, k: int, memory: int) -> None:
    try:
        shape = tile_shape(num_rows, num_columns, dim, k, memory)
    except ConfigError as error:
        # What the message says is enough, and a little less is not.
        least = int(str(error).split("which take ")[1].split(".")[0].replace(",", ""))
        assert tile_shape(num_rows, num_columns, dim, k, least << 20).num_bytes <= least << 20
        assert memory < least << 20
        return
    rows, columns, kept = shape.source_rows, shape.target_rows, shape.kept_rows
    assert shape.num_bytes <= memory
    assert shape.num_bytes >= tile_bytes(rows, columns, k) + row_bytes(dim, k) * (kept + columns)
    assert rows % 32 == columns % 32 == kept % rows == 0
    assert rows <= max(32, num_rows + 31)
    # Everything is kept, or no further tile would fit.
    assert kept >= num_rows or shape.num_bytes + row_bytes(dim, k) * rows > memory


@QUICK
@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 60), st.integers(0, 2**32))
def test_the_best_are_those_of_numpy(num_rows: int, k: int, hits: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    entries = generator.permutation(num_rows * 10)[:hits]
    row, base = np.divmod(entries, 10)
    scores = generator.choice(np.array([-1, -0.5, -0.0, 0.0, 1e-30, 0.25, 0.5, 1], np.float32), len(row))
    expected = top_k(row, base.astype(np.int64), scores, num_rows, k)
    ids, cosine = gpu_tiles.top_k(torch.from_numpy(row), torch.from_numpy(base), torch.from_numpy(scores), num_rows, k)
    assert ids.tolist() == expected.ids.tolist()
    assert cosine.tolist() == expected.cosine.tolist()


@QUICK
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_the_bits_of_scores_are_those_of_numpy(scores: list[float]) -> None:
    array = np.array(scores, dtype=np.float32)
    assert gpu_tiles.descending_bits(torch.from_numpy(array)).tolist() == descending_bits(array).tolist()
