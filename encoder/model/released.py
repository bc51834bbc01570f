"""Released EMS checkpoints: their parameter names, mapped onto ours.

Reference: Mao, Chu & Kurohashi 2024, released code, modeling/model_v2.py. A checkpoint is a dictionary whose entry
`state_dict` holds the parameters; training under DataParallel put `module.` before every name, and older checkpoints
keep the transform of the reconstruction head below the decoder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from emsmine.errors import ModelError

# Row n of the released language table is language n; the pieces `<2en>` … of the released tokeniser have this order.
_LANGUAGES = (
    "en af ar bg bn ca cs da de el eo es et eu fa fi fr gl gu he hi hr hu hy id it ja jv ka kk ko ku lt lv ml mr ms mk "
    "mn my nl nb pl pt ro ru sk sl sq sr sv sw ta te th tl tr uk ur vi yo zh"
)
RELEASED_LANGUAGES = tuple(_LANGUAGES.split())

_WRAPPER = "module."
_OLD_TRANSFORM, _TRANSFORM = "model.decoder.transform.", "model.transform."

_LAYER = re.compile(r"model\.bert\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
_LAYER_NAMES = {
    "attention.self_attention.query": "query",
    "attention.self_attention.key": "key",
    "attention.self_attention.value": "value",
    "attention.output.dense": "attention_output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "ffn_input",
    "output.dense": "ffn_output",
    "output.LayerNorm": "ffn_norm",
}
_EMBEDDING = {
    "model.bert.embedding.word_embedding.embedding.weight": "embedding.tokens.weight",
    "model.bert.embedding.position_embedding.position_embeddings.weight": "embedding.positions.weight",
    "model.bert.embedding.layer_norm.weight": "embedding.norm.weight",
    "model.bert.embedding.layer_norm.bias": "embedding.norm.bias",
}
_RECONSTRUCTION = {
    "model.la_tag_linear.embedding.weight": "language.weight",
    "model.la_tag_linear.layer_norm.weight": "language_norm.weight",
    "model.la_tag_linear.layer_norm.bias": "language_norm.bias",
    "model.transform.dense.weight": "dense.weight",
    "model.transform.dense.bias": "dense.bias",
    "model.transform.LayerNorm.weight": "norm.weight",
    "model.transform.LayerNorm.bias": "norm.bias",
    "model.decoder.decoder.weight": "decoder.weight",
}
_PROJECTION = {
    # Numbers 1 and 2 of the released sequence are ReLU and dropout.
    "alignproj.0.weight": "input.weight",
    "alignproj.0.bias": "input.bias",
    "alignproj.3.weight": "output.weight",
    "alignproj.3.bias": "output.bias",
}


@dataclass(frozen=True)
class ReleasedState:
    """The parameters of a released checkpoint under our names; a head that it lacks is empty."""

    network: dict[str, Tensor]
    """For `Network`."""
    reconstruction: dict[str, Tensor]
    """For `ReconstructionHead`."""
    projection: dict[str, Tensor]
    """For `ProjectionHead`."""
    num_layers: int


def released_state(state: Mapping[str, Tensor]) -> ReleasedState:
    """Rename the parameters of a released checkpoint.

    Args:
        state: the `state_dict` of the checkpoint, with or without `module.` before the names.

    Returns:
        The parameters by module. A head must be whole or absent; the encoder must be whole.

    Raises:
        ModelError: names are unknown, missing or there twice; the message lists them.
    """
    plain: dict[str, Tensor] = {}
    twice: list[str] = []
    for key, value in state.items():
        name = key.removeprefix(_WRAPPER)
        if name.startswith(_OLD_TRANSFORM):
            name = _TRANSFORM + name.removeprefix(_OLD_TRANSFORM)
        if name in plain:
            twice.append(key)
        plain[name] = value
    # At least one, so that an encoder without layers shows as missing names.
    num_layers = max(1, len({match[1] for match in map(_LAYER.fullmatch, plain) if match}))
    network_names = _EMBEDDING | _layer_names(num_layers)
    groups = (network_names, *(head for head in (_RECONSTRUCTION, _PROJECTION) if not plain.keys().isdisjoint(head)))
    expected = {name for group in groups for name in group}
    unknown, missing = sorted(plain.keys() - expected), sorted(expected - plain.keys())
    if unknown or missing or twice:
        raise ModelError(
            "convert: the parameters are not those of a released EMS checkpoint; "
            f"unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}; "
            f"there twice: {', '.join(twice) or 'none'}; pass the entry state_dict of an EMS .pt file"
        )
    network, reconstruction, projection = (
        {ours: plain[theirs] for theirs, ours in group.items() if theirs in plain}
        for group in (network_names, _RECONSTRUCTION, _PROJECTION)
    )
    return ReleasedState(network, reconstruction, projection, num_layers)


def _layer_names(num_layers: int) -> dict[str, str]:
    """Return the released → our names of all layers; a gap in the numbers shows as unknown and missing names."""
    return {
        f"model.bert.encoder.layer.{number}.{theirs}.{kind}": f"layers.{number}.{ours}.{kind}"
        for number in range(num_layers)
        for theirs, ours in _LAYER_NAMES.items()
        for kind in ("weight", "bias")
    }
