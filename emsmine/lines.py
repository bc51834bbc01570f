"""Lines of plain and compressed files, with damage that is never taken for the end of the file.

Only a line feed ends a line: Unicode line breaks stand inside sentences of real corpora. What compressed a file is told
by its first bytes, never by its name: a `.gz` that a server unpacked on the way is plain, and stdin has no name.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from emsmine.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK_BYTES = 1 << 18
# Few: a block of a bomb unfolds to hundreds of megabytes at once otherwise.
_PACKED_BYTES = 1 << 13
_HEAD_BYTES = 512
_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    # A frame, or a skippable frame, which pzstd and seekable files start with.
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    # A block, or the end of an empty file.
    "bzip2": re.compile(rb"BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
"""Endings of names that a file is written with, and what compresses it."""


def compression_of(head: bytes) -> str:
    """Return `gzip`, `zstd`, `bzip2` or `xz` if the first bytes of a file are theirs, else ""."""
    return next((name for name, magic in _MAGIC.items() if magic.match(head)), "")


def plain_name(path: str) -> str:
    """Return a name without the ending of a compression: `a.de.gz` → `a.de`."""
    ending = next((ending for ending in SUFFIXES if path.lower().endswith(ending)), "")
    return path[: len(path) - len(ending)]


def unpacked_lines(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield the lines of an open file without their line feed (and a carriage return before it).

    Args:
        stream: the file as stored: plain, or compressed by gzip, Zstandard, bzip2 or xz. It need not be seekable.
        path: its name, for the message.

    Raises:
        InputError: the compression is damaged or cut short. Half a list of sentences is no list, so this is no reject.
    """
    head = stream.read(_HEAD_BYTES)
    joined = io.BufferedReader(_Rejoined(head, stream), _BLOCK_BYTES)
    kind = compression_of(head)
    if not kind and plain_name(path) != path and not looks_like_text(head):
        raise _damaged(path, f"it does not start as {path[len(plain_name(path)) :]} does")
    if not kind:
        yield from _split(joined)
    else:
        unpacked = gzip.GzipFile(fileobj=joined) if kind == "gzip" else _Unpacked(joined, kind)
        yield from _guarded(path, _split(io.BufferedReader(unpacked, _BLOCK_BYTES)))


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        with memoryview(buffer) as view:
            content = self._head or self._rest.read(len(view))
            self._head, size = b"", len(content)
            view[:size] = content
        return size


def _guarded(path: str, lines: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    try:
        yield from lines
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # gzip and bz2 report damage as an OSError without a number; a failing disk has one.
        if error.errno is not None:
            raise
        raise _damaged(path, error) from error


def looks_like_text(head: bytes) -> bool:
    """Tell by its first bytes whether a file that its name calls compressed was unpacked on the way, or is damaged."""
    try:
        # Not final: the last character may be cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not any(character < " " and character not in "\t\r\n" for character in text)


def _damaged(path: str, error: Exception | str) -> InputError:
    return InputError(f"read: {path} is damaged or cut short ({error}); fetch or compress it again")


def _new_decoder(kind: str) -> Any:
    """Return what unpacks one frame: `decompress(data)`, then `eof` and `unused_data`."""
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj()
    return bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor()


class _Unpacked(io.RawIOBase):
    """Unpacks frame by frame.

    The libraries' own readers take a file that is cut short (zstandard), or damaged where a later frame starts (bz2,
    lzma), for a whole one.
    """

    def __init__(self, packed: IO[bytes], kind: str) -> None:
        self._packed, self._kind = packed, kind
        self._decoder: Any = None
        self._rest = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        while not self._ready and self._unpack_more():
            pass
        with memoryview(buffer) as view:
            size = min(len(view), len(self._ready))
            view[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack_more(self) -> bool:
        """Unpack one more block; False at the end of the file."""
        block = self._rest or self._packed.read(_PACKED_BYTES)
        if self._decoder is None and self._kind == "xz":
            block = block.lstrip(b"\0") or (self._packed.read(_PACKED_BYTES) if block else b"")  # padding of streams
        if not block:
            if self._decoder is not None:
                raise EOFError("the last frame has no end")
            return False
        self._decoder = self._decoder or _new_decoder(self._kind)
        self._ready = memoryview(self._decoder.decompress(block))
        self._rest = self._decoder.unused_data if self._decoder.eof else b""
        if self._decoder.eof:
            self._decoder = None
        return True


def _split(stream: io.BufferedIOBase) -> Iterator[bytes]:
    for line in stream:
        yield line.removesuffix(b"\n").removesuffix(b"\r")
