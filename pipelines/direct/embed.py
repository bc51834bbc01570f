"""Turn a file of sentences into a file of vectors, line by line: what `emsmine embed` calls.

The file is read, encoded and written batch by batch, so that its size is no matter of memory.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from os import path as os_path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emsmine import languages
from emsmine.encoder.protocol import Encoder, FloatArray, usable_rows
from emsmine.errors import ConfigError
from emsmine.mining.text.normalise import dedup_key, hash128, sanitise
from emsmine.outputs import OutputFile, open_output
from emsmine.pipelines.direct.declared import check_languages
from emsmine.pipelines.direct.sentences import read_lines
from emsmine.pipelines.progress import Progress
from emsmine.pipelines.store.parquet import ParquetSink
from emsmine.pipelines.store.schemas import embeddings_schema, fixed_binary

logger = logging.getLogger(__name__)

_BATCH = 8192
# As the stage `encode` writes them.
_ROW_GROUP = 4096
_NPY_HEADER_BYTES = 128


class _Writer(Protocol):
    """Takes the vectors of all lines, in order; rows of zeros where there is none."""

    def write(self, vectors: FloatArray, texts: list[str], usable: npt.NDArray[np.bool_]) -> None: ...

    def close(self) -> None: ...


class _Raw:
    """Values and nothing else, as LASER writes them: N x D numbers, little-endian."""

    dtype = "<f4"

    def __init__(self, stream: OutputFile, encoder: Encoder) -> None:
        self.stream = stream

    def write(self, vectors: FloatArray, texts: list[str], usable: npt.NDArray[np.bool_]) -> None:
        self.stream.write(np.ascontiguousarray(vectors, dtype=self.dtype).data.cast("B"))

    def close(self) -> None:
        pass


class _RawHalf(_Raw):
    dtype = "<f2"


class _Npy(_Raw):
    """The format of numpy; its header, which holds the number of rows, is written once more at the end."""

    def __init__(self, stream: OutputFile, encoder: Encoder) -> None:
        super().__init__(stream, encoder)
        self.shape = (0, encoder.dim)
        stream.write(self._header())

    def _header(self) -> bytes:
        described = f"{{'descr': '{self.dtype}', 'fortran_order': False, 'shape': {self.shape}, }}".encode()
        # Version 1.0; the length of what follows in two bytes.
        start = b"\x93NUMPY\x01\x00" + (_NPY_HEADER_BYTES - 10).to_bytes(2, "little")
        return start + described.ljust(_NPY_HEADER_BYTES - 11) + b"\n"

    def write(self, vectors: FloatArray, texts: list[str], usable: npt.NDArray[np.bool_]) -> None:
        super().write(vectors, texts, usable)
        self.shape = (self.shape[0] + len(vectors), self.shape[1])

    def close(self) -> None:
        self.stream.seek(0)
        self.stream.write(self._header())


class _Parquet:
    """The columns of `embeddings` in a run directory; `sentence_id` is the number of the line, from 0."""

    def __init__(self, stream: OutputFile, encoder: Encoder) -> None:
        self.schema = embeddings_schema(encoder.dim, encoder.name, encoder.fingerprint())
        self.sink = ParquetSink(stream, self.schema, row_group_rows=_ROW_GROUP, compression={"embedding": "none"})
        self.num_lines = 0

    def write(self, vectors: FloatArray, texts: list[str], usable: npt.NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(usable)
        hashes = [hash128(dedup_key(texts[row])) for row in rows]
        half = vectors[rows].astype(np.float16)
        columns = [pa.array(self.num_lines + rows), pa.array(hashes, pa.binary(16)), fixed_binary(half)]
        self.sink.write(pa.Table.from_arrays(columns, schema=self.schema))
        self.num_lines += len(texts)

    def close(self) -> None:
        self.sink.close()


_WRITERS: dict[str, Callable[[OutputFile, Encoder], _Writer]] = {
    ".npy": _Npy,
    ".f32": _Raw,
    ".bin": _Raw,
    ".f16": _RawHalf,
    ".parquet": _Parquet,
}
_KEEPS_ALL_LINES = (".npy", ".f32", ".bin", ".f16")


def output_kind(output: str) -> str:
    """Return the ending of the name of an output, which tells its format.

    Raises:
        ConfigError: it is none that is known, or numpy's format cannot be written there.
    """
    kind = os_path.splitext(output)[1].lower()
    if kind not in _WRITERS:
        raise ConfigError(
            f"embed: --output {output}: vectors are binary, and the name tells their format; it must end in "
            f"{', '.join(_WRITERS)}"
        )
    if kind == ".npy" and os_path.exists(output) and not os_path.isfile(output):
        raise ConfigError(f"embed: --output {output} is no plain file, and .npy needs one; use .f32 there")
    return kind


def embed_file(path: str, lang: str, encoder: Encoder, output: str) -> dict[str, int]:
    """Write a vector for every line.

    A line without a vector (empty, no UTF-8, nothing to encode) is a row of zeros where rows are counted by their
    place, and left out of Parquet, whose ids tell the lines.

    Args:
        path: sentences, one a line; `-` is stdin.
        lang: canonical code.
        encoder: what encodes them.
        output: file to write; its ending tells the format, see `output_kind`.

    Returns:
        `lines`, `vectors`, and the lines without one by reason.

    Raises:
        ConfigError: the ending is unknown.
        InputError: the file does not exist, or its compression is damaged.
    """
    kind = output_kind(output)
    counts = Counter({"lines": 0, "vectors": 0})
    with open_output(output) as stream, Progress(f"embed {languages.short(lang)}", 0, "sentences") as progress:
        writer = _WRITERS[kind](stream, encoder)
        try:
            for texts in _batches(path, counts):
                if not counts["lines"]:
                    check_languages("embed", {path: (lang, texts)})
                vectors, usable = _encoded(texts, lang, encoder, counts)
                writer.write(vectors, texts, usable)
                counts.update(lines=len(texts), vectors=int(usable.sum()))
                progress.advance(len(texts))
        except BaseException:
            # A Parquet writer that is left open writes its footer when it is collected, into a file that is closed.
            with suppress(Exception):
                writer.close()
            raise
        writer.close()
    missing = counts["lines"] - counts["vectors"]
    if missing:
        fate = "rows of zeros" if kind in _KEEPS_ALL_LINES else "left out (sentence_id is the number of the line)"
        logger.warning("embed: %s of %s lines have no vector and are %s", f"{missing:,}", f"{counts['lines']:,}", fate)
    return {name: number for name, number in counts.items() if number or name in ("lines", "vectors")}


def _batches(path: str, counts: Counter[str]) -> Iterator[list[str]]:
    """Yield cleaned lines; what is no UTF-8 is counted, and empty."""
    lines = read_lines(path)
    while batch := list(islice(lines, _BATCH)):
        texts = []
        for line in batch:
            try:
                texts.append(sanitise(line.decode("utf-8")))
            except UnicodeDecodeError:
                texts.append("")
                # `_encoded` counts it among the empty ones.
                counts.update(invalid_utf8=1, empty=-1)
        yield texts


def _encoded(
    texts: list[str], lang: str, encoder: Encoder, counts: Counter[str]
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Encode a batch; returns vectors of all lines, zeros where there is none, and which lines have one."""
    vectors = encoder.encode(texts, lang=lang)
    is_empty = np.array([not text for text in texts])
    finite = np.isfinite(vectors).all(axis=1)
    usable: npt.NDArray[np.bool_] = usable_rows(vectors) & ~is_empty
    counts.update(
        empty=int(is_empty.sum()),
        non_finite_vector=int((~finite & ~is_empty).sum()),
        zero_vector=int((finite & ~usable & ~is_empty).sum()),
    )
    return np.where(usable[:, None], vectors, np.float32(0)), usable
