"""select: pairs by margin, and a reason for each candidate that is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.pipelines.schemas import neighbours_schema
from emsmine.pipelines.settings import SelectSettings, Settings, parse_pairs

PAIR = "deu_Latn-eng_Latn"

# Two neighbours each; with the absolute margin the score is the cosine, so that choices can be read off.
FORWARD = {0: [(10, 0.95), (11, 0.50)], 1: [(10, 0.90), (11, 0.80)], 2: [(12, 0.20), (-1, -np.inf)]}
BACKWARD = {10: [(0, 0.95), (1, 0.90)], 11: [(1, 0.80), (0, 0.50)], 12: [(2, 0.20), (-1, -np.inf)]}


def table(rows: dict[int, list[tuple[int, float]]]) -> pa.Table:
    ids = np.array([[item[0] for item in row] for row in rows.values()], np.int64).reshape(-1, 2)
    cosine = np.array([[item[1] for item in row] for row in rows.values()], np.float32).reshape(-1, 2)
    columns = [
        pa.array(list(rows), pa.int64()),
        pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), 2),
        pa.FixedSizeListArray.from_arrays(pa.array(cosine.ravel()), 2),
    ]
    return pa.Table.from_arrays(columns, schema=neighbours_schema(2))


def put_neighbours(root: Path) -> None:
    store_parts = {
        f"{PAIR}/forward-00000": {f"neighbours/{PAIR}": table({key: FORWARD[key] for key in (0, 1)})},
        f"{PAIR}/forward-00001": {f"neighbours/{PAIR}": table({2: FORWARD[2]})},
        f"{PAIR}/backward-00000": {f"neighbours/{PAIR}": table(BACKWARD)},
    }
    kit.publish(root, "search", "merge", store_parts)


@pytest.mark.parametrize(
    ("settings", "pairs", "reasons"),
    [
        ({}, [(0, 10), (1, 11)], {"below_threshold": 1, "not_retrieved": 2}),
        ({"retrieval": "forward"}, [(0, 10), (1, 10)], {"below_threshold": 1, "not_retrieved": 2}),
        ({"retrieval": "backward"}, [(0, 10), (1, 11)], {"below_threshold": 1, "not_retrieved": 2}),
        ({"retrieval": "intersect"}, [(0, 10)], {"below_threshold": 1, "not_retrieved": 3}),
        ({"threshold": 0.85}, [(0, 10)], {"below_threshold": 3, "not_retrieved": 1}),
        ({"threshold": 0.0, "cosine_floor": 0.3}, [(0, 10), (1, 11)], {"below_cosine_floor": 1, "not_retrieved": 2}),
        ({"threshold": 0.0, "cosine_floor": 0.0}, [(0, 10), (1, 11), (2, 12)], {"not_retrieved": 2}),
        ({"threshold": 0.85, "cosine_floor": 0.6}, [(0, 10)], {"below_threshold": 3, "not_retrieved": 1}),
        ({"threshold": 2.0}, [], {"below_threshold": 5}),
    ],
)
def test_choice_and_reasons(
    tmp_path: Path, settings: dict[str, Any], pairs: list[tuple[int, int]], reasons: dict[str, int]
) -> None:
    put_neighbours(tmp_path)
    values: dict[str, Any] = {"margin": "absolute", "threshold": 0.3, "cosine_floor": 0.1, **settings}
    kit.run_stage(
        tmp_path,
        Settings(pairs=parse_pairs(["de-en"]), select=SelectSettings(**values)),
        "select",
    )
    rows = kit.rows(tmp_path, f"selected/{PAIR}")
    assert [(row["source_id"], row["target_id"]) for row in rows] == pairs
    assert [row["margin"] for row in rows] == [row["cosine"] for row in rows]
    assert kit.dropped(tmp_path, "select", "select") == reasons


def test_ratio_margin_by_hand(tmp_path: Path) -> None:
    put_neighbours(tmp_path)
    settings = SelectSettings(margin="ratio", threshold=0.0, cosine_floor=0.0)
    kit.run_stage(tmp_path, Settings(pairs=parse_pairs(["de-en"]), select=settings), "select")
    rows = {(row["source_id"], row["target_id"]): row["margin"] for row in kit.rows(tmp_path, f"selected/{PAIR}")}
    # Neighbourhood means: source 0 (0.95 + 0.50) / 2, target 10 (0.95 + 0.90) / 2; of sentence 2 and 12 one neighbour.
    assert rows[0, 10] == pytest.approx(0.95 / ((0.725 + 0.925) / 2), rel=1e-6)
    assert rows[2, 12] == pytest.approx(1.0, rel=1e-6)
