"""`emsmine plan` as a user calls it, and the plan of a run before its search starts."""

import shutil
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.pipelines.planning import of_run
from emsmine.pipelines.planning.machine import Machine

TINY = Machine(1 << 20, "MemAvailable", 1 << 40, 2)


def test_rows_alone_are_enough() -> None:
    result = kit.emsmine("plan", "--source-rows", 250_000, "--target-rows", 4_000, "--dim", 256, "-j", 2)
    assert (result.code, result.err) == (0, "")
    lines = {line.split(" ")[0]: line.split() for line in result.out.splitlines() if line}
    assert lines["source-target"][1:4] == ["250,000", "4,000", "exact:"]
    assert lines["search.tile"][1:3] == ["3", "0"]
    assert lines["search.merge"][1] == "4"
    assert result.out.endswith("this search fits\n")
    assert "estimate" in result.out


def test_settings_are_flags_and_json_is_for_programs() -> None:
    result = kit.emsmine(
        *("plan", "--source-rows", 20_000, "--target-rows", 20_000, "--dim", 64, "--engine", "faiss-ivf"),
        *("--k", 8, "--shard-rows", 5_000, "-j", 1, "--json"),
    )
    assert result.code == 0, result.err
    data = result.json
    assert (data["k"], data["workers"], data["dim"]) == (8, 1, 64)
    assert data["pairs"][0]["reason"] == "faiss-ivf was asked for"
    assert {row["language"]: row["engine"] for row in data["indexes"]} == {"source": "faiss-ivf", "target": "faiss-ivf"}
    assert {row["step"]: row["tasks"] for row in data["steps"]}["search.tile"] == 8


def test_the_encoder_tells_the_dimension() -> None:
    result = kit.emsmine("plan", "--source-rows", 10, "--target-rows", 10, "--encoder", "ems:default", "--json")
    assert result.code == 0, result.err
    assert result.json["dim"] == 384


def test_what_does_not_fit_is_shown_and_refused() -> None:
    result = kit.emsmine("plan", "--source-rows", 10**9, "--target-rows", 10**9, "--shard-rows", 10**7, "--dim", 1024)
    assert result.code == 2
    assert result.out.endswith("this search does not fit\n")
    assert result.err.startswith("emsmine: error: plan: search.tile needs")


@pytest.mark.parametrize("args", [[], ["--source-rows", "5"], ["-o", ".", "--source-rows", "5", "--target-rows", "5"]])
def test_half_a_question_is_a_usage_error(args: list[str]) -> None:
    result = kit.emsmine("plan", *args)
    assert (result.code, result.out) == (2, "")
    assert "--source-rows" in result.err


def test_a_run_directory_tells_rows_pairs_and_what_is_done(finished: Path) -> None:
    before = kit.tree(finished)
    result = kit.emsmine("plan", "-o", finished, "--json", "-j", 1)
    assert result.code == 0, result.err
    rows = {row["pair"]: (row["source_rows"], row["target_rows"]) for row in result.json["pairs"]}
    encoded = {lang: len(kit.rows(finished, f"embeddings/{lang}")) for lang in ("deu_Latn", "eng_Latn")}
    assert rows["deu_Latn-eng_Latn"] == (encoded["deu_Latn"], encoded["eng_Latn"])
    assert set(rows) == {"deu_Latn-eng_Latn", "fra_Latn-spa_Latn"}
    assert all(step["done"] == step["tasks"] for step in result.json["steps"])
    assert kit.tree(finished) == before
    other = kit.emsmine("plan", "-o", finished, "-p", "de-en", "--shard-rows", 10, "--json")
    (tile,) = (step for step in other.json["steps"] if step["step"] == "search.tile")
    assert (len(other.json["pairs"]), tile["tasks"], tile["done"]) == (1, 9, 0)
    # A pair of languages that are there, but were not searched with each other.
    new = kit.emsmine("plan", "-o", finished, "-p", "de-es", "--json")
    assert [step["done"] for step in new.json["steps"]] == [0, 0, 0]


def test_a_directory_without_sentences_says_what_to_do(tmp_path: Path) -> None:
    result = kit.emsmine("plan", "-o", tmp_path, "-p", "de-en")
    assert result.code == 2
    assert "--until langid" in result.err
    assert "--pairs" in kit.emsmine("plan", "-o", tmp_path).err


def test_a_run_says_its_plan_once(crawl: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "run"
    first = kit.run(crawl, root, "--until", "search", pairs=["de-en"])
    planned = [line for line in first.err.splitlines() if line.startswith("plan: ")]
    assert first.code == 0, first.err
    assert [line.split(" ")[1] for line in planned] == ["search", "memory", "disk", "time"]
    assert "exact for de-en (exact was asked for)" in planned[0]
    again = kit.run(crawl, root, "--until", "search", pairs=["de-en"])
    assert "plan: " not in again.err


def test_a_run_is_refused_before_its_search(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    monkeypatch.setattr(of_run, "look_at_machine", lambda output, max_memory_gb: TINY)
    # Nothing is left to search, so nothing is refused.
    assert kit.emsmine("search", "-o", root, "-j", 2).code == 0
    refused = kit.emsmine("search", "-o", root, "-j", 2, "--redo", "search")
    assert refused.code == 2
    assert "plan: search.tile needs" in refused.err
    assert not (root / "tiles").exists()
    assert (root / "embeddings").exists()
    assert "plan: " in kit.emsmine("run", "-o", root, "-j", 2).err
    monkeypatch.undo()
    for command in ("search", "run"):
        small = kit.emsmine(command, "-o", root, "--max-memory", 0.01)
        assert small.code == 2
        assert "available are 10.2 MiB (--max-memory)" in small.err
    assert kit.emsmine("search", "-o", root, "-j", 1).code == 0


def test_a_plan_is_held_against_the_memory_that_may_be_taken() -> None:
    sizes = ("plan", "--source-rows", 400_000, "--target-rows", 400_000, "-j", 8)
    refused = kit.emsmine(*sizes, "--max-memory", 1)
    assert refused.code == 2
    assert "available are 1.0 GiB (--max-memory)" in refused.err
    # What the message offers fits.
    offered = refused.err.split("What fits: ")[1].split(";")[0].split()
    assert kit.emsmine(*sizes, "--max-memory", 1, *offered).code == 0
    assert "0.0 is not in the range x>0" in kit.emsmine(*sizes, "--max-memory", 0).err


def test_a_dry_run_refuses_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_run, "look_at_machine", lambda output, max_memory_gb: TINY)
    result = kit.emsmine("run", "-o", finished, "--dry-run")
    assert result.code == 0
    assert "plan: " not in result.err
