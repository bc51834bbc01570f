"""`python tests/perf/bench_ann.py [ENGINE…] [ROWS…] [PAIRS.tsv.zst]`: exact against approximate search, as Markdown.

Both sides have ROWS unit vectors: of the two sides of a file of pairs, encoded with the shipped model; without a file
mixtures of topics with 256 values, a part of them planted pairs. Times are processor seconds of one process with one
thread; each engine runs in a process of its own, whose peak memory is told less that of the libraries. Exact search is
timed on a part of the source rows and scaled up, which its cost is linear in.
"""

import functools
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

SYNTHETIC_DIM, K, TARGET_RECALL, SAMPLE = 256, 4, 0.98, 1000
ENGINES = ("exact", "faiss-ivf", "faiss-hnsw", "faiss-ivfpq")
ROWS = (50_000, 100_000, 200_000)
EXACT_ROWS = 20_000
BLOCK = 8192
PLANTED = 0.4
ROWS_PER_TOPIC = 100
MIXTURE = (1.0, 0.8, 0.6)
NOISE = {"sentence": 0.7, "translation": 0.8}


def encode_texts(path: Path) -> tuple[npt.NDArray[np.float16], ...]:
    """Encode the distinct texts of both sides of a pair file, in an order that has nothing to do with the pairs."""
    from emsmine.encoder.ems import EMSEncoder
    from emsmine.encoder.folders import pretrained_folder
    from emsmine.lines import unpacked_lines

    encoder = EMSEncoder(pretrained_folder("default"), device="cpu")
    with path.open("rb") as file:
        lines = [line.decode("utf-8").split("\t") for line in unpacked_lines(file, str(path))]
    languages = path.name.split(".")[0].split("-")
    sides = []
    for column, lang in enumerate(languages):
        texts = sorted({line[column] for line in lines}, key=lambda text: hashlib.sha256(text.encode()).digest())
        sides.append(encoder.encode(texts, lang=lang).astype(np.float16))
    return tuple(sides)


def write_texts(folder: Path, rows: int, encoded: tuple[npt.NDArray[np.float16], ...]) -> None:
    """Write the first vectors of each side."""
    for name, side in zip(("source", "target"), encoded, strict=True):
        if len(side) < rows:
            raise SystemExit(f"bench: {len(side)} distinct sentences on the {name} side, {rows} wanted")
        side[:rows].tofile(folder / name)


