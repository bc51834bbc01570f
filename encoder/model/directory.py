"""A model on disk: `config.json`, `model.safetensors`, `sentencepiece.model`.

`config.json` holds `format` (1), `name`, `network`, `preprocessing` (`none` or `ems`), `table` (`float16`, `float32` or
`int8`: how the token table is stored), `sha256` of the other two files, and `seal`, the SHA-256 of all these entries.
safetensors has no checksum of its own (of 1000 files with a flipped byte 652 loaded silently different weights in a
test), and 35 of 300 mutants of a `config.json` without a seal were other models, so all are verified.

A directory that an earlier version wrote has no seal: it loads with a warning. Who edits a `config.json` on purpose
seals it again with `python -m emsmine.encoder.model.seal FOLDER`.
"""

import hashlib
import json
import logging
import math
import os
import re
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from emsmine.encoder.folders import CONFIG
from emsmine.encoder.model.config import NetworkConfig, read_json
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.preprocessing import PREPROCESSINGS
from emsmine.errors import ModelError
from emsmine.memory import shortage

logger = logging.getLogger(__name__)

WEIGHTS, TOKENIZER = "model.safetensors", "sentencepiece.model"
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
_SEAL = "seal"
_SHA256 = re.compile("[0-9a-f]{64}")
# Bytes of a weight while a model is loaded: all become float32.
_LOADED_BYTES = 4


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def config_identity(config: dict[str, Any]) -> str:
    """Return the entries of a `config.json` as canonical text, but for the seal: equal for equal models."""
    return json.dumps({key: value for key, value in config.items() if key != _SEAL}, sort_keys=True)


def config_seal(config: dict[str, Any]) -> str:
    """Return what `seal` must be in a `config.json`."""
    return hashlib.sha256(config_identity(config).encode()).hexdigest()


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
    config: dict[str, Any] = {
        "format": 1,
        "name": name,
        "network": asdict(network.config),
        "preprocessing": preprocessing,
        "table": table,
        "sha256": {file: file_sha256(output / file) for file in (WEIGHTS, TOKENIZER)},
    }
    write_config(output, config)
    return output


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the `config.json` of a model directory with its seal, atomically."""
    written = folder / f".{CONFIG}.{os.getpid()}"
    sealed = {**config, _SEAL: config_seal(config)}
    written.write_text(json.dumps(sealed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _publish(written, folder / CONFIG)


def _publish(temporary: Path, final: Path) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(final)


def load_model(folder: Path) -> tuple[Network, dict[str, Any]]:
    """Load a model directory.

    Returns:
        The network in float32 and evaluation mode, and the parsed `config.json`.

    Raises:
        ModelError: a file is missing or does not match its hash, the weights do not fit the configuration or are not
            finite, or they do not fit into memory.
    """
    config = read_config(folder)
    for file, expected in config["sha256"].items():
        found = _existing_sha256(folder / file)
        if found != expected:
            raise ModelError(
                f"model: {folder / file} is damaged: sha256 {found[:12]}… instead of {expected[:12]}…; "
                "copy the model again"
            )
    shape = NetworkConfig.from_mapping(config["network"], str(folder / CONFIG))
    _check_size(folder / WEIGHTS, shape, has_scales=config["table"] == "int8")
    network = Network(shape, blank_table=True)
    try:
        state = load_file(folder / WEIGHTS)
        _check_finite(state, folder / WEIGHTS)
        if config["table"] == "int8":
            scale = state.pop(_TABLE_KEY + ".scale")
            state[_TABLE_KEY] = state[_TABLE_KEY].float().mul_(scale[:, None])
        network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except (RuntimeError, KeyError, IndexError, SafetensorError) as error:
        raise ModelError(f"model: {folder / WEIGHTS} does not fit its configuration: {error}") from error
    return network.eval(), config


def _existing_sha256(path: Path) -> str:
    if not path.is_file():
        raise ModelError(f"model: {path} does not exist; copy the whole model directory again")
    try:
        return file_sha256(path)
    except OSError as error:
        raise ModelError(f"model: cannot read {path} ({error.strerror})") from error


def _check_size(weights: Path, shape: NetworkConfig, *, has_scales: bool) -> None:
    """Compare the sizes of the configuration with those in the file, before anything of these sizes is made."""
    try:
        with safe_open(weights, framework="pt") as file:
            sizes = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"model: {weights} does not fit its configuration: {error}") from error
    stored, expected = sum(sizes), shape.num_parameters + shape.vocab_size * has_scales
    if stored != expected:
        raise ModelError(
            f"model: {weights} does not fit its configuration: it holds {stored:,} numbers, but the network of "
            f"{CONFIG} has {expected:,}; the files belong to different models"
        )
    missing = shortage(_LOADED_BYTES * shape.num_parameters)
    if missing:
        raise ModelError(f"model: {weights.parent} takes {missing}; use a smaller model or a larger machine")


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    for name, value in state.items():
        # The least and the largest number are not finite if any number is not.
        if value.is_floating_point() and value.numel() and not torch.isfinite(torch.stack(value.aminmax())).all():
            raise ModelError(
                f"model: {path} holds numbers in {name} that are not finite; every vector would be worthless: "
                "train or convert the model again"
            )


def read_config(folder: Path, *, sealed: bool = True) -> dict[str, Any]:
    """Read and check `config.json`: every key there and of its type, no other key, and the seal.

    Args:
        folder: the model directory.
        sealed: False: take the entries as they are, for who is about to seal them again.

    Raises:
        ModelError: the file is missing or damaged, or holds what is no configuration.
    """
    path = folder / CONFIG
    config = read_json(path)
    if type(config.get("format")) is not int or config["format"] != 1:
        raise ModelError(f"model: {path} has format {config.get('format')!r}; this emsmine reads format 1")
    unknown = sorted(set(config) - {*_CONFIG_TYPES, _SEAL})
    missing = sorted(set(_CONFIG_TYPES) - set(config))
    if unknown or missing:
        raise ModelError(
            f"model: {path} has unknown keys ({', '.join(unknown) or 'none'}) or lacks keys "
            f"({', '.join(missing) or 'none'}); copy the whole model directory again, or update emsmine"
        )
    if sealed:
        _check_seal(config, path)
    for key, kind in _CONFIG_TYPES.items():
        if not isinstance(config[key], kind):
            raise ModelError(f"model: {path} has {key} {config[key]!r}; it must be of type {kind.__name__}")
    for key, known in (("table", TABLES), ("preprocessing", PREPROCESSINGS)):
        if config[key] not in known:
            raise ModelError(f"model: {path} has {key} {config[key]!r}; this emsmine knows {', '.join(known)}")
    # Fixed names, so that no file outside the folder can be meant.
    if sorted(config["sha256"]) != sorted((WEIGHTS, TOKENIZER)):
        raise ModelError(f"model: {path} must hold the sha256 of {WEIGHTS} and {TOKENIZER}, and of nothing else")
    for file, digest in config["sha256"].items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ModelError(f"model: {path} has no SHA-256 of {file}: {digest!r}; copy the model again")
    return config


def _check_seal(config: dict[str, Any], path: Path) -> None:
    again = f"python -m emsmine.encoder.model.seal {path.parent}"
    if _SEAL not in config:
        logger.warning(
            "model: %s has no seal (an earlier emsmine wrote it), so damage of its settings would go unnoticed; "
            "if the model is in order, seal it: %s",
            path,
            again,
        )
    elif config[_SEAL] != config_seal(config):
        raise ModelError(
            f"model: {path} is damaged, or was edited: its entries do not match its seal; copy the model again, or "
            f"if you meant the change: {again}"
        )
