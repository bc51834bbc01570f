"""Parquet files with a column of texts.

pyarrow decodes in a child process (`sandbox`): the sizes in a Parquet file do not tell how much comes out of it, and
one cell may hold a gigabyte.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

from emsmine.errors import InputError
from emsmine.pipelines.readers.records import Limits, Problem, Record, finish, iso_utc, one_line, paragraphs
from emsmine.pipelines.readers.sandbox import SandboxError, sandbox
from emsmine.pipelines.readers.source import Source

# Few rows at a time: 2 GB of text may hide in 250 kB of Parquet, and the sizes in the footer do not tell.
_BATCH_ROWS = 128
_BUFFER_BYTES = 1 << 20
_ROW_CHARGE = 128  # bytes of the budget for a row without text
_MAX_READ_BYTES = 1 << 28
_MAX_DEATHS = 5
_LANG_COLUMNS = ("lang", "language")
_DATE_COLUMNS = ("date", "timestamp")


@dataclass(frozen=True, slots=True)
class Group:
    """Says that rows of a row group are about to be decoded."""

    number: int
    first_row: int
    num_rows: int
    row: int


def read_parquet(source: Source) -> Iterator[Record | Problem]:
    """Yield a Record or a Problem for each row.

    Only the columns in need are read: text and URL, `lang` or `language`, `date` or `timestamp`. A row group that
    cannot be decoded, or not within the limits, gives one Problem for its remaining rows; a file without a sound footer
    gives one Problem.

    Raises:
        InputError: there is no column `text_field`, or it does not hold strings; or the file is compressed as a whole.
    """
    if source.codec:
        raise InputError(
            f"read: {source.path!r} is Parquet inside {source.codec}; decompress it first, Parquet needs random access"
        )
    yield from _items(source)
    source.report_rest()


def _items(source: Source) -> Iterator[Record | Problem]:
    raw = source.raw
    size = raw.seek(0, os.SEEK_END)
    if not size:
        return
    request: dict[str, Any] = {"path": source.path, "size": size, "limits": asdict(source.limits), "first_group": 0}
    request |= {"text_field": source.text_field, "url_field": source.url_field}
    for death in range(1, _MAX_DEATHS + 1):
        group: Group | None = None
        row = 0
        try:
            for item in _ask(raw, request):
                if isinstance(item, Group):
                    group, row = item, item.row
                else:
                    row = item.offset + 1
                    yield item
            return
        except SandboxError as error:
            if group is None:
                yield Problem("corrupt_parquet", 0, "", f"the file cannot be opened: {error}")
                return
            lost = group.first_row + group.num_rows - row
            detail = f"row group {group.number}: {lost} of its {group.num_rows} rows cannot be read: {error}"
            if death == _MAX_DEATHS:
                detail += "; the rest of the file is not read"
            yield Problem("corrupt_parquet", row, "", detail)
            request["first_group"] = group.number + 1


def _ask(raw: BinaryIO, request: dict[str, Any]) -> Iterator[Record | Problem | Group]:
    """Yield what the child answers, and read for it; a request left early ends the child."""
    child = sandbox()
    limits = request["limits"]
    is_done = False
    try:
        child.send({"parquet": request, "memory": limits["max_parse_bytes"], "seconds": limits["max_parse_seconds"]})
        while not is_done:
            message, _ = child.receive()
            if "read" in message:
                offset, size = message["read"]
                raw.seek(offset)
                child.send({}, raw.read(min(size, _MAX_READ_BYTES)), first=False)
            elif "record" in message:
                fields = message["record"]
                yield Record(**{**fields, "mt_hints": tuple(fields["mt_hints"])})
            elif "problem" in message:
                yield Problem(**message["problem"])
            elif "group" in message:
                yield Group(**message["group"])
            elif "input_error" in message:
                raise InputError(message["input_error"])
            else:
                is_done = True
    finally:
        if not is_done:
            child.close()


def read_rows(
    raw: BinaryIO, path: str, limits: Limits, *, text_field: str, url_field: str, first_group: int
) -> Iterator[Record | Problem | Group]:
    """Yield the rows from a row group on, and a `Group` before each batch of them; the child's side."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    try:
        file = pq.ParquetFile(
            raw, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True, memory_map=False
        )
        schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        yield Problem("corrupt_parquet", 0, "", f"the file cannot be opened: {one_line(str(error))}")
        return
    columns = _columns(schema, path, text_field, url_field)
    budget = max(limits.ratio_after_bytes, limits.max_decompression_ratio * size)
    first_row = 0
    for number in range(file.metadata.num_row_groups):
        num_rows = file.metadata.row_group(number).num_rows
        if number >= first_group:
            group = Group(number, first_row, num_rows, first_row)
            for item in _read_group(file, group, columns, limits):
                yield item
                if not isinstance(item, Group):
                    budget -= _ROW_CHARGE + (len(item.text) if isinstance(item, Record) else 0)
                if budget < 0:
                    detail = f"too much text came out of {size} bytes; the rest of the file is not read"
                    yield Problem("decompression_bomb", first_row, "", detail)
                    return
        first_row += num_rows


def _columns(schema: Any, path: str, text_field: str, url_field: str) -> dict[str, str]:
    """Return the column for each of text, url, lang and date that there is one for."""
    import pyarrow as pa

    names = list(schema.names)
    if text_field not in names:
        found = ", ".join(names) or "none"
        raise InputError(f"read: {path!r} has no column {text_field!r}; it has: {found}. Name one with text_field")
    kind = schema.field(text_field).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise InputError(
            f"read: column {text_field!r} of {path!r} holds {kind}, not strings; name another with text_field "
            f"(there are: {', '.join(names)})"
        )
    wanted = {"text": (text_field,), "url": (url_field,), "lang": _LANG_COLUMNS, "date": _DATE_COLUMNS}
    found_names = {role: next((name for name in choice if name in names), "") for role, choice in wanted.items()}
    return {role: name for role, name in found_names.items() if name}


def _read_group(file: Any, group: Group, columns: dict[str, str], limits: Limits) -> Iterator[Record | Problem | Group]:
    import pyarrow as pa

    row = group.first_row
    yield group
    try:
        names = list(set(columns.values()))
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group.number], columns=names, use_threads=False):
            values = {role: batch.column(name) for role, name in columns.items()}
            for index in range(batch.num_rows):
                yield _row_item(row, {role: column[index] for role, column in values.items()}, limits)
                row += 1
            yield replace(group, row=row)
    except (pa.ArrowException, OSError) as error:
        lost = group.first_row + group.num_rows - row
        detail = f"row group {group.number}: {lost} of its {group.num_rows} rows cannot be read: {one_line(str(error))}"
        yield Problem("corrupt_parquet", row, "", detail)


def _row_item(row: int, scalars: dict[str, Any], limits: Limits) -> Record | Problem:
    try:
        values = {role: scalar.as_py() for role, scalar in scalars.items()}
    except UnicodeDecodeError as error:
        return Problem("invalid_utf8", row, "", f"byte {error.start} of a string is not UTF-8")
    text, url = values["text"], values.get("url")
    if text is None:
        return Problem("null_text", row, one_line(str(url or "")), "the text is null")
    record = Record(
        url=url if isinstance(url, str) else "",
        date=iso_utc(values.get("date")),
        offset=row,
        length=1,
        text=paragraphs(text),
        lang=lang if isinstance(lang := values.get("lang"), str) else "",
    )
    return finish(record, limits)
