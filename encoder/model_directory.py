"""A model on disk: `config.json`, `model.safetensors`, `sentencepiece.model`.

`config.json` holds `format` (1), `name`, `network`, `preprocessing` (`none` or `ems`), `table` (`float16`, `float32` or
`int8`: how the token table is stored), and `sha256` of the other two files. safetensors has no checksum of its own
(of 1000 files with a flipped byte 652 loaded silently different weights in a test), so the hashes are verified.
"""

import hashlib
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from emsmine.encoder.config import NetworkConfig, read_json
from emsmine.encoder.network import Network
from emsmine.encoder.preprocessing import PREPROCESSINGS
from emsmine.errors import ModelError

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "sentencepiece.model", "config.json"
TABLES = ("float32", "float16", "int8")
_TABLE_KEY = "embedding.tokens.weight"
_CONFIG_TYPES: dict[str, type] = {
    "format": int,
    "name": str,
    "network": dict,
    "preprocessing": str,
    "sha256": dict,
    "table": str,
}


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def quantise_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """Store each row as int8 with one scale: row ≈ int8 × scale.

    Shapes: table float [V, D] → int8 [V, D], float32 [V].
    """
    scale = table.abs().amax(dim=1).clamp_min(1e-12) / 127
    return torch.round(table / scale[:, None]).to(torch.int8), scale.to(torch.float32)


def save_model(
    network: Network, tokenizer: Path, output: Path, *, name: str, preprocessing: str = "none", table: str = "float16"
) -> Path:
    """Write a model directory; files are replaced atomically, `config.json` last.

    Args:
        network: weights to save.
        tokenizer: SentencePiece model to copy.
        output: folder to create or to replace the files of.
        name: shown in signatures.
        preprocessing: `none`, or `ems` for the pre-tokenisation of the released EMS.
        table: storage of the token table; everything else is float16 unless `table` is float32.

    Raises:
        ModelError: an unknown `table` or `preprocessing`, or weights that are not finite in the stored type.
    """
    if table not in TABLES or preprocessing not in PREPROCESSINGS:
        raise ModelError(
            f"model: table {table!r} or preprocessing {preprocessing!r} is unknown; choose from "
            f"{', '.join(TABLES)} and {', '.join(PREPROCESSINGS)}"
        )
    dtype = torch.float32 if table == "float32" else torch.float16
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in network.state_dict().items()}
    if table == "int8":
        full = network.state_dict()[_TABLE_KEY].detach().cpu().float()
        state[_TABLE_KEY], state[_TABLE_KEY + ".scale"] = quantise_rows(full)
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(
                f"model: {key} holds values that are not finite as {value.dtype}; nothing was written to {output}; "
                "train with a lower learning rate, or save with table float32"
            )
    output.mkdir(parents=True, exist_ok=True)
    temporary = output / f".{WEIGHTS}.{os.getpid()}"
    # safetensors makes files that only their owner can read; a file of ours tells what the umask allows.
    temporary.touch()
    mode = stat.S_IMODE(temporary.stat().st_mode)
    save_file(state, temporary)
    temporary.chmod(mode)
    _publish(temporary, output / WEIGHTS)
    copied = output / f".{TOKENIZER}.{os.getpid()}"
    copied.write_bytes(tokenizer.read_bytes())
    _publish(copied, output / TOKENIZER)
    config = {
        "format": 1,
        "name": name,
        "network": asdict(network.config),
        "preprocessing": preprocessing,
        "table": table,
        "sha256": {file: file_sha256(output / file) for file in (WEIGHTS, TOKENIZER)},
    }
    written = output / f".{CONFIG}.{os.getpid()}"
    written.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _publish(written, output / CONFIG)
    return output


def _publish(temporary: Path, final: Path) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(final)


def load_model(folder: Path) -> tuple[Network, dict[str, Any]]:
    """Load a model directory.

    Returns:
        The network in float32 and evaluation mode, and the parsed `config.json`.

    Raises:
        ModelError: a file is missing, does not match its hash, or the weights do not fit the configuration.
    """
    config = _read_config(folder / CONFIG)
    for file, expected in config["sha256"].items():
        if not (folder / file).exists():
            raise ModelError(f"model: {folder / file} does not exist; copy the whole model directory again")
        found = file_sha256(folder / file)
        if found != expected:
            raise ModelError(
                f"model: {folder / file} is damaged: sha256 {found[:12]}… instead of {expected[:12]}…; "
                "copy the model again"
            )
    network = Network(NetworkConfig.from_mapping(config["network"], str(folder / CONFIG)), blank_table=True)
    try:
        state = load_file(folder / WEIGHTS)
        if config["table"] == "int8":
            scale = state.pop(_TABLE_KEY + ".scale")
            state[_TABLE_KEY] = state[_TABLE_KEY].float().mul_(scale[:, None])
        network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except (RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"model: {folder / WEIGHTS} does not fit its configuration: {error}") from error
    return network.eval(), config


def _read_config(path: Path) -> dict[str, Any]:
    """Read and check `config.json`: every key there and of its type, no other key."""
    config = read_json(path)
    if config.get("format") != 1:
        raise ModelError(f"model: {path} has format {config.get('format')!r}; this emsmine reads format 1")
    unknown, missing = sorted(set(config) - set(_CONFIG_TYPES)), sorted(set(_CONFIG_TYPES) - set(config))
    if unknown or missing:
        raise ModelError(
            f"model: {path} has unknown keys ({', '.join(unknown) or 'none'}) or lacks keys "
            f"({', '.join(missing) or 'none'}); copy the whole model directory again, or update emsmine"
        )
    for key, kind in _CONFIG_TYPES.items():
        if not isinstance(config[key], kind):
            raise ModelError(f"model: {path} has {key} {config[key]!r}; it must be of type {kind.__name__}")
    for key, known in (("table", TABLES), ("preprocessing", PREPROCESSINGS)):
        if config[key] not in known:
            raise ModelError(f"model: {path} has {key} {config[key]!r}; this emsmine knows {', '.join(known)}")
    if sorted(config["sha256"]) != sorted((WEIGHTS, TOKENIZER)):
        raise ModelError(f"model: {path} must hold the sha256 of {WEIGHTS} and {TOKENIZER}, and of nothing else")
    return config
