"""Parquet files whose bytes depend on the rows only, and their verified reading.

pyarrow starts a new page at each write, so the same rows written in other batches give another file. Here rows are
gathered into row groups by a rule that looks at rows alone. Pages carry checksums: without them most single flipped
bits go unnoticed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from emsmine.errors import CorruptOutputError, InputError
from emsmine.outputs import OutputFile
from emsmine.pipelines.store.files import AtomicFile

ROW_GROUP_ROWS = 16384
# Bounds memory, and keeps a string column of one row group far from Arrow's 2 GiB limit.
ROW_GROUP_BYTES = 64 << 20
# A wider binary column of fixed size holds vectors or hashes: random bytes gain nothing from compression.
_INCOMPRESSIBLE_WIDTH = 8


def _row_bytes(array: Any) -> npt.NDArray[np.int64]:
    """Estimate how many bytes each row of an array takes, from values only (never from how the rows were batched)."""
    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), dtype=np.int64)
    if pa.types.is_struct(kind):
        return np.sum([_row_bytes(field) for field in array.flatten()], axis=0, dtype=np.int64) + np.zeros(
            len(array), dtype=np.int64
        )
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return np.diff(_offsets(array, np.int32))
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return np.diff(_offsets(array, np.int64))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = np.asarray(array.offsets, dtype=np.int64)
        ends = np.concatenate([[0], np.cumsum(_row_bytes(array.values))])
        return np.asarray(ends[offsets[1:]] - ends[offsets[:-1]], dtype=np.int64)
    if pa.types.is_fixed_size_list(kind):
        values = _row_bytes(array.flatten()) if array.null_count == 0 else np.full(len(array) * kind.list_size, 8)
        return np.asarray(values.reshape(len(array), kind.list_size).sum(axis=1), dtype=np.int64)
    try:
        width = max(1, kind.bit_width // 8)
    except ValueError:  # maps and views: rare, and a rough guess only moves the border of a row group
        width = 64
    return np.full(len(array), width, dtype=np.int64)


def _offsets(array: Any, dtype: type[np.int32] | type[np.int64]) -> npt.NDArray[np.int64]:
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.zeros(len(array) + 1, dtype=np.int64)
    width = np.dtype(dtype).itemsize
    return np.frombuffer(buffer, dtype=dtype, count=len(array) + 1, offset=array.offset * width).astype(np.int64)


def _leaves(schema: Any) -> list[tuple[str, bool]]:
    """List the physical columns of a schema, and whether each is a wide binary column of fixed size."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    paths = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    leaves = []
    for i in range(len(paths)):
        column = paths.column(i)
        wide = column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.length > _INCOMPRESSIBLE_WIDTH
        leaves.append((column.path, wide))
    return leaves


class ParquetSink:
    """Writes rows to a file as Parquet, in a canonical form.

    Args:
        file: where the bytes go; an `OutputFile` is published by its own `with` block.
        schema: Arrow schema of the rows, with its metadata.
        counted: whether these rows are what the task passes on (see `TaskContext.writer`).
        row_group_rows: rows per row group; a group also ends before it would exceed 64 MiB of values.
        compression: codec of all columns, or by column name. Default: zstd level 3, but none for wide binary columns of
            fixed size (vectors, hashes). Columns not named in a mapping keep their default.
    """

    def __init__(
        self,
        file: AtomicFile | OutputFile,
        schema: Any,
        *,
        counted: bool = False,
        row_group_rows: int = ROW_GROUP_ROWS,
        compression: str | Mapping[str, str] | None = None,
    ) -> None:
        if row_group_rows < 1:
            raise ValueError(f"row_group_rows must be at least 1, got {row_group_rows}")
        self.file = file
        self.schema = schema
        self.counted = counted
        self.num_rows = 0
        self._row_group_rows = row_group_rows
        self._pending: list[Any] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        leaves = _leaves(schema)
        codecs = {}
        for path, wide in leaves:
            default = "none" if wide else "zstd"
            chosen = compression.get(path.split(".")[0]) if isinstance(compression, Mapping) else compression
            codecs[path] = chosen or default
        narrow = [path for path, wide in leaves if not wide]
        self._writer = pq.ParquetWriter(
            file,
            schema,
            compression=codecs,
            compression_level={path: 3 for path, codec in codecs.items() if codec == "zstd"} or None,
            use_dictionary=narrow or False,
            write_statistics=narrow or False,
            write_page_checksum=True,
        )

    def write(self, rows: Any) -> None:
        """Append rows.

        Args:
            rows: a pyarrow Table or RecordBatch with the schema of this writer.

        Raises:
            ValueError: the schema differs; the message names the first column that does.
        """
        if not rows.schema.equals(self.schema):
            raise ValueError(f"rows for {self.file.path} do not fit: {_schema_difference(self.schema, rows.schema)}")
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        for batch in batches:
            if batch.num_rows:
                self._add(batch)

    def _add(self, batch: Any) -> None:
        sizes = np.zeros(batch.num_rows, dtype=np.int64)
        for column in batch.columns:
            sizes += _row_bytes(column)
        ends = np.cumsum(sizes)
        start = 0
        while start < batch.num_rows:
            before = int(ends[start - 1]) if start else 0
            room = ROW_GROUP_BYTES - self._pending_bytes
            stop = int(np.searchsorted(ends, before + room, side="right"))
            stop = min(stop, start + self._row_group_rows - self._pending_rows)
            if stop <= start and self._pending_rows == 0:
                stop = start + 1  # one row above the limit stands alone
            if stop > start:
                self._pending.append(batch.slice(start, stop - start))
                self._pending_rows += stop - start
                self._pending_bytes += int(ends[stop - 1]) - before
            if stop < batch.num_rows or self._pending_rows >= self._row_group_rows:
                self._write_row_group()
            start = max(stop, start)
        self.num_rows += batch.num_rows

    def _write_row_group(self) -> None:
        table = pa.Table.from_batches(self._pending, schema=self.schema).combine_chunks()
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def close(self) -> None:
        """Write what is left and flush the file to the disk. Closing twice is harmless."""
        if not self.file.closed:
            if self._pending_rows:
                self._write_row_group()
            self._writer.close()
            self.file.rows = self.num_rows
            self.file.close()

    def discard(self) -> None:
        """Drop the file and all rows."""
        if isinstance(self.file, AtomicFile):
            self.file.discard()
        self._writer.close()


