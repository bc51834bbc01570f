"""Plans of searches on invented machines: choices, sums, refusals, and advice that holds."""

import dataclasses

import pytest

from emsmine.errors import ConfigError
from emsmine.pipelines.planning import costs
from emsmine.pipelines.planning.advice import check_fits, remedies
from emsmine.pipelines.planning.machine import GpuMemory, Machine
from emsmine.pipelines.planning.plan import Plan, SearchRequest, even_shards, make_plan
from emsmine.pipelines.planning.text import Speed, as_json, duration, format_plan, summary_lines, time_line
from emsmine.pipelines.store.files import size

GIB = 1 << 30
LARGE = Machine(64 * GIB, "MemAvailable", 1000 * GIB, 8)
DE_EN = (("deu_Latn", "eng_Latn"),)


def request(source: int, target: int, shard_rows: int = 100_000, **changes: object) -> SearchRequest:
    shards = {"deu_Latn": even_shards(source, shard_rows), "eng_Latn": even_shards(target, shard_rows)}
    plain = SearchRequest(shards, DE_EN, 384)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def step(plan: Plan, name: str) -> tuple[int, int, int]:
    (found,) = (step for step in plan.steps if step.step == name)
    return found.tasks, found.at_once, found.memory_bytes


def test_even_shards() -> None:
    assert even_shards(10, 4) == (4, 3, 3)
    assert even_shards(0, 4) == (0,)
    assert even_shards(8, 4) == (4, 4)


def test_exact_search_of_two_shards_by_three() -> None:
    plan = make_plan(request(200_000, 300_000, workers=4), LARGE)
    assert [pair.search.engine for pair in plan.pairs] == ["exact"]
    assert [item.step for item in plan.steps] == ["search.tile", "search.merge", "select.select"]
    tile = costs.tile_bytes("exact", 100_000, 100_000, 384, 4)
    assert step(plan, "search.tile") == (6, 4, 4 * (tile + costs.WORKER_BYTES))
    # The three largest tasks are those of the side that has fewer shards to be merged with, and one of the other.
    merges = [costs.merge_bytes(100_000, tiles, 4) for tiles in (3, 3, 2, 2)]
    assert step(plan, "search.merge") == (5, 4, sum(merges) + 4 * costs.WORKER_BYTES)
    # One task runs in the process that is there.
    assert step(plan, "select.select") == (1, 1, costs.select_bytes(200_000, 300_000, 4))
    assert plan.problems == ()
    assert {item.dataset: item.most_bytes for item in plan.disk} == {
        "embeddings": 500_000 * (2 * 384 + 24),
        "tiles": (200_000 * 3 + 300_000 * 2) * 56,
        "neighbours": 500_000 * 56,
    }
    check_fits(plan)


def test_merging_needs_no_more_memory_for_many_shards() -> None:
    few, many, more = (costs.merge_bytes(100_000, tiles, 4) for tiles in (2, 100, 10_000))
    assert few < many == more


def test_selection_takes_a_few_bytes_a_sentence_and_a_buffer() -> None:
    rows = 10_000_000
    fixed = costs.select_bytes(1_000_000, 1_000_000, 4) - 1_000_000 * 46
    assert costs.select_bytes(rows, rows, 4) == fixed + rows * 46
    # Lists are held of the smaller side.
    assert costs.select_bytes(rows, 1_000_000, 4) == costs.select_bytes(1_000_000, rows, 4)
    assert costs.select_bytes(rows, 1_000_000, 4) == fixed + rows * 9 + 1_000_000 * 37


def test_auto_chooses_by_pair_and_language() -> None:
    shards = {"deu_Latn": even_shards(10_000, 100_000), "eng_Latn": even_shards(20_000_000, 100_000)}
    shards["fra_Latn"] = even_shards(9_000_000, 100_000)
    pairs = (("deu_Latn", "eng_Latn"), ("eng_Latn", "fra_Latn"))
    plan = make_plan(SearchRequest(shards, pairs, 1024, engine="auto"), LARGE)
    assert [pair.search.engine for pair in plan.pairs] == ["exact", "auto"]
    assert {index.lang: index.choice.engine for index in plan.indexes} == {
        "eng_Latn": "faiss-ivfpq",
        "fra_Latn": "faiss-ivfpq",
    }
    tasks = {item.step: item.tasks for item in plan.steps}
    assert tasks == {
        "index.build": 2,
        "search.sample": 2,
        "search.tile": 200 + 200 + 90,
        "search.merge": 1 + 200 + 200 + 90,
        "search.audit": 1,
        "select.select": 2,
    }


def test_too_many_workers_are_refused_with_the_number_that_fits() -> None:
    machine = dataclasses.replace(LARGE, memory_bytes=4 * GIB)
    plan = make_plan(request(1_000_000, 1_000_000, workers=16), machine)
    with pytest.raises(ConfigError, match=r"search\.tile needs .* GiB of memory \(16 of 100 tasks") as caught:
        check_fits(plan)
    assert "available are 4.0 GiB (MemAvailable)" in str(caught.value)
    (jobs,) = (text for text in remedies(plan) if text.startswith("-j"))
    assert jobs in str(caught.value)
    number = int(jobs.removeprefix("-j "))
    assert not make_plan(dataclasses.replace(plan.request, workers=number), machine).problems
    assert make_plan(dataclasses.replace(plan.request, workers=number + 1), machine).problems


