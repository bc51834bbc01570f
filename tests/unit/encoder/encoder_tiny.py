"""Tiny corpora, tokenisers, networks and training configurations for the encoder tests.

All sentences are invented here: a few words in fixed patterns.
"""

import dataclasses
import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emsmine.encoder.data.pairs import Corpus
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.tokenizer import TokenizerTraining, pack, train_tokenizer
from emsmine.encoder.training.losses import HeadConfig
from emsmine.encoder.training.settings import (
    DataConfig,
    LossConfig,
    OptimiserConfig,
    RunConfig,
    TrainingConfig,
)

VOCAB = 110

_WORDS = {
    "en": (
        ("the baker", "my aunt", "a sailor", "our teacher", "the old farmer"),
        ("paints", "sells", "repairs", "finds", "carries"),
        ("a green boat", "seven lamps", "the blue door", "two wooden chairs", "a heavy clock"),
    ),
    "de": (
        ("der bäcker", "meine tante", "ein seemann", "unsere lehrerin", "der alte bauer"),
        ("malt", "verkauft", "flickt", "findet", "trägt"),
        ("ein grünes boot", "sieben lampen", "die blaue tür", "zwei stühle aus holz", "eine schwere uhr"),
    ),
    "fr": (
        ("le boulanger", "ma tante", "un marin", "notre professeur", "le vieux fermier"),
        ("peint", "vend", "répare", "trouve", "porte"),
        ("un bateau vert", "sept lampes", "la porte bleue", "deux chaises en bois", "une horloge lourde"),
    ),
}


def sentences(lang: str) -> list[str]:
    """Return 125 sentences; sentence n of one language translates sentence n of another."""
    return [" ".join(words) + "." for words in itertools.product(*_WORDS[lang])]


def write_pairs(folder: Path) -> Path:
    """Write `de-en.tsv` and `en-fr.tsv.gz` of 125 pairs each."""
    folder.mkdir(parents=True, exist_ok=True)
    for left, right, opener in (("de", "en", open), ("en", "fr", gzip.open)):
        path = folder / (f"{left}-{right}.tsv" + (".gz" if opener is gzip.open else ""))
        text = "".join(f"{a}\t{b}\n" for a, b in zip(sentences(left), sentences(right), strict=True))
        with opener(path, "wb") as stream:
            stream.write(text.encode("utf-8"))
    return folder


def train_tiny_tokenizer(path: Path, vocab_size: int = VOCAB) -> Path:
    """Train a SentencePiece model on the three languages."""
    texts = [text for lang in _WORDS for text in sentences(lang)]
    return train_tokenizer(texts, path, TokenizerTraining(vocab_size=vocab_size, num_threads=1))


def plain_network(**changes: Any) -> NetworkConfig:
    """Configure a mean of subword vectors."""
    fixed: dict[str, Any] = {
        "vocab_size": VOCAB,
        "dim": 16,
        "num_layers": 0,
        "positions": "none",
        "embedding_norm": False,
        "embedding_dropout": 0.0,
        "max_tokens": 24,
    }
    return NetworkConfig(**(fixed | changes))


def layered_network(**changes: Any) -> NetworkConfig:
    """Configure two Transformer layers, with the dropout of the paper."""
    fixed: dict[str, Any] = {
        "vocab_size": VOCAB,
        "dim": 16,
        "num_layers": 2,
        "num_heads": 4,
        "ffn_dim": 24,
        "max_tokens": 24,
    }
    return NetworkConfig(**(fixed | changes))


