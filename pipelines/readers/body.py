"""From the payload of an HTTP response to a string: transfer and content codings, then the character set."""

import codecs
import io
import re
import zlib
from typing import Protocol

from emsmine.pipelines.readers.records import Limits

# Spaces are bounded and possessive: two unbounded runs beside each other would take quadratic time.
_CHARSET = re.compile(r"""charset\s{0,9}+=\s{0,9}+["']?\s{0,9}+([\w.:+-]+)""", re.IGNORECASE)
_META_CHARSET = re.compile(rb"""<meta[^>]{0,512}?charset\s{0,9}+=\s{0,9}+["']?\s{0,9}+([\w.:+-]+)""", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"""^\s*<\?xml[^>]{0,256}?encoding\s*=\s*["']([\w.:+-]+)""", re.IGNORECASE)
_META_BYTES = 4096
_DETECT_BYTES = 1 << 17
_MAX_CHUNKS = 1_000_000
_MAX_CODINGS = 8
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class BodyError(Exception):
    """A payload that cannot be decoded; `reason` is a code as in `Problem`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def http_body(headers: dict[str, str], payload: bytes, limits: Limits, *, allow_cut: bool = False) -> bytes:
    """Undo the transfer and content codings of a response.

    Crawlers that store decoded bodies often leave the old headers in place, so a payload that is not in the coding that
    its headers name is taken as it is.

    Args:
        headers: of the response, lower-case names.
        payload: what follows the headers.
        limits: bounds the size of the result.
        allow_cut: accept a payload that ends too early.

    Raises:
        BodyError: `truncated`, `record_too_large`, `decompression_bomb` or `content_encoding`.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower() and _CHUNK_SIZE.match(payload):
        payload = _unchunk(payload, allow_cut=allow_cut)
    elif not allow_cut:
        announced = headers.get("content-length", "")
        if announced.isascii() and announced.isdecimal() and len(announced) < 19 and len(payload) < int(announced):
            raise BodyError("truncated", f"HTTP announced {announced} bytes, {len(payload)} are there")
    codings = [coding.strip().lower() for coding in headers.get("content-encoding", "").split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity", "none", "utf-8")]
    if len(codings) > _MAX_CODINGS:
        raise BodyError("content_encoding", f"{len(codings)} HTTP content encodings, limit {_MAX_CODINGS}")
    for coding in reversed(codings):
        payload = _decompress(coding, payload, limits, allow_cut=allow_cut)
    return payload


_CHUNK_SIZE = re.compile(rb"\s*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,1024})?\r?\n")


def _unchunk(payload: bytes, *, allow_cut: bool) -> bytes:
    body = bytearray()
    position = num_chunks = 0
    while match := _CHUNK_SIZE.match(payload, position):
        size = int(match[1], 16)
        if size == 0:
            return bytes(body)
        body += payload[match.end() : match.end() + size]
        position = match.end() + size
        num_chunks += 1
        if num_chunks > _MAX_CHUNKS:
            raise BodyError("decompression_bomb", f"the HTTP body has more than {_MAX_CHUNKS} chunks")
    if allow_cut:
        return bytes(body)
    raise BodyError("truncated", f"the chunked HTTP body breaks off at byte {min(position, len(payload))}")


def _decompress(coding: str, payload: bytes, limits: Limits, *, allow_cut: bool) -> bytes:
    if coding in ("gzip", "x-gzip"):
        if not payload.startswith(b"\x1f\x8b"):
            return payload
        return _inflate(payload, 31, limits, allow_cut=allow_cut)
    if coding == "deflate":  # zlib format by the standard, bare deflate by some servers, undone by some crawlers
        is_zlib = len(payload) > 1 and payload[0] & 15 == 8 and (payload[0] << 8 | payload[1]) % 31 == 0
        if not is_zlib and payload.lstrip()[:1] == b"<":
            return payload
        return _inflate(payload, 15 if is_zlib else -15, limits, allow_cut=allow_cut)
    from fastwarc.stream_io import BrotliReader, ZstdReader

    if coding == "br":
        return _read_bounded(BrotliReader(io.BytesIO(payload)), payload, limits)
    if coding == "zstd" and payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _read_bounded(ZstdReader(io.BytesIO(payload)), payload, limits)
    if coding == "zstd":
        return payload
    raise BodyError("content_encoding", f"unknown HTTP content encoding {coding[:40]!r}")


def _inflate(payload: bytes, window_bits: int, limits: Limits, *, allow_cut: bool) -> bytes:
    decoder = zlib.decompressobj(window_bits)
    try:
        body = decoder.decompress(payload, limits.max_record_bytes + 1)
    except zlib.error as error:
        raise BodyError("content_encoding", f"the compressed HTTP body is damaged: {error}") from None
    _check_size(len(body), len(payload), limits)
    if not decoder.eof and not allow_cut:
        raise BodyError("truncated", "the compressed HTTP body breaks off")
    return body


def _read_bounded(reader: _Reader, payload: bytes, limits: Limits) -> bytes:
    body = bytearray()
    try:
        while content := reader.read(1 << 16):
            body += content
            _check_size(len(body), len(payload), limits)
    except OSError as error:
        if payload.lstrip()[:1] == b"<":  # stored decoded, with its old header
            return payload
        raise BodyError("content_encoding", f"the compressed HTTP body is damaged: {error}") from None
    return bytes(body)


def _check_size(produced: int, stored: int, limits: Limits) -> None:
    if produced > max(limits.ratio_after_bytes, limits.max_decompression_ratio * stored):
        raise BodyError("decompression_bomb", f"the HTTP body grew from {stored} to {produced} bytes or more")
    if produced > limits.max_record_bytes:
        raise BodyError("record_too_large", f"the HTTP body is larger than {limits.max_record_bytes} bytes")


def decode_text(body: bytes, content_type: str, *, is_html: bool) -> str:
    """Decode a page, undecodable bytes as U+FFFD.

    In order: byte order mark; UTF-8 if there are non-ASCII bytes and all are valid UTF-8, whatever is declared (text in
    another encoding practically never is, while wrong declarations are common and would give mojibake); the charset of
    the HTTP header; that of `<meta>` or the XML declaration; UTF-8; a guess from the bytes.
    """
    for mark, encoding in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, "replace")
    declared = [match[1] for match in [_CHARSET.search(content_type)] if match]
    if is_html:
        head = body[:_META_BYTES]
        found = [pattern.search(head) for pattern in (_META_CHARSET, _XML_CHARSET)]
        # A page that could be searched for its own declaration is not UTF-16, whatever that says.
        declared += ["utf-8" if b"utf-16" in match[1].lower() else match[1].decode("ascii") for match in found if match]
    try:
        text = body.decode("utf-8")
        if not body.isascii() or (b"\x1b" not in body and b"\0" not in body):  # else ISO-2022 or UTF-16 are possible
            return text
    except UnicodeDecodeError:
        pass
    return body.decode(_choose_encoding(body, declared), "replace")


def _choose_encoding(body: bytes, declared: list[str]) -> str:
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    known = [str(name) for name in (map_encoding_to_html5(label, False) for label in declared) if name]
    for name in known:
        if name != "utf-8":
            return name
    guess = detect_encoding(body[:_DETECT_BYTES])
    # Mostly UTF-8 with a few bad bytes is still UTF-8.
    if known and body.decode("utf-8", "replace").count("\ufffd") <= len(body) // 100:
        return "utf-8"
    return str(guess or "utf-8")
