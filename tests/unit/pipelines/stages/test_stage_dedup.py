"""dedup: copies over all files go, the first stays."""

from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.pipelines.settings import DedupSettings, Settings

PAGE = " ".join(kit.PARALLEL["en"])
NEAR = PAGE.replace("lighthouse", "tower")
OTHER = " ".join(kit.PARALLEL["de"])


def run(root: Path, files: list[list[str]], settings: DedupSettings | None = None) -> list[str]:
    inputs = []
    for number, texts in enumerate(files):
        path = root.parent / f"{number}.jsonl"
        path.write_bytes(b"".join(kit.json_line(f"{number}/{n}", text) for n, text in enumerate(texts)))
        inputs.append(str(path))
    kit.run_stage(root, Settings(inputs=tuple(inputs), dedup=settings or DedupSettings()), "ingest", "dedup")
    return [row["url"] for row in kit.rows(root, "distinct")]


def test_copies_over_files_keep_the_first(tmp_path: Path) -> None:
    kept = run(tmp_path / "run", [[OTHER, PAGE], [PAGE, NEAR, PAGE.upper() + " !"]])
    assert kept == ["0/0", "0/1"]
    first = 1
    assert kit.rows(tmp_path / "run", "duplicates") == [
        {"doc_id": 1 << 40, "duplicate_of": first, "kind": "exact"},
        {"doc_id": (1 << 40) + 1, "duplicate_of": first, "kind": "near"},
        {"doc_id": (1 << 40) + 2, "duplicate_of": first, "kind": "exact"},
    ]
    assert kit.dropped(tmp_path / "run", "dedup", "apply") == {"duplicate_exact": 2, "duplicate_near": 1}
    samples = [row["sample"] for row in kit.rows(tmp_path / "run", "rejects/dedup.apply")]
    assert sorted(samples) == ["of 1: 1/0", "of 1: 1/1", "of 1: 1/2"]


def test_near_duplicates_stay_when_told(tmp_path: Path) -> None:
    assert run(tmp_path / "run", [[PAGE, NEAR, PAGE]], DedupSettings(near_duplicates=False)) == ["0/0", "0/1"]


def test_the_threshold_decides_what_is_near(tmp_path: Path) -> None:
    assert run(tmp_path / "run", [[PAGE, NEAR]], DedupSettings(near_duplicate_threshold=1.0)) == ["0/0", "0/1"]


@pytest.mark.parametrize("files", [[[]], [[], []], [[PAGE], []], [["!!!"]]])
def test_little_or_nothing_passes(tmp_path: Path, files: list[list[str]]) -> None:
    assert len(run(tmp_path / "run", files)) == sum(map(len, files))


def test_whole_documents_are_copied_unchanged(tmp_path: Path, finished: Path) -> None:
    documents = {row["doc_id"]: row for row in kit.rows(finished, "documents")}
    distinct = kit.rows(finished, "distinct")
    assert len(distinct) == len(documents) - 1
    assert all(documents[row["doc_id"]] == row for row in distinct)
