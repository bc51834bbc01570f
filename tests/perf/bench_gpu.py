"""What share of a GPU's matrix rate encoding, training and exact search reach, as Markdown.

The rate is that of the best of some square bf16 products in the same run. Work is what the equations need: 2 operations
a weight and token in the layers, attention, and for training the reconstruction head, backward twice forward. Nothing
for padding, of which there is none, nor for recomputation. Search is timed whole, from vectors in memory to neighbours
of both sides, against `torch.matmul` with `topk` along both axes of tiles, whose scores are not rechecked, and against
a flat index of faiss-gpu where that is installed.

Usage: python tests/perf/bench_gpu.py [--search] [--device cuda] [--tiny]
--search does the search only; --tiny all with small networks and sides, to try the script on a CPU.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from emsmine.encoder.data.pairs import Corpus
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.inference import prepare
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.tokenizer import Packed
from emsmine.encoder.training.settings import DataConfig, OptimiserConfig, RunConfig, TrainingConfig
from emsmine.encoder.training.trainer import Trainer
from emsmine.mining.exact.gpu import Gpu
from emsmine.mining.exact.search import search_both

TINY = NetworkConfig(vocab_size=500, dim=64, num_layers=2, num_heads=2, ffn_dim=256)
ROUNDS = 5


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Return the median time of some calls, after one that is not counted."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    times = []
    for _ in range(ROUNDS):
        wait()
        started = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def matrix_rate(device: torch.device, sizes: tuple[int, ...]) -> float:
    """Return the operations a second of the best square bf16 product."""
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        best = max(best, 2 * size**3 / seconds(device, lambda left=left, right=right: left @ right))  # type: ignore[misc]
    return best


def random_lengths(num_sentences: int, longest: int, seed: int = 0) -> np.ndarray:
    """Lengths as of a crawl: log-normal, about 25 tokens on average."""
    drawn = np.random.default_rng(seed).lognormal(3.0, 0.6, num_sentences)
    return np.clip(np.rint(drawn), 1, longest).astype(np.int64)


def random_packed(lengths: np.ndarray, vocab_size: int) -> Packed:
    """Random tokens."""
    ids = np.random.default_rng(1).integers(2, vocab_size, int(lengths.sum()), dtype=np.int32)
    return Packed(ids, np.concatenate(([0], np.cumsum(lengths))).astype(np.int64))


def forward_operations(config: NetworkConfig, lengths: np.ndarray) -> float:
    """Multiplications and additions of the layers for sentences of these lengths."""
    weights = 4 * config.dim**2 + 2 * config.dim * config.ffn_dim
    attention = 4 * config.dim * float((lengths.astype(np.float64) ** 2).sum())
    return config.num_layers * (2 * weights * float(lengths.sum()) + attention)


def encoding(config: NetworkConfig, device: torch.device, rate: float, budgets: tuple[int, ...]) -> None:
    """Print the share for some numbers of tokens in a batch, sentences sorted by length as the encoder does."""
    network = Network(config).to(device).eval()
    prepare(network, "bf16")
    print("| tokens a batch | sentences/s | tokens/s | of the bf16 peak |\n|--:|--:|--:|--:|")
    for budget in budgets:
        # Neighbours in a sorted chunk have about one length.
        lengths = np.sort(random_lengths(4096, config.max_tokens))
        middle = len(lengths) // 2
        stop = middle + int(np.searchsorted(np.cumsum(lengths[middle:]), budget, side="right"))
        batch = random_packed(lengths[middle:stop], config.vocab_size)
        ids, offsets = torch.from_numpy(batch.ids).to(device), torch.from_numpy(batch.offsets).to(device)
        with torch.inference_mode():
            spent = seconds(device, lambda ids=ids, offsets=offsets: network(ids, offsets))  # type: ignore[misc]
        share = forward_operations(config, batch.lengths) / spent / rate
        print(f"| {len(batch.ids):,} | {len(batch) / spent:,.0f} | {len(batch.ids) / spent:,.0f} | {share:.0%} |")


def training(config: NetworkConfig, device: torch.device, rate: float, batch_sizes: tuple[int, ...]) -> None:
    """Print the share of whole training steps, both objectives, bf16."""
    print("\n| pairs a step | pairs/s | tokens/s | of the bf16 peak |\n|--:|--:|--:|--:|")
    for size in batch_sizes:
        pairs = size * (ROUNDS + 1)
        packed = random_packed(random_lengths(2 * pairs, config.max_tokens), config.vocab_size)
        corpus = Corpus("de-en", "deu_Latn", "eng_Latn", packed, np.arange(2 * pairs, dtype=np.int64))
        settings = TrainingConfig(
            network=config,
            data=DataConfig(batch_size=size, validation_pairs=0),
            optimiser=OptimiserConfig(steps=1000),
            run=RunConfig(precision="bf16"),
        )
        trainer = Trainer(settings, [corpus], device)
        spent = seconds(device, trainer.train_step)
        tokens = len(packed.ids) / pairs * size
        head = 2 * size * 2 * (config.dim + settings.heads.language_dim) * config.vocab_size
        work = 3 * (forward_operations(config, packed.lengths) * size / pairs + head)
        print(f"| {size:,} | {size / spent:,.0f} | {tokens / spent:,.0f} | {work / spent / rate:.0%} |", flush=True)


def torch_topk(source: torch.Tensor, target: torch.Tensor, k: int, tile: int) -> None:
    """Find the k nearest of both sides as one would by hand, with vectors on the device already."""
    best = [torch.full((len(side), k), -2.0, device=side.device, dtype=torch.float16) for side in (source, target)]
    for top in range(0, len(source), tile):
        for left in range(0, len(target), tile):
            scores = source[top : top + tile] @ target[left : left + tile].T
            for dim, start, held in ((1, top, best[0]), (0, left, best[1])):
                found = scores.topk(k, dim=dim).values
                found = found if dim == 1 else found.T
                part = held[start : start + len(found)]
                part.copy_(torch.cat([part, found], dim=1).topk(k, dim=1).values)


def faiss_flat(source: np.ndarray, target: np.ndarray, k: int) -> None:
    """Search both directions in flat indexes of faiss-gpu."""
    import faiss

    for query, base in ((source, target), (target, source)):
        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), base.shape[1])
        index.add(base)
        index.search(query, k)


def searching(device: torch.device, rate: float, shapes: tuple[tuple[int, int], ...], tile: int) -> None:
    """Print scores a second of both directions together."""
    import faiss

    print("| rows a side | d | scores/s | of the bf16 peak | time of torch topk | of faiss-gpu flat, in ours |")
    print("|--:|--:|--:|--:|--:|--:|")
    for rows, dim in shapes:
        sides = [np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32) for seed in (0, 1)]
        source, target = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
        memory = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**30
        gpu = Gpu(str(device), memory)
        ours = seconds(device, lambda a=source, b=target, g=gpu: search_both(a, b, 5, gpu=g, validate=False))  # type: ignore[misc]
        halves = [torch.from_numpy(side).half().to(device) for side in (source, target)]
        by_hand = seconds(device, lambda h=halves: torch_topk(h[0], h[1], 5, tile))  # type: ignore[misc]
        flat = "not installed"
        if device.type == "cuda" and hasattr(faiss, "GpuIndexFlatIP"):
            flat = f"{seconds(device, lambda a=source, b=target: faiss_flat(a, b, 5)) / ours:.2f}"  # type: ignore[misc]
        share = 2 * rows**2 * dim / ours / rate
        print(f"| {rows:,} | {dim} | {rows**2 / ours:.2e} | {share:.0%} | {by_hand / ours:.2f} | {flat} |", flush=True)


def main() -> None:
    """Measure the rate, encoding and training, or the search."""
    parser = argparse.ArgumentParser(description="Shares of a GPU's matrix rate.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rate = matrix_rate(device, (256,) if options.tiny else (4096, 8192, 16384))
    print(f"{name}, torch {torch.__version__}: best bf16 product {rate / 1e12:,.2f} TFLOP/s\n")
    if options.search:
        sides = (
            ((3000, 64),) if options.tiny else tuple((rows, dim) for rows in (65_536, 262_144) for dim in (256, 1024))
        )
        searching(device, rate, sides, 512 if options.tiny else 16_384)
        return
    config = TINY if options.tiny else dataclasses.replace(NetworkConfig(), max_tokens=120)
    encoding(config, device, rate, (512, 2048) if options.tiny else (1024, 8192, 32_768, 131_072))
    training(config, device, rate, (16, 32) if options.tiny else (152, 608, 1216))


if __name__ == "__main__":
    main()
