"""The formats that are read, a row of a table each, and telling which one a file has.

A row names the function that reads the format, which is loaded with the first file: this module is light, as the
command line shows the names.
"""

import os
from dataclasses import dataclass
from pathlib import PurePosixPath

from emsmine.errors import InputError
from emsmine.lines import compression_of, looks_like_text

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
HEAD_BYTES = 4096


@dataclass(frozen=True)
class Format:
    """A format of input files.

    Args:
        reader: `module:function`; the function yields a record or a problem for everything in a `source.Source`.
        suffixes: of names, in lower case; a name ends in one of these, perhaps followed by that of a compression.
        magic: what every file of it starts with; believed more than the name.
        mark: of formats with the same magic and no telling name, the one whose mark stands in the first bytes.
        opening: what a file of it starts with after white space; believed where the name tells nothing.
    """

    reader: str
    suffixes: tuple[str, ...]
    magic: bytes = b""
    mark: bytes = b""
    opening: bytes = b""


_HERE = "emsmine.pipelines.readers"
FORMATS = {
    "warc": Format(f"{_HERE}.warc:read_warc", (".warc",), b"WARC/"),
    "wet": Format(f"{_HERE}.warc:read_warc", (".wet",), b"WARC/", mark=b"\nWARC-Type: conversion"),
    "jsonl": Format(f"{_HERE}.by_line:read_jsonl", (".jsonl", ".ndjson"), opening=b"{"),
    "parquet": Format(f"{_HERE}.parquet:read_parquet", (".parquet", ".pq"), b"PAR1"),
    "text": Format(f"{_HERE}.by_line:read_text", (".txt", ".text")),
}
"""By the names that users give them."""
_CODEC_SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_OTHER_CONTAINERS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def suffixes(path: str) -> tuple[str, str]:
    """Return what a name promises: (format or "", codec or ""), as `pages.warc.gz` gives (`warc`, `gzip`)."""
    name = PurePosixPath(path.replace(os.sep, "/")).name.lower()
    stem, dot, last = name.rpartition(".")
    codec = _CODEC_SUFFIXES.get(dot + last, "")
    if codec:
        stem, dot, last = stem.rpartition(".")
    return next((name for name, row in FORMATS.items() if dot + last in row.suffixes), ""), codec


def codec_of(head: bytes, path: str) -> str:
    """Return `gzip`, `zstd` or `` (none) for a file that starts with `head`.

    The bytes decide. The name only does so when they are neither compressed, nor text, nor the start of a
    known format: a damaged first member.
    """
    if head.startswith(GZIP_MAGIC[:2]):
        return "gzip"
    # A skippable frame as well: .warc.zst keeps its dictionary there.
    if compression_of(head) == "zstd":
        return "zstd"
    is_known = any(row.magic and head.startswith(row.magic) for row in FORMATS.values())
    return "" if not head or is_known or looks_like_text(head) else suffixes(path)[1]


def format_of(head: bytes, path: str) -> str:
    """Return the format of a file whose decompressed content starts with `head`.

    Strong magic bytes win over the name; otherwise the name decides, so that a damaged start is reported by the reader
    of the right format.

    Raises:
        InputError: neither tells; the message names the path, the bytes found and the known formats.
    """
    named = suffixes(path)[0]
    magical = [name for name, row in FORMATS.items() if row.magic and head.startswith(row.magic)]
    if magical:
        marked = [name for name in magical if FORMATS[name].mark and FORMATS[name].mark in head]
        plain = [name for name in magical if not FORMATS[name].mark]
        return named if named in magical else next(iter([*marked, *plain, *magical]))
    container = next((name for magic, name in _OTHER_CONTAINERS.items() if head.startswith(magic)), "")
    if container:
        raise InputError(
            f"read: {path!r} holds {container} (starts with {head[:8]!r}), which is not read; "
            "convert it to UTF-8 text or recompress it with gzip or zstd"
        )
    if named:
        return named
    content = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    opened = next((name for name, row in FORMATS.items() if row.opening and content.startswith(row.opening)), "")
    if opened:
        return opened
    raise InputError(
        f"read: cannot tell the format of {path!r} (starts with {head[:16]!r}); known are {', '.join(FORMATS)}, "
        "each plain, .gz or .zst: rename the file or name its format (plain text with one sentence a line is: text)"
    )
