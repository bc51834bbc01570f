"""The store under failing system calls and SIGKILL: never a manifest for bad data, and a rerun gives the same bytes."""

import builtins
import errno
import hashlib
import importlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emsmine.pipelines.store.files import is_temporary
from emsmine.pipelines.store.manifests import StepManifest, TaskManifest
from emsmine.pipelines.store.publish import is_intact

HERE = Path(__file__).parent
CALLS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "close")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(HERE)
    yield importlib.import_module("toy_run")
    sys.modules.pop("toy_run", None)


@pytest.fixture
def workspace() -> Iterator[Path]:
    # In memory where the system offers it: the thousands of fsync calls here would take minutes on a disk.
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def walk_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def whole_path(path: Any, handle: int | None) -> str:
    """Return the path of a call that names a file in an open folder."""
    return str(path) if handle is None else f"{os.readlink(f'/proc/self/fd/{handle}')}/{path}"


def tree(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the lock."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in walk_files(root)
        if path.name != "emsmine.lock"
    }


def check_manifests(root: Path) -> None:
    """Every manifest that is there must decode; unless a file is missing, it must describe the files that are there."""
    folder = root / "manifests"
    for path in walk_files(folder):
        if path.parent == folder and not is_temporary(path.name):
            StepManifest.decode(path.read_bytes(), str(path))
        elif not is_temporary(path.name):
            manifest = TaskManifest.decode(path.read_bytes(), str(path))
            assert is_intact(root, manifest, verify=True) or not is_intact(root, manifest, verify=False), path


class Faults:
    """Makes the n-th of the watched calls fail; with `for_ever` all later ones too, as if the process were dead."""

    def __init__(self, root: Path, n: int, error: BaseException, *, for_ever: bool) -> None:
        self.root, self.n, self.error, self.for_ever = str(root), n, error, for_ever
        self.count = 0

    def wrap(self, function: Callable[..., Any], *, by_path: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            fails = False
            handle = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
            if not by_path or whole_path(args[0], handle).startswith(self.root):
                self.count += 1
                fails = self.count == self.n or (self.for_ever and self.count > self.n)
            if function is real_close or not fails:  # a close that reports an error has still closed
                result = function(*args, **kwargs)
            if fails:
                raise self.error
            return result

        real_close = os.close

        return call

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            by_path = name not in ("write", "fsync", "close")
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name), by_path=by_path))
        monkeypatch.setattr(builtins, "open", self.wrap(builtins.open, by_path=True))


Action = Callable[[Path], None]


def fail_everywhere(
    workspace: Path,
    start: Action,
    work: Action,
    again: Action,
    expected: dict[str, str],
    *,
    stride: int,
    for_ever: bool,
) -> int:
    """Fail the n-th call of `work` for n = 1, 1 + stride, … until it passes untouched; check the state after each.

    Args:
        workspace: for the run directories.
        start: makes the state before the work.
        work: what is disturbed.
        again: must lead to `expected` from wherever the work was cut off.
        expected: files and hashes after `again`.
        stride: step of n.
        for_ever: after the n-th call, all others fail too.

    Returns:
        How often the work failed.
    """
    errors = [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "bad"), OSError(errno.EMFILE, "many"), MemoryError()]
    num_failures = 0
    for n in range(1, 10_000, stride):
        root = workspace / f"{n}"
        start(root)
        faults = Faults(root, n, [*errors, KeyboardInterrupt()][n % 5], for_ever=for_ever)
        failed = False
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults.install(monkeypatch)
            try:
                work(root)
            except (OSError, MemoryError, KeyboardInterrupt):
                failed = True
        num_failures += failed
        check_manifests(root)
        again(root)
        assert tree(root) == expected, f"another tree after call {n} failed"
        if faults.count < n:
            return num_failures
    raise AssertionError("the work never passed")


