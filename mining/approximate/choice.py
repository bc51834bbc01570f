"""Choose how neighbours are searched: pure functions of rows, dimension and memory, with the reason as text.

Nothing here looks at the machine: the choice is part of a result, and a run continued elsewhere must choose the same.
"""

import math
from dataclasses import dataclass

APPROXIMATE = ("faiss-ivf", "faiss-ivfpq", "faiss-hnsw")
ENGINES = ("exact", "faiss-flat", *APPROXIMATE, "auto")

EXACT_ROWS = 200_000
"""Up to this harmonic mean of source and target rows `auto` searches exactly: 200,000 x 200,000, or one side of at most
100,000 rows whatever the other. There lists take six tenths of the time of exact search with int8 products.

Exact search costs N M times a constant; an approximate one costs N + M times another, for building and for what each
query takes whatever the size, and a smaller part of N M for lists. So their ratio depends on N M / (N + M). The
dimension is a factor of both. See docs/benchmarks.md.
"""
SMALL_ROWS = 1_000
"""An index of fewer rows is searched exactly whatever the engine: lists would hold next to nothing."""
ROWS_PER_LIST = 40
"""k-means wants about as many rows per list to be trained on; FAISS warns below 39."""
MOST_LISTS = 65_536
PQ_ROWS = 10_240
"""Product quantisation learns 256 centroids per part, each from 40 rows or more."""
VALUES_PER_CODE = 4
"""Values of a vector that IVF-PQ stores in one byte."""
_GIB = 1 << 30


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and why it was chosen."""

    engine: str
    reason: str


def choose_search(engine: str, source_rows: int, target_rows: int) -> EngineChoice:
    """Choose between exact and approximate search for a pair of languages.

    Args:
        engine: one of `ENGINES`.
        source_rows: sentences of one side.
        target_rows: sentences of the other.

    The limit is the same with and without int8 products, as the machine must not decide the result.

    Returns: `exact`, `faiss-flat`, or an approximate engine; for `auto` over the limit `auto`, whose kind of index
        `choose_index` decides for each language.
    Raises: ValueError for an unknown engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    if engine != "auto":
        return EngineChoice(engine, f"{engine} was asked for")
    total, scores = source_rows + target_rows, source_rows * target_rows
    mean = 2 * scores // total if total else 0
    comparison = f"{source_rows:,} x {target_rows:,} rows, harmonic mean {mean:,}"
    if 2 * scores <= EXACT_ROWS * total:
        return EngineChoice(
            "exact", f"{comparison}, at most {EXACT_ROWS:,}: exact search loses nothing and costs little more, or less"
        )
    return EngineChoice("auto", f"{comparison}, over {EXACT_ROWS:,}: approximate search is cheaper")


def choose_index(engine: str, rows: int, dim: int, memory_gb: float) -> EngineChoice:
    """Choose the kind of index of one language.

    Args:
        engine: an approximate engine, or `auto`.
        rows: sentences of the language.
        dim: dimension of the vectors.
        memory_gb: GiB that an index may take (`auto` only).

    Returns: `exact` (no structure), `faiss-ivf`, `faiss-ivfpq` or `faiss-hnsw`.
    Raises: ValueError for an engine that needs no index.
    """
    if engine not in (*APPROXIMATE, "auto"):
        raise ValueError(f"engine: {engine!r} needs no index; those that do: {', '.join((*APPROXIMATE, 'auto'))}")
    if rows < SMALL_ROWS:
        return EngineChoice("exact", f"{rows:,} rows, fewer than {SMALL_ROWS:,}: searched exactly")
    quantisable = rows >= PQ_ROWS and dim % VALUES_PER_CODE == 0
    if engine == "faiss-ivfpq" and not quantisable:
        return EngineChoice(
            "faiss-ivf",
            f"{rows:,} rows of {dim} values: product quantisation needs {PQ_ROWS:,} rows and a multiple of "
            f"{VALUES_PER_CODE} values; stored whole",
        )
    if engine != "auto":
        return EngineChoice(engine, f"{engine} was asked for")
    size = index_bytes("faiss-ivf", rows, dim) / _GIB
    sizes = f"{rows:,} rows of {dim} values take {size:.2f} GiB"
    if size <= memory_gb or not quantisable:
        return EngineChoice("faiss-ivf", f"{sizes}, allowed are {memory_gb:g}: stored whole in lists")
    return EngineChoice("faiss-ivfpq", f"{sizes}, allowed are {memory_gb:g}: compressed in lists")


def num_lists(rows: int) -> int:
    """Return the number of inverted lists: 4 times the root of the rows, within what can be trained and searched."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // ROWS_PER_LIST, MOST_LISTS))


def index_bytes(engine: str, rows: int, dim: int) -> int:
    """Estimate the memory that an index takes, in bytes; its file is as large.

    Args:
        engine: `exact` or one of `APPROXIMATE`.
        rows: sentences.
        dim: dimension of the vectors.
    """
    lists = num_lists(rows) * 4 * dim
    per_row = {
        "exact": 0,
        "faiss-ivf": 2 * dim + 8,
        "faiss-ivfpq": dim // VALUES_PER_CODE + 8,
        # Two times 32 links on the lowest level, 4 bytes each, and a little for the levels above.
        "faiss-hnsw": 2 * dim + 4 * 2 * 32 + 24,
    }[engine]
    return rows * per_row + (lists if engine in ("faiss-ivf", "faiss-ivfpq") else 0)