def test_one_large_tile_is_refused_with_a_shard_size_that_fits() -> None:
    machine = dataclasses.replace(LARGE, memory_bytes=GIB)
    plan = make_plan(request(200_000, 200_000, 200_000, dim=1024), machine)
    found = remedies(plan)
    assert "--shard-rows 50000" in found
    assert not make_plan(request(200_000, 200_000, 50_000, dim=1024), machine).problems
    assert make_plan(request(200_000, 200_000, 100_000, dim=1024), machine).problems
    with pytest.raises(ConfigError, match="--redo langid"):
        check_fits(plan)


def test_one_worker_is_combined_with_smaller_shards() -> None:
    machine = dataclasses.replace(LARGE, memory_bytes=GIB)
    plan = make_plan(request(200_000, 200_000, 200_000, dim=1024, workers=8), machine)
    assert "--shard-rows 50000 -j 1" in remedies(plan)


def test_what_nothing_helps_is_said() -> None:
    plan = make_plan(request(50_000_000, 50_000_000), dataclasses.replace(LARGE, memory_bytes=GIB))
    assert remedies(plan) == []
    with pytest.raises(ConfigError, match="a larger machine"):
        check_fits(plan)


def test_a_full_disk_is_refused_by_how_much_is_missing() -> None:
    wanted = request(1_000_000, 1_000_000)
    least, most = make_plan(wanted, LARGE).disk_range
    assert least < most
    fits = dataclasses.replace(LARGE, disk_bytes=least)
    assert make_plan(wanted, fits).problems == ()
    short = make_plan(wanted, dataclasses.replace(LARGE, disk_bytes=least - 3 * (1 << 20)))
    (problem,) = short.problems
    assert problem.endswith("3.0 MiB are missing")
    assert "--shard-rows 200000" in remedies(short)


def test_what_is_there_needs_no_more_disk_memory_or_time() -> None:
    wanted = request(200_000, 300_000)
    fresh = make_plan(wanted, LARGE)
    encoded = make_plan(dataclasses.replace(wanted, done={"encode.encode": 1}), LARGE)
    assert fresh.disk_range[1] - encoded.disk_range[1] == 500_000 * (2 * 384 + 24)
    half = make_plan(dataclasses.replace(wanted, done={"search.tile": 3}, present={"tiles": 1000}), LARGE)
    assert half.operations == pytest.approx(fresh.operations / 2)
    assert half.disk_range == tuple(number - 1000 for number in fresh.disk_range)
    done = {"search.tile": 6, "search.merge": 5}
    tiny = Machine(1 << 20, "MemAvailable", 1000 * GIB, 1)
    rest = make_plan(dataclasses.replace(wanted, done=done), tiny)
    assert [problem.split(" ")[0] for problem in rest.problems] == ["select.select"]
    assert rest.operations == 0
    assert rest.largest_step is not None
    assert rest.largest_step.step == "select.select"


def test_memory_that_is_not_known_refuses_nothing() -> None:
    plan = make_plan(request(50_000_000, 50_000_000), Machine(None, "unknown", 10**15, 1))
    assert plan.problems == ()
    assert "unknown" in format_plan(plan, None)


def test_time_scales_with_the_scores() -> None:
    small, large = (make_plan(request(rows, rows), LARGE).operations for rows in (1_000_000, 2_000_000))
    assert large / small == pytest.approx(4)
    speed = Speed(1e11)
    line = time_line(make_plan(request(1_000_000, 1_000_000), LARGE), speed)
    seconds = small / 1e11
    assert f"about {duration(seconds)} of processor time" in line
    assert f"{duration(seconds / 8)} if 8 cores share it evenly" in line
    assert "estimate" in line
    assert small > make_plan(request(1_000_000, 1_000_000), LARGE, int8=True).operations > small / 3


def test_times_that_are_not_known_are_not_told() -> None:
    approximate = make_plan(request(1_000_000, 1_000_000, engine="faiss-hnsw"), LARGE)
    assert time_line(approximate, Speed(1e11)) == "search: not estimated (approximate)"
    flat = make_plan(request(1_000_000, 1_000_000, engine="faiss-flat"), LARGE)
    assert "not estimated" in time_line(flat, Speed(1e11))
    assert "not measured" in time_line(make_plan(request(1_000_000, 1_000_000), LARGE), None)
    assert time_line(make_plan(request(100, 100), LARGE), None) == "exact search: seconds"


def test_text_and_json_tell_the_same() -> None:
    machine = dataclasses.replace(LARGE, gpus=(GpuMemory("Card", GIB, 2 * GIB),))
    plan = make_plan(request(2_000_000, 3_000_000, engine="auto", workers=2), machine)
    text, data = format_plan(plan, None), as_json(plan, None)
    assert "Card: 1.0 GiB of 2.0 GiB free; with faiss-gpu" in text
    assert text.endswith("this search fits")
    assert [row["engine"] for row in data["indexes"]] == ["faiss-ivf", "faiss-ivf"]
    for row in data["steps"]:
        assert row["step"] in text
        assert size(row["memory_bytes"]) in text
    assert len(summary_lines(plan, None)) == 4
    assert data["problems"] == []
    assert data["exact_search_cpu_seconds"] is None


def test_units() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536 << 20, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "3072.0 TiB",
    ]
    assert [duration(s) for s in (0.2, 90, 600, 9_000, 1e6)] == [
        "less than a second",
        "90 seconds",
        "10.0 minutes",
        "2.5 hours",
        "11.6 days",
    ]
