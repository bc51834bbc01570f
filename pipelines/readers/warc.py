"""WARC and WET files: texts out of their records, and pages out of response records."""

from collections.abc import Iterator
from contextlib import closing

from emsmine.pipelines.readers import html
from emsmine.pipelines.readers.body import BodyError, decode_text, http_body
from emsmine.pipelines.readers.framing import BadRecord, Frame, Headers, check_digest, parse_headers, read_frames
from emsmine.pipelines.readers.lookahead import LookAhead
from emsmine.pipelines.readers.pages import read_page
from emsmine.pipelines.readers.records import Limits, Problem, Record, finish, is_unicode, iso_utc, one_line, paragraphs
from emsmine.pipelines.readers.source import Source

_PAGE_TYPES = ("response", "resource")
_TEXT_TYPES = ("conversion",)
_SILENT_TYPES = ("warcinfo", "request", "metadata", "revisit", "continuation")
_MAX_HTTP_HEAD_BYTES = 1 << 18
_HTML_TYPES = ("text/html", "application/xhtml+xml")


def read_warc(source: Source) -> Iterator[Record | Problem]:
    """Yield the pages of a WARC file and the texts of a WET file.

    `response` and `resource` records and WET's `conversion` records each give one Record or one Problem; sound records
    of the standard's other types give nothing; a damaged record of any type gives one Problem.
    """
    with closing(LookAhead(source.path, source.codec, source.limits)) as look_ahead:
        for item in read_frames(source.buffer(), source.limits, look_ahead):
            if isinstance(item, Problem):
                yield item
            elif item.kind not in _SILENT_TYPES:
                yield _item(item, source.limits)


def _item(frame: Frame, limits: Limits) -> Record | Problem:
    sample = one_line(frame.url or frame.block)
    if frame.kind not in (*_PAGE_TYPES, *_TEXT_TYPES):
        return Problem("unknown_record_type", frame.offset, sample, f"WARC-Type is {frame.kind[:40]!r}")
    record = Record(
        url=frame.url if is_unicode(frame.url) else "",
        date=iso_utc(frame.headers.get("warc-date", "")),
        offset=frame.offset,
        length=frame.length,
        text="",
    )
    try:
        return finish(_record_of(frame.kind, frame.headers, frame.block, record, limits), limits)
    except BodyError as error:
        return Problem(error.reason, frame.offset, sample, str(error))
    except BadRecord as error:
        return Problem(error.reason, frame.offset, sample, error.detail)


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
        raise BadRecord("content_type", f"{media_type[:80] or 'unknown'} is not a page")
    text = decode_text(body, content_type, is_html=media_type != "text/plain")
    if media_type == "text/plain":
        record = _with(frame, text=paragraphs(text))
    else:
        page = read_page(text, limits)
        record = _with(frame, text=page.text, html_lang=page.lang, mt_hints=page.mt_hints)
    share = record.text.count("\ufffd") / max(1, len(record.text))
    if share > limits.max_replacement_share:
        raise BadRecord("bad_encoding", f"{share:.1%} of the characters could not be decoded")
    return record


def _with(frame: Record, *, text: str, html_lang: str = "", mt_hints: tuple[str, ...] = (), lang: str = "") -> Record:
    return Record(frame.url, frame.date, frame.offset, frame.length, text, html_lang, mt_hints, lang)


def _utf8(block: bytes) -> str:
    try:
        return block.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecord("invalid_utf8", f"byte {error.start} of the text is not UTF-8") from None


def _http_response(headers: Headers, block: bytes, url: str, limits: Limits) -> tuple[str, bytes]:
    """Return (content type, decoded body) of an HTTP response with status 200."""
    head, blank, payload = block.partition(b"\r\n\r\n")
    if not blank or b"\n\n" in head:
        head, blank, payload = block.partition(b"\n\n")
    if len(head) > _MAX_HTTP_HEAD_BYTES:
        raise BadRecord("malformed_http", f"the HTTP header has {len(head)} bytes, limit {_MAX_HTTP_HEAD_BYTES}")
    lines = head.splitlines()
    if not lines or not lines[0].startswith(b"HTTP/"):
        raise BadRecord("malformed_http", "the block does not start with an HTTP status line")
    status = lines[0].split()[1:2]
    if status != [b"200"]:
        raise BadRecord("http_status", f"HTTP status {one_line(b''.join(status)) or 'missing'}")
    http_headers = parse_headers(lines[1:])
    is_chunked = "chunked" in http_headers.get("transfer-encoding", "").lower()
    if limits.check_digests and "warc-block-digest" not in headers and not is_chunked:
        check_digest("payload", headers.get("warc-payload-digest", ""), payload, url)
    was_cut = "warc-truncated" in headers  # by the crawler, on purpose: what there is can be used
    return http_headers.get("content-type", ""), http_body(http_headers, payload, limits, allow_cut=was_cut)
