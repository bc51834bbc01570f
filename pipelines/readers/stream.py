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

from emsmine.pipelines.readers.formats import GZIP_MAGIC, ZSTD_MAGIC
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
    """A place where the stored file is damaged.

    Attributes:
        reason: a code as in `Problem`.
        offset: in the file as stored.
        member: as in `Chunk`.
        detail: what was found.
        is_last: whether the rest of the file is not read.
    """

    reason: str
    offset: int
    member: int
    detail: str
    is_last: bool = False


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

    def probe(self, content: bytes) -> bool:
        """Tell whether `content` may start a member; afterwards the decoder is of no use."""

    def feed(self, content: bytes) -> tuple[bytes, bytes]:
        """Return (output, input not used yet)."""


class _GzipDecoder:
    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)
        self.done = False
        self._is_begun = False
        self.error: zlib.error | None = None  # of the piece whose sound part was returned

    def probe(self, content: bytes) -> bool:
        try:
            self._object.decompress(content, _OUTPUT)
        except zlib.error:
            return False
        return True

    def feed(self, content: bytes) -> tuple[bytes, bytes]:
        if self.error:
            raise self.error
        before = self._object.copy() if self._is_begun else None  # most members are one piece: nothing to copy
        self._is_begun = True
        try:
            output = self._object.decompress(content, _OUTPUT)
        except zlib.error as error:
            self.error = error
            output = self._salvage(before or zlib.decompressobj(wbits=31), content)
            if not output:
                raise
            return output, content
        self.done = self._object.eof
        return output, self._object.unused_data if self.done else self._object.unconsumed_tail

    def _salvage(self, decoder: "zlib._Decompress", content: bytes) -> bytes:
        """Return what comes out before the damage: zlib gives nothing of a piece that holds some."""
        output = b""
        place, step = 0, len(content) // 2
        while step and place < len(content):
            trial = decoder.copy()
            try:
                output += trial.decompress(content[place : place + step], _OUTPUT)
            except zlib.error:
                step //= 2
                continue
            if trial.eof or trial.unconsumed_tail:
                break
            decoder, place = trial, place + step
        return output


class _ZstdDecoder:
    def __init__(self, shared: zstandard.ZstdDecompressor) -> None:
        self._object = shared.decompressobj()
        self.done = False

    def probe(self, content: bytes) -> bool:
        try:
            self._object.decompress(content)
        except zstandard.ZstdError:
            return False
        return True

    def feed(self, content: bytes) -> tuple[bytes, bytes]:
        output = self._object.decompress(content[:_ZSTD_PIECE])
        self.done = self._object.eof
        return output, self._object.unused_data + content[_ZSTD_PIECE:]


class MemberStream:
    """A gzip or zstd file of any number of members."""

    def __init__(self, raw: BinaryIO, codec: str, limits: Limits) -> None:
        self._raw, self._limits = raw, limits
        shared = zstandard.ZstdDecompressor(max_window_size=limits.max_window_bytes)  # costs more than a small frame
        self._new_decoder: Callable[[], _Decoder] = _GzipDecoder if codec == "gzip" else lambda: _ZstdDecoder(shared)
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
        self._decoder = self._new_decoder()
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
                return Damage("decompression_bomb", self._member, self._member, detail, is_last=True)
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
        return Damage(reason, self._member, self._member, detail, is_last=self._ended)

    def _seek_member(self) -> None:
        """Move to the next stored bytes that start a member and decompress for a while."""
        begin = 0
        while True:
            found = self._piece.find(self._magic, begin)
            if found >= 0:
                begin = found
                while len(self._piece) < begin + _PROBE and self._refill():
                    pass
                if self._new_decoder().probe(self._piece[begin : begin + _PROBE]):
                    self._use(self._piece[begin:])
                    return
                begin += 1
                continue
            self._use(self._piece[max(begin, len(self._piece) - len(self._magic) + 1) :])
            begin = 0
            if not self._refill():
                self._use(b"")
                return
