"""The GPU in a plan: which searches use it, what they take of its memory, what is refused."""

import dataclasses
from pathlib import Path

import pytest

from emsmine.errors import ConfigError
from emsmine.mining.exact.gpu import tile_shape
from emsmine.pipelines.planning import of_run
from emsmine.pipelines.planning.advice import check_fits
from emsmine.pipelines.planning.machine import GpuMemory, Machine, SearchLimits
from emsmine.pipelines.planning.of_run import plan_and_measure
from emsmine.pipelines.planning.plan import SearchRequest, even_shards, make_plan
from emsmine.pipelines.planning.text import as_json, format_plan, time_line

GIB = 1 << 30
MACHINE = Machine(
    64 * GIB, "MemAvailable", 1000 * GIB, 8, (GpuMemory("Card", 20 * GIB, 24 * GIB), GpuMemory("Other", GIB, 2 * GIB))
)


def request(rows: int, **changes: object) -> SearchRequest:
    shards = {"deu_Latn": even_shards(rows, 100_000), "eng_Latn": even_shards(2 * rows, 100_000)}
    plain = SearchRequest(shards, (("deu_Latn", "eng_Latn"),), 384, device="auto", workers=2)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_large_exact_searches_use_the_gpu() -> None:
    plan = make_plan(request(200_000), MACHINE)
    assert plan.gpu is not None
    # Two workers share nine tenths of the card; a search asks for one neighbour more than the setting says.
    assert plan.gpu.allowed_bytes == int(0.9 * 24 * GIB) // 2
    assert plan.gpu.task_bytes == tile_shape(100_000, 100_000, 384, 5, plan.gpu.allowed_bytes).num_bytes
    assert plan.operations == 0
    assert time_line(plan, None) == "search: on Card, not estimated"
    assert f"exact search takes {plan.gpu.task_bytes / GIB:.1f} GiB of 10.8 GiB allowed, 2 at a time" in format_plan(
        plan, None
    )
    assert as_json(plan, None)["gpu"]["name"] == "Card"


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cpu"},
        {"device": "cuda:2"},  # not there: the search itself refuses it
        {"engine": "faiss-flat"},
        {"done": {"search.tile": 8}},
        {"shards": {"deu_Latn": (1000,), "eng_Latn": (1000,)}},
    ],
)
def test_others_do_not(changes: dict[str, object]) -> None:
    plan = make_plan(request(200_000, **changes), MACHINE)
    assert plan.gpu is None
    assert "search uses none" in format_plan(plan, None)
    assert as_json(plan, None)["gpu"] is None


def test_the_sample_of_an_approximate_search_uses_it() -> None:
    plan = make_plan(request(2_000_000, engine="faiss-ivf"), MACHINE)
    assert plan.gpu is not None
    assert plan.gpu.task_bytes == tile_shape(2000, 100_000, 384, 5, plan.gpu.allowed_bytes).num_bytes
    assert "with faiss-gpu every worker copies an index there" in format_plan(plan, None)


def test_limits_hold() -> None:
    limited = make_plan(request(200_000, max_gpu_memory_gb=2.0), MACHINE)
    assert limited.gpu is not None
    assert limited.gpu.task_bytes <= limited.gpu.allowed_bytes == GIB
    assert not limited.problems
    # The second card has a GiB left, whatever its size.
    other = make_plan(request(200_000, device="cuda:1", workers=1), MACHINE)
    assert other.gpu is not None
    assert (other.gpu.name, other.gpu.allowed_bytes) == ("Other", int(0.9 * GIB))


def test_too_little_is_refused_with_what_fits() -> None:
    plan = make_plan(request(200_000, workers=8, max_gpu_memory_gb=1.0), MACHINE)
    assert len(plan.problems) == 1
    with pytest.raises(ConfigError, match=r"128 MiB of GPU memory .* What fits: -j 3") as refused:
        check_fits(plan)
    assert "--max-gpu-memory" in str(refused.value)
    assert not make_plan(request(200_000, workers=3, max_gpu_memory_gb=1.0), MACHINE).problems


@pytest.mark.parametrize(
    ("device", "sees", "used"), [("auto", True, True), ("auto", False, False), ("cpu", True, False)]
)
def test_a_gpu_counts_if_it_is_wanted_and_torch_sees_it(
    device: str, sees: bool, used: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(of_run, "look_at_machine", lambda *_: MACHINE)
    monkeypatch.setattr(of_run, "torch_sees_gpu", lambda: sees)
    monkeypatch.setattr(of_run, "measure_multiplication", lambda dim: 1e11)
    plan, speed = plan_and_measure(request(200_000, device="cpu"), tmp_path, SearchLimits(device=device))
    assert (plan.gpu is not None) == used
    assert (speed is None) == used
