"""From a name such as `ems:default` to an encoder."""

import importlib.metadata
from importlib.metadata import EntryPoint

from emsmine.encoder.protocol import Encoder
from emsmine.errors import ConfigError

ENTRY_POINTS = "emsmine.encoders"


_LOADERS = {
    "ems": "emsmine.encoder.ems:load",
    "sentence-transformers": "emsmine.encoder.sbert:load",
}
"""By kind, `module:function` of a callable `(rest, device) → Encoder`, written as in an entry point."""


def load_encoder(spec: str, *, device: str = "auto") -> Encoder:
    """Load an encoder.

    Args:
        spec: `ems:NAME` (shipped), `ems:FOLDER`, `sentence-transformers:NAME`, or `KIND:REST` where another package
            registers KIND in the entry-point group `emsmine.encoders` (a callable `(rest, device) → Encoder`).
            The first two may end in a precision: `@fp32`, `@int8` or `@bf16`; the third in `?prompt=TEXT`, which is
            put before every sentence.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.

    Raises:
        ConfigError: the kind or the name is unknown.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise ConfigError(f"encoder: {spec!r} must be KIND:NAME, as in ems:default")
    points = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    points |= {name: EntryPoint(name, loader, ENTRY_POINTS) for name, loader in _LOADERS.items()}
    if kind not in points:
        raise ConfigError(f"encoder: kind {kind!r} of {spec!r} is unknown; known: {', '.join(sorted(points))}")
    encoder: Encoder = points[kind].load()(rest, device)
    return encoder
