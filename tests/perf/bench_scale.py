"""Growth of an approximate search with the number of sentences, and what its effort buys, as Markdown.

    python tests/perf/bench_scale.py growth 125000 250000 500000
    python tests/perf/bench_scale.py curve 500000
    python tests/perf/bench_scale.py pairs 100000 --texts ../shared/data/train

`growth` runs the tasks of a run on N x N vectors: Parquet shards of 100,000 rows are built into an index of each
language, a sample tunes the effort to the default recall, one shard is searched in each direction (scaled to all
shards), and the rest of the sample is audited. `curve` searches that sample with every effort. `pairs` searches
everything with every effort, and compares what is then selected with what exact search leads to.

Every task is a process of its own with one thread; times are processor seconds, and peak memory is the resident set
with the pages of mapped files, less what the libraries took. Vectors of 256 values are made shard by shard: each source
sentence mixes three of N / 100 topics (weights 1, 0.8, 0.6) with noise of its own (0.7), its partner adds more noise
(1.2); so each has a true partner, and neighbours that share one or two of its topics. With --texts they are those of
the distinct texts in all files LANG-en.tsv.zst of a folder, with the shipped model: 384 values, English on one side and
all other languages, in equal shares, on the other.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine.mining.approximate.audit import OtherSide, audit_direction, neighbour_recall, pair_agreement, verdicts
from emsmine.mining.approximate.search import ApproximateIndex, Effort
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours
from emsmine.mining.selection.retrieve import candidates, select
from emsmine.pipelines.runner.run import execute
from emsmine.pipelines.settings import IndexSettings, SearchSettings, Settings
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.stages.base import PlanContext, Step
from emsmine.pipelines.stages.search.approximate import StoredVectors, open_index
from emsmine.pipelines.store.neighbours import DIRECTIONS, read_neighbours
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import Runtime, TaskSpec

Array = npt.NDArray[np.float32]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Some machines pin an old OpenBLAS kernel for other programs' sake; ours is new enough to choose by itself.
UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
SIZES = [125_000, 250_000, 500_000]
LANGS = ("deu_Latn", "eng_Latn")
SIDES = dict(zip(DIRECTIONS, LANGS, strict=True))
PAIR = "-".join(LANGS)
SHARD_ROWS = 100_000
DIM, ROWS_PER_TOPIC, MIXTURE, NOISE = 256, 100, (1.0, 0.8, 0.6), (0.7, 1.2)
THRESHOLDS = (1.0, 1.1, 1.2)


def unit(rows: Array) -> Array:
    """Normalise rows."""
    normed: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normed


def mixtures(rows: int) -> Iterator[tuple[Array, Array]]:
    """Yield shards of sentences and of their partners."""
    topics = np.random.default_rng(rows).standard_normal((max(8, rows // ROWS_PER_TOPIC), DIM), dtype=np.float32)
    for start in range(0, rows, SHARD_ROWS):
        rng, size = np.random.default_rng([rows, start]), min(SHARD_ROWS, rows - start)
        source = np.float32(NOISE[0]) * rng.standard_normal((size, DIM), dtype=np.float32)
        for weight in MIXTURE:
            source += np.float32(weight) * topics[rng.integers(0, len(topics), size)]
        noise = np.float32(NOISE[1]) * rng.standard_normal((size, DIM), dtype=np.float32)
        yield unit(source), unit(source + noise)[rng.permutation(size)]


def texts(rows: int, folder: Path) -> Iterator[tuple[Array, Array]]:
    """Yield shards of real vectors; every file gives its share, partners of what is taken come first."""
    from emsmine.encoder.ems import EMSEncoder
    from emsmine.encoder.folders import pretrained_folder
    from emsmine.lines import unpacked_lines

    files, other, english = sorted(folder.glob("*-en.tsv.zst")), dict[str, str](), dict[str, None]()
    for number, path in enumerate(files):
        with path.open("rb") as file:
            for line in unpacked_lines(file, str(path)):
                foreign, translation = line.decode("utf-8").rstrip("\n").split("\t")[:2]
                if len(other) < rows * (number + 1) // len(files):
                    other.setdefault(foreign, path.name.split("-")[0])
                    english.setdefault(translation)
    for path in files:
        if len(english) < rows:
            with path.open("rb") as file:
                english |= dict.fromkeys(
                    line.decode("utf-8").rstrip("\n").split("\t")[1] for line in unpacked_lines(file, str(path))
                )
    if min(len(other), len(english)) < rows:
        raise SystemExit(f"bench: {len(other)} and {len(english)} distinct sentences, {rows} wanted")
    encoder = EMSEncoder(pretrained_folder("default"), device="cpu")

    def shuffled(names: list[str]) -> list[str]:
        return sorted(names, key=lambda text: hashlib.sha256(text.encode()).digest())

    left, right = shuffled(list(other)), shuffled(list(english)[:rows])
    for start in range(0, rows, SHARD_ROWS):
        part = left[start : start + SHARD_ROWS]
        source = np.empty((len(part), encoder.dim), np.float32)
        for lang in sorted({other[text] for text in part}):
            here = [place for place, text in enumerate(part) if other[text] == lang]
            source[here] = encoder.encode([part[place] for place in here], lang=lang)
        yield source, encoder.encode(right[start : start + SHARD_ROWS], lang="en")


def write_shards(root: Path, rows: int, folder: str) -> None:
    """Publish the vectors as `encode` does."""
    store, specs = Store(root), []
    for number, sides in enumerate(texts(rows, Path(folder)) if folder else mixtures(rows)):
        for lang, vectors in zip(LANGS, sides, strict=True):
            spec = TaskSpec("encode", "encode", 1, {}, (), f"{lang}/{number:05d}")
            ids = np.arange(number * SHARD_ROWS, number * SHARD_ROWS + len(vectors))
            hashes = [hashlib.sha256(f"{lang} {sentence}".encode()).digest()[:16] for sentence in ids]
            columns = [
                pa.array(ids),
                fixed_binary(np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16)),
                fixed_binary(vectors.astype(np.float16)),
            ]
            schema = embeddings_schema(vectors.shape[1], "ems:bench", "f" * 64)
            with store.task(spec) as task:
                task.writer(f"embeddings/{lang}", schema).write(pa.Table.from_arrays(columns, schema=schema))
            specs.append(spec)
    store.finish_step("encode", "encode", specs)


def memory(field: str) -> int:
    """Return a size of this process; `getrusage` would also count what the parent had before the start."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def step_of(name: str) -> Step:
    """Find a step by `stage.step`."""
    return next(step for step in load_stage(name.split(".")[0]).steps if f"{step.stage}.{step.name}" == name)


