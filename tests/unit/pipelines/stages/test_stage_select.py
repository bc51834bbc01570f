"""select: pairs by margin, and a reason for each candidate that is none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.errors import StaleOutputError
from emsmine.mining.selection import RETRIEVALS
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import SelectSettings, Settings
from emsmine.pipelines.stages import select
from emsmine.pipelines.store.schemas import neighbours_schema
from emsmine.pipelines.store.store import Store

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


def put_neighbours(
    root: Path,
    forward: dict[int, list[tuple[int, float]]] = FORWARD,
    backward: dict[int, list[tuple[int, float]]] = BACKWARD,
) -> None:
    store_parts = {
        f"{PAIR}/forward-00000": {f"neighbours/{PAIR}": table({key: forward[key] for key in (0, 1)})},
        f"{PAIR}/forward-00001": {f"neighbours/{PAIR}": table({2: forward[2]})},
        f"{PAIR}/backward-00000": {f"neighbours/{PAIR}": table(backward)},
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
        Settings(pairs=parse_pairs(["de-en"]), rescore=kit.BY_MARGIN, select=SelectSettings(**values)),
        "select",
    )
    rows = kit.rows(tmp_path, f"selected/{PAIR}")
    assert [(row["source_id"], row["target_id"]) for row in rows] == pairs
    assert [row["margin"] for row in rows] == [row["cosine"] for row in rows]
    assert [(row["score"], row["support"]) for row in rows] == [(row["margin"], 0) for row in rows]
    assert kit.dropped(tmp_path, "select", "select") == reasons


def select_in_parts(root: Path, **settings: Any) -> dict[str, str]:
    values: dict[str, Any] = {"margin": "absolute", "threshold": 0.3, "cosine_floor": 0.1, **settings}
    kit.run_stage(
        root, Settings(pairs=parse_pairs(["de-en"]), rescore=kit.BY_MARGIN, select=SelectSettings(**values)), "select"
    )
    return {
        name: digest
        for name, digest in kit.tree(root).items()
        if name.startswith(("selected", "rejects/select.select"))
    }


@pytest.mark.parametrize("retrieval", RETRIEVALS)
def test_shards_and_buffer_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retrieval: str) -> None:
    put_neighbours(tmp_path / "cut")
    whole = {
        f"{PAIR}/{name}-00000": {f"neighbours/{PAIR}": table(rows)}
        for name, rows in (("forward", FORWARD), ("backward", BACKWARD))
    }
    kit.publish(tmp_path / "whole", "search", "merge", whole)
    expected = select_in_parts(tmp_path / "whole", retrieval=retrieval)
    assert len(expected) == 2
    monkeypatch.setattr(select, "BUFFER_PAIRS", 1)
    assert select_in_parts(tmp_path / "cut", retrieval=retrieval) == expected


def test_the_sample_of_a_reason_is_its_best_pair(tmp_path: Path) -> None:
    forward = {0: [(10, 0.4), (11, 0.3)], 1: [(10, 0.9), (11, 0.5)], 2: [(11, 0.95), (12, 0.2)]}
    backward = {10: [(1, 0.9), (0, 0.4)], 11: [(2, 0.95), (1, 0.5)], 12: [(2, 0.2), (-1, -np.inf)]}
    put_neighbours(tmp_path, forward, backward)
    select_in_parts(tmp_path, threshold=0.6, cosine_floor=0.97)
    found = {row["reason"]: (row["id"], row["sample"]) for row in kit.rows(tmp_path, "rejects/select.select")}
    assert found == {
        "below_threshold": ("1-11", "margin 0.5000 cosine 0.5000"),
        "below_cosine_floor": ("2-11", "margin 0.9500 cosine 0.9500"),
    }


def test_undefined_margins_have_a_reason_of_their_own(tmp_path: Path) -> None:
    """All cosines of two sentences are 0, a mean that nothing can be divided by; the lowest ids come first."""
    forward = {0: [(10, 0.9), (11, 0.5)], 2: [(13, 0.0), (12, 0.0)], 1: [(12, 0.0), (13, 0.0)]}
    backward = {10: [(0, 0.9), (1, 0.0)], 12: [(1, 0.0), (2, 0.0)], 11: [(0, 0.5), (1, 0.0)], 13: [(1, 0.0), (2, 0.0)]}
    put_neighbours(tmp_path, forward, backward)
    select_in_parts(tmp_path, margin="ratio", threshold=0.1)
    assert kit.dropped(tmp_path, "select", "select") == {
        "undefined_margin": 4,
        "below_threshold": 2,
        "not_retrieved": 1,
    }
    (sample,) = (row for row in kit.rows(tmp_path, "rejects/select.select") if row["reason"] == "undefined_margin")
    assert (sample["id"], sample["sample"]) == ("1-12", "margin nan cosine 0.0000")


def test_a_side_without_sentences_gives_no_pairs(tmp_path: Path) -> None:
    put_neighbours(tmp_path, {key: [(-1, -np.inf)] * 2 for key in range(3)}, {})
    assert select_in_parts(tmp_path)
    assert kit.rows(tmp_path, f"selected/{PAIR}") == []
    (manifest,) = Store(tmp_path).manifests("select", "select")
    assert (manifest.rows_in, manifest.rows_out, manifest.dropped) == (0, 0, {})


def test_ratio_margin_by_hand(tmp_path: Path) -> None:
    put_neighbours(tmp_path)
    settings = SelectSettings(margin="ratio", threshold=0.0, cosine_floor=0.0)
    kit.run_stage(tmp_path, Settings(pairs=parse_pairs(["de-en"]), rescore=kit.BY_MARGIN, select=settings), "select")
    rows = {(row["source_id"], row["target_id"]): row["margin"] for row in kit.rows(tmp_path, f"selected/{PAIR}")}
    # Neighbourhood means: source 0 (0.95 + 0.50) / 2, target 10 (0.95 + 0.90) / 2; of sentence 2 and 12 one neighbour.
    assert rows[0, 10] == pytest.approx(0.95 / ((0.725 + 0.925) / 2), rel=1e-6)
    assert rows[2, 12] == pytest.approx(1.0, rel=1e-6)


# Sentences 2 and 12 have nobody near: their margin is 0.4 / ((0.21 + 0.4) / 2) = 1.31, that of the others 0.9 / 0.7 =
# 1.29. Typical is 0.5, so that at a threshold of 1.2 a cosine under 0.6 is low.
LONELY_FORWARD = {0: [(10, 0.9), (11, 0.5)], 1: [(11, 0.9), (10, 0.5)], 2: [(12, 0.4), (10, 0.02)]}
LONELY_BACKWARD = {10: [(0, 0.9), (1, 0.5)], 11: [(1, 0.9), (0, 0.5)], 12: [(2, 0.4), (-1, -np.inf)]}


def select_lonely(root: Path, **settings: Any) -> list[dict[str, Any]]:
    put_neighbours(root, LONELY_FORWARD, LONELY_BACKWARD)
    values = SelectSettings(**{"cosine_floor": 0.0, **settings})
    kit.run_stage(root, Settings(pairs=parse_pairs(["de-en"]), rescore=kit.BY_MARGIN, select=values), "select")
    return kit.rows(root, f"selected/{PAIR}")


def test_suspicious_pairs_are_marked_counted_and_kept(tmp_path: Path) -> None:
    rows = select_lonely(tmp_path)
    assert [(row["source_id"], row["target_id"], row["suspicious"]) for row in rows] == [
        (2, 12, "low_cosine,few_neighbours"),
        (0, 10, ""),
        (1, 11, ""),
    ]
    (manifest,) = Store(tmp_path).manifests("select", "select")
    assert manifest.counters == {"suspicious.few_neighbours": 1, "suspicious.low_cosine": 1}
    assert manifest.rows_out == 3


def test_margin_and_threshold_decide_what_is_low(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "low threshold": {"threshold": 0.7},
        "absolute": {"threshold": 0.3, "margin": "absolute"},
        "distance": {"threshold": 0.09, "margin": "distance"},
    }
    by_name = {
        name: {row["source_id"]: row["suspicious"] for row in select_lonely(tmp_path / name, **settings)}
        for name, settings in runs.items()
    }
    few, both = "few_neighbours", "low_cosine,few_neighbours"
    assert by_name == {
        "low threshold": {0: "", 1: "", 2: few},
        "absolute": {0: "", 1: "", 2: few},
        "distance": {0: "", 1: "", 2: both},
    }


def test_results_from_before_the_scores_are_stale(tmp_path: Path) -> None:
    put_neighbours(tmp_path, LONELY_FORWARD, LONELY_BACKWARD)
    settings = Settings(pairs=parse_pairs(["de-en"]), rescore=kit.BY_MARGIN)
    kit.run_stage(tmp_path, settings, "select")
    store = Store(tmp_path)
    (manifest,) = store.manifests("select", "select")
    store.remove_step("select", "select")
    old = replace(manifest.spec, version=2)
    with store.task(old) as task:
        task.writer(f"selected/{PAIR}", table(LONELY_FORWARD).schema).write(table(LONELY_FORWARD))
    store.finish_step("select", "select", [old])
    with pytest.raises(StaleOutputError, match="version 2 -> 3"):
        kit.run_stage(tmp_path, settings, "select")
