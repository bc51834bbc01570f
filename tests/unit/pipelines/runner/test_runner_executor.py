"""The local executor: failures stay with their task, and no worker outlives its parent."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emsmine.errors import ConfigError, TaskFailedError
from emsmine.pipelines.runner.executor import LocalExecutor, exit_on_sigterm
from emsmine.pipelines.store.tasks import TaskReport, TaskSpec

HERE = Path(__file__).parent


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(HERE)
    yield importlib.import_module("executor_tasks")
    sys.modules.pop("executor_tasks", None)


def by_partition(reports: Iterator[TaskReport]) -> dict[str, TaskReport]:
    return {report.task_id.split("/")[1]: report for report in reports}


def is_running(pid: int) -> bool:
    try:
        # A zombie answers to kill(0), so look at its state.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def pids(folder: Path, number: int) -> list[int]:
    """Wait until some tasks have started; return their processes."""

    def started() -> list[int]:
        texts = [path.read_text() for path in sorted(folder.glob("*.pid"))]
        return [int(text) for text in texts if text]

    assert wait_for(lambda: len(started()) >= number)
    return started()


def test_one_worker_is_this_process(tasks: Any, tmp_path: Path) -> None:
    reports = by_partition(LocalExecutor(1).map(partial(tasks.run, str(tmp_path)), tasks.specs("", "raise", "refuse")))
    assert reports["00000"].rows_in == os.getpid()
    assert str(reports["00001"].error).startswith("toy.do/00001: KeyError: 'no such thing'\nTraceback")
    assert reports["00002"].error == "input x is empty; give another"


def test_no_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        LocalExecutor(0)


def test_no_tasks(tasks: Any, tmp_path: Path) -> None:
    assert list(LocalExecutor(2).map(partial(tasks.run, str(tmp_path)), [])) == []


def test_each_failure_stays_with_its_task(tasks: Any, tmp_path: Path) -> None:
    deeds = ["", "raise", "", "exit", "", "kill", "refuse", "", "exit", ""]
    reports = by_partition(LocalExecutor(2).map(partial(tasks.run, str(tmp_path)), tasks.specs(*deeds)))
    assert sorted(reports) == [f"{i:05}" for i in range(len(deeds))]
    for i, deed in enumerate(deeds):
        report = reports[f"{i:05}"]
        assert (report.error is None) == (deed == ""), report
        assert report.rows_in != os.getpid()
    assert "KeyError: 'no such thing'" in str(reports["00001"].error)
    assert "exited with code 7" in str(reports["00003"].error)
    assert "toy.do/00005: worker process" in str(reports["00005"].error)
    assert "SIGKILL, as the kernel does when memory runs out" in str(reports["00005"].error)
    assert "exited with code 7" in str(reports["00008"].error)


def test_a_dead_worker_is_noticed_though_its_pipe_is_held_open(tasks: Any, tmp_path: Path) -> None:
    reports = by_partition(LocalExecutor(2).map(partial(tasks.run, str(tmp_path)), tasks.specs("orphan")))
    assert "exited with code 7" in str(reports["00000"].error)
    holder = int((tmp_path / "orphan").read_text())
    assert is_running(holder)
    os.kill(holder, signal.SIGKILL)


def test_a_worker_killed_from_outside_loses_its_task_only(tasks: Any, tmp_path: Path) -> None:
    reports = LocalExecutor(2).map(partial(tasks.run, str(tmp_path)), tasks.specs("", "sleep", ""))
    done = [next(reports), next(reports)]
    assert [report.error for report in done] == [None, None]
    asleep = tmp_path / "00001.pid"
    assert wait_for(lambda: asleep.exists() and asleep.read_text() != "")
    os.kill(int(asleep.read_text()), signal.SIGKILL)
    assert "SIGKILL" in str(next(reports).error)
    assert list(reports) == []


def test_stopping_early_kills_the_workers(tasks: Any, tmp_path: Path) -> None:
    reports = LocalExecutor(2).map(partial(tasks.run, str(tmp_path)), tasks.specs("", "sleep", "sleep"))
    next(reports)
    running = pids(tmp_path, 2)
    reports.close()  # type: ignore[attr-defined]
    assert not any(map(is_running, running))


def test_workers_that_cannot_start_are_one_error(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = partial(tasks.run, "unused")
    specs = tasks.specs("", "")
    sys.path.remove(str(HERE))  # the workers cannot import the function
    with pytest.raises(TaskFailedError, match="while starting"):
        list(LocalExecutor(2).map(run, specs))
    monkeypatch.syspath_prepend(HERE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, str(HERE / "executor_tasks.py"), str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running = pids(tmp_path, 2)
    parent.send_signal(number)
    out, _ = parent.communicate(timeout=10)
    assert out == b""
    assert parent.returncode == -number
    assert wait_for(lambda: not any(map(is_running, running)), seconds=10)


def test_sigterm_becomes_an_exit() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, exit_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_uncaught_error_does_not_hang_the_interpreter(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import executor_tasks
from functools import partial
from emsmine.pipelines.runner.executor import LocalExecutor
if __name__ == "__main__":
    reports = LocalExecutor(2).map(partial(executor_tasks.run, {str(tmp_path)!r}), executor_tasks.specs("", "sleep"))
    next(reports)
    raise RuntimeError("caller fails")
"""
    path = tmp_path / "caller.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "caller fails" in done.stderr


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_stay_within_a_with_block_and_end_with_it(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMSMINE_TEST_MARK", raising=False)
    run = partial(tasks.run, str(tmp_path))
    with LocalExecutor(2, environment={"EMSMINE_TEST_MARK": "set"}) as executor:
        first = {report.rows_in for report in executor.map(run, tasks.specs("", "", "", ""))}
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in first if Path("/proc").is_dir()]
        second = {report.rows_in for report in executor.map(run, tasks.specs("", "", "kill", ""))}
        # Another function needs workers of its own.
        third = {report.rows_in for report in executor.map(partial(tasks.run, str(tmp_path)), tasks.specs("", ""))}
        last = executor.map(run, tasks.specs("", "sleep"))
        fourth = next(last).rows_in
        last.close()
        assert not alive(fourth), "a map that was left early leaves no worker"
    assert first & second, "the workers of the first map serve the second"
    assert not third & (first | second)
    assert not any(alive(pid) for pid in first | second | third if pid)
    assert all(b"EMSMINE_TEST_MARK=set" in environment for environment in environments)
    assert "EMSMINE_TEST_MARK" not in os.environ


def test_without_a_with_block_no_worker_outlives_its_map(tasks: Any, tmp_path: Path) -> None:
    executor = LocalExecutor(2)
    used = {report.rows_in for report in executor.map(partial(tasks.run, str(tmp_path)), tasks.specs("", "", ""))}
    assert used
    assert not any(alive(pid) for pid in used)


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_heard_while_they_run(tmp_path: Path, tasks: Any, workers: int) -> None:
    heard: dict[str, float] = {}

    def hear(task: TaskSpec, share: float) -> None:
        heard[task.partition] = heard.get(task.partition, 0) + share

    with LocalExecutor(workers) as pool:
        found = list(pool.map(partial(tasks.run, str(tmp_path)), tasks.specs("progress", "progress", ""), hear))
    assert [item.error for item in found] == [None] * 3
    assert sorted(heard) == ["00000", "00001"]
    # A worker process passes on what it has collected a few times a second, and so perhaps not its last words.
    assert all(0 < share <= 1 for share in heard.values())
    if workers == 1:
        assert list(heard.values()) == pytest.approx([1, 1])