def context(root: Path, engine: str) -> PlanContext:
    """What the steps are planned from."""
    return PlanContext(Store(root), Settings(pairs=(LANGS,), index=IndexSettings(engine), search=SearchSettings()))


def specs_of(root: Path, engine: str, name: str) -> list[TaskSpec]:
    """Plan a step, and of a search by shards take the first shard of each direction."""
    step = step_of(name)
    specs = step.plan(step, context(root, engine))
    return [spec for spec in specs if not spec.partition.endswith(tuple(f"{n:05d}" for n in range(1, 100)))]


def run_task(root: Path, engine: str, name: str, number: int) -> dict[str, Any]:
    """Run one task and measure it; the libraries are loaded before."""
    spec = specs_of(root, engine, name)[number]
    rows = unit(np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32))
    search_both(rows, rows, 1, precision="int8")
    before, started = memory("VmRSS"), time.process_time()
    execute(root, Runtime(device="cpu"), spec)
    return {"seconds": time.process_time() - started, "bytes": memory("VmHWM") - before, "partition": spec.partition}


@dataclass(frozen=True)
class Opened:
    """One direction: the audit's sample with its exact neighbours, the index to search, and the tuned effort."""

    ids: npt.NDArray[np.int64]
    exact: Neighbours
    queries: StoredVectors
    index: ApproximateIndex
    effort: Effort


def open_directions(root: Path, engine: str) -> dict[str, Opened]:
    """Open what a run built; ids are row numbers."""
    store, opened = Store(root), {}
    for spec in specs_of(root, engine, "search.tile"):
        direction = spec.partition.split("/")[1].split("-")[0]
        samples = store.outputs("search", "sample", "samples")
        task = store.task(dataclasses.replace(spec, inputs=(*spec.inputs, *samples)))
        ids, exact = read_neighbours(task, next(r for r in samples if r.path.endswith(f"/{direction}.parquet")))
        description = json.loads((root / "index" / f"{SIDES[direction]}.engine.json").read_bytes())
        path = root / "index" / f"{SIDES[direction]}.vectors"
        tuning = json.loads((root / "tuning" / PAIR / f"{direction}.json").read_bytes())
        opened[direction] = Opened(
            ids,
            exact,
            StoredVectors(path, description["rows"], description["vectors"]),
            open_index(task, spec.param("base", str), description["vectors"]),
            Effort(tuning["width"], tuning["proposals"]),
        )
    return opened


