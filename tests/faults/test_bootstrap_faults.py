"""A bootstrap is killed at many moments; continued, it ends with the very same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bootstrap_kit
import pipeline_kit as kit
import pytest

from emsmine.pipelines.store import files

LIMIT_SECONDS = 120


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a configuration and the tree that it gives; the output is moved away.

    The output of all tests is the same folder: encoders are named by it, and names are part of manifests.
    """
    folder = tmp_path_factory.mktemp("bootstrap")
    config = bootstrap_kit.write_config(folder / "c.toml", bootstrap_kit.write_data(folder / "data"), folder / "out")
    result = kit.emsmine("bootstrap", config, "-j", 1, "--device", "cpu")
    assert result.code == 0, result.err
    tree = bootstrap_kit.tree(folder / "out")
    (folder / "out").rename(folder / "reference")
    return config, tree


def start(config: Path) -> "subprocess.Popen[bytes]":
    with (config.parent / "stderr").open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "emsmine", "bootstrap", str(config), "-j", "1", "--device", "cpu"],
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def test_killed_in_every_phase_the_result_is_the_same(reference: tuple[Path, dict[str, str]]) -> None:
    config, expected = reference
    output = config.parent / "out"
    marks = (
        "round-1/train/checkpoint-000000004.pt",
        "round-1/run/manifests/ingest.read.json",
        "round-2/data/de-en.tsv",
    )
    kills = 0
    for mark in marks:
        process = start(config)
        deadline = time.monotonic() + LIMIT_SECONDS
        while process.poll() is None and not (output / mark).exists():
            assert time.monotonic() < deadline, (config.parent / "stderr").read_text(encoding="utf-8")
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        kills += process.wait(timeout=LIMIT_SECONDS) == -signal.SIGKILL
    assert kills >= len(marks) - 1
    result = kit.emsmine("bootstrap", config, "-j", 1, "--device", "cpu")
    assert result.code == 0, result.err
    assert bootstrap_kit.tree(output) == expected
    output.rename(output.with_name("killed"))


class Stopped(BaseException):
    """What stops the process in the middle of a write."""


def test_stopped_between_any_two_files_the_result_is_the_same(
    reference: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, expected = reference
    output = config.parent / "out"
    replace = os.replace
    left = 0

    def stopping(source: Path, target: Path, **folders: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stopped
        replace(source, target, **folders)

    stops = 0
    for number in range(25):
        left = 7 + 3 * number
        monkeypatch.setattr(files.os, "replace", stopping)
        try:
            result = kit.emsmine("bootstrap", config, "-j", 1, "--device", "cpu")
        except Stopped:
            stops += 1
            continue
        finally:
            monkeypatch.undo()
        assert result.code == 0, result.err
        break
    assert stops >= 5
    assert kit.emsmine("bootstrap", config, "-j", 1, "--device", "cpu").code == 0
    assert bootstrap_kit.tree(output) == expected
