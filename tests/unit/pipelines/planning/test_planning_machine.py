"""What a machine offers: the lowest limit counts, and what cannot be read is no limit."""

import os
from pathlib import Path

import pytest

from emsmine.pipelines.planning.machine import (
    GpuMemory,
    available_memory,
    look_at_machine,
    measure_multiplication,
    parse_gpus,
    visible_gpus,
)

GIB = 1 << 30


def system(root: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write a process file system that has 16 GiB available, and control groups."""
    proc, control = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {16 << 20} kB\n", encoding="ascii")
    (proc / "self/cgroup").write_text(groups, encoding="ascii")
    for name, content in files.items():
        path = control / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    return proc, control


def test_without_a_limit_the_kernel_counts(tmp_path: Path) -> None:
    files = {"job/memory.max": "max\n", "job/memory.current": "5\n", "memory.current": "7\n"}
    assert available_memory(*system(tmp_path, "0::/job\n", files)) == (16 * GIB, "MemAvailable")


def test_version_2_limit_of_a_group_above(tmp_path: Path) -> None:
    files = {
        "job/memory.max": f"{4 * GIB}\n",
        "job/memory.current": f"{3 * GIB}\n",
        "job/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        "job/step/memory.max": "max\n",
    }
    proc, control = system(tmp_path, "0::/job/step\n", files)
    assert available_memory(proc, control) == (2 * GIB, f"the memory limit in {control / 'job'}")


def test_version_1_limit(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/a/memory.usage_in_bytes": f"{GIB // 2}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": "1\n",
        # The group of another controller, and no group of this process's memory.
        "memory/b/memory.limit_in_bytes": "1\n",
        "memory/b/memory.usage_in_bytes": "0\n",
    }
    proc, control = system(tmp_path, "3:cpu:/b\n4:cpuset,memory:/a\n0::/\n", files)
    assert available_memory(proc, control) == (3 * GIB // 2, f"the memory limit in {control / 'memory/a'}")


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    files = {"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}
    proc, control = system(tmp_path, "0::/outside/name\n", files)
    assert available_memory(proc, control) == (0, f"the memory limit in {control}")


def test_an_unknown_system_has_no_limit(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "none", tmp_path / "none") == (None, "unknown")


def test_gpus_are_parsed() -> None:
    shown = "NVIDIA A, B 80GB, 1024, 2048\nMIG thing, [N/A], [N/A]\n\n"
    assert parse_gpus(shown) == (GpuMemory("NVIDIA A, B 80GB", GIB, 2 * GIB),)


def test_hidden_gpus_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'X, 1024, 2048'\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == (GpuMemory("X", GIB, 2 * GIB),)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program.write_text("#!/bin/sh\nexit 9\n", encoding="ascii")
    assert visible_gpus() == ()


def test_this_machine(tmp_path: Path) -> None:
    machine = look_at_machine(tmp_path / "not" / "there")
    assert machine.disk_bytes > 0
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes is None or machine.memory_bytes > 0


def test_memory_that_may_be_taken_is_no_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emsmine.pipelines.planning.machine.available_memory", lambda: (8 << 30, "MemAvailable"))
    for limit, found in ((None, (8 << 30, "MemAvailable")), (0.5, (1 << 29, "--max-memory")), (9.0, (8 << 30, None))):
        machine = look_at_machine(tmp_path, limit)
        assert (machine.memory_bytes, machine.memory_source) == (found[0], found[1] or "MemAvailable")
    monkeypatch.setattr("emsmine.pipelines.planning.machine.available_memory", lambda: (None, "unknown"))
    assert look_at_machine(tmp_path, 2.0).memory_bytes == 2 << 30


def test_speed_is_that_of_some_processor() -> None:
    assert 1e8 < measure_multiplication(64) < 1e13
