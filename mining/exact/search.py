"""Find exact k nearest neighbours in both directions, with one matrix product per tile.

The product of a tile only proposes: every score that leaves this module is recomputed from its two vectors in float64
and rounded to float32. Matrix products round differently with the shape of the tile, the number of threads and the
processor; without the second look the order of near-ties, and so the mined pairs, would depend on how the work was cut.
For the same reason products may as well be taken of vectors rounded to int8, as long as the error is bounded.

Shape suffixes: N source rows, M target rows, D dimensions, K neighbours, U distinct vectors.
"""

from typing import Literal

import numpy as np

from emsmine.errors import ConfigError
from emsmine.mining.exact.duplicates import distinct_rows, with_copies
from emsmine.mining.exact.float32 import Float32Products
from emsmine.mining.exact.gpu import Gpu
from emsmine.mining.exact.int8 import SMALLEST_DIM, Int8Products, int8_products_are_exact
from emsmine.mining.exact.operands import Side
from emsmine.mining.exact.refine import Searched
from emsmine.mining.exact.tiles import search_tiles
from emsmine.mining.neighbours import (
    LARGE_SEARCH,
    Float32Array,
    Int64Array,
    Neighbours,
    check_ids,
    check_vectors,
)

Precision = Literal["auto", "fp32", "int8"]
INT8_TILE, FLOAT32_TILE = (2048, 2048), (4032, 1024)
"""Source and target rows of a tile: the fastest of some shapes.

Much larger float32 scores (8064 x 1024) make glibc give memory back to the system and fetch it again.
"""


def search_both(
    source_ND: Float32Array,
    target_MD: Float32Array,
    k: int,
    *,
    source_ids: Int64Array | None = None,
    target_ids: Int64Array | None = None,
    source_tile_rows: int | None = None,
    target_tile_rows: int | None = None,
    precision: Precision = "auto",
    gpu: Gpu | None = None,
    validate: bool = True,
) -> tuple[Neighbours, Neighbours]:
    """Find the k nearest targets of every source and the k nearest sources of every target.

    The result is exact and depends on the vectors and ids only, not on the tile sizes, the order of the rows, the
    number of threads, the precision of the products, or where they are taken.

    Memory beside the vectors and the result is bounded by the tile and about 100 bytes per row: see `tiles`. It does
    not grow with N x M.

    Args:
        source_ND: unit rows.
        target_MD: unit rows of the same dimension.
        k: neighbours per row; where the other side has fewer rows, the rest are missing (-1).
        source_ids: distinct ids >= 0, in any order; row numbers when None.
        target_ids: the same for the target side.
        source_tile_rows: source rows per matrix product; what was fastest for the precision when None.
        target_tile_rows: target rows per matrix product; about 5 bytes x source_tile_rows x target_tile_rows are held.
        precision: of the products that propose. "int8" needs a processor that multiplies int8 exactly, "auto" takes it
            for large searches where there is one.
        gpu: take the products there, of float16, in tiles of its own; tile sizes and precision above mean nothing then.
        validate: check that every row is finite and of length 1 within 1e-3. Pass False only for vectors that were
            checked when they were stored: exactness is proved from the unit length.

    Shapes: source_ND float32 [N, D]; target_MD float32 [M, D]; both C-contiguous.
    Returns: (forward, backward): forward has N rows of target ids, backward M rows of source ids, both K wide.
    Raises: ValueError on a wrong type, shape or id, and on the first row that is not finite or not of unit length;
        ConfigError if int8 is asked for where it cannot be had, or the GPU has too little memory.
    """
    if any(number is not None and number < 1 for number in (k, source_tile_rows, target_tile_rows)):
        raise ValueError(f"search: k={k}, tiles {source_tile_rows} x {target_tile_rows} rows; each must be at least 1")
    _check_sides(source_ND, target_MD, rows=validate)
    sides, groups = [], []
    for vectors, ids, name in ((source_ND, source_ids, "source"), (target_MD, target_ids, "target")):
        distinct = distinct_rows(vectors, check_ids(ids, len(vectors), name))
        is_whole = np.array_equal(distinct.rows, np.arange(len(distinct.rows)))
        groups.append(distinct)
        sides.append(Searched(Side(vectors, distinct.rows, is_whole), Neighbours.empty(len(distinct.rows), k)))
    source, target = sides
    if source.num_rows and target.num_rows and gpu is not None:
        from emsmine.mining.exact.gpu_tiles import search_on_gpu

        search_on_gpu(source, target, gpu)
    elif source.num_rows and target.num_rows:
        _search_here(source, target, precision, (source_tile_rows, target_tile_rows))
    return with_copies(source.best, groups[0], groups[1]), with_copies(target.best, groups[1], groups[0])


def _search_here(source: Searched, target: Searched, precision: str, tile_rows: tuple[int | None, int | None]) -> None:
    """Fill in the nearest of both sides, on this processor."""
    dim = source.side.vectors.shape[1]
    is_int8, use_torch = _precision(precision, dim, source.num_rows * target.num_rows)
    rows, columns = INT8_TILE if is_int8 else FLOAT32_TILE
    tile = min(tile_rows[0] or rows, source.num_rows), min(tile_rows[1] or columns, target.num_rows)
    float32 = Float32Products(dim, tile, use_torch=use_torch)
    if is_int8:
        search_tiles(source, target, Int8Products(dim, tile), float32, tile)
    else:
        search_tiles(source, target, float32, None, tile)


def _precision(precision: str, dim: int, num_scores: int) -> tuple[bool, bool]:
    """Choose how to multiply: whether by int8, with float32 where rounding rules too little out; whether by torch."""
    is_small = num_scores * dim < LARGE_SEARCH
    if precision not in ("auto", "fp32", "int8"):
        raise ValueError(f"search: precision {precision!r}; use auto, fp32 or int8")
    if precision == "int8" and dim < SMALLEST_DIM:
        raise ConfigError(f"search: int8 needs at least {SMALLEST_DIM} dimensions, these vectors have {dim}; use fp32")
    if precision == "int8" and not int8_products_are_exact():
        raise ConfigError("search: this processor or torch does not multiply int8 exactly (no VNNI?); use fp32 or auto")
    if precision == "auto":
        is_int8 = not is_small and dim >= SMALLEST_DIM and int8_products_are_exact()
    else:
        is_int8 = precision == "int8"
    return is_int8, is_int8 or not is_small


def _check_sides(source_ND: Float32Array, target_MD: Float32Array, *, rows: bool) -> None:
    check_vectors(source_ND, "source", rows=rows)
    check_vectors(target_MD, "target", rows=rows)
    if source_ND.shape[1] != target_MD.shape[1]:
        raise ValueError(
            f"search: source has {source_ND.shape[1]} dimensions and target {target_MD.shape[1]}; "
            "encode both sides with the same encoder"
        )
