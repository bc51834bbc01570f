"""Selection puts pairs aside on the disk: killed, or on a full disk, it leaves nothing; a rerun gives the same."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.pipelines.stages import select
from emsmine.pipelines.store.files import is_temporary
from emsmine.pipelines.store.schemas import neighbours_schema

PAIR = "deu_Latn-eng_Latn"
ROWS = 400
COMMAND = ("-q", "select", "-p", "de-en", "--threshold", "0.1", "--cosine-floor", "0", "-o")
# Kills itself at a call for the file that pairs are put aside in.
KILLED = """
import os, signal, sys
from emsmine.pipelines.cli.main import run_cli
from emsmine.pipelines.store.scratch import ScratchFile
from emsmine.pipelines.stages import select

select.BUFFER_PAIRS = 100
name, moment, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
call = getattr(ScratchFile, name)

def counted(self, *args):
    global left
    left -= 1
    if left == 0 and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    found = call(self, *args)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(ScratchFile, name, counted)
sys.exit(run_cli(sys.argv[4:]))
"""


def put_neighbours(root: Path) -> None:
    rng = np.random.default_rng(3)
    parts = {}
    for direction in ("forward", "backward"):
        for shard in range(2):
            rows = np.arange(shard * ROWS // 2, (shard + 1) * ROWS // 2)
            ids = np.argsort(rng.random((len(rows), ROWS)), axis=1)[:, :4]
            cosine = -np.sort(-rng.integers(2, 16, (len(rows), 4)) / 16, axis=1)  # few values: many ties
            columns = [
                pa.array(rows),
                pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), 4),
                pa.FixedSizeListArray.from_arrays(pa.array(cosine.astype(np.float32).ravel()), 4),
            ]
            table = pa.Table.from_arrays(columns, schema=neighbours_schema(4))
            parts[f"{PAIR}/{direction}-{shard:05d}"] = {f"neighbours/{PAIR}": table}
    kit.publish(root, "search", "merge", parts)
    (root / "config.toml").write_text("[rescore]\nrescore = false\n", encoding="utf-8")


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run whose pairs all fit into the buffer."""
    root = tmp_path_factory.mktemp("memory")
    put_neighbours(root)
    result = kit.emsmine(*COMMAND, root)
    assert result.code == 0, result.err
    assert len(kit.rows(root, f"selected/{PAIR}")) > ROWS // 2
    return kit.tree(root)


@pytest.fixture
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "BUFFER_PAIRS", 100)


def unnamed(handle: int) -> bool:
    return os.fstat(handle).st_nlink == 0


@pytest.mark.usefixtures("small_buffer")
def test_pairs_put_aside_give_the_same_bytes(
    in_memory: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_neighbours(tmp_path)
    sizes: list[int] = []
    write = os.write

    def watched(handle: int, data: Any) -> int:
        if not unnamed(handle):
            return write(handle, data)
        sizes.append(len(data))
        return write(handle, data[:900])  # a system may do a part of what it is asked for

    def in_parts(handle: int, num_bytes: int, start: int) -> bytes:
        return read(handle, min(num_bytes, 7), start)

    read = os.pread
    monkeypatch.setattr(os, "write", watched)
    monkeypatch.setattr(os, "pread", in_parts)
    assert kit.emsmine(*COMMAND, tmp_path).code == 0
    assert len(sizes) > 40
    assert set(sizes[:-3]) == {2400, 1500, 600}
    assert kit.tree(tmp_path) == in_memory


@pytest.mark.parametrize(
    ("name", "moment", "number"), [("append", "before", 2), ("append", "after", 9), ("read", "after", 40)]
)
def test_killed_with_pairs_put_aside(
    in_memory: dict[str, str], tmp_path: Path, name: str, moment: str, number: int
) -> None:
    put_neighbours(tmp_path)
    command = [sys.executable, "-c", KILLED, name, moment, str(number), *COMMAND, str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    # The only trace is the file of the chosen pairs, into which nothing was written yet.
    (left,) = (path for path in tmp_path.rglob("*") if is_temporary(path.name))
    assert left.name.endswith("-00000.parquet")
    assert left.stat().st_size == 0
    assert kit.emsmine(*COMMAND, tmp_path).code == 0
    assert kit.tree(tmp_path) == in_memory


@pytest.mark.usefixtures("small_buffer")
@pytest.mark.parametrize("number", [1, 7])
def test_a_full_disk_is_said_and_leaves_nothing(
    in_memory: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    put_neighbours(tmp_path)
    before = kit.tree(tmp_path)
    write, calls = os.write, 0

    def full(handle: int, data: Any) -> int:
        nonlocal calls
        calls += unnamed(handle)
        if unnamed(handle) and calls >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:700] if unnamed(handle) else data)  # a disk may take a part of what it is given

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        result = kit.emsmine(*COMMAND, tmp_path)
    assert result.code == 1
    assert f"{tmp_path}/selected/{PAIR}: No space left on device" in result.err
    assert "Make room, then run the same command again" in result.err
    assert "Traceback" not in result.err
    assert {name for name in kit.tree(tmp_path) if name not in before} <= {"config.toml"}
    assert kit.emsmine(*COMMAND, tmp_path).code == 0
    assert kit.tree(tmp_path) == in_memory


@pytest.mark.usefixtures("small_buffer")
def test_a_disk_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_neighbours(tmp_path)

    def broken(handle: int, num_bytes: int, start: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    result = kit.emsmine(*COMMAND, tmp_path)
    assert result.code == 1
    assert f"{tmp_path}/selected/{PAIR}: Input/output error, while reading" in result.err
    assert not [path for path in tmp_path.rglob("*") if is_temporary(path.name)]
