"""A scorer on disk: one safetensors file, `scorer.safetensors`, in the directory of the model whose tokens it weighs.

It holds the projection and the weights of the tokens, and both networks. The token vectors themselves are those of the
model, which must be the very one that the scorer was trained with. safetensors has no checksum of its own, so a seal
over all contents is kept in the metadata.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from emsmine.errors import ModelError
from emsmine.mining.scoring import scorer
from emsmine.mining.scoring.head import Head
from emsmine.mining.scoring.scorer import PairScorer
from emsmine.mining.scoring.tokens import token_vectors
from emsmine.mining.scoring.training import TrainedScorer

FORMAT = "1"
_LARGEST_FILE = 64 << 20
_PROJECTION, _WEIGHTS = "tokens.projection", "tokens.log_weights"
_HEADS = {
    "pair": (len(scorer.SIDE_FEATURES), len(scorer.PAIR_FEATURES)),
    "context": (len(scorer.CONTEXT_SIDE_FEATURES), len(scorer.CONTEXT_PAIR_FEATURES)),
}

Tensors = Mapping[str, NDArray[np.generic]]


def encoded_scorer(trained: TrainedScorer, model: str) -> bytes:
    """Return the content of the file.

    Args:
        trained: the scorer.
        model: fingerprint of the encoder whose table it was trained with.

    Raises:
        ModelError: a number is not finite in the stored type.
    """
    tensors: dict[str, NDArray[np.generic]] = {
        _PROJECTION: trained.projection.astype(np.float16),
        _WEIGHTS: trained.log_weights.astype(np.float16),
        **trained.scorer.pair_head.tensors("pair"),
        **trained.scorer.context_head.tensors("context"),
    }
    _check_finite(tensors, "the trained scorer")
    content = save(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        {"format": FORMAT, "model": model, "seal": _seal(tensors, model)},
    )
    return _with_sorted_header(content)


def _with_sorted_header(content: bytes) -> bytes:
    """Put the entries of the header in order: safetensors writes its metadata in another one each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def read_scorer(path: Path, table_VD: NDArray[np.float32], model: str) -> PairScorer:
    """Read and check a scorer.

    Args:
        path: the file.
        table_VD: token vectors of the encoder.
        model: its fingerprint.

    Raises:
        ModelError: the file is missing, damaged, of another format, or belongs to another model.
    """
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise ModelError(f"scorer: {path} has format {metadata.get('format')!r}; this emsmine reads format {FORMAT}")
    if metadata.get("seal") != _seal(tensors, metadata.get("model", "")):
        raise ModelError(f"scorer: {path} is damaged: its contents do not match its seal; copy the model again")
    if metadata["model"] != model:
        raise ModelError(
            f"scorer: {path} was trained with another model than the one it lies beside; train it again: "
            "emsmine train-scorer CONFIG.toml"
        )
    _check_finite(tensors, str(path))
    try:
        projection, weights = (tensors[name].astype(np.float32) for name in (_PROJECTION, _WEIGHTS))
        heads = {name: Head.of_tensors(name, tensors) for name in _HEADS}  # type: ignore[arg-type]
    except (KeyError, ValueError) as error:
        raise ModelError(f"scorer: {path} lacks a part or has one of another shape ({error})") from error
    wanted = {name: 2 * side + pair for name, (side, pair) in _HEADS.items()}
    fits = projection.ndim == 2 and len(projection) == table_VD.shape[1] and weights.shape == table_VD.shape[:1]
    if not fits or any(len(head.mean) != wanted[name] for name, head in heads.items()):
        raise ModelError(f"scorer: {path} does not fit this emsmine or its model; train it again: emsmine train-scorer")
    return PairScorer(token_vectors(table_VD, projection, weights), heads["pair"], heads["context"])


def _read(path: Path) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ModelError(f"scorer: {path} has more than {_LARGEST_FILE >> 20} MiB; it is no scorer")
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(
            f"scorer: {path} does not exist: the model has no scorer; train one (emsmine train-scorer CONFIG.toml), or "
            "do without (--no-rescore)"
        ) from None
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ModelError(f"scorer: {path} cannot be read ({error}); copy the model again") from error


def _check_finite(tensors: Tensors, where: str) -> None:
    for name, value in tensors.items():
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ModelError(f"scorer: {where} holds numbers in {name} that are not finite; train it again")


def _seal(tensors: Tensors, model: str) -> str:
    digest = hashlib.sha256(f"{FORMAT}|{model}".encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"|{name}|{value.dtype}|{value.shape}|".encode() + value.tobytes())
    return digest.hexdigest()
