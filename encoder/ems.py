"""EMS models as encoders: load a model directory, encode in length-sorted batches without padding."""

import functools
import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from emsmine.encoder.folders import CONFIG, PRECISIONS, pretrained_folder, split_precision
from emsmine.encoder.model.directory import TOKENIZER, config_identity, load_model
from emsmine.encoder.model.inference import prepare
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.preprocessing import preprocess
from emsmine.encoder.model.tokenizer import PAD_ID, OffsetArray, Packed, Tokenizer
from emsmine.encoder.protocol import FloatArray, through_gateway, unit_rows
from emsmine.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

# Measured on CPU for 6 layers: 512 to 2048 tokens a batch are best, 8192 up to twice as slow (cache misses).
TOKENS_PER_BATCH = 1024
# A GPU wants more rows; not measured yet (docs/gpu-worklist.md).
TOKENS_PER_BATCH_GPU = 32_768
# Plain means of subword vectors have no matrix product to feed; larger batches save Python overhead.
TOKENS_PER_BATCH_PLAIN = 65_536
# The number of tokens of a batch is rounded up to a multiple of this. For every number of rows oneDNN makes a program
# (2 ms) and keeps it, up to 1024 of them: 12,000 sentences took 148 MB with one layer of width 128, and now take 44.
TOKENS_MULTIPLE = 16
# Sentences are sorted by length within a chunk, and the next chunk is tokenised while the network runs: enough of them
# that a batch holds one or two lengths.
CHUNK = 4096
_DTYPES = {"fp32": "float32", "int8": "int8", "bf16": "bfloat16"}


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
            "docs/planning.md for the GPU build of torch"
        )
    return wanted


def has_bf16_products() -> bool:
    """Tell whether this processor multiplies bfloat16 itself; others emulate it."""
    # Versions of torch without the function tell nothing.
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


