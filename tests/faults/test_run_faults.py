"""A real run is killed, terminated and interrupted at many moments; continued, it ends with the very same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.pipelines.store.files import is_temporary

PAIR = ("de-en",)
LIMIT_SECONDS = 120


@pytest.fixture(scope="module")
def uninterrupted(crawl: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert kit.run(crawl, root, pairs=PAIR).code == 0
    return root


class Run:
    """`emsmine run` in a process group of its own."""

    def __init__(self, crawl: Sequence[Path], root: Path, workers: int) -> None:
        self.root = root
        self.stderr = root.parent / "stderr"
        args = ["run", *map(str, crawl), "-p", *PAIR, "-o", str(root), "-j", str(workers), *kit.MARGIN_OF_ONE]
        with self.stderr.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "emsmine", *args],
                stdout=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def num_files(self) -> int:
        """Count what has been published or begun, temporary files too."""
        return sum(len(names) for _, _, names in os.walk(self.root))

    def wait_for_files(self, number: int) -> bool:
        """Wait until the run has written so many files; False if it ended before."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.process.poll() is None:
            if self.num_files() >= number:
                return True
            assert time.monotonic() < deadline, f"nothing happened: {self.stderr.read_text(encoding='utf-8')}"
            time.sleep(0.002)
        return False

    def signal_group(self, number: signal.Signals) -> int:
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout=LIMIT_SECONDS)


def temporaries(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*") if is_temporary(path.name)]


@pytest.mark.parametrize(("workers", "num_kills"), [(1, 8), (2, 4)])
def test_killed_again_and_again_the_result_is_the_same(
    crawl: list[Path], uninterrupted: Path, tmp_path: Path, workers: int, num_kills: int
) -> None:
    root = tmp_path / "run"
    total = sum(len(names) for _, _, names in os.walk(uninterrupted))
    kills = 0
    for turn in range(num_kills):
        run = Run(crawl, root, workers)
        # Spread over the files of a whole run; each turn goes on where the last one was killed.
        if run.wait_for_files(2 + turn * (total - 4) // num_kills):
            time.sleep(0.003 * turn)
            kills += run.signal_group(signal.SIGKILL) == -signal.SIGKILL
    assert kills >= num_kills - 1
    last = Run(crawl, root, workers)
    assert last.process.wait(timeout=LIMIT_SECONDS) == 0, last.stderr.read_text(encoding="utf-8")
    assert temporaries(root) == []
    assert kit.tree(root) == kit.tree(uninterrupted)


@pytest.mark.parametrize(
    ("number", "code", "word", "workers"),
    [(signal.SIGTERM, 143, "terminated", 1), (signal.SIGINT, 130, "interrupted", 2)],
)
def test_asked_to_stop_it_says_how_to_go_on(
    crawl: list[Path], uninterrupted: Path, tmp_path: Path, number: signal.Signals, code: int, word: str, workers: int
) -> None:
    run = Run(crawl, tmp_path / "run", workers)
    assert run.wait_for_files(6)
    assert run.signal_group(number) == code
    said = run.stderr.read_text(encoding="utf-8")
    assert said.splitlines()[-1] == f"emsmine: {word}; run the same command again to continue"
    assert "Traceback" not in said
    resumed = kit.run(crawl, tmp_path / "run", pairs=PAIR)
    assert resumed.code == 0, resumed.err
    assert temporaries(tmp_path / "run") == []
    assert kit.tree(tmp_path / "run") == kit.tree(uninterrupted)


def test_another_process_is_named_as_the_holder(crawl: list[Path], tmp_path: Path) -> None:
    run = Run(crawl, tmp_path / "run", 1)
    assert run.wait_for_files(3)
    run.process.send_signal(signal.SIGSTOP)
    try:
        refused = kit.run(crawl, tmp_path / "run", pairs=PAIR)
    finally:
        run.signal_group(signal.SIGKILL)
    assert refused.code == 3
    assert f"in use by process {run.process.pid}" in refused.err
    assert kit.run(crawl, tmp_path / "run", pairs=PAIR).code == 0
