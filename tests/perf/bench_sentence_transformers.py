"""Our encoder against `SentenceTransformer.encode`: the same weights and tokens, one thread of a CPU, as Markdown.

The peer is a BERT of transformers behind sentence-transformers (Transformer and mean Pooling, all defaults: batches of
32, sorted by length, padded). It gets the random weights of our network, which is a BERT up to the numbering of
positions, and a fast tokeniser made of our SentencePiece model; so both sides do the same work, and their vectors must
agree. "possible in fp32" is the speed of a program that did nothing but the products of the layers, without padding,
at the rate of the fastest product measured in the same run. Both take turns in one process and are timed in processor
seconds, which a busy machine blurs least.

Needs `../shared/data` beside the repository, and sentence-transformers: `pip install 'emsmine[sbert]'`.

Usage: python tests/perf/bench_sentence_transformers.py [--shapes 6x1024,6x384] [--sentences 512] [--rounds 2]
"""

import argparse
import importlib
import importlib.util
import os
import platform
import random
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update({"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import sentencepiece
import torch
import zstandard

from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.inference import PackedLinear, PlainLinear
from emsmine.encoder.model.network import Layer, Network
from emsmine.encoder.protocol import FloatArray, unit_rows

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SENTENCEPIECE = DATA / "spm" / "62languages_bpe_60000.model"
MINING = DATA / "mining-dev"
TATOEBA = DATA / "tatoeba" / "tatoeba-v1.tar.zst"
SETS = ("de-en.de", "de-en.en", "zh-en.zh")
MAX_TOKENS = 120
SPACE = "▁"
COLUMNS = (
    "network",
    "sentences",
    "tokens each",
    "cells a token of the peer",
    "peer, CPU s",
    "fp32, CPU s",
    "int8, CPU s",
    "fp32",
    "possible in fp32",
    "int8",
    "same tokens",
    "min cosine of these",
)

Encode = Callable[[list[str]], FloatArray]


def mining_sentences(name: str, number: int) -> list[str]:
    """Draw sentences of one language from a mining set, lower-cased as the tokeniser wants them."""
    with zstandard.open(MINING / f"{name}.zst", "rt", encoding="utf-8") as stream:
        sentences = [line.rstrip("\n").split("\t")[1] for line in stream]
    return [text.lower() for text in random.Random(0).sample(sentences, number)]


def tatoeba() -> Iterator[str]:
    """Yield the short sentences of Tatoeba, all languages."""
    with zstandard.open(TATOEBA, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file and Path(member.name).name.startswith("tatoeba."):
                yield from file.read().decode("utf-8").lower().splitlines()


def samples(number: int) -> dict[str, list[str]]:
    """Return the sentences of every measurement by its name."""
    found = {f"mining set, {name.partition('.')[2]}": mining_sentences(name, number) for name in SETS}
    found["Tatoeba, all languages"] = random.Random(0).sample(list(tatoeba()), number)
    return found


def fast_tokenizer() -> Any:
    """Turn the SentencePiece model into a BPE of the `tokenizers` library, which sentence-transformers can use.

    A piece is a merge of every two pieces that make it up, in the order of pieces. Words are cut first, as no piece
    goes beyond one: that lets the library remember words, which favours the peer.
    """
    tokenizers, transformers = importlib.import_module("tokenizers"), importlib.import_module("transformers")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SENTENCEPIECE))
    pieces = [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for number, piece in enumerate(pieces)
        if not processor.IsControl(number) and not processor.IsUnknown(number)
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    unknown = pieces[processor.unk_id()]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True)
    )
    normalizers = tokenizers.normalizers
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=unknown, pad_token=pieces[0], model_max_length=MAX_TOKENS
    )


