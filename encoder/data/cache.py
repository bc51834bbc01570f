"""Entries of the cache of training data: written piece by piece, visible when they are whole, hashed when opened.

`done.json` is written last and holds the name of the entry and the XXH3-128 of each of its files. An array with a
flipped bit is a sound array, and would train another model without a word; so a process reads every file once, from
end to end, before it maps it. XXH3 is as fast as memory: the time is that of the disk.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

logger = logging.getLogger(__name__)

_DONE = "done.json"
_BLOCK_BYTES = 4 * 1024 * 1024

Layout = tuple[tuple[int, ...], type[np.generic]]
"""Shape, with -1 for any number of rows, and type of an array."""


def file_xxh3(path: Path) -> str:
    """Return the hexadecimal XXH3-128 of a file: against accidents, not against forgers."""
    hasher = xxhash.xxh3_128()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(block):
            hasher.update(block[:size])
    return hasher.hexdigest()


@contextmanager
def new_entry(entry: Path, report: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to fill; at the end of the block it takes the place of `entry`, unless the block fails.

    Args:
        entry: folder of the entry.
        report: for people, read when the block ends: may be filled by the block.
    """
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        files = {path.name: file_xxh3(path) for path in sorted(temporary.iterdir())}
        done = {**report, "entry": entry.name, "xxh3_128": files}
        (temporary / _DONE).write_text(json.dumps(done, sort_keys=True), encoding="utf-8")
        if entry.exists():
            shutil.rmtree(entry)
        temporary.rename(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_entry(entry: Path, layouts: Mapping[str, Layout]) -> dict[str, npt.NDArray[Any]] | None:
    """Return the arrays of an entry, memory-mapped; None if there is no whole one, with a warning if it is damaged.

    Args:
        entry: folder of the entry.
        layouts: what each of its `.npy` files must hold, by name without ending.
    """
    if not entry.exists():
        return None
    try:
        hashes = _recorded_hashes(entry)
        if hashes is None:
            logger.warning("train: cache entry %s has no hashes (an earlier emsmine wrote it); making it again", entry)
            return None
        arrays = {}
        for name, (shape, dtype) in layouts.items():
            path = entry / f"{name}.npy"
            if file_xxh3(path) != hashes.get(path.name):
                raise ValueError(f"{path.name} does not match its hash in {_DONE}")
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
            fits = array.ndim == len(shape) and all(a in (-1, b) for a, b in zip(shape, array.shape, strict=True))
            if not fits or array.dtype != dtype:
                raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
            arrays[name] = array
    except (OSError, ValueError, EOFError, RecursionError) as error:
        logger.warning("train: cache entry %s is damaged (%s); making it again", entry, error)
        return None
    return arrays


def _recorded_hashes(entry: Path) -> dict[str, str] | None:
    """Return the hashes of the files; None for an entry of a version that recorded none.

    Raises:
        ValueError: `done.json` is damaged or of another entry.
        OSError: it cannot be read.
    """
    done = json.loads((entry / _DONE).read_bytes())
    if not isinstance(done, dict):
        raise ValueError(f"{_DONE} holds no object")
    if not done.keys() & {"entry", "xxh3_128"}:
        return None
    hashes = done.get("xxh3_128")
    if done.get("entry") != entry.name or not isinstance(hashes, dict):
        raise ValueError(f"{_DONE} is of another entry or damaged")
    return hashes


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
