"""Opening files, local or remote, and telling what they hold."""

import codecs
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from emsmine.errors import InputError, MissingDependencyError

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
HEAD_BYTES = 4096

FORMATS = ("warc", "wet", "jsonl", "parquet", "text")
_SUFFIXES = {
    ".warc": "warc",
    ".wet": "wet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
}
_CODEC_SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_OTHER_CONTAINERS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "hdfs": "pyarrow"}
_DRIVERS |= {"http": "aiohttp requests", "https": "aiohttp requests", "hf": "huggingface_hub"}


def open_binary(path: str) -> BinaryIO:
    """Open a local path or an fsspec URL (`s3://`, `gs://`, `hdfs://`, ...) for reading bytes.

    Raises:
        InputError: there is no such file, it cannot be read, or fsspec does not know the scheme.
        MissingDependencyError: the driver of the scheme is not installed; the message has the pip line.
    """
    scheme = path.partition("://")[0].lower() if "://" in path else ""
    try:
        if scheme in ("", "file"):
            return open(url2pathname(urlsplit(path).path) if scheme else path, "rb")
        import fsspec

        return cast(BinaryIO, fsspec.open(path, "rb").open())
    except FileNotFoundError:
        raise InputError(f"read: there is no file {path!r}; check the path") from None
    except IsADirectoryError:
        raise InputError(f"read: {path!r} is a directory; give the files in it, such as {path}/*.warc.gz") from None
    except ImportError as error:
        package = _DRIVERS.get(scheme, "fsspec[full]")
        message = f"read: {scheme}:// needs a driver ({error}); install it with: pip install {package}"
        raise MissingDependencyError(message) from None
    except (OSError, ValueError) as error:
        raise InputError(f"read: cannot open {path!r}: {error}") from error


class CountedFile:
    """A file that tells how far it was read; what is read a second time does not count."""

    def __init__(self, raw: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._raw, self._on_bytes = raw, on_bytes
        self._farthest = self._reported = 0
        self._size = raw.seek(0, os.SEEK_END)
        raw.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read, and report the bytes that were not read before."""
        content = self._raw.read(size)
        end = self._raw.tell()
        begin = end - len(content)
        if begin > self._farthest:  # a jump, as to the footer of a Parquet file and over its columns
            self._report(len(content))
        elif end > self._farthest:
            self._report(end - self._farthest)
            self._farthest = end
        return content

    def report_rest(self) -> None:
        """Report what nobody asked for, now that the file was read to its end."""
        self._report(self._size)

    def _report(self, size: int) -> None:
        size = min(size, self._size - self._reported)
        if size > 0:
            self._reported += size
            self._on_bytes(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; this reads nothing."""
        return self._raw.seek(offset, whence)

    def seekable(self) -> bool:
        """Tell whether `seek` works."""
        return self._raw.seekable()


def suffixes(path: str) -> tuple[str, str]:
    """Return what a name promises: (format or "", codec or ""), as `pages.warc.gz` gives (`warc`, `gzip`)."""
    name = PurePosixPath(path.replace(os.sep, "/")).name.lower()
    stem, dot, last = name.rpartition(".")
    codec = _CODEC_SUFFIXES.get(dot + last, "")
    if codec:
        stem, dot, last = stem.rpartition(".")
    return _SUFFIXES.get(dot + last, ""), codec


def codec_of(head: bytes, path: str) -> str:
    """Return `gzip`, `zstd` or `` (none) for a file that starts with `head`.

    The bytes decide. The name only does so when they are neither compressed nor text: a damaged first member.
    """
    if head.startswith(GZIP_MAGIC[:2]):
        return "gzip"
    # Skippable frames, 0x184D2A50 to 0x184D2A5F, may precede the first one (.warc.zst keeps its dictionary there).
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    return "" if not head or _looks_like_text(head) else suffixes(path)[1]


def _looks_like_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def format_of(head: bytes, path: str) -> str:
    """Return the format of a file whose decompressed content starts with `head`.

    Strong magic bytes win over the name; otherwise the name decides, so that a damaged start is reported by the reader
    of the right format.

    Raises:
        InputError: neither tells; the message names the path, the bytes found and the known formats.
    """
    named = suffixes(path)[0]
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"WARC/"):
        return "wet" if named == "wet" or (named != "warc" and b"\nWARC-Type: conversion" in head) else "warc"
    container = next((name for magic, name in _OTHER_CONTAINERS.items() if head.startswith(magic)), "")
    if container:
        raise InputError(
            f"read: {path!r} holds {container} (starts with {head[:8]!r}), which is not read; "
            "convert it to UTF-8 text or recompress it with gzip or zstd"
        )
    if named:
        return named
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "jsonl"
    raise InputError(
        f"read: cannot tell the format of {path!r} (starts with {head[:16]!r}); known are {', '.join(FORMATS)}, "
        "each plain, .gz or .zst: rename the file or name its format (plain text with one sentence a line is: text)"
    )
