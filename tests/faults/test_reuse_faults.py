"""A run that takes an earlier one over is killed at many moments; continued, it ends with the very same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pipeline_kit as kit
import pytest
import reuse_kit
from reuse_kit import PAIR

from emsmine.pipelines.store.files import is_temporary

LIMIT_SECONDS = 120


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return reuse_kit.write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def old(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reuse_kit.first_run(files, tmp_path_factory.mktemp("old") / "run")


def start_and_kill(files: Sequence[Path], root: Path, old: Path, number: int) -> bool:
    """Start the run in a process group of its own; kill it when it has written so many files, if it gets there."""
    args = ["run", *map(str, files), "-p", *PAIR, "-o", str(root), "-j", "1", *kit.MARGIN_OF_ONE, "--reuse", str(old)]
    process = subprocess.Popen(
        [sys.executable, "-m", "emsmine", *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + LIMIT_SECONDS
    while process.poll() is None:
        assert time.monotonic() < deadline, "the run neither ends nor gets on"
        if sum(len(names) for _, _, names in os.walk(root)) >= number:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait(timeout=LIMIT_SECONDS) == -signal.SIGKILL
        time.sleep(0.002)
    return False


def test_killed_again_and_again_the_result_is_the_same(files: list[Path], old: Path, tmp_path: Path) -> None:
    before = kit.tree(old)
    assert kit.run(files, tmp_path / "uninterrupted", "--reuse", old, pairs=PAIR).code == 0
    total = sum(len(names) for _, _, names in os.walk(tmp_path / "uninterrupted"))
    root = tmp_path / "run"
    kills = [start_and_kill(files, root, old, 3 + turn * (total - 4) // 4) for turn in range(4)]
    assert sum(kills) >= 3
    resumed = kit.run(files, root, "--reuse", old, pairs=PAIR)
    assert resumed.code == 0, resumed.err
    assert [path for path in root.rglob("*") if is_temporary(path.name)] == []
    assert kit.tree(root) == kit.tree(tmp_path / "uninterrupted")
    assert kit.tree(old) == before
