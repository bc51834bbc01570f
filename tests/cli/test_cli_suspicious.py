"""Suspicious pairs as a user meets them: more neighbours are asked for than a side has sentences."""

from pathlib import Path

import pipeline_kit as kit
import pytest


@pytest.fixture(scope="module")
def small(crawl: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small") / "run"
    result = kit.run([crawl[1]], root, "--k", kit.NUM_PARALLEL + 1, "--formats", "tsv,parquet", pairs=["de-en"])
    assert result.code == 0, result.err
    return root


def test_all_pairs_are_marked_and_all_are_exported(small: Path) -> None:
    corpus = [line.split("\t") for line in (small / "export/de-en.tsv").read_text(encoding="utf-8").splitlines()]
    listed = [
        line.split("\t") for line in (small / "export/de-en.suspicious.tsv").read_text(encoding="utf-8").splitlines()
    ]
    assert len(corpus) > kit.NUM_PARALLEL / 2
    assert [[row[0], *row[3:]] for row in listed] == corpus
    assert all("few_neighbours" in row[2].split(",") for row in listed)
    stored = kit.rows(small, "export/de-en.parquet")
    assert [row["suspicious"] for row in stored] == [row[2] for row in listed]


def test_the_report_counts_and_shows_them(small: Path) -> None:
    report = kit.emsmine("report", small)
    num_pairs = len(kit.rows(small, "export/de-en.parquet"))
    counted = [line.split()[-1] for line in report.out.splitlines() if "suspicious: few_neighbours" in line]
    assert counted[-1] == str(num_pairs)
    assert "suspicious, best margins of de-en" in report.out
    exported = kit.emsmine("report", small, "--json").json[-1]
    assert exported["suspicious"]["few_neighbours"] == num_pairs
    best = kit.rows(small, "export/de-en.parquet")[0]
    assert (exported["samples"][0]["source"], exported["samples"][0]["target"]) == (
        best["source_text"],
        best["target_text"],
    )


def test_a_sentence_on_several_pages_is_mined_once(finished: Path) -> None:
    """The crawl repeats three English sentences on a page of their own."""
    places = [row["sentence_id"] for row in kit.rows(finished, "occurrences/eng_Latn")]
    repeated = {identity for identity in places if places.count(identity) > 1}
    assert len(repeated) == 3
    for side in ("source", "target"):
        ids = [row[f"{side}_sentence_id"] for row in kit.rows(finished, "export/de-en.parquet")]
        assert len(ids) == len(set(ids))
        if side == "target":
            assert repeated & set(ids)
    assert not (finished / "export" / "de-en.suspicious.tsv").exists()


def test_enough_neighbours_mark_nothing_as_few(tmp_path: Path, crawl: list[Path]) -> None:
    root = tmp_path / "run"
    assert kit.run([crawl[1]], root, "--formats", "parquet", pairs=["de-en"]).code == 0
    rows = kit.rows(root, "export/de-en.parquet")
    assert rows
    assert all("few_neighbours" not in row["suspicious"] for row in rows)
