"""The shape of an EMS network, as stored in a model's `config.json`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsmine.errors import ModelError

ACTIVATIONS = ("swish", "gelu", "relu")
POSITIONS = ("learned", "none")
NORMS = ("post", "pre")
_LARGEST = {
    # Token ids are int32.
    "vocab_size": 2**31 - 1,
    "dim": 2**16,
    "num_layers": 1000,
    "num_heads": 2**16,
    "ffn_dim": 2**20,
    "max_tokens": 2**20,
}
"""Far beyond every published encoder; a layer alone would take more memory than machines have, or ages to make."""
_MAX_JSON_BYTES = 1024 * 1024


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and switches of the encoder network.

    The defaults are the published EMS encoder (Mao, Chu & Kurohashi 2024, released configuration 'EMS'). With
    `num_layers = 0`, `positions = "none"` and `embedding_norm = False` the network is a mean of subword vectors.
    """

    vocab_size: int = 60000
    """Pieces; must be that of the tokeniser."""
    dim: int = 1024
    """Width of tokens and of the sentence vector."""
    num_layers: int = 6
    """Transformer layers; 0: the network is a mean of subword vectors."""
    num_heads: int = 16
    """Attention heads; must divide `dim`."""
    ffn_dim: int = 4096
    """Width of the feed-forward part of a layer."""
    activation: str = "swish"
    """Of the feed-forward part: `swish`, `gelu` or `relu`."""
    max_tokens: int = 120
    """Longer sentences are cut here; the encoder counts them."""
    positions: str = "learned"
    """Position vectors: `learned` or `none`."""
    embedding_norm: bool = True
    """LayerNorm after the sum of token and position vectors."""
    layer_norm_eps: float = 1e-12
    """Added to variances in every LayerNorm."""
    layer_norm: str = "post"
    """Where the layers normalise: `post`, after each sum, as published, or `pre`, before attention and feed-forward.
    `pre` leaves the token vectors in the sum, so that a model without layers can be continued with layers."""
    embedding_dropout: float = 0.1
    """Of token vectors, and of the language vector of the reconstruction head."""
    attention_dropout: float = 0.1
    """Of attention weights."""
    hidden_dropout: float = 0.1
    """Of what attention and feed-forward add."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if self.activation not in ACTIVATIONS:
            raise ModelError(
                f"network: activation {self.activation!r} is unknown; choose from {', '.join(ACTIVATIONS)}"
            )
        if self.positions not in POSITIONS:
            raise ModelError(f"network: positions {self.positions!r} is unknown; choose from {', '.join(POSITIONS)}")
        if self.layer_norm not in NORMS:
            raise ModelError(f"network: layer_norm {self.layer_norm!r} is unknown; choose from {', '.join(NORMS)}")
        for field in ("vocab_size", "dim", "max_tokens", "num_heads", "ffn_dim"):
            if getattr(self, field) < 1:
                raise ModelError(f"network: {field} is {getattr(self, field)}; it must be at least 1")
        for field, largest in _LARGEST.items():
            if getattr(self, field) > largest:
                raise ModelError(f"network: {field} is {_shown(getattr(self, field))}; it must be at most {largest}")
        if not 0 < self.layer_norm_eps < 1:
            raise ModelError(f"network: layer_norm_eps is {self.layer_norm_eps}; it must be above 0 and below 1")
        for field in ("embedding_dropout", "attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ModelError(f"network: {field} is {getattr(self, field)}; it must be at least 0 and below 1")
        if self.num_layers < 0:
            raise ModelError(f"network: num_layers is {self.num_layers}; it must not be negative")
        if self.num_layers and self.dim % self.num_heads:
            raise ModelError(f"network: dim {self.dim} is not a multiple of num_heads {self.num_heads}")

    @property
    def num_parameters(self) -> int:
        """Number of weights of the network, without building it."""
        dim, ffn = self.dim, self.ffn_dim
        positions = (self.max_tokens + 1) * dim if self.positions == "learned" else 0
        norm = 2 * dim if self.embedding_norm else 0
        return (
            self.vocab_size * dim + positions + norm + self.num_layers * (4 * dim * dim + 2 * dim * ffn + 9 * dim + ffn)
        )

    @classmethod
    def from_mapping(cls, mapping: dict[str, Any], where: str) -> "NetworkConfig":
        """Build from a parsed JSON object.

        Raises:
            ModelError: a key is unknown, or a value has the wrong type; the message names it.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(mapping) - known)
        if unknown:
            raise ModelError(
                f"{where}: unknown network setting {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        for key, value in mapping.items():
            wanted = type(getattr(cls, key))
            fits = isinstance(value, (int, float) if wanted is float else wanted)
            if not fits or isinstance(value, bool) != (wanted is bool):
                raise ModelError(f"{where}: network setting {key} is {value!r}; it must be of type {wanted.__name__}")
        try:
            return cls(**mapping)
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from None

    def to_json(self) -> str:
        """Return canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)


def _shown(value: int) -> str:
    return str(value) if value < 10**18 else f"about 2^{value.bit_length()}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that belongs to a model directory.

    Raises:
        ModelError: the file is missing or cannot be read, is too large, or holds no JSON object.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_JSON_BYTES + 1)
        if len(content) > _MAX_JSON_BYTES:
            raise ModelError(f"model: {path} has more than {_MAX_JSON_BYTES >> 20} MiB; it is no file of a model")
        value = json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"model: {path} does not exist; a model directory holds config.json, model.safetensors and "
            "sentencepiece.model"
        ) from None
    except OSError as error:
        raise ModelError(f"model: cannot read {path} ({error.strerror})") from error
    except RecursionError:
        raise ModelError(f"model: {path} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        # Also of bytes that are no UTF-8, and of integers of thousands of digits.
        raise ModelError(f"model: {path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"model: {path} must hold a JSON object, got {type(value).__name__}")
    return value
