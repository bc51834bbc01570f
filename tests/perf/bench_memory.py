"""Memory of encoding and training against the formulas of docs/memory.md, as Markdown.

Every point is a process of its own. It does the same at a tiny size first, so that libraries are loaded; then its peak
resident memory (VmHWM, reset by /proc/self/clear_refs) less what it had is what the formula must say. Linux only.

Usage: python tests/perf/bench_memory.py [training|encoding]   (about 4 minutes)
"""

import dataclasses
import gc
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from emsmine.encoder.data.pairs import Corpus
from emsmine.encoder.ems import TOKENS_PER_BATCH, EMSEncoder
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.tokenizer import Packed, TokenizerTraining, train_tokenizer
from emsmine.encoder.training.losses import HeadConfig
from emsmine.encoder.training.settings import (
    DataConfig,
    LossConfig,
    OptimiserConfig,
    TrainingConfig,
    load_training_config,
)
from emsmine.encoder.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ROOT / "examples" / "sources" / "mono.tsv"
RECIPES = ROOT / "encoder" / "recipes"
MB = 1e6
STEPS = 2
# What the stage `encode` hands over at a time.
SENTENCES_PER_CALL = 8192
# glibc gives large blocks back as soon as they are freed, so that the peak is that of the tensors that live.
RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Training:
    """A point of training; the defaults are the one from which the others differ in one or two things."""

    vocab: int = 16_000
    dim: int = 256
    layers: int = 2
    batch: int = 128
    tokens: int = 24
    xtr: bool = True
    chunk: int = 0
    chunk_tokens: int = 0
    sparse: bool = False
    amsgrad: bool = False
    ema: bool = False
    dropout: float = 0.1

    def config(self) -> TrainingConfig:
        """Return the settings; heads are 64 wide, the feed-forward layer four widths."""
        return TrainingConfig(
            network=NetworkConfig(
                vocab_size=self.vocab,
                dim=self.dim,
                num_layers=self.layers,
                num_heads=max(1, self.dim // 64),
                ffn_dim=4 * self.dim,
                positions="learned" if self.layers else "none",
                embedding_norm=self.layers > 0,
                embedding_dropout=self.dropout if self.layers else 0.0,
                attention_dropout=self.dropout,
                hidden_dropout=self.dropout,
            ),
            heads=HeadConfig(xtr=self.xtr, projection=self.layers > 0),
            data=DataConfig(
                batch_size=self.batch, chunk_size=self.chunk, chunk_tokens=self.chunk_tokens, validation_pairs=0
            ),
            loss=LossConfig(xtr_weight=float(self.xtr), mask_duplicates=True),
            optimiser=OptimiserConfig(
                sparse_learning_rate=0.01 if self.sparse else 0.0,
                amsgrad=self.amsgrad,
                ema_decay=0.999 if self.ema else 0.0,
            ),
        )


@dataclass(frozen=True)
class Encoding:
    """A point of encoding."""

    vocab: int = 30_000
    dim: int = 256
    layers: int = 2
    precision: str = "fp32"
    table: str = "float16"
    sentences: int = 2_000

    def config(self) -> NetworkConfig:
        """Return the shape; heads are 64 wide, the feed-forward layer four widths."""
        return NetworkConfig(
            vocab_size=self.vocab,
            dim=self.dim,
            num_layers=self.layers,
            num_heads=max(1, self.dim // 64),
            ffn_dim=4 * self.dim,
            positions="learned" if self.layers else "none",
            embedding_norm=self.layers > 0,
        )


def layer_parameters(config: NetworkConfig) -> int:
    """Return the parameters of all layers."""
    dim, ffn_dim = config.dim, config.ffn_dim
    return config.num_layers * (4 * dim**2 + 2 * dim * ffn_dim + 9 * dim + ffn_dim)


def head_parameters(config: TrainingConfig) -> tuple[int, int]:
    """Return the parameters of the reconstruction head's decoder, and of everything else in the heads."""
    dim, heads = config.network.dim, config.heads
    decoder = others = 0
    if config.loss.xtr_weight:
        width = dim + heads.language_dim
        decoder = width * config.network.vocab_size
        others += width**2 + 3 * width + heads.language_dim * (heads.num_languages + 2)
    if heads.projection:
        others += dim**2 + dim + dim * heads.projection_dim + heads.projection_dim
    return decoder, others


def activation_bytes(config: NetworkConfig, tokens: float) -> float:
    """Return what the backward pass needs of one token, in a sentence of so many, on a CPU in fp32."""
    dropping = config.hidden_dropout > 0
    per_layer: float = (40 if dropping else 36) * config.dim + 8 * config.ffn_dim
    per_layer += config.num_heads * (12 * tokens if config.attention_dropout else 4)
    return config.num_layers * per_layer + (9 if dropping else 5) * config.dim * (config.num_layers > 0)


def training_bytes(config: TrainingConfig, tokens: float, num_processes: int = 1) -> float:
    """Return the peak of one process of a training with so many random tokens a sentence."""
    network, settings = config.network, config.optimiser
    table = network.vocab_size * network.dim
    decoder, others = head_parameters(config)
    embeddings = table + (network.max_tokens + 3) * network.dim * (network.num_layers > 0)
    encoder = embeddings + layer_parameters(network)
    sparse = settings.sparse_learning_rate > 0
    dense = encoder + decoder + others - table * sparse
    kept = dense * (16 if settings.amsgrad else 12) + 12 * table * sparse + 4 * encoder * (settings.ema_decay > 0)

    batch_size = config.data.batch_size // num_processes
    num_pairs = float(config.data.chunk_size or batch_size)
    if config.data.chunk_tokens:
        num_pairs = config.data.chunk_tokens / (2 * tokens)
    log_probabilities = 4 * num_pairs * network.vocab_size * (decoder > 0)
    contrastive = 26 * batch_size * (config.data.batch_size if config.loss.gather_negatives else batch_size)
    activations = 2 * num_pairs * tokens * activation_bytes(network, tokens)
    losses = max(5 * log_probabilities, 4 * log_probabilities + 4 * decoder, 12 * decoder)
    num_rows = 2 * batch_size * tokens * sparse
    num_distinct = network.vocab_size * (1 - math.exp(-num_rows / network.vocab_size))
    rows, distinct = 4 * network.dim * num_rows, 4 * network.dim * num_distinct
    if config.data.chunk_size or config.data.chunk_tokens:
        backward = max(contrastive, 4 * dense + activations + losses) + 24 * network.dim * batch_size
    else:
        backward = activations + max(losses, 2 * log_probabilities + contrastive)
    update = 4 * dense + max(rows + 12 * max(decoder, table * (not sparse)), 2 * rows + 5 * distinct)
    return kept + max(backward, update)


def encoding_bytes(point: Encoding) -> tuple[float, float]:
    """Return the peaks of loading a model and of encoding with it."""
    config = point.config()
    layers = layer_parameters(config)
    embeddings = (config.vocab_size + (config.max_tokens + 3) * (config.num_layers > 0)) * config.dim
    stored = {"float32": 4, "float16": 2, "int8": 1}[point.table] * embeddings
    stored += (4 if point.table == "float32" else 2) * layers
    load = 4 * embeddings + 8 * layers + stored
    weights = 4 * embeddings + (1 if point.precision == "int8" else 4) * layers
    batch = 4 * TOKENS_PER_BATCH * (config.ffn_dim + 8 * config.dim) * (config.num_layers > 0)
    vectors = 8 * config.dim * min(SENTENCES_PER_CALL, point.sentences)
    return load, weights + batch + vectors


def status(field: str) -> int:
    """Return a size of this process, such as VmRSS or VmHWM, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"bench: /proc/self/status has no {field}")


def reset_peak() -> int:
    """Forget the peak so far; returns the present size."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return status("VmRSS")


def random_corpus(vocab: int, num_pairs: int, tokens: int) -> Corpus:
    """Return pairs of random tokens, all sentences of one length."""
    ids = np.random.default_rng(0).integers(2, vocab, size=2 * num_pairs * tokens, dtype=np.int32)
    offsets = np.arange(2 * num_pairs + 1, dtype=np.int64) * tokens
    return Corpus("de-en", "deu_Latn", "eng_Latn", Packed(ids, offsets), np.arange(2 * num_pairs, dtype=np.int64))


def run_training(point: Training) -> list[int]:
    """Take some steps; returns the peak."""

    def steps(size: Training) -> Trainer:
        corpus = random_corpus(size.vocab, STEPS * size.batch, size.tokens)
        trainer = Trainer(size.config(), [corpus], torch.device("cpu"))
        for _ in range(STEPS):
            trainer.train_step()
        return trainer

    steps(dataclasses.replace(point, vocab=50, dim=64, batch=8, tokens=4, chunk=min(point.chunk, 4), chunk_tokens=0))
    before = reset_peak()
    steps(point)
    return [status("VmHWM") - before]


def run_encoding(point: Encoding, folder: Path) -> list[int]:
    """Load and encode in calls as the stage does; returns both peaks."""
    torch.set_num_threads(1)
    rows = [line.split("\t")[-1] for line in TEXTS.read_text(encoding="utf-8").splitlines()[1:]]
    for name, shape in (("tiny", dataclasses.replace(point, vocab=2_000, dim=64)), ("real", point)):
        save_model(Network(shape.config()), folder / "sp.model", folder / name, name=name, table=point.table)
    EMSEncoder(folder / "tiny", device="cpu", precision=point.precision).encode(rows[:64], lang="eng_Latn")
    before = reset_peak()
    encoder = EMSEncoder(folder / "real", device="cpu", precision=point.precision)
    peaks = [status("VmHWM") - before]
    encoder.encode(rows[:1], lang="eng_Latn")
    reset_peak()
    for start in range(0, point.sentences, SENTENCES_PER_CALL):
        size = min(SENTENCES_PER_CALL, point.sentences - start)
        encoder.encode((rows * (size // len(rows) + 1))[:size], lang="eng_Latn")
    return [*peaks, status("VmHWM") - before]


def in_process(kind: str, point: Training | Encoding, folder: Path, allocator: dict[str, str]) -> list[int]:
    """Run one point in a process of its own, with variables for glibc's allocator; returns its peaks."""
    command = [sys.executable, __file__, kind, json.dumps(dataclasses.asdict(point)), str(folder)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | allocator
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"bench: {point} failed:\n{done.stderr}")
    peaks: list[int] = json.loads(done.stdout.splitlines()[-1])
    return peaks


TRAINING: list[dict[str, Any]] = [
    {},
    {"batch": 512},
    {"tokens": 64},
    {"dim": 512},
    {"layers": 6},
    {"vocab": 64_000},
    {"xtr": False},
    {"xtr": False, "batch": 2048, "tokens": 4, "layers": 1},
    {"batch": 512, "chunk": 32},
    {"batch": 512, "chunk_tokens": 6_144},
    {"amsgrad": True, "ema": True, "vocab": 64_000},
    {"dropout": 0.0, "tokens": 64},
    {"sparse": True, "xtr": False},
    {"sparse": True, "xtr": False, "layers": 0, "batch": 2048, "vocab": 100_000, "dim": 384, "tokens": 20},
    {"layers": 6, "dim": 1024, "vocab": 60_000, "batch": 8, "tokens": 30, "amsgrad": True},
]
ENCODING: list[dict[str, Any]] = [
    {"layers": 0, "vocab": 100_000, "dim": 384, "table": "int8", "sentences": 8_192},
    {"layers": 0, "vocab": 100_000, "dim": 384, "table": "int8", "sentences": 65_536},
    {},
    {"sentences": 500},
    {"vocab": 120_000},
    {"layers": 6, "dim": 512, "sentences": 500},
    {"layers": 6, "dim": 512, "sentences": 500, "precision": "int8"},
    {"layers": 6, "dim": 1024, "vocab": 60_000, "sentences": 100},
    {"layers": 6, "dim": 1024, "vocab": 60_000, "sentences": 100, "precision": "int8"},
]


def describe(point: Training | Encoding) -> str:
    """Name what differs from the default point."""
    default = type(point)()
    changed = {k: v for k, v in dataclasses.asdict(point).items() if v != getattr(default, k)}
    shown = {name: f"{value:,}" if type(value) is int else str(value) for name, value in changed.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def table(kind: str, folder: Path) -> list[str]:
    """Measure all points of a kind; returns lines of Markdown."""
    parts = ("",) if kind == "training" else ("loading: ", "encoding: ")
    head = [part + what for part in parts for what in ("formula, MB", "measured", "deviation", "default malloc")]
    lines = [f"| {kind} | {' | '.join(head)} |", f"|---|{'--:|' * len(head)}"]
    deviations, factors = [], []
    for changes in TRAINING if kind == "training" else ENCODING:
        point: Training | Encoding
        if kind == "training":
            point = Training(**changes)
            expected = [training_bytes(point.config(), point.tokens)]
        else:
            point = Encoding(**changes)
            expected = list(encoding_bytes(point))
        exact, usual = (in_process(kind, point, folder, variables) for variables in (RETURN_AT_ONCE, {}))
        cells = []
        for formula, peak, usual_peak in zip(expected, exact, usual, strict=True):
            deviations.append(formula / peak - 1)
            factors.append(usual_peak / peak)
            cells += [f"{formula / MB:,.0f}", f"{peak / MB:,.0f}", f"{100 * deviations[-1]:+.0f} %"]
            cells.append(f"× {factors[-1]:.2f}")
        lines.append(f"| {describe(point) or 'the point that others vary'} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    summary = f"Deviations {100 * min(deviations):+.0f} to {100 * max(deviations):+.0f} %; default malloc × "
    return [*lines, "", f"{summary}{min(factors):.2f} to {max(factors):.2f}."]


def recipes() -> list[str]:
    """Return what the formula says of the recipes, at 25 tokens a sentence."""
    lines = []
    for name, num_processes in (("default", 1), ("paper", 1), ("paper", 8)):
        config = load_training_config(RECIPES / f"{name}.toml")
        size = training_bytes(config, 25, num_processes)
        lines.append(
            f"- recipe {name}, {num_processes} processes, 25 tokens a sentence: {size / 1e9:.1f} GB each in fp32"
        )
    return lines


def main() -> None:
    """Measure one point (for ourselves), or everything."""
    kinds: dict[str, Callable[[], list[int]]] = {}
    if len(sys.argv) == 4:
        values, folder = json.loads(sys.argv[2]), Path(sys.argv[3])
        kinds = {
            "training": lambda: run_training(Training(**values)),
            "encoding": lambda: run_encoding(Encoding(**values), folder),
        }
        print(json.dumps(kinds[sys.argv[1]]()))
        return
    print(f"{platform.machine()}, torch {torch.__version__}, one thread.\n")
    with tempfile.TemporaryDirectory() as name:
        sentences = TEXTS.read_text(encoding="utf-8").splitlines()[1:]
        texts = (line.split("\t")[-1] for line in sentences)
        train_tokenizer(texts, Path(name, "sp.model"), TokenizerTraining(vocab_size=1_000))
        for kind in sys.argv[1:] or ("training", "encoding"):
            print("\n".join([*table(kind, Path(name)), ""]), flush=True)
    print("\n".join(recipes()))


if __name__ == "__main__":
    main()
