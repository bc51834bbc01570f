"""Where the records of a WARC file begin and end, also behind damage.

The framing is read here and not by `fastwarc.ArchiveIterator`, because that ends without an error where a file is cut
or a member is damaged. A record counts as sound if its header is complete, its block has the announced length, what
follows is the end of a record, the gzip or zstd member that holds it ends with the right checksum, and its digest, if
it has one, agrees. No announced length is believed before the bytes at the place it names have been looked at: one that
is wrong costs its own record, and the search for the next header starts behind the header that holds it.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from emsmine.pipelines.readers.buffer import Buffer, DamagedInput, LineTooLong
from emsmine.pipelines.readers.lookahead import LookAhead, trailer_size
from emsmine.pipelines.readers.records import Limits, Problem, one_line

_MAX_HEADER_BYTES = 1 << 16
_DIGESTS = ("sha1", "sha256", "sha384", "sha512", "md5", "blake2b", "blake2s")
# Strict, as it is searched for in the middle of damaged records, whose text may speak of WARC.
_HEADER = re.compile(rb"WARC/\d\.\d[ \t]*\r?\n(?:WARC|Content)-[A-Za-z-]{1,40}[ \t]*:", re.IGNORECASE)
_HEADER_BYTES = 128
_INNER_HEADER = re.compile(
    rb"\r?\n\r?\n(?=WARC/\d\.\d[ \t]*\r?\n(?:WARC|Content)-[A-Za-z-]{1,40}[ \t]*:)", re.IGNORECASE
)
_DAMAGED_HEADER = re.compile(rb"(?:[^\n]{0,200}\n){1,4}WARC-[A-Za-z-]{1,40}[ \t]*:", re.IGNORECASE)
_MAX_INNER_HEADERS = 1000
_GOES_ON = "what follows the place where Content-Length says that the record ends is the rest of it"

Headers = dict[str, str]


class BadRecord(Exception):
    """A record that cannot be used.

    Args:
        reason: a code as in `Problem`.
        detail: what was found.
        sample: of the content, or its URL.
        in_step: whether the reading stands where the next record should start.
    """

    def __init__(self, reason: str, detail: str, sample: bytes | str = b"", *, in_step: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.sample, self.in_step = reason, detail, sample, in_step


@dataclass(frozen=True, slots=True)
class Frame:
    """A sound record: its header, its block, and the offset and length that it is known by (as in `Record`)."""

    headers: Headers
    block: bytes
    offset: int
    length: int

    @property
    def url(self) -> str:
        """What the record is about, as written."""
        return self.headers.get("warc-target-uri", "").strip("<>")

    @property
    def kind(self) -> str:
        """The type of the record in lower case."""
        return self.headers.get("warc-type", "").lower()


def read_frames(buffer: Buffer, limits: Limits, look_ahead: LookAhead) -> Iterator[Frame | Problem]:
    """Yield each sound record, and one problem for each damaged one."""
    reader = _Framing(buffer, limits, look_ahead)
    in_step, bad_offset = True, -1
    while True:
        start = buffer.position
        try:
            if in_step:
                if not _find_record(buffer):
                    return
            elif not buffer.find(_HEADER, _HEADER_BYTES, only_members=reader.own_members and bad_offset >= 0):
                return
            start, in_step, bad_offset = buffer.stored_offset(), True, -1
            reader.starts_member = buffer.member_starts_at(0)
            yield reader.read()
        except DamagedInput as error:
            damage = buffer.recover() or error.damage
            # A member that holds one record only was reported with that record, unless the reading ends here.
            if damage.reason == "decompression_bomb" or damage.is_last or damage.member != bad_offset:
                yield Problem(damage.reason, damage.offset, "", damage.detail)
            in_step, bad_offset = True, -1
        except BadRecord as error:
            yield Problem(error.reason, start, one_line(error.sample), error.detail)
            in_step = error.in_step
            bad_offset = start if reader.own_members and reader.starts_member and not in_step else -1


def _find_record(buffer: Buffer) -> bool:
    """Move over blank lines to a line that starts a record; False at the end of the file."""
    while True:
        head = buffer.peek(8)
        if not head:
            buffer.read(1)  # raises if damage, not the end of the file, is next
            return False
        if head.startswith(b"WARC/"):
            return True
        try:
            line = buffer.readline(_MAX_HEADER_BYTES)
        except LineTooLong as error:
            line = error.head
        if line.strip():
            raise BadRecord("malformed_record", "a record should start here with WARC/1.0 or WARC/1.1", line)


class _Framing:
    """Reads one record after the other.

    Attributes:
        own_members: whether records of this file have had a gzip or zstd member each.
        starts_member: whether the record at hand started with its member.
    """

    def __init__(self, buffer: Buffer, limits: Limits, look_ahead: LookAhead) -> None:
        self._buffer, self._limits, self._look_ahead = buffer, limits, look_ahead
        self.own_members = self.starts_member = False

    def read(self) -> Frame:
        """Return the record that starts here.

        Raises:
            BadRecord: it is damaged or too large; unless `in_step`, nothing behind its header was consumed.
            DamagedInput: the compressed stream is damaged before its end.
        """
        buffer = self._buffer
        start = buffer.position
        headers = _read_headers(buffer)
        url = headers.get("warc-target-uri", "").strip("<>")
        length = _content_length(headers, url)
        kind = headers.get("warc-type", "").lower()
        if length > self._limits.max_record_bytes:
            self._skip(start, length, kind, url)
        digest = headers.get("warc-block-digest", "") if self._limits.check_digests else ""
        goes_on = self._check_end(length, url)
        if goes_on and not digest:
            raise BadRecord("malformed_record", _GOES_ON, url)
        block = buffer.read(length)
        offset, stored_length = self._read_trailer(start, url)
        self._check_digest(digest, block, url, goes_on=goes_on)
        self._check_http_length(headers, block, url)
        return Frame(headers, block, offset, stored_length)

    def _skip(self, start: int, length: int, kind: str, url: str) -> NoReturn:
        """Move over a record that is larger than allowed, if there is one."""
        buffer = self._buffer
        self._check_window(length, self._limits.max_record_bytes, url)
        if not self._look_ahead.ends_record(buffer.position + length):
            raise BadRecord("malformed_record", f"no record ends after the {length} bytes of Content-Length", url)
        buffer.skip(length)
        self._read_trailer(start, url)
        detail = f"a {kind} record of {length} bytes, limit {self._limits.max_record_bytes}"
        raise BadRecord("record_too_large", detail, url, in_step=True)

    def _check_window(self, length: int, size: int, url: str) -> None:
        """Refuse a length that reaches over the end of the file, or over a member that starts another record."""
        buffer = self._buffer
        at_hand = buffer.receive(size)
        begin = buffer.member_with(_HEADER, min(length, at_hand), _HEADER_BYTES)
        if begin >= 0:
            detail = f"Content-Length is {length}, but the next record starts after {begin} bytes"
            raise BadRecord("malformed_record", detail, url)
        if at_hand < min(length, size):
            if not buffer.is_damaged:
                detail = f"the file ends after {at_hand} of {length} bytes of a record"
                raise BadRecord("truncated", detail, url)
            if buffer.look_for(_HEADER, 0, at_hand) >= 0:
                detail = f"Content-Length is {length}, but {at_hand} bytes before a damaged place hold another record"
                raise BadRecord("malformed_record", detail, url)

    def _check_end(self, length: int, url: str) -> bool:
        """Refuse a length at whose end no record ends; tell whether what follows looks like the rest of this one."""
        buffer = self._buffer
        self._check_window(length, length + 4, url)
        at_hand = buffer.receive(length + 4 + 8)
        mark = buffer.at(length, 4)
        size = trailer_size(mark)
        if size == 0 and len(mark) == 4 and not buffer.member_starts_at(length):
            for gap in range(5):  # the line ends are damaged: the length may be right
                if not buffer.matches(_HEADER, length + gap, _HEADER_BYTES):
                    continue
                if length + gap >= 4 and trailer_size(buffer.at(length + gap - 4, 4)) != 4:
                    buffer.skip(length + gap)
                    detail = "the two line ends between this record and the next are damaged"
                    raise BadRecord("malformed_record", detail, url, in_step=True)
        may_end = len(mark) < 4 and b"\r\n\r\n".startswith(mark)
        if size == 0 and not may_end and not buffer.member_starts_at(length):
            detail = "no two line ends where Content-Length says the record ends"
            raise BadRecord("malformed_record", detail, url)
        follows = buffer.at(length + size, 8)
        if at_hand <= length + size or follows.lstrip(b"\r\n")[:4] in (b"WARC", b""):
            return False
        return not buffer.member_starts_at(length + size) and self._goes_on(length + size)

    def _read_trailer(self, start: int, url: str) -> tuple[int, int]:
        """Read the two line ends behind a block and return the offset and length that the record is known by."""
        buffer = self._buffer
        end = buffer.position
        trailer = buffer.peek(4)
        size = trailer_size(trailer)
        buffer.read(size)
        span = buffer.stored_span(start, end + size)
        if span:
            self.own_members = True
        elif size == 0:  # in a member of its own a record may lack the line ends: its checksum agrees
            buffer.read(len(trailer) + 1)  # raises if the cut is in a compressed stream
            raise BadRecord("truncated", "the file ends before the two line ends behind a record", url)
        return span or (start, end + size - start)

    def _goes_on(self, offset: int) -> bool:
        """Tell whether what is `offset` bytes ahead, and no record, is the rest of one: it ends as a record does."""
        buffer = self._buffer
        if buffer.matches(_DAMAGED_HEADER, offset, 1024):
            return False
        size = offset + self._limits.max_record_bytes
        found = buffer.look_for(_HEADER, offset, size)
        end = buffer.receive(size) if found < 0 else found
        return end - 4 >= offset and trailer_size(buffer.at(end - 4, 4)) > 0

    def _check_digest(self, value: str, block: bytes, url: str, *, goes_on: bool) -> None:
        """Compare a block with its digest, and see whether it is the length that is wrong."""
        try:
            is_known = check_digest("block", value, block, url)
            if goes_on and not is_known:
                raise BadRecord("malformed_record", _GOES_ON, url)
        except BadRecord:
            if goes_on:
                self._buffer.push_back(block)
                raise BadRecord("malformed_record", _GOES_ON, url) from None
            end = _end_by_digest(value, block)
            if end < 0:
                raise
            self._buffer.push_back(block[end:] + b"\r\n\r\n")
            detail = f"Content-Length is {len(block)}, but by its digest the record has {end} bytes"
            raise BadRecord("malformed_record", detail, url) from None

    def _check_http_length(self, headers: Headers, block: bytes, url: str) -> None:
        """Refuse a response that holds another record behind the end that HTTP announced."""
        if b"\nWARC/" not in block or headers.get("warc-block-digest") or headers.get("warc-type") != "response":
            return
        head, _, payload = block.partition(b"\r\n\r\n")
        announced = re.search(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?(?:\n|$)", head, re.IGNORECASE)
        if announced and (inner := _INNER_HEADER.match(payload, int(announced[1]))):
            self._buffer.push_back(payload[inner.start() :] + b"\r\n\r\n")
            detail = f"Content-Length is {len(block)}, but HTTP announced {int(announced[1])}, where a record starts"
            raise BadRecord("malformed_record", detail, url)


def _read_headers(buffer: Buffer) -> Headers:
    lines: list[bytes] = []
    size = 0
    while True:
        try:
            line = buffer.readline(_MAX_HEADER_BYTES)
        except LineTooLong as error:
            raise BadRecord("malformed_record", "a header line is longer than 64 KiB", error.head) from None
        if lines and line.startswith(b"WARC/") and _HEADER.match(line + buffer.peek(_HEADER_BYTES)):
            buffer.push_back(line)
            raise BadRecord("malformed_record", "another record starts inside this header", lines[0], in_step=True)
        size += len(line)
        if not line.endswith(b"\n"):
            raise BadRecord("truncated", "the file ends inside a record header", b" ".join([*lines, line]))
        if not line.strip():
            return parse_headers(lines[1:])
        lines.append(line)
        if size > _MAX_HEADER_BYTES:
            raise BadRecord("malformed_record", "the header is longer than 64 KiB", lines[0])


def parse_headers(lines: list[bytes]) -> Headers:
    """Return `Name: value` lines with lower-case names; the first of a repeated name counts."""
    headers: Headers = {}
    for line in lines:
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return headers


def _content_length(headers: Headers, url: str) -> int:
    value = headers.get("content-length", "")
    if not (value.isascii() and value.isdecimal() and len(value) < 19):
        raise BadRecord("malformed_record", f"Content-Length is {value[:40]!r}, which is not a byte count", url)
    return int(value)


def check_digest(name: str, value: str, content: bytes, url: str) -> bool:
    """Compare content with a WARC digest; False if there is none of a known kind.

    Raises:
        BadRecord: it differs.
    """
    algorithm, colon, expected = value.partition(":")
    algorithm = algorithm.lower().replace("-", "")
    if not colon or algorithm not in _DIGESTS:
        return False
    digest = hashlib.new(algorithm, content, usedforsecurity=False).digest()
    if not _is_digest(expected, digest):
        detail = f"{name} digest is {value[:80]}, the content has {algorithm}:{_spellings(digest)[0]}"
        raise BadRecord("digest_mismatch", detail, url, in_step=True)
    return True


def _is_digest(expected: str, digest: bytes) -> bool:
    return expected.strip() in _spellings(digest) or expected.strip().lower() == digest.hex()


def _spellings(digest: bytes) -> tuple[str, ...]:
    base32 = base64.b32encode(digest).decode()
    base64_form = binascii.b2a_base64(digest, newline=False).decode()
    return base32, base32.rstrip("="), base32.lower(), base32.lower().rstrip("="), base64_form


def _end_by_digest(value: str, block: bytes) -> int:
    """Return where a block ends by its digest if another record follows there, else -1."""
    algorithm, _, expected = value.partition(":")
    state = hashlib.new(algorithm.lower().replace("-", ""), usedforsecurity=False)
    hashed = 0
    for number, inner in enumerate(_INNER_HEADER.finditer(block)):
        if number == _MAX_INNER_HEADERS:
            break
        state.update(block[hashed : inner.start()])
        hashed = inner.start()
        if _is_digest(expected, state.digest()):
            return hashed
    return -1