def write_mixtures(folder: Path, rows: int) -> None:
    """Write both sides as float16: each sentence mixes a few of many topics, two fifths have a translation.

    Neighbours share some topics but not all, so that no partition into lists keeps all of them together.
    """
    rng = np.random.default_rng(rows)
    topics = rng.standard_normal((max(8, rows // ROWS_PER_TOPIC), SYNTHETIC_DIM), dtype=np.float32)
    sides: list[npt.NDArray[np.float32]] = []
    for _ in range(2):
        side = np.float32(NOISE["sentence"]) * rng.standard_normal((rows, SYNTHETIC_DIM), dtype=np.float32)
        for weight in MIXTURE:
            side += np.float32(weight) * topics[rng.integers(0, len(topics), rows)]
        sides.append(side)
    planted = int(PLANTED * rows)
    noise = rng.standard_normal((planted, SYNTHETIC_DIM), dtype=np.float32)
    sides[1][:planted] = sides[0][:planted] + np.float32(NOISE["translation"]) * noise
    for name, side in zip(("source", "target"), sides, strict=True):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        side.astype(np.float16).tofile(folder / name)


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Read stored rows as the pipeline does."""
    vectors = rows.astype(np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def peak_kb() -> int:
    """Return the peak memory of this process; `getrusage` would also count what the parent had before the start."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def read_rows(stored: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Read single rows."""
    return unit(stored[rows])


def measure(engine: str, rows: int, folder: Path) -> dict[str, Any]:
    """Build and search both directions with one engine; what a run on two languages does."""
    from emsmine.mining.approximate.loader import load_faiss
    from emsmine.mining.exact.search import search_both

    load_faiss().omp_set_num_threads(1)
    dim = (folder / "source").stat().st_size // (2 * rows)
    stored: dict[str, npt.NDArray[Any]] = {
        name: np.memmap(folder / name, dtype=np.float16, mode="r", shape=(rows, dim)) for name in ("source", "target")
    }
    search_both(unit(stored["source"][:64]), unit(stored["target"][:64]), K)
    before = peak_kb()
    result: dict[str, Any] = {"engine": engine, "rows": rows, "build": 0.0, "tune": 0.0, "search": 0.0, "bytes": 0}
    if engine == "exact":
        part = min(rows, EXACT_ROWS)
        source, target = unit(stored["source"][:part]), unit(stored["target"])
        started = time.process_time()
        search_both(source, target, K, validate=False)
        result["search"] = (time.process_time() - started) * rows / part
        result["recall"], result["effort"] = 1.0, ""
    else:
        measure_approximate(engine, rows, stored, folder, result)
    result["memory"] = (peak_kb() - before) / 1024
    return result


def measure_approximate(
    engine: str, rows: int, stored: dict[str, npt.NDArray[Any]], folder: Path, result: dict[str, Any]
) -> None:
    """Both directions: build the index of the base, tune on one sample, measure recall on another."""
    from emsmine.mining.approximate.audit import neighbour_recall
    from emsmine.mining.approximate.build import IndexBuilder, training_rows
    from emsmine.mining.approximate.search import ApproximateIndex
    from emsmine.mining.exact.search import search_both
    from emsmine.mining.neighbours import Neighbours, merge

    recalls, efforts = [], []
    dim = stored["source"].shape[1]
    for query, base in (("source", "target"), ("target", "source")):
        rng = np.random.default_rng(1)
        started = time.process_time()
        training = np.sort(rng.choice(rows, training_rows(engine, rows), replace=False))
        sample = unit(stored[base][training]) if len(training) else np.zeros((0, dim), np.float32)
        builder = IndexBuilder(engine, rows, rng.permutation(sample))
        for start in range(0, rows, BLOCK):
            builder.add(unit(stored[base][start : start + BLOCK]))
        path = folder / f"{base}.{engine}"
        with path.open("wb") as file:
            builder.write(file.write)
        del builder
        result["build"] += time.process_time() - started
        result["bytes"] += path.stat().st_size

        fetch = functools.partial(read_rows, stored[base])
        index = ApproximateIndex(engine, path, fetch, np.arange(rows), dim)
        started = time.process_time()
        queries = rng.permutation(rows)[: 2 * SAMPLE]
        asked = unit(stored[query][queries])
        exact = Neighbours.empty(len(asked), K)
        for start in range(0, rows, 100_000):
            ids = np.arange(start, min(start + 100_000, rows))
            exact = merge([exact, search_both(asked, unit(stored[base][ids]), K, target_ids=ids, validate=False)[0]])
        halves = [Neighbours(exact.ids[part], exact.cosine[part]) for part in (slice(SAMPLE), slice(SAMPLE, None))]
        for effort in index.efforts(K):
            if neighbour_recall(halves[0], index.search(asked[:SAMPLE], K, effort)).mean() >= TARGET_RECALL:
                break
        result["tune"] += time.process_time() - started
        recalls.append(float(neighbour_recall(halves[1], index.search(asked[SAMPLE:], K, effort)).mean()))
        efforts.append(f"{effort.width}/{effort.proposals}")

        started = time.process_time()
        for start in range(0, rows, BLOCK):
            index.search(unit(stored[query][start : start + BLOCK]), K, effort)
        result["search"] += time.process_time() - started
    result["recall"], result["effort"] = min(recalls), " ".join(efforts)


def measured(sizes: list[int], engines: list[str], encoded: tuple[npt.NDArray[np.float16], ...]) -> Iterator[Any]:
    """Yield the measurement of every engine at every size, each made in a process of its own."""
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            if encoded:
                write_texts(Path(name), rows, encoded)
            else:
                write_mixtures(Path(name), rows)
            for engine in engines:
                command = [sys.executable, __file__, "--one", engine, str(rows), name]
                yield json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main(words: list[str]) -> None:
    """Print the table and the growth of each engine's total time."""
    sizes = [int(word) for word in words if word.isdigit()] or list(ROWS)
    engines = [word for word in words if word in ENGINES] or list(ENGINES)
    files = [Path(word) for word in words if not word.isdigit() and word not in ENGINES]
    encoded = encode_texts(files[0]) if files else ()
    dim = encoded[0].shape[1] if encoded else SYNTHETIC_DIM
    print(f"d {dim}, k {K}, both directions, target recall {TARGET_RECALL}, one thread\n")
    print("| rows a side | engine | build s | sample and tune s | search s | total s | over exact | recall@4 |", end="")
    print(" lists or candidates / proposals | index MB | peak MB |\n|--:|---|" + "--:|" * 6 + "---|--:|--:|")
    totals: dict[str, list[tuple[int, float]]] = {}
    exact: dict[int, float] = {}
    for row in measured(sizes, engines, encoded):
        total = row["build"] + row["tune"] + row["search"]
        if row["engine"] == "exact":
            exact[row["rows"]] = total
        totals.setdefault(row["engine"], []).append((row["rows"], total))
        times = " | ".join(f"{value:.1f}" for value in (row["build"], row["tune"], row["search"], total))
        over = f"{exact[row['rows']] / total:.1f}×" if row["rows"] in exact else ""
        print(
            f"| {row['rows']:,} | {row['engine']} | {times} | {over} | {row['recall']:.4f} | {row['effort']} "
            f"| {row['bytes'] / 1e6:.0f} | {row['memory']:.0f} |",
            flush=True,
        )
    print()
    for engine, points in totals.items():
        (first, low), (last, high) = points[0], points[-1]
        if last > first:
            power = math.log(high / low) / math.log(last / first)
            print(f"- {engine}: total time grows with rows to the power {power:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main(sys.argv[1:])
