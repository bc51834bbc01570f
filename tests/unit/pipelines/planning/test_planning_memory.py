"""The memory and disk that a plan promises, against what real tasks take in a process of their own."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

from emsmine.pipelines.configuration import parse_pairs, to_toml
from emsmine.pipelines.planning import costs
from emsmine.pipelines.settings import IndexSettings, RescoreSettings, SearchSettings, Settings
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary, neighbours_schema
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import TaskSpec

PROGRAM = Path(__file__).with_name("plan_task_memory.py")
SETTINGS = Settings(pairs=parse_pairs(["de-en"]))
FOLDER = "deu_Latn-eng_Latn"
# What a plan may say too little, and too much: libraries allocate more than arrays, and bounds are bounds.
TOO_LITTLE, TOO_MUCH = 1.25, 2.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def vectors(num_rows: int, dim: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num_rows, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    hashes = rng.integers(0, 256, (num_rows, 16), dtype=np.uint8)
    columns = [pa.array(np.arange(num_rows)), fixed_binary(hashes), fixed_binary(rows.astype(np.float16))]
    return pa.Table.from_arrays(columns, schema=embeddings_schema(dim, "ems:x", "f" * 64))


def neighbours(num_rows: int, k: int, base_rows: int, first: int = 0) -> pa.Table:
    """Invent neighbours: k distinct ids of the other side, cosines that fall."""
    rng = np.random.default_rng(first + k)
    ids = first + rng.integers(0, base_rows // k, (num_rows, 1)) + np.arange(k) * (base_rows // k)
    cosine = -np.sort(-rng.random((num_rows, k), dtype=np.float32), axis=1)
    columns = [
        pa.array(np.arange(num_rows)),
        *(pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), k) for values in (ids, cosine)),
    ]
    return pa.Table.from_arrays(columns, schema=neighbours_schema(k))


def write_named(root: Path, step: str, dataset: str, files: dict[str, pa.Table]) -> None:
    store, spec = Store(root), TaskSpec("search", step, 1, {}, (), f"{FOLDER}/00000")
    with store.task(spec) as task:
        for name, table in files.items():
            task.writer(f"{dataset}/{FOLDER}", table.schema, name=name).write(table)
    store.finish_step("search", step, [spec])


def write_vectors(root: Path, rows: tuple[int, int], dim: int) -> None:
    shards = zip(("deu_Latn", "eng_Latn"), rows, strict=True)
    parts = {f"{lang}/00000": {f"embeddings/{lang}": vectors(n, dim, n)} for lang, n in shards}
    kit.publish(root, "encode", "encode", parts)


def growth(root: Path, settings: Settings, stage: str, step: str) -> int:
    (root / "config.toml").write_text(to_toml(settings), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(root), stage, step]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def check(measured: int, planned: int) -> None:
    assert planned / TOO_MUCH <= measured <= planned * TOO_LITTLE, f"measured {measured:,}, planned {planned:,}"


def disk(root: Path, dataset: str) -> int:
    return sum(path.stat().st_size for path in (root / dataset).rglob("*") if path.is_file())


@pytest.mark.parametrize(("rows", "dim"), [((6_000, 30_000), 256), ((12_000, 6_000), 1024)])
def test_exact_tile(tmp_path: Path, rows: tuple[int, int], dim: int) -> None:
    write_vectors(tmp_path, rows, dim)
    kit.run_stage(tmp_path, SETTINGS, "index")
    measured = growth(tmp_path, SETTINGS, "search", "tile")
    check(measured, costs.tile_bytes("exact", *rows, dim, SETTINGS.search.k))
    least, most = costs.embedding_disk(sum(rows), dim)
    assert least <= disk(tmp_path, "embeddings") <= 1.01 * most
    least, most = costs.neighbour_disk(sum(rows), SETTINGS.search.k)
    assert least <= disk(tmp_path, "tiles") <= most


def test_flat_tile(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, index=IndexSettings(engine="faiss-flat"))
    write_vectors(tmp_path, (4_000, 20_000), 512)
    kit.run_stage(tmp_path, settings, "index")
    measured = growth(tmp_path, settings, "search", "tile")
    check(measured, costs.tile_bytes("faiss-flat", 4_000, 20_000, 512, 4))


def test_merge(tmp_path: Path) -> None:
    tables = {f"forward-00000-{tile:05d}": neighbours(60_000, 4, 50_000, tile << 40) for tile in range(10)}
    write_named(tmp_path, "tile", "tiles", tables)
    check(growth(tmp_path, SETTINGS, "search", "merge"), costs.merge_bytes(60_000, 10, 4))
    least, most = costs.neighbour_disk(600_000, 4)
    assert least <= disk(tmp_path, "tiles") <= most


@pytest.mark.parametrize("threshold", [0.1, 1.2])
def test_select(tmp_path: Path, threshold: float) -> None:
    tables = {f"{side}-00000": neighbours(100_000, 6, 100_000) for side in ("forward", "backward")}
    write_named(tmp_path, "merge", "neighbours", tables)
    chosen = dataclasses.replace(SETTINGS.select, threshold=threshold, cosine_floor=0.0)
    measured = growth(
        tmp_path,
        dataclasses.replace(SETTINGS, rescore=RescoreSettings(rescore=False), select=chosen),
        "select",
        "select",
    )
    check(measured, costs.select_bytes(100_000, 100_000, 6))


def test_select_holds_the_smaller_side(tmp_path: Path) -> None:
    tables = {"forward-00000": neighbours(1_000_000, 2, 50_000), "backward-00000": neighbours(50_000, 2, 1_000_000)}
    write_named(tmp_path, "merge", "neighbours", tables)
    chosen = dataclasses.replace(SETTINGS.select, threshold=0.1, cosine_floor=0.0)
    measured = growth(
        tmp_path,
        dataclasses.replace(SETTINGS, rescore=RescoreSettings(rescore=False), select=chosen),
        "select",
        "select",
    )
    check(measured, costs.select_bytes(1_000_000, 50_000, 2))


@pytest.mark.parametrize("engine", ["faiss-ivf", "faiss-hnsw"])
def test_build_and_queries(tmp_path: Path, engine: str) -> None:
    settings = dataclasses.replace(
        SETTINGS,
        index=IndexSettings(engine=engine),
        search=SearchSettings(target_recall=0.1, min_recall=0.0, min_precision=0.0),
    )
    write_vectors(tmp_path, (9_000, 4_000), 128)
    kit.run_stage(tmp_path, settings, "index", *(["search"] if engine == "faiss-ivf" else []))
    planned = costs.index_disk(engine, 9_000, 128) + costs.index_disk(engine, 4_000, 128)
    assert 0.9 * planned <= disk(tmp_path, "index") <= 1.1 * planned
    if engine == "faiss-ivf":
        measured = growth(tmp_path, settings, "search", "tile")
        check(measured, costs.query_bytes(engine, 9_000, 4_000, 128, SETTINGS.search.k))
    Store(tmp_path).remove_step("index", "build")
    measured = growth(tmp_path, settings, "index", "build")
    check(measured, costs.build_bytes(engine, 9_000, 128))
