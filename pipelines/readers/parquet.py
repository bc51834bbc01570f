"""Parquet files with a column of texts."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from emsmine.errors import InputError
from emsmine.pipelines.readers.records import Limits, Problem, Record, finish, iso_utc, one_line, paragraphs

# Few rows at a time: 2 GB of text may hide in 250 kB of Parquet, and the sizes in the footer do not tell.
_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20
_LANG_COLUMNS = ("lang", "language")
_DATE_COLUMNS = ("date", "timestamp")


def read_parquet(
    raw: BinaryIO, path: str, limits: Limits, *, text_field: str, url_field: str
) -> Iterator[Record | Problem]:
    """Yield a Record or a Problem for each row.

    Only the columns in need are read: text and URL, `lang` or `language`, `date` or `timestamp`. A row group that
    cannot be decoded gives one Problem for its remaining rows; a file without a sound footer gives one Problem.

    Raises:
        InputError: there is no column `text_field`, or it does not hold strings.
    """
    if not raw.read(1):
        return
    raw.seek(0)
    try:
        file = pq.ParquetFile(
            raw, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True, memory_map=False
        )
    except (pa.ArrowException, OSError) as error:
        yield Problem("corrupt_parquet", 0, "", f"the file cannot be opened: {one_line(str(error))}")
        return
    columns = _columns(file.schema_arrow, path, text_field, url_field)
    first_row = 0
    for group in range(file.metadata.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        yield from _read_group(file, group, first_row, num_rows, columns, limits)
        first_row += num_rows


def _columns(schema: Any, path: str, text_field: str, url_field: str) -> dict[str, str]:
    """Return the column for each of text, url, lang and date that there is one for."""
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


def _read_group(
    file: Any, group: int, first_row: int, num_rows: int, columns: dict[str, str], limits: Limits
) -> Iterator[Record | Problem]:
    row = first_row
    try:
        batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(set(columns.values())))
        for batch in batches:
            values = {role: batch.column(name) for role, name in columns.items()}
            for index in range(batch.num_rows):
                yield _row_item(row, {role: column[index] for role, column in values.items()}, limits)
                row += 1
    except (pa.ArrowException, OSError) as error:
        lost = first_row + num_rows - row
        detail = f"row group {group}: {lost} of its {num_rows} rows cannot be read: {one_line(str(error))}"
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