def _schema_difference(expected: Any, found: Any) -> str:
    if expected.names != found.names:
        return f"columns {found.names}, expected {expected.names}"
    for want, got in zip(expected, found, strict=True):
        if not want.equals(got):
            return f"column {got}, expected {want}"
    return "equal columns in another form"


def _source(path: Path) -> AbstractContextManager[Any]:
    """Return what pyarrow can open: it takes names in UTF-8 only, and reads them faster than a file of Python's."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return path.open("rb")
    return nullcontext(path)


@contextmanager
def _open_verified(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    """Open with page verification; turn what pyarrow raises on damage into CorruptOutputError."""
    try:
        with _source(path) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
            absent = [name for name in columns or () if name not in file.schema_arrow.names]
            if absent:
                raise InputError(f"{path} has no column {absent[0]!r}; it has {', '.join(file.schema_arrow.names)}")
            yield file
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorruptOutputError(
            f"{path} is damaged ({error}); rerun the stage that made it with --redo STAGE"
        ) from error


@dataclass(frozen=True)
class ParquetInfo:
    """What stands in the footer of a Parquet file."""

    schema: Any
    num_rows: int


def parquet_info(path: Path) -> ParquetInfo:
    """Read schema and number of rows.

    Raises:
        CorruptOutputError: the file is damaged.
    """
    with _open_verified(path, None) as file:
        return ParquetInfo(file.schema_arrow, file.metadata.num_rows)


def read_table(path: Path, columns: Sequence[str] | None, *, use_threads: bool = False) -> Any:
    """Read a whole Parquet file, verifying page checksums.

    Args:
        path: local file.
        columns: names to read; all if None.
        use_threads: let pyarrow use its thread pool.

    Returns:
        pyarrow Table.

    Raises:
        CorruptOutputError: the file is damaged.
        InputError: a column is absent.
    """
    with _open_verified(path, columns) as file:
        return file.read(columns=columns and list(columns), use_threads=use_threads)


def read_batches(path: Path, columns: Sequence[str] | None, batch_rows: int) -> Iterator[Any]:
    """Read a Parquet file piece by piece, verifying page checksums.

    Args:
        path: local file.
        columns: names to read; all if None.
        batch_rows: largest number of rows per batch.

    Returns:
        pyarrow RecordBatches in file order.

    Raises:
        CorruptOutputError: the file is damaged.
        InputError: a column is absent.
    """
    with _open_verified(path, columns) as file:
        batches = file.iter_batches(batch_size=batch_rows, columns=columns and list(columns), use_threads=False)
        while (batch := next(batches, None)) is not None:
            yield batch


def read_groups(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    """Read a Parquet file by its row groups, verifying page checksums.

    `read_batches` holds as much as the file by its end, as pyarrow lets go of what it read when its iterator ends:
    156 MB for 200,000 vectors of 384, against 8 MB here.

    Args:
        path: local file.
        columns: names to read; all if None.

    Returns:
        pyarrow Tables in file order.

    Raises:
        CorruptOutputError: the file is damaged.
        InputError: a column is absent.
    """
    with _open_verified(path, columns) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns and list(columns), use_threads=False)


def read_slice(path: Path, start: int, stop: int, columns: Sequence[str] | None) -> Any:
    """Read rows `start` to `stop` (exclusive), touching only the row groups that hold them.

    Returns:
        pyarrow Table.

    Raises:
        CorruptOutputError: the file is damaged.
        InputError: a column is absent.
        ValueError: the file has fewer rows.
    """
    with _open_verified(path, columns) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        if not 0 <= start <= stop <= sum(sizes):
            raise ValueError(f"rows {start} to {stop} of {path}, which has {sum(sizes)}")
        firsts = np.cumsum([0, *sizes])
        groups = [i for i in range(len(sizes)) if firsts[i] < stop and firsts[i + 1] > start]
        table = file.read_row_groups(groups, columns=columns and list(columns), use_threads=False)
        return table.slice(start - int(firsts[groups[0]]) if groups else 0, stop - start)
