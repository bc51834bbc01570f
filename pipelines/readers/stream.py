"""Decompressing a file piece by piece, in bounded memory, and saying where it is damaged.

gzip files may have many members and zstd files many frames; both are called members here. Python's own readers stop or
raise at the first damaged one. Here damage is an item of the stream like any other, and reading goes on at the next
member that decompresses.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import zstandard

from emsmine.pipelines.readers.open import GZIP_MAGIC, ZSTD_MAGIC
from emsmine.pipelines.readers.records import Limits

_PIECE = 1 << 16
_OUTPUT = 1 << 18
_PROBE = 512
# zstd output cannot be bounded per call: 4 input bytes may give 128 KiB, so 2 KiB of input give at most 64 MiB.
_ZSTD_PIECE = 1 << 11


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some decompressed bytes.

    Attributes:
        content: may be empty.
        member: offset of the member in the file as stored, -1 for a file that is not compressed.
        member_end: offset where the member ends, if it ends with these bytes and its checksum agrees, else -1.
    """

    content: bytes
    member: int = -1
    member_end: int = -1


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the stored file is damaged; `offset` is in the file as stored, `member` as in `Chunk`."""

    reason: str
    offset: int
    member: int
    detail: str


class Stream(Protocol):
    """Yields chunks and damages until it returns None."""

    def next_item(self) -> Chunk | Damage | None:
        """Return the next piece of the file."""


class PlainStream:
    """A file that is not compressed."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def next_item(self) -> Chunk | None:
        """Return the next piece of the file, None at its end."""
        content = self._raw.read(_PIECE)
        return Chunk(content) if content else None


class _Decoder(Protocol):
    """Decompresses one member."""

    done: bool

    def feed(self, content: bytes) -> tuple[bytes, bytes]:
        """Return (output, input not used yet)."""


class _GzipDecoder:
    def __init__(self, limits: Limits) -> None:
        self._object = zlib.decompressobj(wbits=31)
        self.done = False

    def feed(self, content: bytes) -> tuple[bytes, bytes]:
        output = self._object.decompress(content, _OUTPUT)
        self.done = self._object.eof
        return output, self._object.unused_data if self.done else self._object.unconsumed_tail


class _ZstdDecoder:
    def __init__(self, limits: Limits) -> None:
        self._object = zstandard.ZstdDecompressor(max_window_size=limits.max_window_bytes).decompressobj()
        self.done = False

    def feed(self, content: bytes) -> tuple[bytes, bytes]:
        output = self._object.decompress(content[:_ZSTD_PIECE])
        self.done = self._object.eof
        return output, self._object.unused_data + content[_ZSTD_PIECE:]


class MemberStream:
    """A gzip or zstd file of any number of members."""

    def __init__(self, raw: BinaryIO, codec: str, limits: Limits) -> None:
        self._raw, self._limits = raw, limits
        self._new_decoder: Callable[[Limits], _Decoder] = _GzipDecoder if codec == "gzip" else _ZstdDecoder
        self._magic = GZIP_MAGIC if codec == "gzip" else ZSTD_MAGIC
        self._decoder: _Decoder | None = None
        self._piece = b""  # stored bytes that were read and not yet used
        self._offset = 0  # of the first of them
        self._member = 0
        self._member_output = self._output = 0
        self._num_damages = 0
        self._ended = False

    def next_item(self) -> Chunk | Damage | None:
        """Return the next piece of the file, None at its end or after it was given up."""
        while not self._ended:
            if not self._piece and not self._refill():
                return self._at_end_of_file()
            if self._decoder is None:
                damage = self._start_member()
                if damage:
                    return damage
                continue
            try:
                item = self._decompress(self._decoder)
            except (zlib.error, zstandard.ZstdError) as error:
                return self._damaged("corrupt_compression", str(error))
            if item:
                return item
        return None

    def _refill(self) -> bool:
        content = self._raw.read(_PIECE)
        self._piece += content
        return bool(content)

    def _use(self, rest: bytes) -> None:
        self._offset += len(self._piece) - len(rest)
        self._piece = rest

    def _start_member(self) -> Damage | None:
        """Begin a member at the next stored bytes; None also if only padding was there."""
        self._use(self._piece.lstrip(b"\0"))  # gzip allows zero padding after a member
        while self._piece and len(self._piece) < 18 and self._refill():
            pass
        if not self._piece:
            return None
        self._member, self._member_output = self._offset, 0
        is_skippable = self._magic == ZSTD_MAGIC and self._piece[1:4] == b"\x2a\x4d\x18"
        if not is_skippable and not self._piece.startswith(self._magic[: len(self._piece)]):
            return self._damaged("truncated", f"{self._piece[:8]!r} where a compressed member should start")
        self._decoder = self._new_decoder(self._limits)
        return None

    def _decompress(self, decoder: _Decoder) -> Chunk | Damage | None:
        output, rest = decoder.feed(self._piece)
        self._use(rest)
        self._output += len(output)
        self._member_output += len(output)
        consumed = self._offset - self._member
        for produced, stored in ((self._member_output, consumed), (self._output, self._offset)):
            if produced > max(self._limits.ratio_after_bytes, self._limits.max_decompression_ratio * stored):
                self._ended = True
                detail = f"{produced} bytes came out of {stored}; the rest of the file is not read"
                return Damage("decompression_bomb", self._member, self._member, detail)
        if decoder.done:
            self._decoder = None
            return Chunk(output, self._member, self._offset)
        return Chunk(output, self._member) if output else None

    def _at_end_of_file(self) -> Damage | None:
        if self._decoder is None:
            self._ended = True
            return None
        return self._damaged("truncated", f"the file ends inside the compressed member at byte {self._member}")

    def _damaged(self, reason: str, detail: str) -> Damage:
        """Report damage to the current member and move to the next one that looks sound."""
        self._decoder = None
        self._num_damages += 1
        # A decoder may notice damage long after it ran on into the next member, so look again from the start of this
        # one, unless that means to read a huge single-member file twice.
        is_near = self._offset + len(self._piece) - self._member <= self._limits.max_record_bytes
        if is_near and self._raw.seekable():
            self._raw.seek(self._member + 1)
            self._piece, self._offset = b"", self._member + 1
        elif self._offset == self._member:
            self._use(self._piece[1:])
        if self._num_damages >= self._limits.max_damages:
            self._ended = True
            detail += f"; the rest of the file is not read after {self._num_damages} damaged places"
        else:
            self._seek_member()
        return Damage(reason, self._member, self._member, detail)

    def _seek_member(self) -> None:
        """Move to the next stored bytes that start a member and decompress for a while."""
        while True:
            found = self._piece.find(self._magic)
            if found >= 0:
                self._use(self._piece[found:])
                while len(self._piece) < _PROBE and self._refill():
                    pass
                try:
                    self._new_decoder(self._limits).feed(self._piece[:_PROBE])
                    return
                except (zlib.error, zstandard.ZstdError):
                    self._use(self._piece[1:])
                    continue
            self._use(self._piece[-len(self._magic) + 1 :])
            if not self._refill():
                self._use(b"")
                return