def audit(root: Path, engine: str, *, until: float | None) -> list[dict[str, Any]]:
    """Measure the tuned effort on the sample, or every one up to a recall; both directions with equal effort."""
    opened = open_directions(root, engine)
    k = opened["forward"].exact.k
    efforts = [opened[direction].index.efforts(k) for direction in DIRECTIONS] if until else []
    chosen = list(zip(*efforts, strict=True)) if until else [tuple(opened[d].effort for d in DIRECTIONS)]
    rows = []
    for pair in chosen:
        effort, found = dict(zip(DIRECTIONS, pair, strict=True)), {}
        started = time.process_time()
        for direction, side in opened.items():
            found[direction] = side.index.search(side.queries(side.ids), k, effort[direction])
        seconds = (time.process_time() - started) / sum(len(side.ids) for side in opened.values())
        reports = []
        for direction, other in zip(DIRECTIONS, reversed(DIRECTIONS), strict=True):
            side = opened[direction]
            partners = np.unique(np.concatenate([side.exact.ids, found[direction].ids]))
            partners = partners[partners >= 0]
            back = opened[other].index.search(opened[other].queries(partners), k, effort[other])
            report = audit_direction(side.ids, side.exact, found[direction], OtherSide(partners, back))
            reports.append({**report, "agreement": pair_agreement(side.exact, found[direction])})
        rows.append({"width": [e.width for e in pair], "seconds": seconds, **summary(reports)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if until and rows[-1]["recall"] >= until:
            break
    return rows


def summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Take the worse direction of each figure."""
    pairs = [{row["threshold"]: row for row in report["pairs"]["ratio"]} for report in reports]
    return {
        **{name: min(report[name] for report in reports) for name in ("recall", "nearest", "agreement")},
        "verdict": min(item.share for report in reports for item in verdicts(report)),
        **{
            f"{name} {t}": min((p[t][name] for p in pairs if p[t][name] is not None), default=None)
            for t in THRESHOLDS
            for name in ("recall", "precision")
        },
        "error": max(report["margin_error"]["mean"] for report in reports),
    }


def selected(root: Path, engine: str, rows: int, until: float) -> list[dict[str, Any]]:
    """Search everything with every effort, and compare the selected pairs with those after exact search."""
    opened = open_directions(root, engine)
    vectors = {d: opened[d].queries(np.arange(rows)) for d in DIRECTIONS}
    started = time.process_time()
    exact = search_both(vectors["forward"], vectors["backward"], 4, validate=False)
    table = [{"width": "exact", "seconds": time.process_time() - started, **chosen_pairs(exact, exact)}]
    for pair in zip(*(opened[d].index.efforts(4) for d in DIRECTIONS), strict=True):
        started = time.process_time()
        found = [opened[d].index.search(vectors[d], 4, e) for d, e in zip(DIRECTIONS, pair, strict=True)]
        seconds = time.process_time() - started
        recall = min(float(neighbour_recall(e, f).mean()) for e, f in zip(exact, found, strict=True))
        agreement = [pair_agreement(e, f) for e, f in zip(exact, found, strict=True)]
        row = {"width": pair[0].width, "seconds": seconds, "recall": recall, "agreement": agreement}
        table.append({**row, **chosen_pairs(exact, found)})
        print(json.dumps(table[-1]), file=sys.stderr, flush=True)
        if recall >= until:
            break
    return table


def chosen_pairs(exact: Any, found: Any) -> dict[str, Any]:
    """Precision and recall of the pairs selected from `found` against those from `exact`, by threshold."""
    figures = {}
    for threshold in THRESHOLDS:
        wanted, got = (
            set(select(candidates(*sides), threshold=threshold, cosine_floor=0.35).pairs()) for sides in (exact, found)
        )
        common = len(wanted & got)
        figures[f"pairs {threshold}"] = [len(got), common / max(1, len(got)), common / max(1, len(wanted))]
    return figures


def in_process(*words: str) -> Any:
    """Run this script for one measurement."""
    environment = {name: value for name, value in os.environ.items() if name not in UNWANTED} | ONE_THREAD
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure(kind: str, rows: int, folder: Path, options: argparse.Namespace) -> Any:
    """Prepare vectors, indexes and sample in a folder, and measure."""
    root, engine = folder / str(rows), options.engine
    if not Store(root).has_step("encode", "encode"):
        in_process("--do", "write", str(root), str(rows), options.texts)
    costs: dict[str, list[Any]] = {}
    for name in ("index.index", "index.build", "search.sample", "search.tile"):
        if name == "search.tile" and kind != "growth":
            continue
        specs = specs_of(root, engine, name)
        if any(Store(root).status(spec) != "done" for spec in specs):
            costs[name] = [in_process("--do", "task", str(root), engine, name, str(n)) for n in range(len(specs))]
            if name != "search.tile":
                stage, step = name.split(".")
                Store(root).finish_step(stage, step, specs)
    print(json.dumps(costs), file=sys.stderr, flush=True)
    if kind == "growth":
        (figures,) = in_process("--do", "audit", str(root), engine)
        figures |= {name: sum(cost["seconds"] for cost in found) for name, found in costs.items()}
        figures["search.tile"] *= max(1, rows / SHARD_ROWS)
        figures["memory"] = {name: max(cost["bytes"] for cost in found) for name, found in costs.items()}
        figures["index"] = sum(path.stat().st_size for path in (root / "index").glob("*.faiss"))
        return figures
    return in_process("--do", kind, str(root), engine, str(rows), str(options.until))


HEAD = """\
| rows | build s | sample and tune s | search s | in all s | lists | recall@4 | nearest | pairs from 1.1: recall \
| precision | from 1.2: recall | precision | margin error | indexes MB | peak MB build | sample | search |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


def print_growth(rows: int, figures: dict[str, Any]) -> float:
    """Print a row; returns the total time."""
    times = [figures[name] for name in ("index.build", "search.sample", "search.tile")]
    names = ("recall", "nearest", "recall 1.1", "precision 1.1", "recall 1.2", "precision 1.2", "error")
    memories = " | ".join(f"{figures['memory'][n] / 1e6:,.0f}" for n in ("index.build", "search.sample", "search.tile"))
    print(
        f"| {rows:,} | {' | '.join(f'{t:,.0f}' for t in (*times, sum(times)))} | {figures['width']} "
        f"| {' | '.join(f'{figures[name] or math.nan:.4f}' for name in names)} | {figures['index'] / 1e6:,.0f} "
        f"| {memories} |",
        flush=True,
    )
    return float(sum(times))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("growth", "curve", "pairs"))
    parser.add_argument("rows", nargs="*", type=int)
    parser.add_argument("--texts", default="", metavar="FOLDER")
    parser.add_argument("--engine", default="faiss-ivf")
    parser.add_argument("--until", type=float, default=0.99, help="recall of neighbours at which to stop")
    parser.add_argument("--folder", metavar="FOLDER", help="keep vectors and indexes here, for another measurement")
    options = parser.parse_args()
    if options.kind == "growth":
        print(HEAD)
    points = []
    for rows in options.rows or SIZES:
        with tempfile.TemporaryDirectory() as name:
            figures = measure(options.kind, rows, Path(options.folder or name), options)
        if options.kind == "growth":
            points.append((math.log(rows), math.log(print_growth(rows, figures))))
        else:
            print("\n".join(json.dumps(row) for row in figures), flush=True)
    if len(points) > 1:
        print(f"\nIn all: N to the power {np.polyfit([x for x, _ in points], [y for _, y in points], 1)[0]:.2f}")


def do(what: str, root: Path, *words: str) -> Any:
    """Do one measurement in this process."""
    if what == "write":
        write_shards(root, int(words[0]), words[1])
        return {}
    if what == "task":
        return run_task(root, words[0], words[1], int(words[2]))
    if what == "pairs":
        return selected(root, words[0], int(words[1]), float(words[2]))
    return audit(root, words[0], until=float(words[2]) if what == "curve" else None)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--do"]:
        print(json.dumps(do(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])))
    else:
        main()
