"""`emsmine plan --reuse` as a user calls it: what an earlier run would save, before and while the new one goes on."""

import dataclasses
from pathlib import Path
from typing import Any

import pipeline_kit as kit
import pytest
import reuse_kit

from emsmine.errors import ConfigError
from emsmine.pipelines.planning.earlier import ReusedPair, ReusePlan, add_reuse, check_reuse_fits, reuse_lines
from emsmine.pipelines.planning.machine import Machine
from emsmine.pipelines.planning.plan import SearchRequest, make_plan

PAIR = "deu_Latn-eng_Latn"
MACHINE = Machine(64 << 30, "MemAvailable", 1 << 40, 4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return reuse_kit.write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def old(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reuse_kit.first_run(files, tmp_path_factory.mktemp("old") / "run")


def vectors(root: Path) -> list[int]:
    return [len(kit.rows(root, f"embeddings/{lang}")) for lang in PAIR.split("-")]


def plan(*args: object) -> kit.Result:
    return kit.emsmine("plan", "-j", 1, *args)


def test_numbers_alone_give_bounds(old: Path) -> None:
    size = ("--source-rows", 40, "--target-rows", 30, "--dim", 384, "--shard-rows", 20)
    result = plan(*size, "--reuse", old, "-p", "en-de", "--json")
    assert (result.code, result.err) == (0, "")
    reuse = result.json["reuse"]
    there = vectors(old)
    assert (reuse["root"], reuse["pairs"][0]["name"]) == (str(old), PAIR)
    assert reuse["pairs"][0]["vectors"] == reuse["pairs"][0]["lists"] == there
    assert not reuse["pairs"][0]["is_counted"]
    assert reuse["least_share_of_scores"] == pytest.approx(1 - there[0] * there[1] / (40 * 30))
    tasks = {row["step"]: row["tasks"] for row in result.json["steps"]}
    assert (tasks["search.reuse"], tasks["search.tile"]) == (2 + 2, 2 * 2)
    text = plan(*size, "--reuse", old, "-p", "de-en").out
    assert f"de-en: vectors of up to {there[0]} and {there[1]} of 40 and 30 sentences" in text
    assert f"neighbours of up to {there[0]} and {there[1]}\n" in text
    assert f"at least {100 * reuse['least_share_of_scores']:.1f} % of the scores are left to compute" in text
    assert text.endswith("this search fits\n")
    # No more than there will be.
    small = plan("--source-rows", 5, "--target-rows", 4, "--dim", 384, "--reuse", old, "-p", "de-en", "--json").json
    assert small["reuse"]["pairs"][0]["vectors"] == [5, 4]
    assert small["reuse"]["least_share_of_scores"] == 0
    assert plan(*size, "--json").json["reuse"] is None


def test_what_cannot_be_reused_is_said(old: Path) -> None:
    size = ("--source-rows", 40, "--target-rows", 30, "--dim", 384, "--reuse", old, "-p")
    for args, reason in (
        (("de-en", "--k", 5), "it has 4 neighbours per sentence (k), this run wants 5"),
        (("de-en", "--engine", "faiss-flat"), "only exact search can take neighbours over"),
        (("de-fr",), "it did not search this pair"),
    ):
        result = plan(*size, *args)
        assert result.code == 0, result.err
        assert f"sentences; no neighbours: {reason}\n" in result.out
        assert "search.reuse" not in result.out
        assert "left to compute" not in result.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--reuse", "s3://bucket/run", "-p", "de-en"), "is a URL"),
        (("--reuse", "nowhere", "-p", "de-en"), "holds no run"),
        (("--reuse", "OLD"), "needs to know the pair: add one, as --pairs de-en"),
        (("--reuse", "OLD", "-p", "de-en,en-fr"), "needs to know the pair"),
    ],
)
def test_an_earlier_run_that_tells_nothing_is_refused(old: Path, args: tuple[str, ...], message: str) -> None:
    named = [str(old) if arg == "OLD" else arg for arg in args]
    result = plan("--source-rows", 40, "--target-rows", 30, "--dim", 384, *named)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_run_directory_counts_what_it_knows(files: list[Path], old: Path, tmp_path: Path) -> None:
    def reused(*args: object) -> dict[str, Any]:
        result = plan("-o", tmp_path, "--json", *args)
        assert result.code == 0, result.err
        found: dict[str, Any] = result.json["reuse"]["pairs"][0]
        return found

    def go_on(until: str) -> None:
        assert kit.run(files, tmp_path, "--reuse", old, "--until", until, pairs=reuse_kit.PAIR).code == 0

    go_on("langid")
    # The directory is kept in the settings of the run.
    bound = reused()
    assert (bound["vectors"], bound["lists"], bound["is_counted"]) == (vectors(old), vectors(old), False)
    go_on("encode")
    known = [len(kit.rows(tmp_path, f"known/{lang}")) for lang in PAIR.split("-")]
    encoded = reused()
    assert (encoded["vectors"], encoded["lists"], encoded["is_counted"]) == (known, known, False)
    go_on("search")
    names = [f"held/{PAIR}/{direction}-00000.parquet" for direction in ("forward", "backward")]
    searched = reused()
    assert (searched["lists"], searched["is_counted"]) == ([len(kit.rows(tmp_path, name)) for name in names], True)
    assert sum(searched["lists"]) == reuse_kit.counters(tmp_path, "search", "merge")["reused_lists"]
    steps = {step["step"]: step for step in plan("-o", tmp_path, "--json").json["steps"]}
    assert (steps["search.reuse"]["done"], steps["search.reuse"]["tasks"]) == (2, 2)
    assert "up to" not in plan("-o", tmp_path).out
    assert plan("-o", tmp_path, "--json", "--reuse", "").json["reuse"] is None