def bert_state(network: Network) -> dict[str, torch.Tensor]:
    """Return the weights of our network under the names of BERT; positions count from 0 there, from 1 here."""
    embedding = network.embedding
    assert embedding.positions is not None
    assert embedding.norm is not None
    state = {
        "embeddings.word_embeddings.weight": embedding.tokens.weight,
        "embeddings.position_embeddings.weight": embedding.positions.weight[1:],
        "embeddings.token_type_embeddings.weight": torch.zeros(2, network.config.dim),
        "embeddings.LayerNorm.weight": embedding.norm.weight,
        "embeddings.LayerNorm.bias": embedding.norm.bias,
    }
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        parts = {
            "attention.self.query": layer.query,
            "attention.self.key": layer.key,
            "attention.self.value": layer.value,
            "attention.output.dense": layer.attention_output,
            "attention.output.LayerNorm": layer.attention_norm,
            "intermediate.dense": layer.ffn_input,
            "output.dense": layer.ffn_output,
            "output.LayerNorm": layer.ffn_norm,
        }
        for name, part in parts.items():
            state |= {f"encoder.layer.{number}.{name}.{key}": getattr(part, key) for key in ("weight", "bias")}
    return {key: value.detach().clone() for key, value in state.items()}


def sentence_transformer(network: Network, folder: Path) -> Any:
    """Build the peer with the weights of our network, saved and loaded as a user would."""
    transformers = importlib.import_module("transformers")
    sentence_transformers = importlib.import_module("sentence_transformers")
    # Deprecated in version 5.x, but the one name that all versions of the extra know.
    modules = importlib.import_module("sentence_transformers.models")
    config = network.config
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_dim,
            hidden_act="silu",
            max_position_embeddings=config.max_tokens,
            layer_norm_eps=config.layer_norm_eps,
        ),
        add_pooling_layer=False,
    )
    bert.load_state_dict(bert_state(network), strict=True)
    bert.save_pretrained(folder)
    fast_tokenizer().save_pretrained(folder)
    transformer = modules.Transformer(str(folder), max_seq_length=MAX_TOKENS)
    return sentence_transformers.SentenceTransformer(
        modules=[transformer, modules.Pooling(config.dim, pooling_mode="mean")], device="cpu"
    )


