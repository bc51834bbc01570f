"""Entries of the cache of training data: written piece by piece, visible when they are whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt


@contextmanager
def new_entry(entry: Path) -> Iterator[Path]:
    """Yield a folder to fill; at the end of the block it takes the place of `entry`, unless the block fails."""
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        if entry.exists():
            shutil.rmtree(entry)
        temporary.rename(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class ArrayFile:
    """A `.npy` file that rows are appended to; the file is whole after the `with` block.

    The bytes are those of `np.save`: NumPy leaves room in the header for a length of any number of digits.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int | None = None) -> None:
        """Create a file without rows.

        Args:
            path: ends in `.npy`; what is there is overwritten.
            dtype: of the rows.
            width: numbers in a row; None: an array of one dimension.
        """
        self.dtype = np.dtype(dtype)
        self.width = width
        self.num_rows = 0
        self._stream = path.open("wb")
        self._write_header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows.

        Raises:
            ValueError: they have another type or width.
        """
        if rows.dtype != self.dtype or rows.shape[1:] != self._row_shape():
            raise ValueError(f"rows of {rows.dtype} {rows.shape[1:]} in a file of {self.dtype} {self._row_shape()}")
        self._stream.write(np.ascontiguousarray(rows).data)
        self.num_rows += len(rows)

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._stream.seek(0)
            self._write_header()
        self._stream.close()

    def _row_shape(self) -> tuple[int, ...]:
        return () if self.width is None else (self.width,)

    def _write_header(self) -> None:
        description = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *self._row_shape()),
        }
        np.lib.format.write_array_header_1_0(self._stream, description)
