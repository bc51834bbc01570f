"""EMS models as encoders: load a model directory, encode in length-sorted batches without padding."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from emsmine.encoder.model_directory import CONFIG, TOKENIZER, load_model
from emsmine.encoder.preprocessing import preprocess
from emsmine.encoder.protocol import FloatArray, unit_rows
from emsmine.encoder.tokenizer import OffsetArray, Packed, Tokenizer
from emsmine.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

# Measured on CPU for 6 layers: 512 to 2048 tokens a batch are best, 8192 up to twice as slow (cache misses).
TOKENS_PER_BATCH = 1024
# Plain means of subword vectors have no matrix product to feed; larger batches save Python overhead.
TOKENS_PER_BATCH_PLAIN = 65_536


def resolve_device(device: str) -> torch.device:
    """Return the device to use.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, or `auto`, which takes a GPU if there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none: nothing falls back silently.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device: {device!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device: {device!r} was asked for but no GPU is usable; pass --device cpu, or see "
            "docs/guide.md for the GPU build of torch"
        )
    return wanted


class EMSEncoder:
    """An EMS model directory behind the `Encoder` protocol."""

    def __init__(self, folder: Path, *, name: str = "", device: str = "auto") -> None:
        """Load a model directory.

        Raises:
            ModelError: files are missing or damaged, or do not belong together.
        """
        self.folder = Path(folder)
        network, config = load_model(self.folder)
        self.tokenizer = Tokenizer(self.folder / TOKENIZER)
        if self.tokenizer.vocab_size > network.config.vocab_size:
            raise ModelError(
                f"model: {self.folder / TOKENIZER} has {self.tokenizer.vocab_size} pieces but the network knows "
                f"{network.config.vocab_size}; the files belong to different models"
            )
        self.device = resolve_device(device)
        self.network = network.to(self.device)
        self.preprocessing = str(config["preprocessing"])
        self.name = name or f"ems:{config['name']}"
        self.dim = network.config.dim
        self.num_cut = 0
        """Sentences cut at `max_tokens` so far."""
        self._fingerprint = hashlib.sha256(json.dumps(config, sort_keys=True).encode() + b"|mean|float32").hexdigest()

    def fingerprint(self) -> str:
        """Return the hash of `config.json` (which holds the hashes of weights and tokeniser), pooling and dtype."""
        return self._fingerprint

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        """Encode sentences; see `Encoder.encode`."""
        config = self.network.config
        packed, cut = self.tokenizer.encode(preprocess(sentences, lang, self.preprocessing), config.max_tokens)
        self.num_cut += cut
        vectors = np.zeros((len(packed), config.dim), dtype=np.float32)
        # Batches of similar length; the result of a sentence does not depend on what else is in its batch.
        order = np.argsort(packed.lengths, kind="stable")
        budget = TOKENS_PER_BATCH if config.num_layers else TOKENS_PER_BATCH_PLAIN
        for rows in _batches(packed, order, budget):
            batch = packed.take(rows)
            ids = torch.from_numpy(batch.ids).to(self.device)
            offsets = torch.from_numpy(batch.offsets).to(self.device)
            vectors[rows] = self.network(ids, offsets).float().cpu().numpy()
        return unit_rows(vectors)


def _batches(packed: Packed, order: OffsetArray, budget: int) -> list[OffsetArray]:
    """Cut the sorted sentences into runs of at most `budget` tokens (at least one sentence each)."""
    ends = np.cumsum(packed.lengths[order])
    batches: list[OffsetArray] = []
    start, used = 0, 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(ends, used + budget, side="right")))
        batches.append(order[start:stop])
        used = int(ends[stop - 1])
        start = stop
    return batches


def pretrained_folder(name: str) -> Path:
    """Return the folder of a model that ships with emsmine.

    Raises:
        ConfigError: no such model; the message lists those there are.
    """
    root = Path(__file__).parent / "pretrained"
    folder = root / name
    if not (folder / CONFIG).exists():
        found = sorted(p.parent.name for p in root.glob(f"*/{CONFIG}"))
        raise ConfigError(
            f"encoder: no model directory and no shipped model is called {name!r}; shipped: "
            f"{', '.join(found) or 'none'}"
        )
    return folder
