"""A disk that takes no more: whatever call fails, the error names the file."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from emsmine.pipelines.planning.machine import peak_rss_bytes
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import AtomicFile, hash_file, make_directory, sync_directory, write_atomically
from emsmine.pipelines.store.lock import run_lock
from emsmine.pipelines.store.parquet import ParquetSink

SCHEMA = pa.schema([("text", pa.string())])


def atomic(root: Path) -> None:
    write_atomically(root / "folder/file", b"x", "1-00000000", root=root)


def parquet(root: Path) -> None:
    sink = ParquetSink(AtomicFile(root / "folder/file", "1-00000000", root=root), SCHEMA)
    try:
        sink.write(pa.table({"text": ["x" * 10] * 9}, SCHEMA))
        sink.close()
        sink.file.publish()
    finally:
        sink.file.discard()


def lock(root: Path) -> None:
    with run_lock(root, "test"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize(
    ("call", "action", "named"),
    [
        ("mkdir", atomic, "folder"),
        ("open", atomic, "folder/file"),
        ("write", atomic, "folder/file"),
        ("fsync", atomic, "folder/file"),
        ("replace", atomic, "folder/file"),
        ("write", parquet, "folder/file"),
        ("fsync", parquet, "folder/file"),
        ("replace", parquet, "folder/file"),
        ("pwrite", lock, "emsmine.lock"),
        ("ftruncate", lock, "emsmine.lock"),
        ("unlink", lambda root: inside.unlink(root, "there"), "there"),
        ("fsync", sync_directory, ""),
        ("fsync", lambda root: make_directory(root / "a/b"), ""),
        ("mkdir", lambda root: make_directory(root / "a/b"), "a"),
        ("open", lambda root: inside.append_line(root, "folder/x", "line"), "folder/x"),
    ],
)
def test_the_error_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str, action: Callable[[Path], Any], named: str
) -> None:
    (tmp_path / "there").write_text("x")
    if call != "mkdir":
        (tmp_path / "folder").mkdir()
    real = getattr(os, call)

    def failing(*args: Any, **kwargs: Any) -> Any:
        # Only what makes or changes a file; folders are still opened to get there.
        if call == "open" and not args[1] & os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(OSError) as caught:
            action(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / named) if named else str(tmp_path))


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
import numpy as np, pyarrow as pa
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import AtomicFile, write_atomically
from emsmine.pipelines.store.parquet import ParquetSink
root, kind = Path(sys.argv[1]), sys.argv[2]
try:
    if kind == "atomic":
        write_atomically(root / "d/file", b"x" * (3 << 20), "1-00000000", root=root)
    elif kind == "log":
        for _ in range(9):
            inside.append_line(root, "d/file", "x" * 10_000)
    else:
        schema = pa.schema([("v", pa.binary(64))])
        sink = ParquetSink(AtomicFile(root / "d/file", "1-00000000", root=root), schema)
        noise = np.random.default_rng(0).bytes(64 * 50_000)
        rows = pa.array([noise[64 * i : 64 * i + 64] for i in range(50_000)], pa.binary(64))
        try:
            sink.write(pa.table({"v": rows}, schema))
            sink.close()
        finally:
            sink.discard()
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize("kind", ["atomic", "parquet", "log"])
def test_a_file_that_the_system_cuts_off(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path), kind]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == f"{errno.EFBIG} {tmp_path / 'd/file'}\n", found.stderr
    assert kind == "log" or list((tmp_path / "d").iterdir()) == []


def test_an_error_of_reading_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        hash_file(tmp_path)
    assert caught.value.filename == str(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss survives exec on Linux")
def test_peak_memory_is_that_of_the_program_not_of_its_launcher() -> None:
    ballast = bytearray(os.urandom(1 << 20) * 300)
    assert peak_rss_bytes() > len(ballast)
    code = (
        "from emsmine.pipelines.planning.machine import peak_rss_bytes; import resource; "
        "print(peak_rss_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    # Started from a process of this size by fork, as shells and schedulers do.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.execv(sys.executable, [sys.executable, "-c", code])
    os.close(writer)
    with os.fdopen(reader) as stream:
        own, inherited = map(int, stream.read().split())
    os.waitpid(child, 0)
    assert own < len(ballast) <= inherited
