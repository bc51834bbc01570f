"""From a name such as `ems:default` to an encoder."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from emsmine.encoder.protocol import Encoder
from emsmine.errors import ConfigError

ENTRY_POINTS = "emsmine.encoders"


def _load_ems(rest: str, device: str) -> Encoder:
    from emsmine.encoder.ems import EMSEncoder, pretrained_folder
    from emsmine.encoder.model.directory import CONFIG
    from emsmine.encoder.model.inference import PRECISIONS

    # Only these suffixes count: an @ elsewhere belongs to the path.
    name, _, precision = rest.rpartition("@")
    if precision not in PRECISIONS or not name:
        name, precision = rest, "fp32"
    folder = Path(name)
    if (folder / CONFIG).exists():
        return EMSEncoder(folder, device=device, precision=precision)
    try:
        shipped = pretrained_folder(name)
    except ConfigError:
        if folder.is_dir():
            # Its message says which files a model directory holds.
            return EMSEncoder(folder, device=device, precision=precision)
        raise
    return EMSEncoder(shipped, name=f"ems:{name}", device=device, precision=precision)


def _load_sentence_transformers(rest: str, device: str) -> Encoder:
    from emsmine.encoder.sbert import SentenceTransformersEncoder, split_prompt

    name, prompt = split_prompt(rest)
    return SentenceTransformersEncoder(name, device=device, prompt=prompt)


_LOADERS: dict[str, Callable[[str, str], Encoder]] = {
    "ems": _load_ems,
    "sentence-transformers": _load_sentence_transformers,
}


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
    others = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if kind in _LOADERS:
        return _LOADERS[kind](rest, device)
    if kind in others:
        encoder: Encoder = others[kind].load()(rest, device)
        return encoder
    raise ConfigError(
        f"encoder: kind {kind!r} of {spec!r} is unknown; known: {', '.join(sorted({*_LOADERS, *others}))}"
    )
