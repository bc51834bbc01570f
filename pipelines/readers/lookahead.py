"""Looking at a far place of a WARC file before a record that claims to reach there is skipped."""

from typing import BinaryIO

from emsmine.pipelines.readers.buffer import Buffer, DamagedInput
from emsmine.pipelines.readers.records import Limits
from emsmine.pipelines.readers.source import open_binary
from emsmine.pipelines.readers.stream import MemberStream

_PEEK_BYTES = 64
# Each reads a compressed file from its start. A file with more false claims than that is not worth more passes.
_MAX_PASSES = 8


def trailer_size(content: bytes) -> int:
    """Return the length of the two line ends that `content` starts with, 0 if it starts with none."""
    return next((len(mark) for mark in (b"\r\n\r\n", b"\n\n") if content.startswith(mark)), 0)


class LookAhead:
    """A second view of the same file, opened when the first record asks for it.

    A record that is too large to be held in memory cannot be read, found wrong, and read again: whether it ends where
    it says must be known before it is skipped.
    """

    def __init__(self, path: str, codec: str, limits: Limits) -> None:
        self._path, self._codec, self._limits = path, codec, limits
        self._raw: BinaryIO | None = None
        self._buffer: Buffer | None = None
        self._num_passes = 0
        self._end: int | None = None  # of the file, once it was reached

    def ends_record(self, position: int) -> bool:
        """Tell whether a record may end at a position of the decompressed file: line ends, then a record or the end."""
        if self._end is not None and position > self._end:
            return False
        content = self._compressed(position) if self._codec else self._plain(position)
        size = trailer_size(content)
        return size > 0 and content[size:].lstrip(b"\r\n")[:5] in (b"WARC/", b"")

    def close(self) -> None:
        """Close the file."""
        if self._raw:
            self._raw.close()

    def _plain(self, position: int) -> bytes:
        self._raw = self._raw or open_binary(self._path)
        self._raw.seek(position)
        return self._raw.read(_PEEK_BYTES)

    def _compressed(self, position: int) -> bytes:
        """Return bytes of a stream that can only be read forward; b"" if they cannot be reached."""
        if self._buffer is None or self._buffer.position > position:
            if self._num_passes == _MAX_PASSES:
                return b""
            self._num_passes += 1
            self.close()
            self._raw = open_binary(self._path)
            self._buffer = Buffer(MemberStream(self._raw, self._codec, self._limits))
        try:
            self._buffer.skip(position - self._buffer.position)
            if self._buffer.position < position:
                self._end = self._buffer.position
                return b""
            return self._buffer.peek(_PEEK_BYTES)
        except DamagedInput:
            return b""
