"""The lock on a run directory."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emsmine.errors import DirectoryInUseError
from emsmine.pipelines.store.lock import run_lock

# Exits 3 as the command line does; prints "in" while it holds the directory.
HOLD = """
import sys, time
from emsmine.errors import EmsmineError
from emsmine.pipelines.store.lock import run_lock
try:
    with run_lock(sys.argv[1], "hold"):
        print("in", flush=True)
        time.sleep(float(sys.argv[2]))
except EmsmineError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def hold(root: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(root), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    with run_lock(tmp_path, "encode"):
        assert json.loads((tmp_path / "emsmine.lock").read_text())["pid"] == os.getpid()
        expected = rf"process {os.getpid()} on .*\(encode: "
        with pytest.raises(DirectoryInUseError, match=expected) as caught, run_lock(tmp_path, "other"):
            pass
        assert caught.value.exit_code == 3
    with run_lock(tmp_path, "again"):
        pass


def test_the_directory_is_created(tmp_path: Path) -> None:
    with run_lock(tmp_path / "new" / "run", "run"):
        assert (tmp_path / "new" / "run" / "emsmine.lock").exists()


def test_an_error_inside_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_lock(tmp_path, "run"):
        raise KeyError
    with run_lock(tmp_path, "run"):
        pass


def test_of_several_processes_exactly_one_proceeds(tmp_path: Path) -> None:
    processes = [hold(tmp_path, 3) for _ in range(4)]
    started = time.monotonic()
    results = [finish(process) for process in processes]
    assert sorted(code for code, _, _ in results) == [0, 3, 3, 3]
    assert time.monotonic() - started < 20
    winner = next(process.pid for process, result in zip(processes, results, strict=True) if result[0] == 0)
    for code, out, err in results:
        assert out == ("in\n" if code == 0 else "")
        assert (f"process {winner} on" in err) == (code == 3)


def test_sigkill_releases_the_lock(tmp_path: Path) -> None:
    process = hold(tmp_path, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    with pytest.raises(DirectoryInUseError, match=f"process {process.pid} "), run_lock(tmp_path, "run"):
        pass
    process.kill()
    finish(process)
    with run_lock(tmp_path, "run"):
        pass


def test_a_holder_without_description_is_still_refused(tmp_path: Path) -> None:
    with run_lock(tmp_path, "run"):
        (tmp_path / "emsmine.lock").write_text("")
        with pytest.raises(DirectoryInUseError, match="another process"), run_lock(tmp_path, "run"):
            pass
