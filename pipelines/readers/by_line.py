"""JSONL and plain text: formats whose records are lines."""

import json
from collections.abc import Iterator

from emsmine.pipelines.readers.buffer import Buffer, DamagedInput, LineTooLong
from emsmine.pipelines.readers.records import Limits, Problem, Record, finish, is_unicode, iso_utc, one_line, paragraphs
from emsmine.pipelines.readers.source import Source

_BOM = b"\xef\xbb\xbf"
_LANG_FIELDS = ("lang", "language")
_DATE_FIELDS = ("date", "timestamp")

Line = tuple[int, bytes]


def _lines(buffer: Buffer, limits: Limits) -> Iterator[Line | Problem]:
    """Yield (offset, line) for each line, `\\n` alone being a line break, or the problem with it."""
    while True:
        start = buffer.position
        try:
            line = buffer.readline(limits.max_line_bytes)
        except LineTooLong as error:
            detail = f"a line of {error.length} bytes, limit {limits.max_line_bytes}"
            yield Problem("line_too_long", start, one_line(error.head), detail)
            continue
        except DamagedInput as error:
            rest = buffer.peek(200)
            damage = buffer.recover() or error.damage
            yield Problem(damage.reason, damage.offset, one_line(rest), damage.detail)
            continue
        if not line:
            return
        yield start, line.removeprefix(_BOM) if start == 0 else line


def read_jsonl(source: Source) -> Iterator[Record | Problem]:
    """Yield a Record or a Problem for each line that is not blank.

    A field name may be a path: `metadata.url` is `url` inside `metadata`, unless there is a field of the whole name.
    Language and date come from `lang` or `language`, `date` or `timestamp`.
    """
    for item in _lines(source.buffer(), source.limits):
        if isinstance(item, Problem):
            yield item
        elif item[1].strip():
            offset, line = item
            problem = _check_utf8(offset, line)
            yield problem or _json_record(offset, line, source.limits, source.text_field, source.url_field)


def _check_utf8(offset: int, line: bytes) -> Problem | None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Problem("invalid_utf8", offset, one_line(line), f"byte {error.start} of the line is not UTF-8")
    return None


def _json_record(offset: int, line: bytes, limits: Limits, text_field: str, url_field: str) -> Record | Problem:
    sample = one_line(line)
    try:
        row = json.loads(line)
    except RecursionError:
        return Problem("invalid_json", offset, sample, "nested too deeply")
    except ValueError as error:
        return Problem("invalid_json", offset, sample, one_line(str(error)))
    if not isinstance(row, dict):
        return Problem("not_an_object", offset, sample, f"the line holds a {type(row).__name__}, not an object")
    text = _field(row, text_field)
    if text is None:
        return Problem("missing_text", offset, sample, f"no field {text_field!r}; found: {one_line(', '.join(row))}")
    if not isinstance(text, str):
        return Problem("text_not_string", offset, sample, f"field {text_field!r} is a {type(text).__name__}")
    record = Record(
        url=_string(_field(row, url_field)),
        date=next((date for date in (iso_utc(row.get(name)) for name in _DATE_FIELDS) if date), ""),
        offset=offset,
        length=len(line),
        text=paragraphs(text),
        lang=next((lang for lang in (_string(row.get(name)) for name in _LANG_FIELDS) if lang), ""),
    )
    return finish(record, limits)


def _field(row: dict[str, object], path: str) -> object:
    if path in row or "." not in path:
        return row.get(path)
    value: object = row
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _string(value: object) -> str:
    return value if isinstance(value, str) and is_unicode(value) else ""


def read_text(source: Source) -> Iterator[Record | Problem]:
    """Yield the documents of a plain text file.

    Blank lines separate documents, and each line of a document is a paragraph. A list of sentences without blank lines
    is cut into documents of `Limits.max_document_lines` lines or `Limits.max_text_chars` characters at most. A line
    that is not UTF-8 or too long is a Problem of its own, and its document goes on without it.
    """
    start, end, num_chars = 0, 0, 0
    document: list[str] = []
    limits = source.limits
    for item in _lines(source.buffer(), limits):
        if isinstance(item, Problem):
            yield item
            continue
        offset, line = item
        problem = _check_utf8(offset, line)
        if problem:
            yield problem
            continue
        text = paragraphs(line.decode("utf-8"))
        num_chars = num_chars + len(text) + 1 if document else len(text) + 1
        is_full = len(document) >= limits.max_document_lines or num_chars > limits.max_text_chars
        if document and (not text or is_full):
            yield finish(Record("", "", start, end - start, "\n".join(document)), limits)
            document, num_chars = [], len(text) + 1
        if text:
            start = start if document else offset
            end = offset + len(line)
            document.append(text)
    if document:
        yield finish(Record("", "", start, end - start, "\n".join(document)), limits)
