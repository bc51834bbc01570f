"""Files that appear whole or not at all, and their hashes.

A file is written under a temporary name that belongs to one attempt, flushed to the disk, and only then renamed to its
own name. Everything goes through `os.open`, `os.write`, `os.fsync` and `os.replace`, so that the fault tests can make
any single call fail.
"""

import errno
import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_BUFFER_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{8}-.+")


def new_attempt() -> str:
    """Return a name for one attempt at a task, unlike that of any other attempt. It never reaches published bytes."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def temporary_path(path: Path, attempt: str) -> Path:
    """Return where an attempt writes the file that will become `path`: same folder, hidden name."""
    return path.with_name(f".tmp-{attempt}-{path.name}")


def is_temporary(name: str) -> bool:
    """Tell whether a file name is one that `temporary_path` makes."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the path into an OSError that carries none or that of a temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the folder cannot be flushed (file systems that do not know the operation are let pass).
    """
    with _naming(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def sync_directories(paths: Iterable[Path]) -> None:
    """Make the names in the parent folders of some files durable, each folder once."""
    for folder in sorted({path.parent for path in paths}):
        sync_directory(folder)


def make_directory(path: Path) -> None:
    """Create a folder and its missing parents durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with _naming(folder):
            folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


class AtomicFile(io.BufferedIOBase):
    """A binary file, write-only, that gets its name when it is published. It hashes what passes through.

    Args:
        path: the final name; its folder is created.
        attempt: see `new_attempt`.
        rows: number of rows or lines; may be set later as the attribute of that name.
    """

    def __init__(self, path: Path, attempt: str, rows: int | None = None) -> None:
        super().__init__()
        self.path = path
        self.rows = rows
        self.size = 0
        self.complete = False
        self._temporary = temporary_path(path, attempt)
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._handle: int | None = None
        self._discarded = False
        make_directory(path.parent)
        with _naming(path):
            self._handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    @property
    def name(self) -> str:
        """The final path, as file objects call it."""
        return str(self.path)

    def writable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self.size

    def write(self, data: "ReadableBuffer", /) -> int:
        """Append bytes.

        Raises:
            ValueError: the file is closed.
            OSError: the disk refuses; the error names the final path.
        """
        with memoryview(data) as view:
            length = view.nbytes
            # A Parquet writer that is dropped after an error still writes its footer; nobody wants those bytes.
            if self._discarded or length == 0:
                return length
            if self._handle is None:
                raise ValueError(f"write to {self.path} after it was closed")
            self._hash.update(view)
            self._buffer += view.cast("B") if view.contiguous else view.tobytes()
        self.size += length
        if len(self._buffer) >= _BUFFER_BYTES:
            self._drain()
        return length

    def _drain(self) -> None:
        with _naming(self.path):
            while self._buffer and self._handle is not None:
                written = os.write(self._handle, self._buffer)
                del self._buffer[:written]

    def flush(self) -> None:
        """Do nothing: bytes matter to others only once published, and `close` flushes to the disk."""

    def close(self) -> None:
        """Flush to the disk. The file keeps its temporary name until `publish`."""
        if self._handle is not None:
            try:
                self._drain()
                with _naming(self.path):
                    os.fsync(self._handle)
                self.complete = True
            finally:
                handle, self._handle = self._handle, None
                os.close(handle)
        super().close()

    def sha256(self) -> str:
        """Return the hex digest of the bytes written."""
        return self._hash.hexdigest()

    def publish(self) -> None:
        """Give the file its name, replacing what was there. The folder is not flushed, see `sync_directories`."""
        if not self.complete:
            raise ValueError(f"publish of {self.path} before it was closed without error")
        with _naming(self.path):
            os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the temporary file, if there is one. Later writes are ignored."""
        self._discarded = True
        self._buffer.clear()
        handle, self._handle = self._handle, None
        try:
            if handle is not None:
                os.close(handle)
        finally:
            self._temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, attempt: str) -> None:
    """Write a small file durably: it holds either its old content or all of `data`, whatever happens."""
    file = AtomicFile(path, attempt)
    try:
        file.write(data)
        file.close()
        file.publish()
    except BaseException:
        file.discard()
        raise
    sync_directory(path.parent)


def hash_file(path: str | Path) -> tuple[str, int]:
    """Hash a local file or the target of an fsspec URL.

    Args:
        path: local path or URL (`s3://…`, `gs://…`).

    Returns:
        SHA-256 in hex, and the number of bytes.

    Raises:
        OSError: the file cannot be read.
        InputError: the target of a URL cannot be read.
        MissingDependencyError: the driver for a URL is not installed.
    """
    if "://" in str(path):
        from emsmine.pipelines.readers.open import open_binary  # only remote files need it

        with open_binary(str(path)) as remote:
            return _hash_stream(remote)
    with open(path, "rb") as local:
        return _hash_stream(local)


def _hash_stream(stream: io.BufferedIOBase | BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_BUFFER_BYTES):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


_verified: set[tuple[str, str, int, int, int]] = set()


def matches_hash(path: str | Path, sha256: str) -> tuple[bool, str]:
    """Compare a file with its hash, reading it once per process for as long as it is the same file.

    Args:
        path: local path or URL.
        sha256: expected hex digest.

    Returns:
        Whether it matches, and the digest found.

    Raises:
        OSError: the file cannot be read.
    """
    key = None
    if "://" not in str(path):
        # Inode, size and mtime tell a replaced file from the one that was checked; they decide nothing else.
        stat = os.stat(path)
        key = (str(path), sha256, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if key in _verified:
            return True, sha256
    found, _ = hash_file(path)
    if found == sha256 and key is not None:
        _verified.add(key)
    return found == sha256, found
