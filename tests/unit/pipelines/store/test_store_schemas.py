"""Schemas and the readers of vector columns."""

import numpy as np
import pyarrow as pa
import pytest

from emsmine.errors import CorruptOutputError
from emsmine.pipelines.store import schemas


def vectors(num_rows: int, dim: int = 6) -> np.ndarray:
    raw = np.random.default_rng(3).normal(size=(num_rows, dim)).astype(np.float32)
    rows: np.ndarray = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return rows


def table(rows: np.ndarray) -> pa.Table:
    schema = schemas.embeddings_schema(rows.shape[1], "ems:x", "f" * 64)
    hashes = pa.array([bytes([i]) * 16 for i in range(len(rows))], schemas.HASH)
    stored = schemas.fixed_binary(rows.astype(np.float16))
    return pa.Table.from_arrays([pa.array(range(len(rows)), pa.int64()), hashes, stored], schema=schema)


def test_fixed_binary_comes_back() -> None:
    rows = np.arange(24, dtype=np.uint32).reshape(4, 6)
    column = schemas.fixed_binary(rows)
    assert column.type == pa.binary(24)
    np.testing.assert_array_equal(schemas.from_fixed_binary(column, "uint32"), rows)


def test_fixed_binary_of_rows_that_do_not_lie_together() -> None:
    rows = np.arange(24, dtype=np.uint32).reshape(6, 4).T
    np.testing.assert_array_equal(schemas.from_fixed_binary(schemas.fixed_binary(rows), "uint32"), rows)


def test_from_fixed_binary_sees_slices_and_chunks() -> None:
    rows = np.arange(40, dtype=np.uint16).reshape(10, 4)
    column = schemas.fixed_binary(rows)
    np.testing.assert_array_equal(schemas.from_fixed_binary(column.slice(3, 4), "uint16"), rows[3:7])
    chunked = pa.chunked_array([column.slice(0, 2), column.slice(5, 5)])
    np.testing.assert_array_equal(schemas.from_fixed_binary(chunked, "uint16"), rows[[0, 1, 5, 6, 7, 8, 9]])


def test_from_fixed_binary_of_nothing_keeps_the_width() -> None:
    empty = pa.array([], pa.binary(8))
    assert schemas.from_fixed_binary(empty, "uint16").shape == (0, 4)
    assert schemas.from_fixed_binary(pa.chunked_array([], pa.binary(8)), "uint16").shape == (0, 4)


def test_read_embeddings_returns_unit_rows_close_to_what_was_stored() -> None:
    rows = vectors(50)
    found = schemas.read_embeddings(table(rows))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, rows, atol=1e-3)


def test_read_embeddings_of_an_empty_table() -> None:
    assert schemas.read_embeddings(table(vectors(0))).shape == (0, 6)


def test_read_embeddings_needs_the_description() -> None:
    with pytest.raises(CorruptOutputError, match="dim and dtype"):
        schemas.read_embeddings(table(vectors(2)).replace_schema_metadata({}))


def test_pairs_schema_has_both_sides_and_every_rule() -> None:
    names = schemas.pairs_schema(["too_long", "identical"]).names
    assert names[:5] == ["score", "support", "margin", "cosine", "suspicious"]
    for side in ("source", "target"):
        for name in ("text", "sentence_id", "url", "date", "doc_id", "position", "lid_score", "mt_hints"):
            assert f"{side}_{name}" in names
    assert names[-2:] == ["rule_too_long", "rule_identical"]
