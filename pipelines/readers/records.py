"""The two things that a reader yields, the limits that it keeps, and the small helpers that all formats share."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

SAMPLE_CHARS = 200
_MIB = 1 << 20
# Characters that end or widen a line in some program: collapsed, so that a paragraph is one line everywhere.
# `\s` has U+0085, U+2028, U+2029 and U+001C-U+001F already.
_LINE_BREAKS = re.compile(r"\n\s+")
_LONG_TEXT_CHARS = 1 << 20
_WHITESPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Record:
    """One page, document or row of an input file.

    Attributes:
        url: where the text comes from, "" if unknown.
        date: ISO 8601 in UTC (`2026-01-31T12:00:00Z`), "" if unknown.
        offset: where the record starts. WARC: the byte offset in the file as stored, which for a record with a gzip or
            zstd member of its own is the offset of that member; a record inside a larger member has its offset in the
            decompressed stream. JSONL and text: byte offset in the decompressed stream. Parquet: the row number.
        length: bytes from `offset` to the end of the record, counted as `offset` is; for Parquet 1 (row).
        text: paragraphs separated by `\\n`; no paragraph is empty or holds another kind of line break.
        html_lang: the `lang` attribute of `<html>`, as written, "" if none.
        mt_hints: signs that a page was machine translated, sorted; a hint for filters, never a reason to drop.
        lang: the language that the file declares for this record, as written, "" if none.
    """

    url: str
    date: str
    offset: int
    length: int
    text: str
    html_lang: str = ""
    mt_hints: tuple[str, ...] = ()
    lang: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """A record that cannot be used, or a damaged place of the file; reading went on after it unless `detail` says so.

    Attributes:
        reason: a snake_case code, such as `truncated` or `http_status`.
        offset: as in `Record`; for damage to a compressed stream, the offset in the file as stored.
        sample: at most 200 characters of the content or its URL, on one line.
        detail: what was found, for people.
    """

    reason: str
    offset: int
    sample: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """Bounds that keep hostile and broken files from taking the machine down.

    Attributes:
        max_record_bytes: a WARC record or decoded page that is larger gives `record_too_large`.
        max_line_bytes: a longer line of JSONL or text gives `line_too_long`.
        max_decompression_ratio: more output per input byte than this gives `decompression_bomb` and ends the file...
        ratio_after_bytes: ...once this much came out of one compressed member, or of the file.
        max_window_bytes: the largest zstd window that is accepted.
        max_page_chars: HTML markup that is longer gives `page_too_complex`.
        max_parse_bytes: memory of the process that parses large pages and Parquet.
        max_parse_seconds: of processor time that it may take for a page or a few rows; a net for what no count catches.
        max_text_chars: a longer text gives `text_too_long`.
        max_document_lines: a block of text lines that is longer is cut into several documents.
        max_damages: after so many damaged places in a compressed stream the rest of the file is given up.
        max_replacement_share: a page with a larger share of undecodable characters gives `bad_encoding`.
        check_digests: whether WARC digests are compared.
    """

    max_record_bytes: int = 64 * _MIB
    max_line_bytes: int = _MIB
    max_decompression_ratio: int = 200
    ratio_after_bytes: int = 16 * _MIB
    max_window_bytes: int = 1 << 27
    max_page_chars: int = 16 * _MIB
    max_parse_bytes: int = 768 * _MIB
    max_parse_seconds: float = 3.0
    max_text_chars: int = 16 * _MIB
    max_document_lines: int = 1000
    max_damages: int = 100
    max_replacement_share: float = 0.01
    check_digests: bool = True


def one_line(content: bytes | str) -> str:
    """Return the first 200 characters of some content, printable and on one line."""
    head = content[: 4 * SAMPLE_CHARS]
    text = head.decode("utf-8", "replace") if isinstance(head, bytes) else head
    printable = "".join(character if character.isprintable() else " " for character in text)
    return _WHITESPACE.sub(" ", printable).strip()[:SAMPLE_CHARS]


def paragraphs(text: str) -> str:
    """Return text as paragraphs: split at `\\n` only, every other whitespace run one space, no empty paragraph."""
    if len(text) > _LONG_TEXT_CHARS:  # a list of millions of empty lines would take more memory than they do
        text = _LINE_BREAKS.sub("\n", text)
    lines = (_WHITESPACE.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def iso_utc(value: object) -> str:
    """Return a date as ISO 8601 in UTC, "" if it is not one; a date without a time zone counts as UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return ""
    if not isinstance(value, datetime):
        return ""
    try:
        moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:
        return ""
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def is_unicode(text: str) -> bool:
    """Tell whether a string can be written as UTF-8 (it holds no lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def finish(record: Record, limits: Limits) -> Record | Problem:
    """Return the record, or the problem with its text: `no_text`, `text_too_long` or `lone_surrogate`."""
    sample = one_line(record.url or record.text)
    if not record.text:
        return Problem("no_text", record.offset, sample, "no text was left of this record")
    if len(record.text) > limits.max_text_chars:
        detail = f"{len(record.text)} characters, limit {limits.max_text_chars}"
        return Problem("text_too_long", record.offset, sample, detail)
    if not is_unicode(record.text):
        return Problem("lone_surrogate", record.offset, sample, "the text holds half of a UTF-16 surrogate pair")
    return record
