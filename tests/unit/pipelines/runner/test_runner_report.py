"""The funnel as rows, as text, and as JSON."""

import json
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.errors import InputError
from emsmine.pipelines.runner.report import FunnelRow, format_funnel, funnel
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.suspicious import count_suspicious, listing_path
from emsmine.pipelines.store.tasks import TaskSpec


def test_every_row_of_a_run_adds_up_and_steps_join(finished: Path) -> None:
    rows = funnel(Store(finished))
    assert all(row.adds_up for row in rows)
    by_step: dict[str, list[FunnelRow]] = {}
    for row in rows:
        by_step.setdefault(row.step, []).append(row)
    assert [row.group for row in by_step["langid.distinct"]] == ["deu_Latn", "eng_Latn", "fra_Latn", "spa_Latn"]
    assert [row.group for row in by_step["export.export"]] == ["deu_Latn-eng_Latn", "fra_Latn-spa_Latn"]
    # What a step passes on is what the next one takes in.
    chain = ["ingest.read", "dedup.apply"]
    assert by_step[chain[0]][0].rows_out == by_step[chain[1]][0].rows_in
    for before, after in (
        ("langid.split", "langid.distinct"),
        ("langid.distinct", "encode.encode"),
        ("select.select", "filter.filter"),
        ("filter.filter", "export.export"),
    ):
        assert sum(row.rows_out for row in by_step[before]) == sum(row.rows_in for row in by_step[after])


def test_funnel_counts_the_planted_noise(finished: Path) -> None:
    rows = {(row.step, row.group): row for row in funnel(Store(finished))}
    # 16 pages in the WARC's and the feed's four languages, a repeating page, a copy, a broken line.
    assert rows["ingest.read", ""] == FunnelRow("ingest.read", "", 19, 18, {"invalid_json": 1})
    assert rows["dedup.apply", ""] == FunnelRow("dedup.apply", "", 18, 17, {"duplicate_exact": 1})
    assert rows["langid.distinct", "eng_Latn"].dropped == {"duplicate_sentence": 3}
    assert rows["langid.distinct", "eng_Latn"].rows_out == kit.NUM_PARALLEL


def test_a_directory_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished stage") as caught:
        funnel(Store(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_format_is_aligned_and_sorted_by_frequency() -> None:
    rows = [
        FunnelRow("ingest.read", "", 1234567, 1234000, {"a_rare": 67, "often": 500}),
        FunnelRow("export.export", "fra_Latn-spa_Latn", 10, 10),
    ]
    lines = format_funnel(rows).split("\n")
    assert [line.split() for line in lines] == [
        ["step", "in", "out", "dropped"],
        ["ingest", "records", "→", "documents", "1,234,567", "1,234,000", "567"],
        ["often", "500"],
        ["a_rare", "67"],
        ["export", "→", "exported", "pairs", "es-fr", "10", "10", "0"],
        ["every", "row", "is", "accounted", "for"],
    ]
    # Numbers end in one column each, below their heading.
    assert {len(line) for line in lines[:-1]} == {len(lines[0])}
    assert lines[0].index("in") + 2 == lines[1].index("1,234,567") + 9


def test_format_shouts_when_rows_are_missing() -> None:
    text = format_funnel([FunnelRow("ingest.read", "", 10, 8, {"bad": 1})])
    assert text.split("\n")[-1].startswith("ROWS ARE MISSING")


def test_json_says_the_same(finished: Path) -> None:
    printed = kit.emsmine("report", finished, "--json")
    assert printed.code == 0
    expected = [{**vars(row), "adds_up": True} for row in funnel(Store(finished))]
    assert json.loads(printed.out) == expected


def put_export(root: Path, listing: str) -> None:
    """Publish an export of three pairs, two of them suspicious."""
    spec = TaskSpec("export", "export", 2, {}, (), "fra_Latn-spa_Latn")
    store = Store(root)
    with store.task(spec) as task:
        task.count_in(3)
        task.count_out(3)
        count_suspicious(task, ["low_cosine", "", "low_cosine,few_neighbours"])
        with task.bytes_writer(listing_path("es", "fr"), rows=2) as file:
            file.write(listing.encode())
    store.finish_step("export", "export", [spec])


LISTING = "".join(f"1.{9 - n}\t0.5\tlow_cosine\tuno {n}\t{'x' * 70}\n" for n in range(5))


def test_suspicious_pairs_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    put_export(tmp_path, LISTING)
    (row,) = funnel(Store(tmp_path))
    assert row.suspicious == {"few_neighbours": 1, "low_cosine": 2}
    assert row.adds_up
    assert [sample["source"] for sample in row.samples] == ["uno 0", "uno 1", "uno 2"]
    assert row.samples[0] == {
        "margin": "1.9",
        "cosine": "0.5",
        "reason": "low_cosine",
        "source": "uno 0",
        "target": "x" * 70,
    }
    lines = kit.emsmine("report", tmp_path).out.splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["suspicious:", "few_neighbours", "1"],
        ["suspicious:", "low_cosine", "2"],
    ]
    # Among the rows that came out, hence in their column.
    assert len(lines[2]) == lines[0].index("out") + 3
    # The directory of this test holds nothing but the last step.
    assert lines[4] == "NOT COMPLETE: the rows above add up, but"
    assert "  unfinished ingest.read: it has not run" in lines
    assert lines[-4] == "suspicious, best margins of es-fr (margin, cosine, reason, texts):"
    assert lines[-3] == f"  1.9  0.5  low_cosine  uno 0 ||| {'x' * 59}…"


def test_a_listing_that_was_taken_away_is_no_error(tmp_path: Path) -> None:
    put_export(tmp_path, LISTING)
    (tmp_path / "export" / "es-fr.suspicious.tsv").unlink()
    (row,) = funnel(Store(tmp_path))
    assert (row.suspicious["low_cosine"], row.samples) == (2, [])


def test_samples_of_a_listing_that_was_changed_are_not_shown(tmp_path: Path) -> None:
    put_export(tmp_path, LISTING)
    path = tmp_path / "export" / "es-fr.suspicious.tsv"
    path.write_bytes(path.read_bytes().replace(b"uno", b"bad"))
    shown = kit.emsmine("report", tmp_path)
    assert "bad" not in shown.out
    assert "suspicious, best margins" not in shown.out
    assert "its samples are left out" in shown.err


def test_nothing_that_a_terminal_acts_on_is_printed(tmp_path: Path) -> None:
    put_export(tmp_path, "1.9\t0.5\tlow_cosine\t\x1b]0;title\x07\x9b2J\tone\u2028two\u202e\r\n")
    shown = kit.emsmine("report", tmp_path)
    assert "\\x1b]0;title\\x07\\x9b2J ||| one\\u2028two\\u202e\\x0d" in shown.out
    assert not set("\x1b\x07\x9b\u2028\u202e\r") & set(shown.out)
