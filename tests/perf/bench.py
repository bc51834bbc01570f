"""`make bench`: time and memory of the stages, the encoder and the search, as Markdown.

Times are processor seconds of one process with one thread, which a busy machine blurs least; ratios are against a peer
measured in the same run. Needs the data folder `../shared/data` beside the repository for the crawl.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CRAWL = ROOT.parent / "shared" / "data" / "crawl" / "docs-crawl.warc.gz"
STAGES = ("ingest", "dedup", "langid", "encode", "index", "search", "rescore", "select", "filter", "export")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Some machines pin an old OpenBLAS kernel for other programs' sake; ours is new enough to choose by itself.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)
os.environ.update(ONE_THREAD)


def run_command(arguments: list[str]) -> tuple[float, float, float]:
    """Run `emsmine …`; returns processor seconds, wall seconds and peak memory in MB."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "emsmine", "-q", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"bench: emsmine {' '.join(arguments)} failed with status {status}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss / 1024


def bench_stages() -> list[str]:
    """Run the stages one by one on the crawl, each in a process of its own."""
    if not CRAWL.exists():
        return ["", f"Stages: skipped, {CRAWL.name} is not there."]
    lines = ["", "| stage | rows in | CPU s | rows / CPU s | wall s | peak MB |", "|---|--:|--:|--:|--:|--:|"]
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/run"
        for stage in STAGES:
            arguments = [stage, "-o", output, "-j", "1", "--device", "cpu", "-p", "de-en,en-zh"]
            if stage == "ingest":
                arguments.insert(1, str(CRAWL))
            cpu, wall, peak = run_command(arguments)
            log = [json.loads(line) for line in Path(output, "logs", "steps.jsonl").read_text().splitlines()]
            steps = [row for row in log if row["step"].startswith(f"{stage}.")]
            rows = max(row["rows_in"] for row in steps)
            inside = sum(row["cpu_seconds"] for row in steps)
            rate = rows / max(inside, 1e-3)
            lines.append(
                f"| {stage} | {rows:,} | {inside:.1f} (command: {cpu:.1f}) | {rate:,.0f} | {wall:.1f} | {peak:.0f} |"
            )
    return lines


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the median processor seconds of a call."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return statistics.median(times)


def bench_encoder(sentences: list[str]) -> list[str]:
    """The shipped model: loading, encoding, and the same tokens in padded batches of 32 in file order."""
    import numpy as np
    import torch

    from emsmine.encoder.ems import EMSEncoder
    from emsmine.encoder.folders import pretrained_folder

    torch.set_num_threads(1)
    load = median_seconds(lambda: EMSEncoder(pretrained_folder("default"), device="cpu"), 3)
    encoder = EMSEncoder(pretrained_folder("default"), device="cpu")
    seconds = median_seconds(lambda: encoder.encode(sentences, lang="eng_Latn"), 5)
    tokenise = median_seconds(lambda: encoder.tokenizer.encode(sentences, 120), 5)
    table = encoder.network.embedding.tokens.weight.detach()

    def padded() -> None:
        for start in range(0, len(sentences), 32):
            packed, _ = encoder.tokenizer.encode(sentences[start : start + 32], 120)
            width = int(packed.lengths.max())
            ids = np.zeros((len(packed), width), dtype=np.int64)
            mask = np.arange(width) < packed.lengths[:, None]
            ids[mask] = packed.ids
            weight = torch.from_numpy(mask).float().unsqueeze(-1)
            vectors = (table[torch.from_numpy(ids)] * weight).sum(1) / weight.sum(1)
            torch.nn.functional.normalize(vectors, dim=-1).numpy()

    peer = median_seconds(padded, 3)
    rate = len(sentences) / seconds
    return [
        "",
        f"Encoder `ems:default` on {len(sentences):,} sentences: load {load:.2f} s; {rate:,.0f} sentences/s, of which "
        f"tokenising {100 * tokenise / seconds:.0f} %; {peer / seconds:.1f}× a padded loop of batches of 32.",
    ]


def bench_search(size: int, dim: int) -> list[str]:
    """Exact search in both directions against faiss `IndexFlatIP` searched twice."""
    import faiss
    import numpy as np

    from emsmine.mining.exact.search import search_both

    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        vectors = rng.standard_normal((size, dim), dtype=np.float32)
        sides.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def peer() -> None:
        for queries, base in (sides, sides[::-1]):
            index = faiss.IndexFlatIP(dim)
            index.add(base)
            index.search(queries, 4)

    ours, theirs = (median_seconds(f, 3) for f in (lambda: search_both(sides[0], sides[1], 4), peer))
    return [f"| {size:,} × {size:,}, d {dim} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f}× |"]


def main() -> None:
    """Print everything."""
    text = ROOT / "examples" / "sources" / "mono.tsv"
    rows = [line.split("\t")[-1] for line in text.read_text(encoding="utf-8").splitlines()[1:]]
    sentences = (rows * (40_000 // len(rows) + 1))[:40_000]
    print(f"Machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; one thread.")
    print("\n".join(bench_stages()), flush=True)
    print("\n".join(bench_encoder(sentences)), flush=True)
    header = [
        "",
        "| exact search, both directions, k 4 | ours, CPU s | faiss IndexFlatIP twice, CPU s | speed |",
        "|---|--:|--:|--:|",
    ]
    print("\n".join([*header, *bench_search(16_384, 384), *bench_search(8_192, 1024)]), flush=True)


if __name__ == "__main__":
    main()