class Peers:
    """The same network behind either interface."""

    def __init__(self, shape: str, folder: Path) -> None:
        """Build one of `LAYERSxWIDTH` with random weights; heads are 64 wide, the feed-forward layer four widths."""
        torch.manual_seed(0)
        num_layers, dim = (int(number) for number in shape.split("x"))
        config = NetworkConfig(dim=dim, num_layers=num_layers, num_heads=dim // 64, ffn_dim=4 * dim)
        network = Network(config).eval()
        save_model(network, SENTENCEPIECE, folder / "ems", name="random", table="float32")
        self.model = sentence_transformer(network, folder / "bert")
        self.encoders = {name: EMSEncoder(folder / "ems", device="cpu", precision=name) for name in ("fp32", "int8")}
        self.variants: dict[str, Encode] = {
            "sentence-transformers": lambda sentences: self.model.encode(sentences, show_progress_bar=False),
            "emsmine fp32": lambda sentences: self.encoders["fp32"].encode(sentences, lang="eng_Latn"),
            "emsmine int8": lambda sentences: self.encoders["int8"].encode(sentences, lang="eng_Latn"),
        }

    def equal_tokens(self, sentences: list[str]) -> "np.ndarray[Any, Any]":
        """Tell which sentences both sides cut into the same tokens."""
        packed, _ = self.encoders["fp32"].tokenizer.encode(sentences, MAX_TOKENS)
        ours = np.split(packed.ids, packed.offsets[1:-1])
        theirs = self.model.tokenizer(sentences, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return np.array([list(a) == b for a, b in zip(ours, theirs, strict=True)])

    def count_cells(self) -> list[int]:
        """Count the cells of the peer's batches from now on; returns (cells with padding, tokens), kept up to date."""
        seen = [0, 0]

        def count(_module: Any, inputs: tuple[dict[str, torch.Tensor], ...]) -> None:
            mask = inputs[0]["attention_mask"]
            seen[0] += mask.numel()
            seen[1] += int(mask.sum())

        self.model[0].register_forward_pre_hook(count)
        return seen

    def useful_operations(self, lengths: "np.ndarray[Any, Any]") -> float:
        """Count multiplications and additions of the layers without any padding."""
        config = self.encoders["fp32"].network.config
        linear = 2 * (4 * config.dim**2 + 2 * config.dim * config.ffn_dim) * lengths.sum()
        attention = 4 * config.dim * (lengths.astype(float) ** 2).sum()
        return float(config.num_layers * (linear + attention))


def gemm_rate(dim: int) -> float:
    """Return the best operations per second of an fp32 product as a layer has it, weights laid out beforehand."""
    rows, weight, bias = torch.randn(512, dim), torch.randn(4 * dim, dim), torch.randn(4 * dim)
    product = PackedLinear(weight, bias) if PackedLinear.is_available() else PlainLinear(weight, bias)
    times = []
    with torch.inference_mode():
        for _ in range(20):
            started = time.process_time()
            product(rows)
            times.append(time.process_time() - started)
    return 2 * 512 * dim * 4 * dim / min(times)


def measure(shape: str, sets: dict[str, list[str]], num_rounds: int, folder: Path) -> list[str]:
    """Time one shape on all samples and return lines of Markdown."""
    peers = Peers(shape, folder)
    for encode in peers.variants.values():
        encode(next(iter(sets.values()))[:32])
    seen = peers.count_cells()
    lines = []
    for name, sentences in sets.items():
        seen[:] = [0, 0]
        times: dict[str, list[float]] = {variant: [] for variant in peers.variants}
        vectors: dict[str, FloatArray] = {}
        peak = 0.0
        for _ in range(num_rounds):
            for variant, encode in peers.variants.items():
                started = time.process_time()
                vectors[variant] = encode(sentences)
                times[variant].append(time.process_time() - started)
            peak = max(peak, gemm_rate(peers.encoders["fp32"].dim))
        reference, fp32, int8 = times.values()
        packed, _ = peers.encoders["fp32"].tokenizer.encode(sentences, MAX_TOKENS)
        least = peers.useful_operations(packed.lengths) / peak
        equal = peers.equal_tokens(sentences)
        cosine = (unit_rows(vectors["sentence-transformers"]) * vectors["emsmine fp32"]).sum(1)
        speeds = [statistics.median(a / b for a, b in zip(reference, other, strict=True)) for other in (fp32, int8)]
        cells = [
            shape.replace("x", " × "),
            f"{len(sentences):,} of {name}",
            f"{packed.lengths.mean():.1f}",
            f"{seen[0] / seen[1]:.2f}",
            *(f"{statistics.median(part):.2f}" for part in (reference, fp32, int8)),
            f"**{speeds[0]:.2f}×**",
            f"{statistics.median(reference) / least:.2f}×",
            f"**{speeds[1]:.2f}×**",
            f"{100 * equal.mean():.1f} %",
            f"{cosine[equal].min():.6f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", default="6x1024,6x384")
    parser.add_argument("--sentences", type=int, default=512, help="at width 1024; four times as many at 384")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    if importlib.util.find_spec("sentence_transformers") is None:
        print("skipped: sentence-transformers is not installed; run: pip install 'emsmine[sbert]'")
        return
    for path in (SENTENCEPIECE, TATOEBA, *(MINING / f"{name}.zst" for name in SETS)):
        if not path.exists():
            print(f"skipped: {path.name} is not there; put the data folder at {DATA.name}/ beside the repository")
            return
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    names = ("sentence_transformers", "transformers", "torch")
    versions = ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in names)
    print(f"{platform.machine()}, one thread, {versions}; median of {given.rounds} rounds in turn.\n")
    print(f"| {' | '.join(COLUMNS)} |\n|---|---|{'--:|' * (len(COLUMNS) - 2)}")
    for shape in given.shapes.split(","):
        number = given.sentences if int(shape.split("x")[1]) > 512 else 4 * given.sentences
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(measure(shape, samples(number), given.rounds, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
