"""An index is built in one task: killed at any moment it leaves nothing behind; the next run builds the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.pipelines.store.files import is_temporary
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary

DIM = 16
COMMANDS = (["index", "-p", "de-en", "--engine", "faiss-hnsw"], ["search", "-p", "de-en", "--audit-queries", "50"])


def put_vectors(root: Path) -> None:
    parts = {}
    for seed, (lang, rows) in enumerate((("deu_Latn", 9000), ("eng_Latn", 1200))):
        rng = np.random.default_rng(seed)
        vectors = rng.standard_normal((rows, DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        hashes = rng.integers(0, 256, (rows, 16)).astype(np.uint8)
        columns = [pa.array(np.arange(rows)), fixed_binary(hashes), fixed_binary(vectors.astype(np.float16))]
        table = pa.Table.from_arrays(columns, schema=embeddings_schema(DIM, "ems:x", "f" * 64))
        parts[f"{lang}/00000"] = {f"embeddings/{lang}": table}
    kit.publish(root, "encode", "encode", parts)


def start(arguments: list[str], root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "emsmine", "-q", *arguments, "-o", str(root), "-j", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(root: Path) -> dict[str, str]:
    for arguments in COMMANDS:
        process = start(arguments, root)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    return kit.tree(root)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("uninterrupted")
    put_vectors(root)
    return finish(root)


@pytest.mark.parametrize("moment", [0.0, 0.1])
def test_killed_while_it_builds_an_index(uninterrupted: dict[str, str], tmp_path: Path, moment: float) -> None:
    put_vectors(tmp_path)
    process = start(COMMANDS[0], tmp_path)
    deadline = time.monotonic() + 100
    # The vectors are copied first: once their temporary file is there, the build has begun.
    while not any(is_temporary(path.name) and "vectors" in path.name for path in (tmp_path / "index").glob(".tmp-*")):
        assert process.poll() is None, "the build ended before it was seen"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "index" / "deu_Latn.faiss").exists()
    assert kit.tree(tmp_path) != uninterrupted
    assert finish(tmp_path) == uninterrupted
    assert not [path for path in tmp_path.rglob("*") if is_temporary(path.name)]
