"""One side of what is mined, scored or searched from Python: sentences, a file of them, or their vectors."""

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from emsmine import languages
from emsmine.encoder.protocol import Encoder, FloatArray, checked_texts, unit_rows
from emsmine.errors import InputError
from emsmine.pipelines.direct.declared import declared_language
from emsmine.pipelines.direct.results import Embeddings
from emsmine.pipelines.direct.sentences import Embedded, SentenceList, collect, encode_usable, read_lines

Vectors = npt.NDArray[Any] | Embeddings
Given = str | PathLike[str] | Iterable[str] | Vectors
"""A path, sentences, or vectors."""

# Rows whose length is off by no more are left as they are, so that vectors of an encoder keep their bits.
_UNIT_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Side:
    """What a user gave for one side."""

    label: str
    """What messages call it."""
    lang: str
    """Canonical code; "" for vectors."""
    texts: SentenceList | None
    vectors: FloatArray | None
    ids: npt.NDArray[np.int64]
    """What the user calls each distinct text, or each vector: its place in the input, or its sentence id."""

    def embedded(self, encoder: Encoder | None) -> Embedded:
        """Return the vectors, encoding the texts."""
        if self.texts is not None and encoder is not None:
            return encode_usable(encoder, self.texts)
        return Embedded.of(self.vectors if self.vectors is not None else np.zeros((0, 1), np.float32))

    def texts_of(self, numbers: npt.NDArray[np.int64]) -> list[str]:
        """Return texts by their number; "" for each if there are only vectors."""
        if self.texts is None:
            return [""] * len(numbers)
        return [self.texts.texts[number] for number in numbers.tolist()]


def is_path(given: Given | None) -> TypeGuard[str | PathLike[str]]:
    """Tell whether something is the name of a file."""
    return isinstance(given, str | PathLike)


def are_vectors(given: Given | None) -> bool:
    """Tell whether something is vectors: an array of floats, a tensor, or what `read_embeddings` returns."""
    if isinstance(given, Embeddings):
        return True
    return given is not None and hasattr(given, "__array__") and np.asarray(given).dtype.kind == "f"


def one_side(command: str, name: str, given: Given, lang: str | None, max_chars: int) -> Side:
    """Read and clean one side.

    Args:
        command: for messages.
        name: `source` or `target`.
        given: what the user gave.
        lang: its language, any code; may be left out for vectors, and for a file whose name ends in it.
        max_chars: longer sentences are left out.

    Raises:
        ConfigError: the language is missing.
        InputError: the file cannot be read, or a sentence is no string.
        LanguageError: the code is no language.
    """
    if are_vectors(given):
        vectors, ids = as_vectors(command, name, given)
        return Side(name, languages.resolve(lang) if lang is not None else "", None, vectors, ids)
    path = fspath(given) if isinstance(given, str | PathLike) else None
    canonical = side_language(command, name, path, lang)
    if path is not None:
        texts = collect(read_lines(path), canonical, max_chars)
    else:
        texts = collect(checked_texts(given, f"{command}: {name}"), canonical, max_chars)  # type: ignore[arg-type]
    numbers, lines = np.unique(np.array(texts.places, dtype=np.int64), return_index=True)
    label = path if path is not None else f"the {name} sentences"
    return Side(label, canonical, texts, None, lines[numbers >= 0].astype(np.int64))


def side_language(command: str, name: str, path: str | None, lang: str | None) -> str:
    """Return the canonical language of a side, see `declared_language`."""
    return declared_language(command, f"{name}_lang", f"{name}_lang='de'", path, lang)


def as_vectors(command: str, name: str, given: Given) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return vectors as float32 rows of unit length (a zero row stays), and their ids; a single vector is one row.

    Raises:
        InputError: they are no table of numbers.
    """
    if isinstance(given, Embeddings):
        return given.vectors, given.ids
    array = np.asarray(given)
    array = array[None] if array.ndim == 1 and array.size else array
    if array.dtype.kind != "f" or array.ndim != 2 or not array.shape[1]:
        raise InputError(
            f"{command}: {name} must be vectors, floats [N, D], got {array.dtype} {list(array.shape)}; "
            "encode sentences first: encoder.encode(sentences, lang=...)"
        )
    vectors: FloatArray = np.ascontiguousarray(array, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        off = np.flatnonzero(np.abs(norms - 1) > _UNIT_TOLERANCE)
        if len(off):
            vectors = vectors.copy() if vectors is array else vectors
            # In float64: the square of a long vector is beyond float32.
            rows = np.asarray(array[off], dtype=np.float64)
            vectors[off] = unit_rows(rows)  # type: ignore[arg-type]
    return vectors, np.arange(len(vectors), dtype=np.int64)


def check_widths(command: str, left: Embedded, right: Embedded) -> None:
    """Refuse vectors of different encoders, as far as their widths tell.

    Raises:
        InputError: the widths differ.
    """
    if left.vectors.shape[1] != right.vectors.shape[1]:
        raise InputError(
            f"{command}: source vectors have {left.vectors.shape[1]} dimensions and target vectors "
            f"{right.vectors.shape[1]}; encode both sides with the same encoder"
        )
