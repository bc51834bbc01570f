"""What a run says at its end."""

from pathlib import Path

import pytest

from emsmine.pipelines.runner.closing import closing_lines
from emsmine.pipelines.runner.report import FunnelRow
from emsmine.pipelines.settings import ExportSettings, Settings

PAIR = ("deu_Latn", "eng_Latn")
OUT = Path("out")
GROUPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ingest.read", "dedup.apply", "langid.split"), ("",)),
    **dict.fromkeys(("langid.distinct", "encode.encode"), PAIR),
    **dict.fromkeys(("select.select", "filter.filter", "export.export"), ("-".join(PAIR),)),
}


def funnel(empty: str = "", group: str | None = None, dropped: dict[str, int] | None = None) -> list[FunnelRow]:
    """Return a funnel with 10 rows everywhere, but for one step that leaves nothing and those after it."""
    rows, gone = [], False
    for step, groups in GROUPS.items():
        for name in groups:
            if step == empty and name == (group if group is not None else groups[0]):
                gone = True
                rows.append(FunnelRow(step, name, 10, 0, dropped or {"reason": 10}))
            elif not gone or (group in PAIR and name != group and name in PAIR):
                rows.append(FunnelRow(step, name, 10, 10))
    return rows


def closing(rows: list[FunnelRow], last: str = "export", **settings: object) -> tuple[list[str], list[str]]:
    return closing_lines(rows, Settings(pairs=(PAIR,), **settings), OUT, last)  # type: ignore[arg-type]


def test_where_the_corpus_is_and_what_is_next() -> None:
    lines, warnings = closing(funnel())
    assert warnings == []
    assert lines[0] == "de-en: 10 pairs in out/export/de-en.tsv"
    assert "emsmine report out" in lines[1]


@pytest.mark.parametrize(
    ("formats", "name"),
    [(("moses",), "corpus.de-en.*"), (("parquet", "jsonl"), "de-en.parquet"), (("jsonl",), "de-en.jsonl")],
)
def test_the_file_is_of_a_format_that_was_asked_for(formats: tuple[str, ...], name: str) -> None:
    lines, _ = closing(funnel(), export=ExportSettings(formats=formats))
    assert lines[0].endswith(f"out/export/{name}")


def test_a_stage_names_the_next() -> None:
    assert closing(funnel(), "encode") == (["encode is done in out; next: emsmine index -o out"], [])


@pytest.mark.parametrize(
    ("step", "group", "words"),
    [
        ("ingest.read", "", ["ingest left nothing of 10 rows (reason 10)", "--text-field"]),
        ("langid.split", "", ["langid left nothing of 10 rows", "--pairs"]),
        ("langid.distinct", "eng_Latn", ["langid left nothing in English of 10 rows", "--min-lid-score"]),
        ("select.select", None, ["select left nothing", "--threshold (now 0.5)", "--redo select"]),
        ("filter.filter", None, ["filter left nothing", "--rules-off"]),
    ],
)
def test_the_stage_that_left_nothing_is_named(step: str, group: str | None, words: list[str]) -> None:
    lines, (warning,) = closing(funnel(step, group))
    assert lines == []
    for word in ["de-en: no pair.", *words]:
        assert word in warning


def test_a_language_that_never_appears_is_named() -> None:
    rows = [row for row in funnel("langid.distinct", "eng_Latn") if row.group != "eng_Latn"]
    _, (warning,) = closing(rows)
    assert "langid left nothing in English;" in warning


def test_reasons_stand_in_order_of_their_number() -> None:
    _, (warning,) = closing(funnel("select.select", None, {"a": 1, "b": 5, "c": 3, "d": 1}))
    assert "(b 5, c 3, a 1)" in warning
