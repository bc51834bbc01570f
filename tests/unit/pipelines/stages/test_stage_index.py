"""index: what will be searched is described, and vectors of two encoders are not mixed."""

import json
from pathlib import Path

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.errors import TaskFailedError
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary

SETTINGS = Settings(pairs=parse_pairs(["de-en"]))


def vectors(num_rows: int, first_id: int, fingerprint: str = "f" * 64) -> pa.Table:
    rows = np.random.default_rng(first_id).normal(size=(num_rows, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns = [
        pa.array(range(first_id, first_id + num_rows), pa.int64()),
        pa.array([bytes(16)] * num_rows, pa.binary(16)),
        fixed_binary(rows.astype(np.float16)),
    ]
    return pa.Table.from_arrays(columns, schema=embeddings_schema(8, "ems:x", fingerprint))


def test_description(tmp_path: Path) -> None:
    kit.publish(
        tmp_path,
        "encode",
        "encode",
        {
            "deu_Latn/00000": {"embeddings/deu_Latn": vectors(5, 0)},
            "deu_Latn/00001": {"embeddings/deu_Latn": vectors(3, 1 << 40)},
            "eng_Latn/00000": {"embeddings/eng_Latn": vectors(0, 0)},
        },
    )
    kit.run_stage(tmp_path, SETTINGS, "index")
    assert json.loads((tmp_path / "index" / "deu_Latn.json").read_text(encoding="utf-8")) == {
        "rows": 8,
        "shards": [
            {"path": "embeddings/deu_Latn/00000.parquet", "rows": 5},
            {"path": "embeddings/deu_Latn/00001.parquet", "rows": 3},
        ],
        "vectors": {"dim": "8", "dtype": "float16", "encoder": "ems:x", "encoder_fingerprint": "f" * 64},
    }
    assert json.loads((tmp_path / "index" / "eng_Latn.json").read_text(encoding="utf-8"))["rows"] == 0
    # Exact search needs no structure.
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["deu_Latn.json", "eng_Latn.json"]


def test_two_encoders_are_refused(tmp_path: Path) -> None:
    kit.publish(
        tmp_path,
        "encode",
        "encode",
        {
            "deu_Latn/00000": {"embeddings/deu_Latn": vectors(5, 0)},
            "deu_Latn/00001": {"embeddings/deu_Latn": vectors(3, 1 << 40, "e" * 64)},
            "eng_Latn/00000": {"embeddings/eng_Latn": vectors(4, 0)},
        },
    )
    with pytest.raises(TaskFailedError, match="different encoders") as caught:
        kit.run_stage(tmp_path, SETTINGS, "index")
    assert "--redo encode" in str(caught.value)
    assert "embeddings/deu_Latn/00001.parquet" in str(caught.value)
