"""Reading one input file.

`read_records` reads WARC, WET, JSONL, Parquet and plain text, each plain, .gz or .zst, from local paths and fsspec
URLs. Every usable record is yielded as a `Record`; every damaged or unusable one as exactly one `Problem`, and reading
goes on behind it where that is possible. All formats are streamed, so that memory is bounded by `Limits`.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from emsmine.errors import ConfigError
from emsmine.pipelines.readers.formats import FORMATS, HEAD_BYTES, codec_of, format_of, suffixes
from emsmine.pipelines.readers.records import Limits, Problem, Record
from emsmine.pipelines.readers.source import CountedFile, Source, open_binary

Reader = Callable[[Source], Iterator[Record | Problem]]
"""Yields the records of a file, and a problem for each one that cannot be used."""


def detect_format(path: str) -> str:
    """Return `warc`, `wet`, `jsonl`, `parquet` or `text`, from the first bytes and the name of a file.

    Compression (gzip, zstd) is seen through. An empty file has the format of its name.

    Raises:
        InputError: the file cannot be opened, or its format cannot be told.
    """
    with open_binary(path) as raw:
        return _detect(raw, path, Limits())[0]


def _detect(raw: BinaryIO, path: str, limits: Limits) -> tuple[str, str]:
    """Return (format, codec) and leave the file at its start."""
    stored = raw.read(HEAD_BYTES)
    raw.seek(0)
    codec = codec_of(stored, path)
    head = stored
    if codec:
        head = Source(path, raw, codec, limits).buffer().peek(HEAD_BYTES)
        raw.seek(0)
    if not head and not suffixes(path)[0]:
        return "text", codec
    return format_of(head, path), codec


def read_records(
    path: str,
    *,
    format: str = "auto",
    limits: Limits | None = None,
    text_field: str = "text",
    url_field: str = "url",
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Record | Problem]:
    """Yield the records of a file, and a problem for each one that cannot be used.

    The same file always gives the same items in the same order.

    Args:
        path: a local path or fsspec URL.
        format: one of `FORMATS`, or `auto` for `detect_format`. `warc` and `wet` read each other's records too.
        limits: bounds on sizes; the defaults if None.
        text_field: of JSONL (a path such as `content.text` is allowed) and Parquet.
        url_field: of JSONL and Parquet; records without it have no URL.
        on_bytes: called with the number of stored bytes that were read since the last call; their sum is about the size
            of the file once it was read to its end, and less if it was given up.

    Raises:
        ConfigError: there is no such format.
        InputError: the file cannot be opened, its format cannot be told, or Parquet lacks the text column.
        MissingDependencyError: the URL needs a driver that is not installed.
    """
    limits = limits or Limits()
    if format not in ("auto", *FORMATS):
        raise ConfigError(f"read: format {format!r} is unknown; choose auto, {', '.join(FORMATS)}")
    with open_binary(path) as opened:
        raw = cast(BinaryIO, CountedFile(opened, on_bytes) if on_bytes else opened)
        if format == "auto":
            format, codec = _detect(opened, path, limits)
        else:
            codec = codec_of(opened.read(HEAD_BYTES), path)
            opened.seek(0)
        module, _, function = FORMATS[format].reader.partition(":")
        reader: Reader = getattr(importlib.import_module(module), function)
        yield from reader(Source(path, raw, codec, limits, text_field, url_field))
