"""Which engine is chosen, and why: pure functions of rows, dimension and memory."""

import pytest

from emsmine.mining.approximate.choice import (
    APPROXIMATE,
    ENGINES,
    EXACT_ROWS,
    choose_index,
    choose_search,
    index_bytes,
    num_lists,
)


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "auto"])
def test_an_engine_that_is_named_is_taken(engine: str) -> None:
    choice = choose_search(engine, 10, 10**9)
    assert (choice.engine, choice.reason) == (engine, f"{engine} was asked for")


@pytest.mark.parametrize(
    ("source", "target", "engine"),
    [
        (0, 0, "exact"),
        (0, 10**12, "exact"),
        (EXACT_ROWS, EXACT_ROWS, "exact"),
        (EXACT_ROWS, EXACT_ROWS + 1, "auto"),
        # The index of a large side does not pay for the few queries of a small one.
        (EXACT_ROWS // 2, 10**12, "exact"),
        (EXACT_ROWS // 2 + 1, 10**12, "auto"),
        (150_000, 300_000, "exact"),
        (160_000, 300_000, "auto"),
    ],
)
def test_auto_is_exact_up_to_the_limit(source: int, target: int, engine: str) -> None:
    choice = choose_search("auto", source, target)
    assert choice.engine == engine == choose_search("auto", target, source).engine
    assert f"{source:,} x {target:,}" in choice.reason


@pytest.mark.parametrize(
    ("engine", "rows", "dim", "memory", "expected", "why"),
    [
        ("faiss-hnsw", 999, 256, 8.0, "exact", "fewer than 1,000"),
        ("faiss-hnsw", 1000, 256, 8.0, "faiss-hnsw", "asked for"),
        ("faiss-ivfpq", 10_239, 256, 8.0, "faiss-ivf", "needs 10,240 rows"),
        ("faiss-ivfpq", 10_240, 256, 8.0, "faiss-ivfpq", "asked for"),
        ("faiss-ivfpq", 10_240, 250, 8.0, "faiss-ivf", "multiple of 4"),
        ("auto", 1_000_000, 256, 0.5, "faiss-ivf", "take 0.49 GiB, allowed are 0.5"),
        ("auto", 1_000_000, 256, 0.4, "faiss-ivfpq", "allowed are 0.4: compressed"),
        ("auto", 5_000, 256, 0.0, "faiss-ivf", "stored whole"),
        ("auto", 0, 256, 8.0, "exact", "0 rows"),
    ],
)
def test_kind_of_index(engine: str, rows: int, dim: int, memory: float, expected: str, why: str) -> None:
    choice = choose_index(engine, rows, dim, memory)
    assert choice.engine == expected
    assert why in choice.reason


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown engine 'faiss'; choose one of exact, "):
        choose_search("faiss", 1, 1)
    with pytest.raises(ValueError, match="'exact' needs no index"):
        choose_index("exact", 1, 1, 1.0)


@pytest.mark.parametrize(
    ("rows", "lists"), [(0, 1), (39, 1), (1_000, 25), (24_000, 600), (1_000_000, 4_000), (10**10, 65_536)]
)
def test_number_of_lists(rows: int, lists: int) -> None:
    assert num_lists(rows) == lists


def test_sizes_are_those_of_the_parts() -> None:
    assert index_bytes("exact", 10**6, 256) == 0
    assert index_bytes("faiss-ivf", 10**6, 256) == 10**6 * 520 + 4000 * 1024
    assert index_bytes("faiss-ivfpq", 10**6, 256) == 10**6 * 72 + 4000 * 1024
    assert all(index_bytes(engine, 10**6, 256) > 0 for engine in APPROXIMATE)
