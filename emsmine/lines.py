"""Lines of plain, gzip and Zstandard files, with damage that is never taken for the end of the file.

Only a line feed ends a line: Unicode line breaks stand inside sentences of real corpora.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import IO

from emsmine.errors import InputError

_BLOCK_BYTES = 1 << 18


def unpacked_lines(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield the lines of an open file without their line feed (and a carriage return before it).

    Args:
        stream: the file as stored.
        path: its name, whose ending `.gz` or `.zst` tells the compression; also for the message.

    Raises:
        InputError: the compression is damaged or cut short. Half a list of sentences is no list, so this is no reject.
    """
    if path.endswith(".gz"):
        yield from _guarded(path, _split(io.BufferedReader(gzip.GzipFile(fileobj=stream))))
    elif path.endswith(".zst"):
        yield from _guarded(path, _zstd_lines(stream))
    else:
        yield from _split(stream)


def _guarded(path: str, lines: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    try:
        yield from lines
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"read: {path} is damaged or cut short ({error}); fetch or compress it again") from error


def _zstd_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Unpack frame by frame: zstandard's own stream reader takes a file that is cut short for a whole one."""
    import zstandard

    rest, decoder = b"", None
    while block := stream.read(_BLOCK_BYTES):
        while block:
            decoder = decoder or zstandard.ZstdDecompressor().decompressobj()
            *lines, rest = (rest + decoder.decompress(block)).split(b"\n")
            yield from (line.removesuffix(b"\r") for line in lines)
            block = decoder.unused_data if decoder.eof else b""
            decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise EOFError("the last frame has no end")
    if rest:
        yield rest.removesuffix(b"\r")


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    for line in stream:
        yield line.removesuffix(b"\n").removesuffix(b"\r")
