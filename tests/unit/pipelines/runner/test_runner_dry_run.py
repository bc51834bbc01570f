"""`run --dry-run`: every stage is named with what is known of it, and nothing at all is written."""

import os
import shutil
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.pipelines.settings import STAGE_NAMES
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.store.lock import run_lock

STEPS = [f"{name}.{step.name}" for name in STAGE_NAMES for step in load_stage(name).steps]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a finished run that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def everything(root: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.lstat() for path in [root, *root.rglob("*")]}
    return {path: (stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found.items()}


def table(result: kit.Result) -> dict[str, list[str]]:
    """Return tasks, done, to run, rows and note by step."""
    lines = [line.split(None, 5) for line in result.out.splitlines()]
    return {line[0]: line[1:] for line in lines if line and line[0] in STEPS}


def test_a_new_run_makes_no_directory_and_lists_every_stage(tmp_path: Path, crawl: list[Path]) -> None:
    planned = kit.run(crawl, tmp_path / "run", "--dry-run")
    assert planned.code == 0, planned.err
    assert not (tmp_path / "run").exists()
    rows = table(planned)
    assert list(rows) == STEPS
    assert rows["ingest.read"] == ["2", "0", "2", "0"]
    assert rows["langid.split"] == ["?", "0", "?", "0", "planned when ingest.read is done"]


def test_half_a_run_tells_what_is_there(tmp_path: Path, crawl: list[Path]) -> None:
    root = tmp_path / "run"
    assert kit.run(crawl, root, "--until", "dedup").code == 0
    before = everything(root)
    rows = table(kit.run(crawl, root, "--dry-run"))
    assert rows["dedup.apply"][:3] == ["2", "2", "0"]
    assert int(rows["dedup.apply"][3].replace(",", "")) > 0
    assert rows["langid.split"][:3] == ["2", "0", "2"]
    assert rows["langid.distinct"][4] == "planned when langid.split is done"
    assert everything(root) == before


def test_a_finished_run_has_nothing_to_do(copied: Path, crawl: list[Path]) -> None:
    rows = table(kit.run(crawl, copied, "--formats", "tsv,moses,parquet,jsonl", "--dry-run"))
    assert list(rows) == STEPS
    assert {row[2] for row in rows.values()} == {"0"}


def test_redo_is_said_with_what_it_removes_and_removes_nothing(copied: Path, crawl: list[Path]) -> None:
    before = everything(copied)
    planned = kit.run(crawl, copied, "--redo", "filter", "--dry-run")
    assert planned.code == 0, planned.err
    rows = table(planned)
    assert rows["select.select"][:3] == ["2", "2", "0"]
    assert rows["filter.filter"][:3] == ["2", "0", "2"]
    assert rows["export.export"][:3] == ["?", "0", "?"]
    removed = [line for line in planned.out.splitlines() if "--redo removes" in line]
    assert len(removed) == 2
    assert all("2 tasks" in line and ("KiB" in line or " B" in line) for line in removed)
    assert everything(copied) == before


def test_stale_results_are_explained_and_refused_like_in_a_run(copied: Path, crawl: list[Path]) -> None:
    before = everything(copied)
    planned = kit.run(crawl, copied, "--threshold", "1.3", "--dry-run")
    assert planned.code == 1
    assert "STALE: select.select/deu_Latn-eng_Latn" in table(planned)["select.select"][4]
    assert "params.threshold 1.0 -> 1.3" in planned.err
    assert list(table(planned)) == STEPS
    assert everything(copied) == before


def test_leftovers_damage_and_a_holder_are_told_and_left_alone(copied: Path, crawl: list[Path]) -> None:
    (copied / "export/.tmp-1-deadbeef-x").write_text("x")
    path = copied / "embeddings/deu_Latn/00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with run_lock(copied, "test"):
        before = everything(copied)
        planned = kit.run(crawl, copied, "--dry-run")
        assert everything(copied) == before
    assert planned.code == 0, planned.err
    assert f"in use by process {os.getpid()}" in planned.out
    assert "1 temporary files" in planned.out
    assert table(planned)["encode.encode"][:3] == ["4", "3", "1"]


def test_looking_at_the_lock_does_not_take_it(copied: Path, crawl: list[Path]) -> None:
    assert "in use" not in kit.run(crawl, copied, "--dry-run").out
    with run_lock(copied, "test"):
        pass