REQUEST = SearchRequest({"deu_Latn": (100_000,) * 2, "eng_Latn": (100_000,)}, (("deu_Latn", "eng_Latn"),), 384)


def reuse_of(vectors: tuple[int, int], reason: str = "") -> ReusePlan:
    pair = REQUEST.pairs[0]
    return ReusePlan("old", (ReusedPair(pair, pair, vectors, vectors, False, reason, 100_000),))


def test_memory_of_what_is_taken_over_is_planned() -> None:
    whole = make_plan(REQUEST, MACHINE)
    planned = add_reuse(whole, reuse_of((80_000, 50_000)))
    before, after = ({step.step: step for step in plan.steps} for plan in (whole, planned))
    assert [step.step for step in planned.steps][:2] == ["search.reuse", "search.tile"]
    assert after["search.tile"].memory_bytes == before["search.tile"].memory_bytes + 4 * 384 * 200_000
    assert after["search.merge"].memory_bytes > before["search.merge"].memory_bytes
    assert after["select.select"] == before["select.select"]
    # All but lists among known sentences: 200,000 x 100,000 scores less 80,000 x 50,000.
    assert reuse_of((80_000, 50_000)).share_left(whole) == pytest.approx(0.8)
    assert "at least 80.0 % of the scores" in reuse_lines(reuse_of((80_000, 50_000)), planned, None)[-1]
    assert add_reuse(whole, reuse_of((80_000, 50_000), "another engine")) == whole


def test_a_search_that_fits_without_what_is_taken_over_is_told_so() -> None:
    whole = make_plan(REQUEST, MACHINE)
    assert whole.largest_step is not None
    tight = dataclasses.replace(MACHINE, memory_bytes=whole.largest_step.memory_bytes)
    fitting = make_plan(REQUEST, tight)
    check_reuse_fits(fitting)
    with pytest.raises(ConfigError, match=r"with what is taken over, search.tile needs .*What fits: --reuse ''"):
        check_reuse_fits(add_reuse(fitting, reuse_of((80_000, 50_000))))
