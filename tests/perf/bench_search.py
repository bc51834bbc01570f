"""Exact search in both directions against faiss `IndexFlatIP` searched twice, as Markdown.

    python tests/perf/bench_search.py 50000x50000x256 20000x200000x256
    python tests/perf/bench_search.py --rounds 1 50000x50000x1024
    python tests/perf/bench_search.py --vectors source.npy target.npy

Times are processor seconds of one process with one thread, medians of alternating rounds. The share of the peak is that
of the fastest float32 product measured in the same run, by numpy and by oneDNN. Vectors are random unit vectors, the
hardest case for rounded products, as their cosines lie close together; or those of two .npy files.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
# Some machines pin an old OpenBLAS kernel for other programs' sake; ours is new enough to choose by itself.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from emsmine.mining.knn import Neighbours, search_both  # noqa: E402

Array = NDArray[np.float32]
NEIGHBOURS = 4
SHAPES = ["16384x16384x384", "16384x16384x1024"]


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of a call, and its result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def unit_rows(rng: np.random.Generator, num_rows: int, dim: int) -> Array:
    """Random directions."""
    rows = rng.standard_normal((num_rows, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def faiss_twice(source: Array, target: Array) -> list[NDArray[np.int64]]:
    """Search a flat index of each side; returns the ids of both directions."""
    found = []
    for queries, base in ((source, target), (target, source)):
        index = faiss.IndexFlatIP(base.shape[1])
        index.add(base)
        found.append(index.search(queries, NEIGHBOURS)[1])
    return found


def peak_gflops(dim: int) -> float:
    """The fastest float32 product of 1024 x 1024 rows, in 10^9 operations per processor second."""
    rows = unit_rows(np.random.default_rng(1), 2048, dim)
    left, right = rows[:1024], rows[1024:]
    out = np.empty((1024, 1024), dtype=np.float32)
    packed = torch.ops.mkldnn._reorder_linear_weight(torch.from_numpy(right), 1024)
    products: list[Callable[[], Any]] = [
        lambda: np.matmul(left, right.T, out=out),
        lambda: torch.ops.mkldnn._linear_pointwise(torch.from_numpy(left), packed, None, "none", [], ""),
    ]
    repeats = max(1, 2**22 // (1024 * dim))

    def repeated(product: Callable[[], Any]) -> None:
        for _ in range(repeats):
            product()

    fastest = min(seconds(lambda p=p: repeated(p))[0] for _ in range(7) for p in products)  # type: ignore[misc]
    return 2e-9 * 1024 * 1024 * dim * repeats / fastest


def bench(source: Array, target: Array, rounds: int) -> str:
    """Measure one pair of sides; returns a row of the table."""
    ways: dict[str, Callable[[], Any]] = {
        "faiss": lambda: faiss_twice(source, target),
        "fp32": lambda: search_both(source, target, NEIGHBOURS, precision="fp32"),
        "int8": lambda: search_both(source, target, NEIGHBOURS, precision="int8"),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for way, function in ways.items():
            spent, results[way] = seconds(function)
            times[way].append(spent)
    fp32: tuple[Neighbours, Neighbours] = results["fp32"]
    int8: tuple[Neighbours, Neighbours] = results["int8"]
    if any(
        a.ids.tobytes() + a.cosine.tobytes() != b.ids.tobytes() + b.cosine.tobytes()
        for a, b in zip(fp32, int8, strict=True)
    ):
        raise SystemExit("bench: fp32 and int8 disagree")
    unlike = sum(int((found != ours.ids).sum()) for found, ours in zip(results["faiss"], fp32, strict=True))
    middle = {way: statistics.median(spent) for way, spent in times.items()}
    dim = source.shape[1]
    share = 2e-9 * len(source) * len(target) * dim / middle["fp32"] / peak_gflops(dim)
    return (
        f"| {len(source):,} × {len(target):,}, d {dim} | {middle['faiss']:.1f} "
        f"| {middle['fp32']:.1f} ({middle['faiss'] / middle['fp32']:.2f}×) | {100 * share:.0f} % "
        f"| {middle['int8']:.1f} ({middle['faiss'] / middle['int8']:.2f}×) "
        f"| {unlike} of {NEIGHBOURS * (len(source) + len(target)):,} |"
    )


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", help="N x M x D, such as 50000x50000x256")
    parser.add_argument("--vectors", nargs=2, metavar="FILE", help="two .npy files of unit rows, float32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    print(
        f"| sides, k {NEIGHBOURS} | faiss twice, CPU s | fp32, CPU s (speed) | of fp32 peak | int8, CPU s (speed) "
        "| ids unlike faiss |\n|---|--:|--:|--:|--:|--:|"
    )
    if options.vectors:
        source, target = (np.ascontiguousarray(np.load(path, allow_pickle=False)) for path in options.vectors)
        print(bench(source, target, options.rounds), flush=True)
    for shape in options.shapes or ([] if options.vectors else SHAPES):
        num_source, num_target, dim = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        print(bench(unit_rows(rng, num_source, dim), unit_rows(rng, num_target, dim), options.rounds), flush=True)


if __name__ == "__main__":
    main()
