"""filter: texts and provenance of both sides join the pairs, and rules refuse some."""

from pathlib import Path
from typing import Any

import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.mining.text.rules import RulesConfig
from emsmine.pipelines.configuration import parse_pairs
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store.schemas import DOCUMENTS, OCCURRENCES, SELECTED, SENTENCES
from emsmine.pipelines.store.store import Store

PAIR = "deu_Latn-eng_Latn"
SECOND = 1 << 40


def table(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def document(doc_id: int, url: str, date: str) -> tuple[Any, ...]:
    return (doc_id, url, date, "a.warc", 0, 1, "text", "", "", [f"hint-{doc_id}"])


GERMAN = {
    0: ("Der Bus hält um 7 Uhr.", 0.9, [(0, 3), (SECOND, 1)]),
    1: ("Guten Morgen zusammen.", 0.8, [(SECOND, 0)]),
    SECOND: ("Hotel California", 0.7, [(0, 0)]),
    SECOND + 1: ("Es kamen 300 Gäste zum Fest.", 0.6, [(SECOND + 7, 2)]),
}
ENGLISH = {
    0: ("The bus stops at 7 o'clock.", 0.95, [(5, 1)]),
    1: ("Good morning everybody.", 0.85, [(5, 0), (9, 9)]),
    2: ("hotel california!", 0.75, [(5, 2)]),
    3: ("There were 12 guests at the party.", 0.65, [(9, 4)]),
}
DOCUMENTS_BY_SHARD = [
    [
        document(0, "http://de/0", "2026-01-01"),
        document(5, "http://en/5", "2026-01-02"),
        document(9, "http://en/9", ""),
    ],
    [document(SECOND, "http://de/s", "2026-01-03"), document(SECOND + 7, "http://de/s7", "2026-01-04")],
]


def put(root: Path) -> None:
    sentences: dict[str, dict[str, pa.Table]] = {}
    for lang, side in (("deu_Latn", GERMAN), ("eng_Latn", ENGLISH)):
        for shard in sorted({key >> 40 for key in side}):
            rows = [
                (key, text, score, "sentence", bytes(16))
                for key, (text, score, _) in side.items()
                if key >> 40 == shard
            ]
            places = [(key, *place) for key, item in side.items() if key >> 40 == shard for place in item[2]]
            sentences[f"{lang}/{shard:05d}"] = {
                f"sentences/{lang}": table(SENTENCES, rows),
                f"occurrences/{lang}": table(OCCURRENCES, places),
            }
    kit.publish(root, "langid", "distinct", sentences)
    kit.publish(
        root,
        "dedup",
        "apply",
        {f"{n:05d}": {"distinct": table(DOCUMENTS, rows)} for n, rows in enumerate(DOCUMENTS_BY_SHARD)},
    )
    pairs = [
        (1, 1, 0.9, 3, 1.5, 0.9, ""),
        (SECOND, 2, 0.8, 0, 1.4, 0.8, "low_cosine"),
        (0, 0, 0.75, 2, 1.3, 0.7, "low_cosine,few_neighbours"),
        (SECOND + 1, 3, 0.6, 0, 1.2, 0.6, ""),
    ]
    kit.publish(root, "select", "select", {f"{PAIR}/00000": {f"selected/{PAIR}": table(SELECTED, pairs)}})


def run(root: Path, **settings: Any) -> list[dict[str, Any]]:
    kit.run_stage(root, Settings(pairs=parse_pairs(["de-en"]), filter=RulesConfig(**settings)), "filter")
    return kit.rows(root, f"pairs/{PAIR}")


def test_texts_and_first_places_join(tmp_path: Path) -> None:
    put(tmp_path)
    rows = run(tmp_path)
    assert [(row["source_sentence_id"], row["target_sentence_id"]) for row in rows] == [(1, 1), (0, 0)]
    expected = {
        "score": 0.75,
        "support": 2,
        "margin": pytest.approx(1.3),
        "cosine": pytest.approx(0.7),
        "suspicious": "low_cosine,few_neighbours",
        "source_text": "Der Bus hält um 7 Uhr.",
        "source_url": "http://de/0",
        "source_date": "2026-01-01",
        "source_doc_id": 0,
        "source_position": 3,
        "source_lid_score": pytest.approx(0.9),
        "source_mt_hints": ["hint-0"],
        "target_text": "The bus stops at 7 o'clock.",
        "target_url": "http://en/5",
        "target_date": "2026-01-02",
        "target_doc_id": 5,
        "target_position": 1,
        "target_lid_score": pytest.approx(0.95),
        "target_mt_hints": ["hint-5"],
    }
    assert {name: rows[1][name] for name in expected} == expected
    assert (rows[0]["source_url"], rows[0]["target_url"]) == ("http://de/s", "http://en/5")


def test_refused_pairs_are_rejects_with_both_texts(tmp_path: Path) -> None:
    put(tmp_path)
    run(tmp_path)
    assert kit.dropped(tmp_path, "filter", "filter") == {"identical": 1, "digits_disagree": 1}
    rejects = {row["reason"]: row for row in kit.rows(tmp_path, "rejects/filter.filter")}
    assert rejects["identical"]["id"] == f"{SECOND}-2"
    assert rejects["identical"]["sample"] == "Hotel California ||| hotel california!"


def test_suspicious_pairs_pass_and_are_counted_if_no_rule_drops_them(tmp_path: Path) -> None:
    put(tmp_path)
    assert [row["suspicious"] for row in run(tmp_path)] == ["", "low_cosine,few_neighbours"]
    (manifest,) = Store(tmp_path).manifests("filter", "filter")
    # The other pair of low cosine is identical on both sides.
    assert manifest.counters == {"suspicious.few_neighbours": 1, "suspicious.low_cosine": 1}
    assert manifest.spec.version == 3


def test_a_rule_that_is_off_refuses_nothing_and_has_no_column(tmp_path: Path) -> None:
    put(tmp_path)
    rows = run(tmp_path, rules_off=("digits_disagree",))
    assert len(rows) == 3
    assert "rule_digits_disagree" not in rows[0]
    assert "rule_identical" in rows[0]
    assert kit.dropped(tmp_path, "filter", "filter") == {"identical": 1}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_pair_chars": 23}, "too_long"),
        ({"min_letters": 16}, "too_short"),
        ({"max_length_ratio": 1.0}, "length_ratio"),
        ({"min_lid_support": 0.94}, "wrong_language"),
        ({"min_letter_share": 0.99}, "few_letters"),
        ({"max_similarity": 0.0}, "near_identical"),
    ],
)
def test_every_threshold_reaches_its_rule(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    put(tmp_path)
    run(tmp_path, **settings)
    assert kit.dropped(tmp_path, "filter", "filter").get(reason, 0) >= 1


def test_no_candidates_give_no_pairs(tmp_path: Path) -> None:
    put(tmp_path)
    kit.publish(tmp_path, "select", "select", {f"{PAIR}/00001": {f"selected/{PAIR}": table(SELECTED, [])}})
    assert run(tmp_path) == []
