"""Plans grow with what is asked for, and advice is advice that works."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from emsmine.mining.approximate.choice import ENGINES
from emsmine.pipelines.planning.advice import remedies
from emsmine.pipelines.planning.machine import Machine
from emsmine.pipelines.planning.plan import Plan, SearchRequest, even_shards, make_plan

MACHINE = Machine(8 << 30, "MemAvailable", 50 << 30, 4)
ROWS = st.integers(0, 3_000_000)
FIXED_ENGINES = st.sampled_from([engine for engine in ENGINES if engine not in ("auto", "faiss-ivfpq")])


def plan(source: int, target: int, engine: str, workers: int, shard_rows: int, machine: Machine = MACHINE) -> Plan:
    shards = {"a": even_shards(source, shard_rows), "b": even_shards(target, shard_rows)}
    return make_plan(SearchRequest(shards, (("a", "b"),), 384, engine=engine, workers=workers), machine)


@settings(deadline=None, max_examples=60)
@given(ROWS, ROWS, st.integers(0, 1_000_000), FIXED_ENGINES, st.integers(1, 9))
def test_more_rows_never_need_less(source: int, target: int, more: int, engine: str, workers: int) -> None:
    small, large = (plan(rows, target, engine, workers, 100_000) for rows in (source, source + more))
    assert large.operations >= small.operations * 0.999
    assert large.disk_range[0] >= small.disk_range[0]
    assert large.disk_range[1] >= small.disk_range[1]
    select = [step.memory_bytes for item in (small, large) for step in item.steps if step.step == "select.select"]
    assert select[0] <= select[1]
    for item in (small, large):
        assert item.disk_range[0] <= item.disk_range[1]


@settings(deadline=None, max_examples=40)
@given(ROWS, ROWS, st.sampled_from(ENGINES), st.integers(1, 12))
def test_more_workers_never_need_less(source: int, target: int, engine: str, workers: int) -> None:
    few, many = (plan(source, target, engine, number, 100_000) for number in (workers, workers + 1))
    for left, right in zip(few.steps, many.steps, strict=True):
        assert left.memory_bytes <= right.memory_bytes
        assert left.task_bytes <= left.memory_bytes


@settings(deadline=None, max_examples=40)
@given(ROWS, ROWS, st.sampled_from(ENGINES), st.integers(1, 12), st.integers(1, 16), st.integers(0, 40))
def test_advice_works(source: int, target: int, engine: str, workers: int, memory: int, disk: int) -> None:
    machine = dataclasses.replace(MACHINE, memory_bytes=memory << 29, disk_bytes=disk << 29)
    refused = plan(source, target, engine, workers, 100_000, machine)
    for advice in remedies(refused):
        words = advice.split(" ")
        given_options = dict(zip(words[::2], words[1::2], strict=True))
        changed = plan(
            source,
            target,
            given_options.get("--engine", engine),
            int(given_options.get("-j", workers)),
            int(given_options.get("--shard-rows", 100_000)),
            machine,
        )
        assert not changed.problems, (advice, changed.problems)
