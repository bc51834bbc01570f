"""Speed and memory of rescoring: candidates per second, and `emsmine mine` with and without it, as Markdown.

Times are processor seconds with one thread; medians, and ratios of commands that take turns. Needs the training pairs
of `../shared/data` beside the repository.

Usage: python tests/perf/bench_rescore.py [SENTENCES]
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import median_seconds, run_command
from model_overlap import DATA, lines_with_tabs

PAIR = "fr-en"
REPEATS = 3


def sentences(number: int) -> tuple[list[str], list[str]]:
    """Return French and English sentences: half of the pairs have both sides, the others one."""
    rows = [line.split("\t") for line in lines_with_tabs(DATA / "train" / f"{PAIR}.tsv.zst")]
    step = len(rows) // number
    french = [row[0] for row in rows[:: max(1, step)]][:number]
    english = [row[1] for row in rows[number * step // 2 :: max(1, step)]][:number]
    return french, english


def bench_scorer(french: list[str], english: list[str]) -> list[str]:
    """Time the parts of rescoring in this process."""
    import numpy as np
    import torch

    from emsmine.encoder.registry import load_encoder
    from emsmine.mining.exact.search import search_both
    from emsmine.mining.selection.retrieve import candidates
    from emsmine.pipelines.rescoring import LEAST_MARGIN, load_rescorer

    torch.set_num_threads(1)
    encoder, rescorer = load_encoder("ems:default", device="cpu"), load_rescorer("ems:default")
    vectors = encoder.encode(french, lang="fr"), encoder.encode(english, lang="en")
    pool = candidates(*search_both(*vectors, 4))
    read = pool.take(np.flatnonzero(pool.margin >= LEAST_MARGIN["ratio"]))
    started = time.process_time()
    sides = rescorer.side(french, "fra_Latn"), rescorer.side(english, "eng_Latn")
    reading = time.process_time() - started
    rescorer.scorer.logits(*sides, read.source_ids[:1000], read.target_ids[:1000])
    seconds = median_seconds(lambda: rescorer.scorer.logits(*sides, read.source_ids, read.target_ids), REPEATS)
    number = len(french) + len(english)
    return [
        f"{len(french):,} × {len(english):,} sentences: {len(pool):,} candidates, {len(read):,} read, "
        f"{len(read) / seconds:,.0f} a second and core; before that {reading / number * 1e6:.0f} µs a sentence."
    ]


def bench_mine(french: list[str], english: list[str]) -> list[str]:
    """Time the command with and without rescoring, in turns."""
    lines = ["", "| command | CPU s | peak MB |", "|---|--:|--:|"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in ("a.fr", "a.en")]
        for path, texts in zip(paths, (french, english), strict=True):
            Path(path).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        found: dict[str, list[tuple[float, float]]] = {"--no-rescore": [], "--rescore": []}
        for _ in range(REPEATS):
            for option, measured in found.items():
                cpu, _, peak = run_command(["mine", *paths, option, "-o", f"{folder}/out.tsv", "--device", "cpu"])
                measured.append((cpu, peak))
    medians = {}
    for option, measured in found.items():
        medians[option] = statistics.median(cpu for cpu, _ in measured)
        lines.append(f"| `mine {option}` | {medians[option]:.1f} | {max(peak for _, peak in measured):.0f} |")
    return [*lines, "", f"Ratio {medians['--rescore'] / medians['--no-rescore']:.2f}."]


def main() -> None:
    """Print everything."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    french, english = sentences(number)
    print(f"Machine: {os.cpu_count()} cores; one thread.\n")
    print("\n".join(bench_scorer(french, english)), flush=True)
    print("\n".join(bench_mine(french, english)))


if __name__ == "__main__":
    main()