@pytest.mark.parametrize(("for_ever", "stride"), [(False, 3), (True, 14)])
def test_every_failing_call_in_a_fresh_run(toy: Any, workspace: Path, for_ever: bool, stride: int) -> None:
    toy.run(workspace / "reference", ["eng_Latn", "deu_Latn"])
    expected = tree(workspace / "reference")
    assert sum(path.startswith("rejects/") for path in expected) == toy.NUM_TASKS

    def work(root: Path) -> None:
        toy.run(root, ["eng_Latn", "deu_Latn"])

    num_failures = fail_everywhere(workspace, Path.mkdir, work, work, expected, stride=stride, for_ever=for_ever)
    assert num_failures > 100 / stride


@pytest.mark.parametrize(("redo", "for_ever"), [("remove", False), ("replace", False), ("replace", True)])
def test_no_file_of_a_failed_redo_stays(toy: Any, workspace: Path, redo: str, for_ever: bool) -> None:
    """Settings A are done, a redo with B fails somewhere, then C is run: nothing of A or B may be left."""
    toy.run(workspace / "reference", ["ita_Latn"], num_rows=10)
    expected = tree(workspace / "reference")

    def start(root: Path) -> None:
        toy.run(root, ["eng_Latn", "deu_Latn"])

    def work(root: Path) -> None:
        toy.run(root, ["eng_Latn", "fra_Latn"], num_rows=20, redo=redo)

    def again(root: Path) -> None:
        toy.run(root, ["ita_Latn"], num_rows=10, redo=redo)

    num_failures = fail_everywhere(workspace, start, work, again, expected, stride=18, for_ever=for_ever)
    assert num_failures > 20


def test_everything_is_on_the_disk_before_it_gets_its_name(
    toy: Any, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power failure needs, which no kill of a process can show."""
    events: list[tuple[str, str]] = []
    names: dict[int, str] = {}
    real_open, real_fsync, real_replace = os.open, os.fsync, os.replace

    def traced_open(path: Any, *args: Any, **kwargs: Any) -> int:
        handle = real_open(path, *args, **kwargs)
        names[handle] = whole_path(path, kwargs.get("dir_fd"))
        return handle

    def traced_fsync(handle: int) -> None:
        real_fsync(handle)
        events.append(("fsync", names[handle]))

    def traced_replace(old: Any, new: Any, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        real_replace(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        events.append(("replace", f"{whole_path(old, src_dir_fd)} {whole_path(new, dst_dir_fd)}"))

    monkeypatch.setattr(os, "open", traced_open)
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    spec = toy.plan("ingest", [], [], 30)[0]
    toy.read(toy.Store(workspace), spec)

    replaced = [at for at, (kind, _) in enumerate(events) if kind == "replace"]
    assert len(replaced) == 4  # data, rejects, notes, manifest
    first, last = replaced[0], replaced[-1]
    assert events[last][1].endswith(str(workspace / "manifests/ingest.read/00000.json"))
    for at in replaced:
        old, new = events[at][1].split()
        folder = ("fsync", str(Path(new).parent))
        assert ("fsync", old) in events[:first]
        assert folder in (events[at:last] if at != last else events[last:])


def start_run(root: Path) -> "subprocess.Popen[str]":
    """Start the toy run in a process of its own; return once it has imported everything."""
    command = [sys.executable, str(HERE / "toy_run.py"), str(root), "eng_Latn,deu_Latn", "2000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "start\n"
    return process


def test_sigkill_at_random_moments(workspace: Path) -> None:
    """Kill a run 15 times; each next one goes on from what is there."""
    process = start_run(workspace / "reference")
    started = time.monotonic()
    assert process.wait() == 0
    full_seconds = time.monotonic() - started
    process.communicate()
    expected = tree(workspace / "reference")
    generator = random.Random(7)
    root = workspace / "run"
    num_killed = num_temporaries = 0
    for attempt in range(60):
        process = start_run(root)
        time.sleep(full_seconds * generator.random())
        process.kill()
        process.communicate()
        check_manifests(root)
        num_temporaries += any(is_temporary(path.name) for path in walk_files(root))
        if process.returncode == 0:
            assert tree(root) == expected
            root = workspace / f"run-{attempt}"
        num_killed += process.returncode != 0
        if num_killed == 15:
            break
    process = start_run(root)
    process.communicate()
    assert process.returncode == 0
    assert tree(root) == expected
    assert num_killed == 15
    assert num_temporaries >= 1  # else no kill hit the writing, and the test shows nothing