class EMSEncoder:
    """An EMS model directory behind the `Encoder` protocol."""

    def __init__(self, folder: Path, *, name: str = "", device: str = "auto", precision: str = "fp32") -> None:
        """Load a model directory.

        Args:
            folder: the model directory.
            name: for people; default: the name in `config.json`.
            device: see `resolve_device`.
            precision: of the linear layers: `fp32`; `int8`, for a CPU; `bf16`. Whether it suits the device
                is checked by the first `encode`, so that a fingerprint can be had on any machine.

        Raises:
            ConfigError: the precision is unknown, or the network has no linear layers that it could apply to.
            ModelError: files are missing or damaged, or do not belong together.
        """
        self.folder = Path(folder)
        network, config = load_model(self.folder)
        self.tokenizer = Tokenizer(self.folder / TOKENIZER)
        if self.tokenizer.sha256 != config["sha256"][TOKENIZER]:
            raise ModelError(f"model: {self.folder / TOKENIZER} changed while it was read; load it again")
        if self.tokenizer.vocab_size > network.config.vocab_size:
            raise ModelError(
                f"model: {self.folder / TOKENIZER} has {self.tokenizer.vocab_size} pieces but the network knows "
                f"{network.config.vocab_size}; the files belong to different models"
            )
        self.device = resolve_device(device)
        self.network = network.to(self.device)
        self.preprocessing = str(config["preprocessing"])
        self.precision = precision
        self.name = name or f"ems:{config['name']}"
        if precision not in PRECISIONS:
            raise ConfigError(f"encoder: precision {precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
        if precision != "fp32":
            if not network.config.num_layers:
                raise ConfigError(
                    f"encoder: {self.name} is a mean of subword vectors without layers, so {precision} would change "
                    f"nothing; leave @{precision} out"
                )
            self.name += f"@{precision}"
        self.dim = network.config.dim
        self.num_cut = 0
        """Sentences cut at `max_tokens` so far."""
        identity = f"{config_identity(config)}|mean|{_DTYPES[precision]}"
        self._fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def fingerprint(self) -> str:
        """Return the hash of `config.json` (which holds the hashes of weights and tokeniser), pooling and precision."""
        return self._fingerprint

    def token_table(self) -> FloatArray:
        """Return the token vectors of the network, float32 [vocab_size, D]."""
        table: FloatArray = self.network.embedding.tokens.weight.detach().float().cpu().numpy()
        return table

    @through_gateway
    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        """Encode sentences; see `Encoder.encode`.

        Raises:
            ConfigError: the precision does not suit the device.
        """
        vectors = np.zeros((len(sentences), self.dim), dtype=np.float32)
        for start, packed in self._tokenise(sentences, lang):
            vectors[start : start + len(packed)] = unit_rows(self._encode_packed(packed))
        return vectors

    def _tokenise(self, sentences: Sequence[str], lang: str) -> Iterator[tuple[int, Packed]]:
        """Tokenise in chunks, in a thread of its own and one chunk ahead; yields (first sentence, tokens)."""
        max_tokens = self.network.config.max_tokens

        def tokenise(start: int) -> tuple[Packed, int]:
            texts = preprocess(sentences[start : start + CHUNK], lang, self.preprocessing)
            return self.tokenizer.encode(texts, max_tokens)

        with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as pool:
            waiting = pool.submit(tokenise, 0)
            for start in range(0, len(sentences), CHUNK):
                packed, num_cut = waiting.result()
                if start + CHUNK < len(sentences):
                    waiting = pool.submit(tokenise, start + CHUNK)
                self.num_cut += num_cut
                yield start, packed

    @torch.inference_mode()
    def _encode_packed(self, packed: Packed) -> FloatArray:
        """Run the network; float32 [N, D], not normalised."""
        vectors = np.zeros((len(packed), self.dim), dtype=np.float32)
        # Batches of similar length; the result of a sentence does not depend on what else is in its batch.
        order = np.argsort(packed.lengths, kind="stable")
        layered = self.network.config.num_layers > 0
        budget = TOKENS_PER_BATCH if self.device.type == "cpu" else TOKENS_PER_BATCH_GPU
        for rows in _batches(packed, order, budget if layered else TOKENS_PER_BATCH_PLAIN):
            batch = _filled(packed.take(rows), TOKENS_MULTIPLE if layered else 1)
            ids = torch.from_numpy(batch.ids).to(self.device)
            offsets = torch.from_numpy(batch.offsets).to(self.device)
            vectors[rows] = self._prepared(ids, offsets)[: len(rows)].float().cpu().numpy()
        return vectors

    @functools.cached_property
    def _prepared(self) -> Network:
        """The network, rearranged for encoding when it is first needed."""
        on_cpu = self.device.type == "cpu"
        if self.precision == "bf16" and on_cpu and not has_bf16_products():
            raise ConfigError(
                f"encoder: {self.name} needs a GPU, or a processor with AVX512-BF16 or AMX, which this one lacks (it "
                "would emulate bf16, slower than fp32); use @int8"
            )
        if self.precision == "int8" and not on_cpu:
            raise ConfigError(f"encoder: {self.name} runs on a CPU only; use @bf16 on {self.device}, or --device cpu")
        prepare(self.network, self.precision)
        return self.network


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


def _filled(batch: Packed, multiple: int) -> Packed:
    """Add sentences of one padding token until the number of tokens is a multiple; their vectors mean nothing."""
    missing = -len(batch.ids) % multiple
    ends = batch.offsets[-1] + np.arange(1, missing + 1)
    return Packed(np.append(batch.ids, np.full(missing, PAD_ID, np.int32)), np.append(batch.offsets, ends))


def load(rest: str, device: str) -> EMSEncoder:
    """Load `NAME` (shipped) or `FOLDER`, either perhaps with `@` and a precision behind it.

    Raises:
        ConfigError: there is no such model, or its precision does not fit.
        ModelError: the folder holds no sound model.
    """
    name, precision = split_precision(rest)
    folder = Path(name)
    if (folder / CONFIG).exists():
        return EMSEncoder(folder, device=device, precision=precision)
    try:
        shipped = pretrained_folder(name)
    except ConfigError:
        if folder.is_dir():
            # Its message says which files a model directory holds.
            return EMSEncoder(folder, device=device, precision=precision)
        raise
    return EMSEncoder(shipped, name=f"ems:{name}", device=device, precision=precision)
