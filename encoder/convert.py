"""Released EMS checkpoints (`.pt`) → our model directories. The only place that opens a foreign `.pt` file.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses everything else: no pickled code runs.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emsmine.encoder.config import NetworkConfig
from emsmine.encoder.model_directory import save_model
from emsmine.encoder.network import Network
from emsmine.encoder.released import ReleasedState, released_state
from emsmine.encoder.tokenizer import Tokenizer
from emsmine.errors import ModelError

_HEAD_WIDTH = 64
"""Width of an attention head in every published EMS network: the number of heads is not stored in a checkpoint."""


def convert(
    checkpoint: Path, tokenizer: Path, output: Path, *, name: str, num_heads: int = 0, table: str = "float32"
) -> Path:
    """Write a released checkpoint as a model directory that pre-tokenises as the release does.

    Args:
        checkpoint: `.pt` file: `{"state_dict": {name: tensor}, …}`, or the parameters themselves.
        tokenizer: SentencePiece model of the release.
        output: folder to write.
        name: name of the model.
        num_heads: attention heads; 0: width / 64, as in every published network.
        table: storage of the weights, see `save_model`.

    Raises:
        ModelError: the file is no such checkpoint, holds anything but tensors and plain values, has unknown or missing
            parameters or wrong shapes (all are listed), or does not fit the tokeniser.
    """
    state = released_state(_read_parameters(checkpoint))
    config = _config(state, num_heads, checkpoint)
    pieces = Tokenizer(tokenizer).vocab_size
    if pieces != config.vocab_size:
        raise ModelError(
            f"convert: {tokenizer} has {pieces} pieces but {checkpoint} has vectors for "
            f"{config.vocab_size}; give the tokeniser that the checkpoint was trained with"
        )
    network = Network(config)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    wrong = [
        f"{key}: {tuple(value.shape)} instead of {expected[key]}"
        for key, value in state.network.items()
        if tuple(value.shape) != expected[key]
    ]
    if wrong:
        raise ModelError(f"convert: {checkpoint} has parameters of unexpected shapes: {'; '.join(wrong)}")
    network.load_state_dict({key: value.float() for key, value in state.network.items()})
    return save_model(network, tokenizer, output, name=name, preprocessing="ems", table=table)


def _read_parameters(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # Of an unusual pickle protocol; the file is refused or loaded all the same.
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"convert: {path} does not exist") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"convert: {path} is not a plain PyTorch checkpoint and was not loaded ({reason})") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not state:
        raise ModelError(f"convert: {path} holds no state_dict; a released checkpoint is a dictionary that has one")
    strange = [str(key) for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange:
        raise ModelError(f"convert: {path} has entries that are no tensors: {', '.join(strange[:10])}")
    return state


def _config(state: ReleasedState, num_heads: int, path: Path) -> NetworkConfig:
    """Read the shape of the network off its parameters."""
    matrices = {
        key: value
        for key, value in state.network.items()
        if key in ("embedding.tokens.weight", "embedding.positions.weight", "layers.0.ffn_input.weight")
    }
    flat = [f"{key}: {tuple(value.shape)}" for key, value in matrices.items() if value.ndim != 2]
    if flat:
        raise ModelError(f"convert: {path} has parameters of unexpected shapes: {'; '.join(flat)}")
    vocab_size, dim = matrices["embedding.tokens.weight"].shape
    ffn = matrices.get("layers.0.ffn_input.weight")
    return NetworkConfig(
        vocab_size=vocab_size,
        dim=dim,
        num_layers=state.num_layers,
        num_heads=num_heads or max(1, dim // _HEAD_WIDTH),
        ffn_dim=4 * dim if ffn is None else ffn.shape[0],
        max_tokens=matrices["embedding.positions.weight"].shape[0] - 1,
    )
