"""Exact search in both directions against faiss `IndexFlatIP` searched twice, as Markdown.

    python tests/perf/bench_search.py 50000x50000x256 20000x200000x256
    python tests/perf/bench_search.py --rounds 1 --faiss-queries 20000 200000x200000x256
    python tests/perf/bench_search.py --vectors source.npy target.npy

Times are processor seconds of one process with one thread, medians of alternating rounds. With --faiss-queries, faiss
searches so many queries of each direction, and its time is scaled to all. The share of the peak is that of the fastest
float32 product measured in the same run, by numpy and by oneDNN. "Pairs" is everything after the search: margins of all
candidates, one-to-one selection among all of them, marks of suspicious pairs. Vectors are random unit vectors, the
hardest case for rounded products, as their cosines lie close together; or those of two .npy files. Several square
shapes of one dimension also give the power of the number of rows that each time grows with.
"""

import argparse
import functools
import math
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

from emsmine.mining.exact.search import Precision, search_both  # noqa: E402
from emsmine.mining.neighbours import Neighbours  # noqa: E402
from emsmine.mining.selection.retrieve import candidates, select  # noqa: E402
from emsmine.mining.selection.suspicion import suspicion  # noqa: E402

Array = NDArray[np.float32]
NEIGHBOURS = 4
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
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


def faiss_twice(source: Array, target: Array, num_queries: int) -> tuple[list[NDArray[np.int64]], float]:
    """Search some rows of each side in a flat index of the other; returns the ids, and seconds scaled to all rows."""
    found, scaled = [], 0.0
    for queries, base in ((source, target), (target, source)):
        started = time.process_time()
        index = faiss.IndexFlatIP(base.shape[1])
        index.add(base)
        added = time.process_time()
        found.append(index.search(queries[:num_queries], NEIGHBOURS)[1])
        searched = time.process_time() - added
        scaled += added - started + searched * len(queries) / len(found[-1])
    return found, scaled


def choose_pairs(forward: Neighbours, backward: Neighbours) -> None:
    """Do all that follows the search."""
    chosen = select(candidates(forward, backward))
    suspicion(chosen, forward, backward, threshold=1.0).labels()


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


def bench(source: Array, target: Array, rounds: int, num_queries: int) -> tuple[str, dict[str, float]]:
    """Measure one pair of sides; returns a row of the table and the median times."""
    times: dict[str, list[float]] = {way: [] for way in ("faiss", "fp32", "int8", "pairs")}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        found, spent = faiss_twice(source, target, num_queries)
        times["faiss"].append(spent)
        for way in PRECISIONS:
            search = functools.partial(search_both, source, target, NEIGHBOURS, precision=way)
            spent, results[way] = seconds(search)
            times[way].append(spent)
        times["pairs"].append(seconds(lambda: choose_pairs(*results["fp32"]))[0])
    fp32: tuple[Neighbours, Neighbours] = results["fp32"]
    int8: tuple[Neighbours, Neighbours] = results["int8"]
    if any(
        a.ids.tobytes() + a.cosine.tobytes() != b.ids.tobytes() + b.cosine.tobytes()
        for a, b in zip(fp32, int8, strict=True)
    ):
        raise SystemExit("bench: fp32 and int8 disagree")
    unlike = sum(int((theirs != ours.ids[: len(theirs)]).sum()) for theirs, ours in zip(found, fp32, strict=True))
    middle = {way: statistics.median(spent) for way, spent in times.items()}
    dim = source.shape[1]
    share = 2e-9 * len(source) * len(target) * dim / middle["fp32"] / peak_gflops(dim)
    part = [100 * middle["pairs"] / (middle["pairs"] + middle[way]) for way in ("fp32", "int8")]
    row = (
        f"| {len(source):,} × {len(target):,}, d {dim} | {middle['faiss']:.1f} "
        f"| {middle['fp32']:.1f} ({middle['faiss'] / middle['fp32']:.2f}×) | {100 * share:.0f} % "
        f"| {middle['int8']:.1f} ({middle['faiss'] / middle['int8']:.2f}×) "
        f"| {unlike} of {sum(theirs.size for theirs in found):,} "
        f"| {middle['pairs']:.2f} ({part[0]:.1f} %, {part[1]:.1f} %) |"
    )
    return row, middle


def growth(points: list[tuple[int, dict[str, float]]]) -> str:
    """Fit the powers of the number of rows."""
    logs = [math.log(rows) for rows, _ in points]
    powers = {way: np.polyfit(logs, [math.log(times[way]) for _, times in points], 1)[0] for way in points[0][1]}
    return ", ".join(f"{way}: N to the power {power:.2f}" for way, power in powers.items())


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", help="N x M x D, such as 50000x50000x256")
    parser.add_argument("--vectors", nargs=2, metavar="FILE", help="two .npy files of unit rows, float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faiss-queries", type=int, default=2**62, metavar="N")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    print(
        f"| sides, k {NEIGHBOURS} | faiss twice, CPU s | fp32, CPU s (speed) | of fp32 peak | int8, CPU s (speed) "
        "| ids unlike faiss | pairs, CPU s (of fp32, of int8) |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    if options.vectors:
        source, target = (np.ascontiguousarray(np.load(path, allow_pickle=False)) for path in options.vectors)
        print(bench(source, target, options.rounds, options.faiss_queries)[0], flush=True)
    squares: dict[int, list[tuple[int, dict[str, float]]]] = {}
    for shape in options.shapes or ([] if options.vectors else SHAPES):
        num_source, num_target, dim = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        sides = unit_rows(rng, num_source, dim), unit_rows(rng, num_target, dim)
        row, middle = bench(*sides, options.rounds, options.faiss_queries)
        print(row, flush=True)
        if num_source == num_target:
            squares.setdefault(dim, []).append((num_source, middle))
    for dim, points in squares.items():
        if len(points) > 1:
            print(f"\nd {dim}: {growth(points)}")


if __name__ == "__main__":
    main()
