"""WARC and WET files: records, and pages out of response records.

The framing is read here and not by `fastwarc.ArchiveIterator`, because that ends without an error where a file is cut
or a member is damaged. A record counts as sound if its header is complete, its block has the announced length, the
gzip or zstd member that holds it ends with the right checksum, and its digest, if it has one, agrees.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator

from emsmine.pipelines.readers import html
from emsmine.pipelines.readers.body import BodyError, decode_text, http_body
from emsmine.pipelines.readers.buffer import Buffer, DamagedInput, LineTooLong
from emsmine.pipelines.readers.records import Limits, Problem, Record, finish, is_unicode, iso_utc, one_line, paragraphs

_MAX_HEADER_BYTES = 1 << 16
_PAGE_TYPES = ("response", "resource")
_TEXT_TYPES = ("conversion",)
_SILENT_TYPES = ("warcinfo", "request", "metadata", "revisit", "continuation")
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_DIGESTS = ("sha1", "sha256", "sha384", "sha512", "md5", "blake2b", "blake2s")

Headers = dict[str, str]


class _BadRecord(Exception):
    def __init__(self, reason: str, detail: str, sample: bytes | str = b"") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.sample = reason, detail, sample


def read_warc(buffer: Buffer, limits: Limits) -> Iterator[Record | Problem]:
    """Yield the pages of a WARC file and the texts of a WET file.

    `response` and `resource` records and WET's `conversion` records each give one Record or one Problem; sound records
    of the standard's other types give nothing; a damaged record of any type gives one Problem.
    """
    in_step = True  # whether the bytes at hand should start a record
    while True:
        start = buffer.position
        try:
            if not _find_record(buffer, is_quiet=not in_step):
                return
            start, in_step = buffer.stored_offset(), True
            item = _read_record(buffer, limits)
            if item:
                yield item
        except DamagedInput as error:
            damage = buffer.recover() or error.damage
            yield Problem(damage.reason, damage.offset, "", damage.detail)
            in_step = True
        except _BadRecord as error:
            yield Problem(error.reason, start, one_line(error.sample), error.detail)
            in_step = error.reason in ("record_too_large", "digest_mismatch")


def _find_record(buffer: Buffer, *, is_quiet: bool) -> bool:
    """Move to the next line that starts a record; False at the end of the file.

    Args:
        is_quiet: whether lines before it belong to a record that was already reported.
    """
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
        if line.strip() and not is_quiet:
            raise _BadRecord("malformed_record", "a record should start here with WARC/1.0 or WARC/1.1", line)


def _read_record(buffer: Buffer, limits: Limits) -> Record | Problem | None:
    start = buffer.position
    headers = _read_headers(buffer)
    url = headers.get("warc-target-uri", "").strip("<>")
    length = _content_length(headers, url)
    kind = headers.get("warc-type", "").lower()
    if length > limits.max_record_bytes:
        skipped = buffer.skip(length)
        if skipped < length:
            raise _BadRecord("truncated", f"the file ends after {skipped} of {length} bytes of a record", url)
        _read_trailer(buffer, start, b"", url)
        detail = f"a {kind} record of {length} bytes, limit {limits.max_record_bytes}"
        raise _BadRecord("record_too_large", detail, url)
    block = buffer.read(length)
    if len(block) < length:
        raise _BadRecord("truncated", f"the file ends after {len(block)} of {length} bytes of a {kind} record", url)
    offset, stored_length = _read_trailer(buffer, start, block, url)
    if limits.check_digests:
        _check_digest("block", headers.get("warc-block-digest", ""), block, url)
    if kind in _SILENT_TYPES:
        return None
    if kind not in (*_PAGE_TYPES, *_TEXT_TYPES):
        return Problem("unknown_record_type", offset, one_line(url or block), f"WARC-Type is {kind[:40]!r}")
    frame = Record(
        url=url if is_unicode(url) else "",
        date=iso_utc(headers.get("warc-date", "")),
        offset=offset,
        length=stored_length,
        text="",
    )
    try:
        return finish(_record_of(kind, headers, block, frame, limits), limits)
    except BodyError as error:
        return Problem(error.reason, offset, one_line(url or block), str(error))
    except _BadRecord as error:
        return Problem(error.reason, offset, one_line(url or block), error.detail)


def _read_headers(buffer: Buffer) -> Headers:
    lines: list[bytes] = []
    size = 0
    while True:
        try:
            line = buffer.readline(_MAX_HEADER_BYTES)
        except LineTooLong as error:
            raise _BadRecord("malformed_record", "a header line is longer than 64 KiB", error.head) from None
        size += len(line)
        if not line.endswith(b"\n"):
            raise _BadRecord("truncated", "the file ends inside a record header", b" ".join([*lines, line]))
        if not line.strip():
            return parse_headers(lines[1:])
        lines.append(line)
        if size > _MAX_HEADER_BYTES:
            raise _BadRecord("malformed_record", "the header is longer than 64 KiB", lines[0])


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
        raise _BadRecord("malformed_record", f"Content-Length is {value[:40]!r}, which is not a byte count", url)
    return int(value)


def _read_trailer(buffer: Buffer, start: int, block: bytes, url: str) -> tuple[int, int]:
    """Read the two line ends behind a block and return the offset and length that the record is known by."""
    end = buffer.position
    trailer = buffer.peek(4)
    size = next((len(mark) for mark in (b"\r\n\r\n", b"\n\n") if trailer.startswith(mark)), 0)
    buffer.read(size)
    span = buffer.stored_span(start, end + size)
    if size == 0 and span is None:  # in a member of its own a record may lack the line ends: its checksum agrees
        if len(trailer) < 4 and b"\r\n\r\n".startswith(trailer):
            buffer.read(len(trailer) + 1)  # raises if the cut is in a compressed stream
            raise _BadRecord("truncated", "the file ends before the two line ends behind a record", url)
        # Content-Length is wrong, so the next record may start inside these bytes.
        buffer.push_back(block)
        raise _BadRecord("malformed_record", "no two line ends where Content-Length says the record ends", url)
    return span or (start, end + size - start)


def _check_digest(name: str, value: str, content: bytes, url: str) -> None:
    algorithm, colon, expected = value.partition(":")
    algorithm = algorithm.lower().replace("-", "")
    if not colon or algorithm not in _DIGESTS:
        return
    digest = hashlib.new(algorithm, content, usedforsecurity=False).digest()
    if expected.strip() not in _spellings(digest) and expected.strip().lower() != digest.hex():
        detail = f"{name} digest is {value[:80]}, the content has {algorithm}:{_spellings(digest)[0]}"
        raise _BadRecord("digest_mismatch", detail, url)


def _spellings(digest: bytes) -> tuple[str, ...]:
    base32 = base64.b32encode(digest).decode()
    base64_form = binascii.b2a_base64(digest, newline=False).decode()
    return base32, base32.rstrip("="), base32.lower(), base32.lower().rstrip("="), base64_form


def _record_of(kind: str, headers: Headers, block: bytes, frame: Record, limits: Limits) -> Record:
    """Return `frame` with the text of a block."""
    if kind == "conversion":
        language = headers.get("warc-identified-content-language", "")
        return _with(frame, text=paragraphs(_utf8(block)), lang="" if "," in language else language)
    content_type, body = headers.get("content-type", ""), block
    if kind == "response":
        content_type, body = _http_response(headers, block, frame.url, limits)
    media_type = content_type.partition(";")[0].strip().lower() or html.sniff(body)
    if media_type not in (*_HTML_TYPES, "text/plain"):
        raise _BadRecord("content_type", f"{media_type[:80] or 'unknown'} is not a page")
    text = decode_text(body, content_type, is_html=media_type != "text/plain")
    if media_type == "text/plain":
        record = _with(frame, text=paragraphs(text))
    else:
        page = html.extract(text)
        record = _with(frame, text=page.text, html_lang=page.lang, mt_hints=page.mt_hints)
    share = record.text.count("\ufffd") / max(1, len(record.text))
    if share > limits.max_replacement_share:
        raise _BadRecord("bad_encoding", f"{share:.1%} of the characters could not be decoded")
    return record


def _with(frame: Record, *, text: str, html_lang: str = "", mt_hints: tuple[str, ...] = (), lang: str = "") -> Record:
    return Record(frame.url, frame.date, frame.offset, frame.length, text, html_lang, mt_hints, lang)


def _utf8(block: bytes) -> str:
    try:
        return block.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _BadRecord("invalid_utf8", f"byte {error.start} of the text is not UTF-8") from None


def _http_response(headers: Headers, block: bytes, url: str, limits: Limits) -> tuple[str, bytes]:
    """Return (content type, decoded body) of an HTTP response with status 200."""
    head, blank, payload = block.partition(b"\r\n\r\n")
    if not blank or b"\n\n" in head:
        head, blank, payload = block.partition(b"\n\n")
    lines = head.splitlines()
    if not lines or not lines[0].startswith(b"HTTP/"):
        raise _BadRecord("malformed_http", "the block does not start with an HTTP status line")
    status = lines[0].split()[1:2]
    if status != [b"200"]:
        raise _BadRecord("http_status", f"HTTP status {one_line(b''.join(status)) or 'missing'}")
    http_headers = parse_headers(lines[1:])
    is_chunked = "chunked" in http_headers.get("transfer-encoding", "").lower()
    if limits.check_digests and "warc-block-digest" not in headers and not is_chunked:
        _check_digest("payload", headers.get("warc-payload-digest", ""), payload, url)
    was_cut = "warc-truncated" in headers  # by the crawler, on purpose: what there is can be used
    return http_headers.get("content-type", ""), http_body(http_headers, payload, limits, allow_cut=was_cut)
