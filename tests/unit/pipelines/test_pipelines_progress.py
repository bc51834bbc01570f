"""Progress: told inside tasks, wherever they run; shown as a bar on a terminal, as lines elsewhere."""

import io
import logging
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emsmine.mining.approximate.search import search_both_flat
from emsmine.mining.exact.search import search_both
from emsmine.pipelines import progress
from emsmine.pipelines.progress import Progress, StepProgress
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import FileRef, TaskReport, TaskSpec, work_of
from emsmine.progress import listening, report


def spec(partition: str, *inputs: FileRef) -> TaskSpec:
    return TaskSpec("encode", "encode", 1, {}, inputs, partition)


def ref(rows: int, path: str = "a.parquet") -> FileRef:
    return FileRef(path, "0" * 64, rows)


def test_the_innermost_listener_hears() -> None:
    heard: list[tuple[str, float]] = []
    report(0.5)
    with listening(lambda share: heard.append(("outer", share))):
        report(0.25)
        with listening(lambda share: heard.append(("inner", share))):
            report(0.5)
        report(0.75)
    report(1)
    assert heard == [("outer", 0.25), ("inner", 0.5), ("outer", 0.75)]


def test_work_is_rows_or_bytes_of_files_from_outside(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1234)
    assert work_of(spec("0", ref(10), ref(5))) == (15, "rows")
    assert work_of(spec("0", ref(0, str(tmp_path / "a")))) == (1234, "bytes")
    assert work_of(spec("0", ref(0, "s3://bucket/a"))) == (1, "tasks")
    assert work_of(spec("0")) == (1, "tasks")


@pytest.mark.parametrize(
    "search", [partial(search_both, source_tile_rows=64, target_tile_rows=32), search_both_flat], ids=["exact", "flat"]
)
def test_a_search_tells_all_of_its_work(search: object) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    heard: list[float] = []
    with listening(heard.append):
        search(rows, rows[:200].copy(), 4)  # type: ignore[operator]
    whole = 2 if search is search_both_flat else 1  # flat searches each direction
    assert len(heard) >= whole
    assert sum(heard) == pytest.approx(whole)


def test_batches_of_an_input_are_heard(tmp_path: Path) -> None:
    store, table = Store(tmp_path), pa.table({"a": np.arange(100)})
    first = TaskSpec("a", "a", 1, {}, (), "00000")
    with store.task(first) as task:
        task.writer("rows", table.schema).write(table)
    store.finish_step("a", "a", [first])
    heard: list[float] = []
    with (
        listening(heard.append),
        store.task(TaskSpec("b", "b", 1, {}, tuple(store.outputs("a", "a", "rows")), "00000")) as task,
    ):
        for _ in task.batches(task.spec.inputs[0], ["a"], 25):
            pass
    assert heard == [0.25] * 4


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        yield caplog.messages


def test_steps_count_the_work_of_running_tasks(lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
    specs = [spec("00000", ref(100)), spec("00001", ref(300)), spec("00002", ref(600))]
    with StepProgress("encode.encode", specs, specs[1:]) as shown:
        shown.hear(specs[1], 0.5)
        shown.hear(specs[1], 9)  # no task is more than it is, whatever it reports
        shown.hear(specs[2], 0.25)
        shown.hear(specs[2], 0.5)
        shown.end(TaskReport(specs[1].task_id, "", rows_in=300))
        shown.hear(specs[2], 9)
        shown.end(TaskReport(specs[2].task_id, "", rows_in=600))
    said = [message.split("  ")[0:2] for message in caplog.messages]
    shares = [words[0] for words in said[:-1]]
    assert shares == [f"encode.encode: {share} %" for share in (25, 40, 55, 85, 85, 100, 100)]
    assert [words[1] for words in said[:-1]] == [f"{n}/3 tasks" for n in (1, 1, 1, 1, 2, 2, 3)]
    assert caplog.messages[-1].startswith("encode.encode: 3 tasks, 1 kept, 900 rows in ")


def test_a_line_says_rate_and_time_left(
    lines: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, *[10.0] * 20])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("ingest.read", 4e9, "bytes", num_tasks=1) as shown:
        shown.advance(1e9)
    assert caplog.messages[0] == "ingest.read: 25 %  0/1 tasks  100.0 MB/s, about 30 s left"


def test_work_in_one_piece_is_silent_when_it_is_short(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("search", 10, "sentences") as shown:
        shown.listener()(0.5)
    assert caplog.messages == []


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with caplog.at_level(logging.INFO), Progress("search", 8, "sentences") as shown:
        shown.advance(6)
        assert shown._bar is not None
        shown._bar.refresh()
    text = terminal.getvalue()
    assert "search" in text
    assert "75%" in text
    assert "sentences/s" in text
    monkeypatch.setattr(sys, "stderr", quiet := Terminal())
    with caplog.at_level(logging.WARNING), Progress("search", 8, "sentences") as shown:
        shown.advance(6)
    assert quiet.getvalue() == "", "no bar for --quiet"
