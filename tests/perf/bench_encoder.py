"""Speed of the published EMS network (6 layers, width 1024, random weights) on one thread of a CPU, as Markdown.

Variants take turns in one process and are timed in processor seconds, which a busy machine blurs least.
Needs `../shared/data` beside the repository (SentencePiece model of the released EMS, Tatoeba, training pairs).

Usage: python tests/perf/bench_encoder.py [--sentences 224] [--rounds 2]
"""

import argparse
import math
import os
import platform
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import zstandard
from torch import Tensor, nn
from torch.nn import functional

from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.inference import PackedLinear
from emsmine.encoder.model.network import Layer, Network
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.encoder.protocol import FloatArray, unit_rows

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SENTENCEPIECE = DATA / "spm" / "62languages_bpe_60000.model"
TATOEBA = DATA / "tatoeba" / "tatoeba-v1.tar.zst"
LANGUAGES = ("ar", "bn", "es", "fa", "fr", "hi", "id", "mr", "ms", "ru", "sw", "zh")
# A source of long sentences, beside the short ones of Tatoeba.
LONG_SOURCE = "tico19"
MAX_TOKENS = 120


def tatoeba() -> Iterator[str]:
    """Yield the sentences of all languages."""
    with zstandard.open(TATOEBA, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file and Path(member.name).name.startswith("tatoeba."):
                yield from file.read().decode("utf-8").splitlines()


def long_sentences() -> Iterator[str]:
    """Yield the foreign sides of pairs of the source of long sentences."""
    for lang in LANGUAGES:
        with zstandard.open(DATA / "train" / f"{lang}-en.tsv.zst", "rt", encoding="utf-8") as stream:
            for line in stream:
                foreign, _, source = line.rstrip("\n").split("\t")[:3]
                if source == LONG_SOURCE:
                    yield foreign


def draw_sentences(number: int) -> list[str]:
    """Draw half of the sentences from either source and mix them, lower-cased as EMS wants them."""
    rng = random.Random(0)
    half = number // 2
    drawn = rng.sample(list(tatoeba()), half) + rng.sample(list(long_sentences()), number - half)
    rng.shuffle(drawn)
    return [text.lower() for text in drawn]


def spelled_out_norm(hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise step by step, as the released code does."""
    centred = hidden - hidden.mean(-1, keepdim=True)
    return norm.weight * (centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + norm.eps)) + norm.bias


def spelled_out_swish(hidden: Tensor) -> Tensor:
    """Multiply by the sigmoid, as the released code does."""
    return hidden * torch.sigmoid(hidden)


class PaddedLoop:
    """The usual way: batches of 32 in file order, padded, with an additive mask; the same weights."""

    def __init__(self, network: Network, tokenizer: Tokenizer, *, spelled_out: bool) -> None:
        """Take over the layers of a network.

        Args:
            network: its layers.
            tokenizer: for each batch.
            spelled_out: LayerNorm and swish from single steps, as in the released code, not by torch's functions.
        """
        self.network, self.tokenizer = network, tokenizer
        self.norm = spelled_out_norm if spelled_out else lambda hidden, norm: norm(hidden)
        self.swish = spelled_out_swish if spelled_out else functional.silu
        self.num_cells = 0

    def attention(self, layer: Layer, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [N, L, D]; `mask` [N, 1, 1, L] is added to the scores."""
        query, key, value = (
            linear(hidden).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
            for linear in (layer.query, layer.key, layer.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask
        attended: Tensor = layer.attention_output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return attended

    def encode(self, sentences: list[str]) -> FloatArray:
        """Return unit rows."""
        vectors = []
        self.num_cells = 0
        for start in range(0, len(sentences), 32):
            packed, _ = self.tokenizer.encode(sentences[start : start + 32], MAX_TOKENS)
            width = int(packed.lengths.max())
            real = np.arange(width) < packed.lengths[:, None]
            self.num_cells += real.size
            ids = np.zeros(real.shape, dtype=np.int64)
            ids[real] = packed.ids
            present = torch.from_numpy(real).float()
            mask = (1 - present)[:, None, None, :] * -1e6
            hidden = self.network.embedding(torch.from_numpy(ids), torch.arange(1, width + 1))
            for layer in self.network.layers:
                assert isinstance(layer, Layer)
                hidden = self.norm(self.attention(layer, hidden, mask) + hidden, layer.attention_norm)
                transformed = layer.ffn_output(self.swish(layer.ffn_input(hidden)))
                hidden = self.norm(transformed + hidden, layer.ffn_norm)
            vectors.append((hidden * present[..., None]).sum(1) / present.sum(1, keepdim=True))
        return unit_rows(torch.cat(vectors).numpy())


def gemm_rates() -> dict[str, Callable[[], None]]:
    """Return products of the largest shape of a layer: 512 tokens, 1024 → 4096."""
    rows, weight, bias = torch.randn(512, 1024), torch.randn(4096, 1024), torch.randn(4096)
    products: dict[str, Callable[[], Any]] = {
        "fp32 GEMM, functional.linear": lambda: functional.linear(rows, weight, bias)
    }
    if PackedLinear.is_available():
        packed = PackedLinear(weight, bias)
        products["fp32 GEMM, oneDNN with a packed weight"] = lambda: packed(rows)
    rows8, weight8 = (torch.randint(-127, 127, part.shape, dtype=torch.int8) for part in (rows, weight))
    products["int8 GEMM, torch._int_mm"] = lambda: torch._int_mm(rows8, weight8.t())
    return products


def seconds(function: Callable[[], Any]) -> float:
    """Return the processor seconds of a call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def useful_operations(config: NetworkConfig, lengths: "np.ndarray[Any, Any]") -> float:
    """Count multiplications and additions of the layers without any padding."""
    linear = 2 * (4 * config.dim**2 + 2 * config.dim * config.ffn_dim) * lengths.sum()
    attention = 4 * config.dim * (lengths.astype(float) ** 2).sum()
    return float(config.num_layers * (linear + attention))


def measure(num_sentences: int, num_rounds: int, folder: Path) -> list[str]:
    """Time all variants in turn and return lines of Markdown."""
    torch.manual_seed(0)
    config = NetworkConfig()
    save_model(Network(config), SENTENCEPIECE, folder, name="random", table="float16")
    encoders = {name: EMSEncoder(folder, device="cpu", precision=name) for name in ("fp32", "int8")}
    network = EMSEncoder(folder, device="cpu").network
    reference, padded = (PaddedLoop(network, encoders["fp32"].tokenizer, spelled_out=flag) for flag in (True, False))
    sentences = draw_sentences(num_sentences)
    packed, _ = encoders["fp32"].tokenizer.encode(sentences, MAX_TOKENS)
    variants: dict[str, Callable[[], FloatArray]] = {
        "padded, batches of 32 in file order, as the released code": lambda: reference.encode(sentences),
        "the same with torch's LayerNorm and silu": lambda: padded.encode(sentences),
        "emsmine fp32": lambda: encoders["fp32"].encode(sentences, lang="eng_Latn"),
        "emsmine int8": lambda: encoders["int8"].encode(sentences, lang="eng_Latn"),
    }
    products = gemm_rates()
    times: dict[str, list[float]] = {name: [] for name in (*variants, *products)}
    vectors: dict[str, FloatArray] = {}
    with torch.inference_mode():
        for encoder in encoders.values():
            encoder.encode(sentences[:32], lang="eng_Latn")
        for _ in range(num_rounds):
            for name, function in variants.items():
                started = time.process_time()
                vectors[name] = function()
                times[name].append(time.process_time() - started)
                for product, call in products.items():
                    times[product] += [seconds(call) for _ in range(5)]
    operations = useful_operations(config, packed.lengths)
    rates = {name: 2 * 512 * 1024 * 4096 / min(times[name]) / 1e9 for name in products}
    peak = max(rate for name, rate in rates.items() if name.startswith("fp32"))
    first, lean = list(variants)[:2]
    lines = [
        f"{num_sentences} sentences ({packed.lengths.mean():.1f} tokens, median {np.median(packed.lengths):.0f}; half "
        f"Tatoeba, half {LONG_SOURCE}), {padded.num_cells / len(packed.ids):.2f} cells a token in the padded loop; "
        f"median of {num_rounds} rounds in turn; one thread, {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}.",
        "",
        "| variant | CPU s | sentences / CPU s | speed | over the 2nd | useful GFLOP/s | of fp32 peak | min cosine |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in variants:
        taken = statistics.median(times[name])
        speed, over_lean = (
            statistics.median(a / b for a, b in zip(times[base], times[name], strict=True)) for base in (first, lean)
        )
        cosine = float((vectors[name] * vectors[first]).sum(1).min())
        lines.append(
            f"| {name} | {taken:.2f} | {num_sentences / taken:.1f} | {speed:.1f}× | {over_lean:.1f}× | "
            f"{operations / taken / 1e9:.0f} | {100 * operations / taken / 1e9 / peak:.0f} % | {cosine:.6f} |"
        )
    lines += ["", *(f"- {name}, 512 × 1024 × 4096: {rate:.0f} GOP/s (best)" for name, rate in rates.items())]
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sentences", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    if not SENTENCEPIECE.exists() or not TATOEBA.exists():
        print(f"Encoder: skipped, {SENTENCEPIECE.name} or {TATOEBA.name} is not there.")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(measure(given.sentences, given.rounds, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
