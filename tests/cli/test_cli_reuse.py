"""`emsmine run --reuse` as a user calls it: last month's crawl is mined, now there is a second file."""

import json
from pathlib import Path

import pipeline_kit as kit
import pytest
from reuse_kit import corpus

CRAWL = Path(__file__).resolve().parents[2] / "examples" / "crawl"
FIRST, SECOND = CRAWL / "sites.warc.gz", CRAWL / "feeds.jsonl.gz"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, kit.Result]]:
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, tuple[Path, kit.Result]] = {}
    for name, args in (
        ("old", (FIRST, "-j", 1)),
        ("whole", (FIRST, SECOND, "-j", 1)),
        ("grown", (FIRST, SECOND, "--reuse", folder / "old", "-j", 1)),
        # Other shards than the earlier run has, and two workers.
        ("cut", (FIRST, SECOND, "--reuse", folder / "old", "-j", 2, "--shard-rows", 40)),
    ):
        made[name] = folder / name, kit.emsmine("run", *args, "-p", "de-en", "-o", folder / name)
        assert made[name][1].code == 0, made[name][1].err
    return made


def test_the_corpus_is_that_of_one_run(runs: dict[str, tuple[Path, kit.Result]]) -> None:
    whole, grown, cut = (runs[name][0] for name in ("whole", "grown", "cut"))
    assert corpus(grown) == corpus(whole)
    files = sorted(path.name for path in (whole / "export").iterdir())
    assert "de-en.tsv" in files
    for name in ("de-en.tsv", "corpus.de-en.de", "corpus.de-en.en"):
        assert (cut / "export" / name).read_bytes() == (whole / "export" / name).read_bytes()


def test_it_says_what_was_taken_over(runs: dict[str, tuple[Path, kit.Result]]) -> None:
    old, (grown, result) = runs["old"][0], runs["grown"]
    assert f"ingest.read: 1 of 2 tasks are taken over from {old}" in result.err
    assert f"langid.split: 1 of 2 tasks are taken over from {old}" in result.err
    rows = {(row["step"], row["group"]): row for row in kit.emsmine("report", grown, "--json").json}
    vectors = rows["encode.encode", "deu_Latn"]
    before = {row["group"]: row for row in kit.emsmine("report", old, "--json").json if row["step"] == "encode.encode"}
    assert vectors["reused"]["reused_vectors"] == before["deu_Latn"]["rows_out"] > 0
    assert sum(vectors["reused"].values()) == vectors["rows_in"]
    lists = rows["search.merge", "deu_Latn-eng_Latn"]
    assert lists["reused"]["reused_lists"] > lists["rows_out"] / 2
    assert sum(lists["reused"].values()) == lists["rows_out"]
    shown = [" ".join(line.split()) for line in result.out.splitlines()]
    at = next(n for n, line in enumerate(shown) if line.startswith("search → lists of neighbours de-en"))
    assert shown[at + 1 : at + 3] == [f"{name.replace('_', ' ')} {n}" for name, n in lists["reused"].items()]
    assert "every row is accounted for" in result.out
    assert "reused" not in runs["whole"][1].out


def test_the_same_command_again_does_nothing(runs: dict[str, tuple[Path, kit.Result]]) -> None:
    grown = runs["grown"][0]
    before = kit.tree(grown)
    again = kit.emsmine("run", "-o", grown, "-j", 1)
    assert again.code == 0, again.err
    assert kit.tree(grown) == before
    assert all("kept, 0 rows" in line for line in again.err.splitlines() if " tasks, " in line)


def test_dry_run_plans_with_an_earlier_run(runs: dict[str, tuple[Path, kit.Result]], tmp_path: Path) -> None:
    command = ("run", FIRST, SECOND, "-p", "de-en", "-o", tmp_path / "new", "--reuse", runs["old"][0])
    assert kit.emsmine(*command, "--until", "index", "-j", 1).code == 0
    planned = kit.emsmine(*command, "--dry-run")
    assert planned.code == 0, planned.err
    (line,) = (line for line in planned.out.splitlines() if line.startswith("search.reuse"))
    assert line.split()[:4] == ["search.reuse", "2", "0", "2"]


def test_json_of_a_plain_run_says_that_nothing_was_reused(runs: dict[str, tuple[Path, kit.Result]]) -> None:
    rows = json.loads(kit.emsmine("report", runs["whole"][0], "--json").out)
    assert all(row["reused"] == {} for row in rows)
