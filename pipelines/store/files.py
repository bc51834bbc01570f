"""Files that appear whole or not at all, and their hashes.

A file is written under a temporary name that belongs to one attempt, flushed to the disk, and only then renamed to its
own name. Everything goes through `os.open`, `os.write`, `os.fsync` and `os.replace`, so that the fault tests can make
any single call fail. Every `OSError` names the file.
"""

import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from emsmine.pipelines.store import inside
from emsmine.pipelines.store.inside import naming

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


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the folder cannot be flushed (file systems that do not know the operation are let pass).
    """
    inside.sync_folder(path)


def sync_folders_of(root: Path, paths: Iterable[str]) -> None:
    """Make the names in the folders of some files below a root durable, each folder once."""
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        inside.sync_folder(root, folder)


def make_directory(path: Path) -> None:
    """Create a folder and its missing parents durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with naming(folder):
            folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


class AtomicFile(io.BufferedIOBase):
    """A binary file, write-only, that gets its name when it is published. It hashes what passes through.

    Args:
        path: the final name; its folder is created.
        attempt: see `new_attempt`.
        rows: number of rows or lines; may be set later as the attribute of that name.
        root: the folder that the user gave; no link below it is followed. Default: the folder of `path`, whose name may
            then be that of a link, which is replaced.

    Raises:
        ForeignPathError: a link, or what is no file, stands in the way below `root`.
    """

    def __init__(self, path: Path, attempt: str, rows: int | None = None, *, root: Path | None = None) -> None:
        super().__init__()
        self.path = path
        self.root = root or path.parent
        self.identity: tuple[int, int] | None = None
        """Once closed: inode and mtime, which tell this file from one that was put in its place."""
        self.rows = rows
        self.size = 0
        self.complete = False
        self._relative = path.relative_to(self.root).as_posix()
        self._temporary = temporary_path(path, attempt).relative_to(self.root).as_posix()
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._handle: int | None = None
        self._discarded = False
        make_directory(self.root)
        if root is not None:
            if "/" in self._relative:
                inside.make_folders(root, self._relative.rpartition("/")[0])
            inside.exists(root, self._relative)
        with naming(path):
            self._handle = inside.create(self.root, self._temporary)

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
        with naming(self.path):
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
                with naming(self.path):
                    os.fsync(self._handle)
                    found = os.fstat(self._handle)
                self.identity = found.st_ino, found.st_mtime_ns
                self.complete = True
            finally:
                handle, self._handle = self._handle, None
                with naming(self.path):
                    os.close(handle)
        super().close()

    def sha256(self) -> str:
        """Return the hex digest of the bytes written."""
        return self._hash.hexdigest()

    def publish(self) -> None:
        """Give the file its name, replacing what was there. The folder is not flushed, see `sync_directories`."""
        if not self.complete:
            raise ValueError(f"publish of {self.path} before it was closed without error")
        inside.replace(self.root, self._temporary, self._relative)

    def discard(self) -> None:
        """Remove the temporary file, if there is one. Later writes are ignored."""
        self._discarded = True
        self._buffer.clear()
        handle, self._handle = self._handle, None
        try:
            if handle is not None:
                with naming(self.path):
                    os.close(handle)
        finally:
            inside.unlink(self.root, self._temporary)


def write_atomically(path: Path, data: bytes, attempt: str, *, root: Path | None = None) -> None:
    """Write a small file durably: it holds either its old content or all of `data`, whatever happens.

    Args:
        path: the file; its folder is created.
        data: all of it.
        attempt: see `new_attempt`.
        root: the folder that the user gave, below which no link is followed; see `AtomicFile`.
    """
    file = AtomicFile(path, attempt, root=root)
    try:
        file.write(data)
        file.close()
        file.publish()
    except BaseException:
        file.discard()
        raise
    sync_folders_of(file.root, [path.relative_to(file.root).as_posix()])


def hash_file(path: str | Path, on_bytes: Callable[[int], None] | None = None) -> tuple[str, int]:
    """Hash a local file or the target of an fsspec URL.

    Args:
        path: local path or URL (`s3://…`, `gs://…`).
        on_bytes: hears how many further bytes were read, to show progress.

    Returns:
        SHA-256 in hex, and the number of bytes.

    Raises:
        OSError: the file cannot be read.
        InputError: the target of a URL cannot be read.
        MissingDependencyError: the driver for a URL is not installed.
    """
    if "://" in str(path):
        from emsmine.pipelines.readers.source import open_binary  # only remote files need it

        with open_binary(str(path)) as remote:
            return _hash_stream(remote, on_bytes)
    with open(path, "rb") as local, naming(Path(path)):
        return _hash_stream(local, on_bytes)


def hash_inside(root: Path, relative: str) -> tuple[str, int]:
    """Hash a file below a folder, following no link: SHA-256 in hex, and the number of bytes.

    Raises:
        FileNotFoundError: there is none.
        ForeignPathError: it is no plain file, or behind a link.
        OSError: it cannot be read.
    """
    with inside.open_to_read(root, relative) as stream, naming(root / relative):
        return _hash_stream(stream)


def _hash_stream(
    stream: io.BufferedIOBase | BinaryIO, on_bytes: Callable[[int], None] | None = None
) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_BUFFER_BYTES):
        digest.update(block)
        size += len(block)
        if on_bytes:
            on_bytes(len(block))
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
    if "://" in str(path):
        found, _ = hash_file(path)
        return found == sha256, found
    with open(path, "rb") as stream, naming(Path(path)):
        return _matches(stream, str(path), sha256)


def matches_inside(root: Path, relative: str, sha256: str) -> tuple[bool, str]:
    """Like `matches_hash`, for a file below a folder, following no link.

    Raises:
        FileNotFoundError: there is none.
        ForeignPathError: it is no plain file, or behind a link.
        OSError: it cannot be read.
    """
    with inside.open_to_read(root, relative) as stream, naming(root / relative):
        return _matches(stream, str(root / relative), sha256)


def _matches(stream: BinaryIO, name: str, sha256: str) -> tuple[bool, str]:
    # Inode, size and mtime tell a replaced file from the one that was checked; they decide nothing else.
    state = os.fstat(stream.fileno())
    key = (name, sha256, state.st_ino, state.st_size, state.st_mtime_ns)
    if key in _verified:
        return True, sha256
    found, _ = _hash_stream(stream)
    if found == sha256:
        _verified.add(key)
    return found == sha256, found


def size(num_bytes: float) -> str:
    """Write bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