def build(config: NetworkConfig, seed: int = 0) -> Network:
    """Build a network with weights from a seed, every parameter away from its neutral value, in evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = Network(config)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


def tensors(batch: list[list[int]], max_tokens: int = 1000) -> tuple[Tensor, Tensor]:
    """Pack lists of ids as tensors."""
    packed = pack(batch, max_tokens)
    return torch.from_numpy(packed.ids), torch.from_numpy(packed.offsets)


def corpus(
    pairs: list[tuple[list[int], list[int]]], *, name: str = "de-en", source: str = "deu_Latn", target: str = "eng_Latn"
) -> Corpus:
    """Make a corpus of token ids; the hash of a sentence stands for its tokens."""
    flat = [side for pair in pairs for side in pair]
    hashes = np.array([hash(tuple(side)) for side in flat], dtype=np.int64)
    return Corpus(name, source, target, pack(flat, 1000), hashes)


def sparse_training(data: Path, output: Path, tokenizer: Path, /, **changes: dict[str, Any]) -> TrainingConfig:
    """Configure the shape of the shipped model: plain mean, sparse table, contrastive objective only."""
    tables: dict[str, dict[str, Any]] = {
        "loss": {"xtr_weight": 0.0, "contrastive_weight": 1.0, "temperature": 0.1, "mask_duplicates": True},
        "heads": {"projection": False, "xtr": False},
        "optimiser": {"sparse_learning_rate": 0.02},
    }
    return _training(plain_network(), tables, data, output, tokenizer, changes)


def dense_training(data: Path, output: Path, tokenizer: Path, /, **changes: dict[str, Any]) -> TrainingConfig:
    """Configure the shape of the paper: a Transformer layer with dropout, both heads, both objectives."""
    tables: dict[str, dict[str, Any]] = {
        "loss": {"xtr_weight": 1.0, "contrastive_weight": 2.0},
        "heads": {"language_dim": 8, "projection_dim": 8},
        "optimiser": {"learning_rate": 0.01, "gradient_clip": 1.0},
    }
    return _training(layered_network(num_layers=1), tables, data, output, tokenizer, changes)


def mixed_training(data: Path, output: Path, tokenizer: Path, /, **changes: dict[str, Any]) -> TrainingConfig:
    """Configure all that can be on together: sparse table, layer with dropout, both objectives, average, clipping."""
    tables: dict[str, dict[str, Any]] = {
        "loss": {"mask_duplicates": True, "margin": 0.1, "learn_temperature": True},
        "heads": {"language_dim": 8, "projection_dim": 8},
        "optimiser": {
            "learning_rate": 0.01,
            "sparse_learning_rate": 0.02,
            "gradient_clip": 1.0,
            "ema_decay": 0.9,
        },
    }
    return _training(layered_network(num_layers=1), tables, data, output, tokenizer, changes)


def full_training(data: Path, output: Path, tokenizer: Path, /, **changes: dict[str, Any]) -> TrainingConfig:
    """Configure `mixed_training` with all that decides which pairs come together and in which passes.

    The encoder that tells similar pairs is made beside the data, at the first call.
    """
    similar = data.parent / "similar"
    if not (similar / "config.json").exists():
        save_model(build(plain_network(dim=24), seed=3), tokenizer, similar, name="similar")
    table = {"shuffle_buffer": 30, "chunk_tokens": 150, "hard_negatives": 2, "negatives": f"ems:{similar}"}
    return mixed_training(data, output, tokenizer, **(changes | {"data": table | changes.get("data", {})}))


def _training(
    network: NetworkConfig,
    tables: dict[str, dict[str, Any]],
    data: Path,
    output: Path,
    tokenizer: Path,
    changes: dict[str, dict[str, Any]],
) -> TrainingConfig:
    def table(name: str, base: dict[str, Any]) -> dict[str, Any]:
        return base | tables.get(name, {}) | changes.get(name, {})

    return TrainingConfig(
        network=dataclasses.replace(network, **changes.get("network", {})),
        heads=HeadConfig(**table("heads", {})),
        data=DataConfig(
            **table("data", {"train": (str(data),), "tokenizer": str(tokenizer), "batch_size": 16, "exponent": 0.5})
        ),
        loss=LossConfig(**table("loss", {})),
        optimiser=OptimiserConfig(**table("optimiser", {"steps": 20, "warmup_steps": 4})),
        run=RunConfig(
            **table("run", {"output": str(output), "checkpoint_every": 5, "validate_every": 10, "log_every": 5})
        ),
    )


def assert_same(ours: Any, theirs: Any, where: str = "state") -> None:
    """Compare two states bit for bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


if __name__ == "__main__":
    # For the tests that kill a training: KIND DATA OUTPUT TOKENIZER; a checkpoint at every step.
    import sys

    from emsmine.encoder.training.run import train

    torch.set_num_threads(1)
    kind, *paths = sys.argv[1:]
    make = {"sparse": sparse_training, "dense": dense_training, "full": full_training}[kind]
    steps: dict[str, Any] = {"run": {"checkpoint_every": 1, "log_every": 1}}
    train(make(*map(Path, paths), **steps), device="cpu", on_log=lambda row: print(row["step"], flush=True))
