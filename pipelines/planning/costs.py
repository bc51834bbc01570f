"""What the steps of a search take, in bytes and in operations, from numbers of rows only.

Each function follows the arrays that its step holds at its largest moment; tests compare them with the memory that real
tasks take. Symbols in the comments: N, M rows; D dimensions; k neighbours; R, C rows of a tile of scores.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from emsmine.errors import ConfigError
from emsmine.mining.approximate.build import training_rows
from emsmine.mining.approximate.candidates import KEPT_ENTRIES
from emsmine.mining.approximate.choice import index_bytes, num_lists
from emsmine.mining.approximate.scan import BLOCK_PAIRS
from emsmine.mining.approximate.search import FLAT_BLOCK_ROWS, SPARE
from emsmine.mining.exact.gpu import FREE_SHARE, tile_shape
from emsmine.mining.exact.search import FLOAT32_TILE, INT8_TILE
from emsmine.mining.exact.tiles import KEPT_BYTES
from emsmine.mining.neighbours import LARGE_SEARCH, LISTS_AT_ONCE
from emsmine.mining.selection.sort import SELECT_BUFFER_PAIRS
from emsmine.pipelines.planning.machine import GpuMemory

WORKER_BYTES = 160 << 20
"""Memory that a worker process has to itself before its first task; libraries that processes share are not in it."""
TASK_BYTES = 48 << 20
"""What any task takes beside its arrays: buffers of Parquet files, and code that is loaded when it is first used."""
_FETCHED_BYTES = 112 << 20
"""Vectors of proposals while they are scored: 2^23 values as float16 once and as float32 twice, and their ids."""
_LIST_WORK_BYTES = 40 << 20
"""Scores of some queries and a list, 2^21 values of vectors that are scored again, and what is merged."""
_LIST_SCORES_BYTES = 1 << 23
"""Scores of a block of rows and all lists, and what is compared with them."""
_MERGE_ENTRY_BYTES = 112
_SORTED_PAIR_BYTES = 72
_SCORED_ROWS = 16384
"""Lists whose pairs `select` scores at a time: those of a row group."""
_SCORED_PAIR_BYTES = 160


def tile_bytes(engine: str, source_rows: int, target_rows: int, dim: int, k: int) -> int:
    """Memory of a task that searches one shard of each language exactly.

    Args:
        engine: `exact` or `faiss-flat`.
        source_rows: rows of the source shard, N.
        target_rows: rows of the target shard, M.
        dim: dimension of the vectors.
        k: neighbours per row.
    """
    # Float16 as read, and float32. While the second side is read: float16 twice, float32 twice.
    stored = 6 * dim * (source_rows + target_rows)
    reading = 6 * dim * source_rows + 12 * dim * target_rows
    # Ids and cosines, among distinct vectors and among rows, and once more as columns of a table.
    found = 3 * 12 * k * (source_rows + target_rows)
    largest = max(source_rows, target_rows)
    if engine == "faiss-flat":
        # A copy in the index, and of the vectors that a block of queries proposes.
        searching = 4 * dim * (largest + min(largest, FLAT_BLOCK_ROWS * (k + SPARE)))
    else:
        searching = max(
            _scores_bytes(INT8_TILE, source_rows, target_rows, k, 9) + 24 * dim * min(max(INT8_TILE), largest),
            _scores_bytes(FLOAT32_TILE, source_rows, target_rows, k, 5) + 8 * dim * min(max(FLOAT32_TILE), largest),
        )
        searching += min(KEPT_BYTES, 4 * dim * source_rows) + 100 * (source_rows + target_rows)
    return TASK_BYTES + max(reading, stored + searching + found)


def _scores_bytes(tile: tuple[int, int], source_rows: int, target_rows: int, k: int, score_bytes: int) -> int:
    """Memory of the scores of a tile, of their maxima and limits, and of what ranks them where blocks are too few."""
    rows, columns = min(tile[0], source_rows), min(tile[1], target_rows)
    return rows * columns * (score_bytes + (30 if k > min(rows, columns) // 32 else 0))


def query_bytes(engine: str, query_rows: int, base_rows: int, dim: int, k: int) -> int:
    """Memory of a task that searches a shard of queries in an index; pages of mapped files are not in it.

    Args:
        engine: kind of index of the base.
        query_rows: rows of the shard.
        base_rows: rows of the whole other language.
        dim: dimension of the vectors.
        k: neighbours per row.
    """
    centroids = 2 * 4 * dim * num_lists(base_rows) if engine in ("faiss-ivf", "faiss-ivfpq") else 0
    if engine == "faiss-ivf":
        pairs = min(BLOCK_PAIRS, query_rows * num_lists(base_rows))
        entries = min(KEPT_ENTRIES + 4 * k * query_rows, query_rows * base_rows)
        # Lists are ordered first; then entries are kept, and scored at last.
        scored = min(_LIST_WORK_BYTES, (20 << 20) + 10 * dim * base_rows)
        work = max(26 * pairs, 12 * pairs + 24 * entries + scored) + 16 * k * query_rows
    else:
        work = min(_FETCHED_BYTES, 10 * dim * base_rows)
    searching = 6 * dim * query_rows + 8 * base_rows + centroids + work + 3 * 12 * k * query_rows
    return TASK_BYTES + max(12 * dim * query_rows, searching)


def sample_bytes(audit_queries: int, query_rows: int, base_shard_rows: int, base_rows: int, dim: int, k: int) -> int:
    """Memory of a task that searches a sample exactly, one shard of the base at a time, and then tunes an index."""
    queries = min(2 * audit_queries, query_rows)
    exact = 2 * dim * queries + tile_bytes("exact", queries, base_shard_rows, dim, k)
    return max(exact, query_bytes("faiss-ivf", queries, base_rows, dim, k))


def build_bytes(engine: str, rows: int, dim: int) -> int:
    """Memory of a task that builds the index of a language.

    Args:
        engine: kind of index; `exact` for none.
        rows: rows of the language.
        dim: dimension of the vectors.
    """
    sample = training_rows(engine, rows)
    # Up to twice the sample are held while it is drawn, then joined into one array, then cut down.
    training = 4 * dim * (2 * min(rows, 2 * sample) + sample)
    if engine == "faiss-ivfpq":
        training += 4 * dim * sample  # rotated
    adding = index_bytes(engine, rows, dim) + 4 * dim * sample + (_LIST_SCORES_BYTES if sample else 0)
    return TASK_BYTES + max(training, adding)


def merge_bytes(shard_rows: int, num_tiles: int, k: int) -> int:
    """Memory of a task that merges the neighbours of a shard: a few of its tiles at a time, sorted.

    Args:
        shard_rows: rows of the shard.
        num_tiles: tiles of it, one for each shard of the other language; 1 after an approximate search.
        k: neighbours per row and tile.
    """
    return TASK_BYTES + _MERGE_ENTRY_BYTES * shard_rows * min(num_tiles, LISTS_AT_ONCE) * k


def reuse_bytes(shard_rows: int, base_known: int, query_known: int, k: int) -> int:
    """Memory of a task that looks which lists of an earlier run still hold.

    Args:
        shard_rows: rows of the largest shard of earlier lists.
        base_known: sentences of the searched language that both runs have.
        query_known: those of the shard of the searching language.
        k: neighbours per row.
    """
    # Old and new ids, as read and sorted; lists as read, renumbered, cut, and joined.
    return TASK_BYTES + 56 * (base_known + query_known) + _MERGE_ENTRY_BYTES * k * shard_rows


def select_bytes(source_rows: int, target_rows: int, k: int) -> int:
    """Memory of the task that selects pairs: a few bytes a sentence, and a buffer of scored pairs."""
    both, smaller = source_rows + target_rows, min(source_rows, target_rows)
    # Lists of the smaller side; mean, mark and, of one side at a time, the cosine that a median is taken of.
    scoring = 8 * k * smaller + 5 * both + 4 * max(source_rows, target_rows)
    choosing = 6 * both
    batch = _SCORED_PAIR_BYTES * k * min(_SCORED_ROWS, max(source_rows, target_rows))
    return TASK_BYTES + max(scoring + batch, choosing) + _SORTED_PAIR_BYTES * min(SELECT_BUFFER_PAIRS, k * both)


def embedding_disk(rows: int, dim: int) -> tuple[int, int]:
    """Least and most bytes of stored embeddings: float16 and a hash, which do not shrink, and an id."""
    return (2 * dim + 16) * rows, (2 * dim + 24) * rows


def neighbour_disk(rows: int, k: int) -> tuple[int, int]:
    """Least and most bytes of stored neighbours: ids and cosines; Zstandard left 0.60 to 0.69 of them in tests."""
    most = (8 + 12 * k) * rows
    return most // 2, most


def index_disk(engine: str, rows: int, dim: int) -> int:
    """Bytes of the files of an index: the index, the vectors in one file, and their ids."""
    return index_bytes(engine, rows, dim) + (2 * dim + 8) * rows


def exact_operations(source_rows: float, target_rows: float, dim: int, *, int8: bool) -> float:
    """Cost of an exact search of two shards, in operations of a float32 matrix product.

    A share of the product itself, a constant for every score that is looked at, and a constant for every value of the
    vectors, most of which are scored again. The constants were fitted to searches of 8,192 to 50,000 rows a side with
    128 to 1024 dimensions.

    Args:
        source_rows: rows of one shard.
        target_rows: rows of the other.
        dim: dimension of the vectors.
        int8: whether the product is taken of vectors rounded to int8.
    """
    multiplications = source_rows * target_rows * dim
    per_operation, per_score, per_value = _INT8_COST if int8 and multiplications >= LARGE_SEARCH else _FLOAT32_COST
    scores = source_rows * target_rows
    return (per_operation * 2 * dim + per_score) * scores + per_value * dim * (source_rows + target_rows)


_INT8_COST = (0.44, 80.0, 6300.0)
_FLOAT32_COST = (0.94, 80.0, 2700.0)


@dataclass(frozen=True)
class GpuPlan:
    """The GPU that exact searches multiply on.

    Args:
        name: of the GPU.
        task_bytes: memory of the GPU that the largest task takes; 0 if it does not fit.
        allowed_bytes: what a task may take.
        at_once: tasks that run together.
        problem: why it does not fit; empty if it does.
    """

    name: str
    task_bytes: int
    allowed_bytes: int
    at_once: int
    problem: str = ""


def plan_gpu(
    gpus: tuple[GpuMemory, ...],
    device: str,
    tiles: Iterable[tuple[int, int]],
    dim: int,
    k: int,
    workers: int,
    max_memory_gb: float | None,
) -> GpuPlan | None:
    """Plan the GPU; None if none is used.

    Args:
        gpus: those that are visible.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        tiles: source and target rows of the largest tasks that search exactly.
        dim: dimension of the vectors.
        k: neighbours per row.
        workers: worker processes.
        max_memory_gb: GiB of the GPU that all of them may take; None: nine tenths.
    """
    number = int(device.partition(":")[2] or 0) if device.startswith("cuda") else 0
    large = [(rows, columns) for rows, columns in tiles if rows * columns * dim >= LARGE_SEARCH]
    if device == "cpu" or number >= len(gpus) or not large:
        return None
    gpu = gpus[number]
    total = FREE_SHARE * gpu.total_bytes if max_memory_gb is None else max_memory_gb * 2**30
    allowed = min(math.floor(total) // workers, math.floor(FREE_SHARE * gpu.free_bytes))
    try:
        # A search keeps one neighbour more than is asked for: see `emsmine.mining.exact.incremental`.
        taken = max(tile_shape(rows, columns, dim, k + 1, allowed).num_bytes for rows, columns in large)
    except ConfigError as error:
        return GpuPlan(gpu.name, 0, allowed, workers, str(error))
    return GpuPlan(gpu.name, taken, allowed, workers)
