"""The shape of a network: what is refused, and the round trip through JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from emsmine.encoder.model.config import NetworkConfig, read_json
from emsmine.errors import ModelError


def test_the_defaults_are_the_published_encoder() -> None:
    config = NetworkConfig()
    assert (config.num_layers, config.dim, config.num_heads, config.ffn_dim) == (6, 1024, 16, 4096)
    assert (config.vocab_size, config.max_tokens, config.activation) == (60_000, 120, "swish")


def test_json_round_trip() -> None:
    config = NetworkConfig(dim=32, num_heads=4, activation="gelu", embedding_norm=False, hidden_dropout=0)
    assert NetworkConfig.from_mapping(json.loads(config.to_json()), "here") == config


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("activation", "tanh", "'tanh' is unknown; choose from swish, gelu, relu"),
        ("positions", "rotary", "'rotary' is unknown; choose from learned, none"),
        ("vocab_size", 0, "vocab_size is 0"),
        ("dim", -4, "dim is -4"),
        ("max_tokens", 0, "max_tokens is 0"),
        ("num_layers", -1, "num_layers is -1"),
        ("num_heads", 0, "num_heads is 0"),
        ("num_heads", 7, "dim 1024 is not a multiple of num_heads 7"),
        ("ffn_dim", 0, "ffn_dim is 0"),
        ("hidden_dropout", 1.0, "hidden_dropout is 1.0"),
        ("embedding_dropout", -0.1, "embedding_dropout is -0.1"),
        ("attention_dropout", float("nan"), "attention_dropout is nan"),
    ],
)
def test_impossible_values_are_named(field: str, value: Any, named: str) -> None:
    with pytest.raises(ModelError) as caught:
        dataclasses.replace(NetworkConfig(), **{field: value})
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"dims": 4, "heads": 2}, "unknown network setting dims, heads"),
        ({"dim": "64"}, "dim is '64'; it must be of type int"),
        ({"dim": 64.0}, "dim is 64.0; it must be of type int"),
        ({"embedding_norm": 1}, "embedding_norm is 1; it must be of type bool"),
        ({"num_layers": True}, "num_layers is True; it must be of type int"),
        ({"layer_norm_eps": None}, "layer_norm_eps is None; it must be of type float"),
    ],
)
def test_keys_and_types_are_checked_with_their_place(mapping: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as caught:
        NetworkConfig.from_mapping(mapping, "model/config.json")
    assert str(caught.value).startswith("model/config.json: ")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "does not exist"), (b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[1]", "must hold a JSON object")],
)
def test_read_json_says_what_is_wrong(tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=named) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
