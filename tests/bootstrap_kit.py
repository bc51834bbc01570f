"""What the tests of `emsmine bootstrap` share: a tiny bootstrap of two language pairs that takes a second or two."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pipeline_kit as kit

SEED = range(0, 14)
DEV = range(20, 24)

CONFIG = """
[bootstrap]
output = "{output}"
seed = ["{data}/seed"]
dev = ["{data}/dev"]
rounds = 2

[train.network]
vocab_size = 150
dim = 16
num_layers = 0
positions = "none"
embedding_norm = false
max_tokens = 40

[train.heads]
projection = false
xtr = false

[train.data]
batch_size = 8

[train.loss]
xtr_weight = 0.0
mask_duplicates = true

[train.optimiser]
steps = 12
sparse_learning_rate = 0.05
warmup_steps = 2

[train.run]
name = "tiny"
checkpoint_every = 4
log_every = 4

[mine]
inputs = ["{data}/crawl"]
pairs = ["de-en", "es-fr"]

[mine.rescore]
rescore = false

[mine.select]
threshold = 0.0
cosine_floor = -1.0

[mine.export]
formats = ["tsv"]
"""


def pair_lines(left: str, right: str, numbers: range) -> str:
    """Return the sentences of some numbers as lines of a pair file."""
    return "".join(f"{kit.PARALLEL[left][n]}\t{kit.PARALLEL[right][n]}\n" for n in numbers)


def write_data(folder: Path) -> Path:
    """Write seed, development pairs and crawl; the file of the French and Spanish seed is named the other way round."""
    for name, numbers in (("seed", SEED), ("dev", DEV)):
        (folder / name).mkdir(parents=True)
        (folder / name / "de-en.tsv").write_text(pair_lines("de", "en", numbers), encoding="utf-8")
        (folder / name / "fr-es.tsv").write_text(pair_lines("fr", "es", numbers), encoding="utf-8")
    kit.write_crawl(folder / "crawl")
    return folder


def write_config(path: Path, data: Path, output: Path, /, **changes: dict[str, Any]) -> Path:
    """Write the configuration; `changes` are values by key by table, with `__` for the dots of its name."""
    text = CONFIG.format(data=data, output=output)
    tables: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        name = line.strip("[]") if line.startswith("[") else name
        tables.setdefault(name, []).append(line)
    for table, values in changes.items():
        lines = tables.setdefault(table.replace("__", "."), [f"[{table.replace('__', '.')}]"])
        for key, value in values.items():
            lines[:] = [line for line in lines if not line.startswith(f"{key} = ")]
            if value is not None:
                # JSON writes these as TOML does.
                lines.append(f"{key} = {json.dumps(value)}")
    path.write_text("\n".join(line for lines in tables.values() for line in lines) + "\n", encoding="utf-8")
    tomllib.loads(path.read_text(encoding="utf-8"))
    return path


def tree(output: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a bootstrap but for logs, locks and the report, which holds times.

    Nor what only a training reads: hidden leftovers of killed attempts, and checkpoints, which torch writes in other
    bytes for the same state when it was loaded before; the tests of the trainer compare the states.
    """
    found = kit.tree(output)
    return {
        name: digest
        for name, digest in found.items()
        if not any(part.startswith(".") or part == "logs" for part in name.split("/"))
        and not name.endswith(("emsmine.lock", "emsmine.stat", "log.jsonl", ".pt"))
        and name != "report.json"
        and "/tensorboard/" not in name
    }
