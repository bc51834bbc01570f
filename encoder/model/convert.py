"""Released EMS checkpoints (`.pt`) → our model directories. The only place that opens a foreign `.pt` file.

No pickled code runs: see `tensor_files`.
"""

from pathlib import Path

import torch
from torch import Tensor

from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.released import ReleasedState, released_state
from emsmine.encoder.model.tensor_files import TensorFileError, load_tensors
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.errors import ModelError
from emsmine.memory import shortage

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
    missing = shortage(8 * config.num_parameters)
    if missing:
        raise ModelError(f"convert: {checkpoint} takes {missing}; use a larger machine")
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
        loaded = load_tensors(path, "cpu")
    except FileNotFoundError:
        raise ModelError(f"convert: {path} does not exist") from None
    except TensorFileError as error:
        raise ModelError(
            f"convert: {path} is not a plain PyTorch checkpoint and was not loaded: {error}; get the file from its "
            "authors again, as a dictionary of tensors (a state_dict)"
        ) from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not state:
        raise ModelError(f"convert: {path} holds no state_dict; a released checkpoint is a dictionary that has one")
    strange = [str(key)[:80] for key, value in state.items() if not isinstance(key, str) or not _is_plain(value)]
    if strange:
        raise ModelError(f"convert: {path} has entries that are no tensors of numbers: {', '.join(strange[:10])}")
    return state


def _is_plain(value: object) -> bool:
    """Tell whether a value is a tensor whose numbers are in the file: a view can claim any size."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        return False
    return value.device.type == "cpu" and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


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
