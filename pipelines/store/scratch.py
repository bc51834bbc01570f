"""A file without a name, for what a task puts aside while it works."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy.typing as npt

from emsmine.errors import TaskFailedError
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import new_attempt, size


class ScratchFile:
    """Bytes on the disk that are gone with the process, however it ends: the file has no name in its folder.

    It has the name of a temporary file for a moment, so that the next run removes one that was caught in it.

    Args:
        folder: where it lies; must exist.
        root: the folder that the user gave, below which no link is followed. Default: `folder`.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self._folder = folder
        self._size = 0
        root = root or folder
        name = (folder / f".tmp-{new_attempt()}-scratch").relative_to(root).as_posix()
        self._handle: int | None = inside.create(root, name, os.O_RDWR)
        inside.unlink(root, name)

    def append(self, data: npt.NDArray[Any]) -> None:
        """Write the bytes of a contiguous array behind those that are there.

        Raises:
            TaskFailedError: the disk refuses.
        """
        view = data.data.cast("B")
        written = 0
        try:
            while written < len(view):
                written += os.write(self._open_handle(), view[written:])
        except OSError as error:
            raise TaskFailedError(
                f"{self._folder}: {error.strerror or error}, with {size(self._size + written)} put aside here and "
                f"{size(shutil.disk_usage(self._folder).free)} free; nothing is kept of it. Make room, then run the "
                "same command again"
            ) from error
        self._size += written

    def read(self, start: int, num_bytes: int) -> bytes:
        """Return bytes from a place on.

        Raises:
            TaskFailedError: they cannot be read.
        """
        parts: list[bytes] = []
        try:
            while num_bytes and (part := os.pread(self._open_handle(), num_bytes, start)):
                parts.append(part)
                start, num_bytes = start + len(part), num_bytes - len(part)
        except OSError as error:
            raise TaskFailedError(
                f"{self._folder}: {error.strerror or error}, while reading what was put aside here; check the disk, "
                "then run the same command again"
            ) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open_handle(self) -> int:
        if self._handle is None:
            raise ValueError(f"{self._folder}: what was put aside here is used after it was given back")
        return self._handle

    def close(self) -> None:
        """Free the disk space; closing twice is harmless."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
