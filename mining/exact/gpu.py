"""The GPU of a search: which one, whether its products can be trusted, and how large the tiles may be.

Everything here works on any device of torch, so that a processor can stand in for a GPU in tests.

Symbols: R x C tile of scores, S source rows kept on the device, D dimensions, k neighbours.
"""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from emsmine.errors import ConfigError
from emsmine.mining.exact.operands import BLOCK
from emsmine.mining.neighbours import LARGE_SEARCH
from emsmine.mining.rounding import half_error

CHUNK_BLOCKS = 2**15
"""Blocks whose entries are looked at together: at most 2^20 entries."""
CHUNK_VALUES = 2**22
"""Values per side that are held in float64 while entries are scored, or in float32 while rows are uploaded."""
_LARGEST_TILE = 2**14
_SMALLEST_TILE = 2**8
_FIXED_BYTES = 4 * 8 * CHUNK_VALUES + 192 * BLOCK * CHUNK_BLOCKS
"""Beside tiles and rows: entries that are scored, in float64 twice with their difference and product, and sorted."""
FREE_SHARE = 0.9
"""Of the free memory, where no limit is given; the rest is for fragments and other programs."""


@dataclass(frozen=True)
class Gpu:
    """Where products are taken, and what they may occupy there.

    Args:
        device: as torch names it, `cuda` or `cuda:1`; `cpu` works too, for tests.
        memory_bytes: of the device, that one search may take; the context of CUDA is not in it.
    """

    device: str
    memory_bytes: int


@dataclass(frozen=True)
class TileShape:
    """How a search is cut for a GPU.

    Args:
        source_rows: source rows of a tile, R.
        target_rows: target rows of a tile, C.
        kept_rows: source rows that stay on the device while the target side passes, S; a multiple of R.
        num_bytes: bound of what is held on the device.
    """

    source_rows: int
    target_rows: int
    kept_rows: int
    num_bytes: int


def row_bytes(dim: int, k: int) -> int:
    """Bytes of a row on the device: in float32 and float16, its error, and its neighbours so far."""
    return 6 * dim + 4 + 12 * k + 16


def tile_bytes(source_rows: int, target_rows: int, k: int) -> int:
    """Bytes of a tile: scores in float16, maxima of both kinds, and what is compared with limits.

    In the worst case every block of a row is listed, by two numbers of 8 bytes. Where a row has fewer blocks than k,
    the entries themselves are ranked, in float32.
    """
    area = source_rows * target_rows
    ranked = 16 * area if k > min(source_rows, target_rows) // BLOCK else 0
    return 2 * area + area * (2 * 2 + 4 * 3 + 1 + 3 * 8) // BLOCK + ranked


def tile_shape(source_rows: int, target_rows: int, dim: int, k: int, memory_bytes: int) -> TileShape:
    """Choose the largest tiles that fit into half of the memory, and keep as many source rows as fit beside them.

    Args:
        source_rows: rows of the source side, N.
        target_rows: rows of the target side, M.
        dim: dimension of the vectors.
        k: neighbours per row.
        memory_bytes: what may be held on the device.

    Returns: tiles of at most 16,384 x 16,384 that leave half of the memory to source rows, as far as there are so many.
    Raises: ConfigError if not even tiles of 256 x 256 fit.
    """
    source_rows, target_rows = (math.ceil(max(1, rows) / BLOCK) * BLOCK for rows in (source_rows, target_rows))
    a_row, side, limit = row_bytes(dim, k), 2 * _LARGEST_TILE, (memory_bytes + _FIXED_BYTES) // 2
    while side > _SMALLEST_TILE:
        side //= 2
        rows, columns = min(side, source_rows), min(side, target_rows)
        least = _FIXED_BYTES + tile_bytes(rows, columns, k) + a_row * (rows + columns)
        if least <= (limit if side > _SMALLEST_TILE else memory_bytes):
            more = min((memory_bytes - least) // a_row // rows, math.ceil(source_rows / rows) - 1) * rows
            return TileShape(rows, columns, rows + more, least + a_row * more)
    raise ConfigError(
        f"search: {memory_bytes >> 20:,} MiB of GPU memory for each task are too little for vectors of {dim} values "
        f"and k = {k}, which take {math.ceil(least / 2**20):,}. Raise --max-gpu-memory, take fewer workers (-j), or "
        "search on processors (--device cpu)"
    )


def find_gpu(device: str, multiplications: int, *, memory_bytes: int | None = None, workers: int = 1) -> Gpu | None:
    """Find the GPU that a search is to use.

    Args:
        device: `cpu`, `cuda`, `cuda:N`, or `auto`, which takes a GPU if there is one.
        multiplications: of the search, N M D.
        memory_bytes: what all processes together may take of it; None: nine tenths of it, or of what is free now.
        workers: processes that share it.

    Returns: the GPU with the share of one process; None for the processor, which does small searches in any case: where
        products are taken changes no result.
    Raises: ConfigError if a GPU is asked for that is not there.
    """
    if device == "cpu" or multiplications < LARGE_SEARCH:
        return None
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            return None
        raise ConfigError(f"search: device {device!r} was asked for but no GPU is usable; pass --device cpu or auto")
    name = "cuda" if device == "auto" else device
    free, total = torch.cuda.mem_get_info(name)
    share = memory_bytes if memory_bytes is not None else int(FREE_SHARE * total)
    return Gpu(name, min(share // workers, int(FREE_SHARE * free)))


@functools.cache
def check_products(device: str, dim: int) -> None:
    """Take a product on the device and compare it with the bound that the search relies on.

    Raises: ConfigError if it is farther off.
    """
    import torch

    rows = np.random.default_rng(0).standard_normal((512, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[1::2] = rows[::2]  # so that scores near 1 are among them
    halves = torch.from_numpy(rows.astype(np.float16)).to(device)
    with exact_accumulation():
        found = (halves @ halves.T).double().cpu().numpy()
    exact = halves.double().cpu().numpy()
    worst, allowed = float(np.abs(found - exact @ exact.T).max()), 2 * half_error(dim)
    if not worst <= allowed:
        raise ConfigError(
            f"search: products of {dim} values on {device} are off by {worst:.2g}, more than the {allowed:.2g} that an "
            "exact search allows for; pass --device cpu"
        )


@contextmanager
def exact_accumulation() -> Iterator[None]:
    """Keep cuBLAS from summing parts of a float16 product in float16."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_fp16_reduced_precision_reduction = before
