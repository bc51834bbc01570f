"""From a name such as `ems:default` to an encoder."""

import importlib.metadata
import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from emsmine.encoder.protocol import Encoder, FloatArray, through_gateway
from emsmine.errors import ConfigError

ENTRY_POINTS = "emsmine.encoders"


_LOADERS = {
    "ems": "emsmine.encoder.ems:load",
    "sentence-transformers": "emsmine.encoder.sbert:load",
}
"""By kind, `module:function` of a callable `(rest, device) → Encoder`, written as in an entry point."""


class _Guest:
    """An encoder of another package, behind the entrance that ours have; all else is as it has it."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.name = encoder.name
        self.dim = encoder.dim

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_encoder"], name)

    def fingerprint(self) -> str:
        return self._encoder.fingerprint()

    @through_gateway
    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        return self._encoder.encode(sentences, lang=lang)


def _kind_of_folder(spec: str) -> str:
    """Return the kind of encoder that a plain path leads to; "" if no folder is there."""
    folder = Path(spec)
    if spec and not folder.is_dir():
        # Behind the last @ may be a precision.
        folder = Path(spec.rpartition("@")[0] or spec)
    if not spec or not folder.is_dir():
        return ""
    return "sentence-transformers" if (folder / "modules.json").exists() else "ems"


def load_encoder(spec: str | os.PathLike[str], *, device: str = "auto") -> Encoder:
    """Load an encoder.

    Args:
        spec: `ems:NAME` (shipped), `ems:FOLDER`, `sentence-transformers:NAME`, the folder of a model of these kinds, or
            `KIND:REST` where another package registers KIND in the entry-point group `emsmine.encoders` (a callable
            `(rest, device) → Encoder`). The first two may end in a precision: `@fp32`, `@int8` or `@bf16`; the third in
            `?prompt=TEXT`, which is put before every sentence.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.

    Returns:
        An encoder whose `encode` takes any code of a language, and a string or several.

    Raises:
        ConfigError: the kind or the name is unknown.
        MissingDependencyError: its library is not installed.
        ModelError: its files are missing or damaged.
    """
    spec = os.fspath(spec)
    kind, colon, rest = spec.partition(":")
    others = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    points = others | {name: EntryPoint(name, loader, ENTRY_POINTS) for name, loader in _LOADERS.items()}
    if not colon or kind not in points:
        kind_of_folder = _kind_of_folder(spec)
        if kind_of_folder:
            kind, colon, rest = kind_of_folder, ":", spec
    if not colon or not rest:
        raise ConfigError(f"encoder: {spec!r} must be KIND:NAME, as in ems:default, or the folder of a model")
    if kind not in points:
        raise ConfigError(f"encoder: kind {kind!r} of {spec!r} is unknown; known: {', '.join(sorted(points))}")
    encoder = points[kind].load()(rest, device)
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"encoder: {spec!r}: the package that registers {kind!r} returned {type(encoder).__name__}, which lacks "
            "name, dim, fingerprint or encode; see emsmine.encoder.protocol.Encoder"
        )
    return encoder if kind in _LOADERS else _Guest(encoder)
