"""Start a training from a trained model: the same network, or one with layers and positions added."""

from pathlib import Path

import torch
from torch import nn

from emsmine.encoder.folders import CONFIG, pretrained_folder
from emsmine.encoder.model.directory import TOKENIZER, load_model
from emsmine.encoder.model.network import Layer, Network
from emsmine.errors import ConfigError


def model_folder(spec: str) -> Path:
    """Return the model directory that `ems:NAME` or `ems:FOLDER` means.

    Raises:
        ConfigError: another kind of encoder, or an unknown name.
    """
    kind, _, name = spec.partition(":")
    if kind != "ems" or not name:
        raise ConfigError(f"train: optimiser.init is {spec!r}; it must be ems:NAME or ems:FOLDER")
    folder = Path(name)
    return folder if (folder / CONFIG).exists() else pretrained_folder(name)


def initial_tokenizer(spec: str) -> Path:
    """Return the tokeniser of the model that `spec` means: its token table is worth nothing with another."""
    return model_folder(spec) / TOKENIZER


def initialise(network: Network, spec: str, preprocessing: str) -> None:
    """Copy the weights of a model; layers and positions that it lacks start without effect.

    So the network gives the vectors of the model before the first step. What a new layer adds to the sum is zero at
    first, which needs pre-norm layers: after a sum, a norm changes the vectors whatever the layer adds.

    Args:
        network: to fill, in place.
        spec: `ems:NAME` or `ems:FOLDER`.
        preprocessing: of the training; must be that of the model.

    Raises:
        ConfigError: the network cannot start as the model does; the message names the settings.
        ModelError: the model cannot be loaded.
    """
    source, config = load_model(model_folder(spec))
    _check(network, source, spec)
    if config["preprocessing"] != preprocessing:
        raise ConfigError(
            f"train: data.preprocessing is {preprocessing!r}, but {spec} was trained with "
            f"{config['preprocessing']!r}; set data.preprocessing to that"
        )
    network.load_state_dict(source.state_dict(), strict=False)
    with torch.no_grad():
        if network.embedding.positions is not None and source.embedding.positions is None:
            network.embedding.positions.weight.zero_()
        for layer in network.layers[len(source.layers) :]:
            assert isinstance(layer, Layer)
            for linear in (layer.attention_output, layer.ffn_output):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)


def _check(network: Network, source: Network, spec: str) -> None:
    wanted, given = network.config, source.config
    same = ["vocab_size", "dim", "embedding_norm", "layer_norm_eps"]
    if given.num_layers:
        same += ["num_heads", "ffn_dim", "activation", "layer_norm"]
    if given.positions == "learned":
        same += ["positions", "max_tokens"]
    differing = [key for key in same if getattr(wanted, key) != getattr(given, key)]
    if differing:
        what = ", ".join(f"network.{key} {getattr(wanted, key)!r} (there {getattr(given, key)!r})" for key in differing)
        raise ConfigError(f"train: optimiser.init is {spec}, but these differ from that model: {what}; set them alike")
    if wanted.num_layers < given.num_layers:
        raise ConfigError(
            f"train: optimiser.init is {spec}, which has {given.num_layers} layers; network.num_layers is "
            f"{wanted.num_layers}, and cannot be fewer"
        )
    if wanted.num_layers > given.num_layers and wanted.layer_norm != "pre":
        raise ConfigError(
            f"train: network.num_layers is {wanted.num_layers}, {wanted.num_layers - given.num_layers} more than "
            f"{spec} has; layers can only be added with network.layer_norm = 'pre'"
        )
