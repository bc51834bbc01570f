"""File operations that cannot leave a folder, whatever lies in it.

A run directory may come from somebody else, and then its links and its manifests are not ours. The folder itself may be
a link that the user gave; from there on every component of a path is opened by `dir_fd` with `O_NOFOLLOW`, so that no
link is followed, and only plain files are read or written: a pipe or a device would block, or worse.

Paths are relative to the root, with '/'. An `OSError` names the whole path.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from emsmine.errors import ForeignPathError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEXT_STEP = "nothing there was touched"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put a path into an OSError that carries none, or only the last part of it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _parts(root: Path, relative: str) -> list[str]:
    """Split a path; refuse what would lead elsewhere.

    Raises:
        ForeignPathError: it is empty, absolute or climbs.
    """
    parts = relative.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ForeignPathError(f"{root}: {relative!r} is no path inside this directory; {_NEXT_STEP}")
    return parts


def _describe(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "a device or socket")


def _foreign(path: Path, mode: int, expected: str) -> ForeignPathError:
    remedy = "put what it points to in its place" if stat.S_ISLNK(mode) else "move it away"
    return ForeignPathError(
        f"{path} is {_describe(mode)}, not {expected}: emsmine made no such thing, and follows no link inside a run "
        f"directory; {_NEXT_STEP}. Delete it or {remedy}, then run the same command again"
    )


@contextmanager
def open_folder(root: Path, relative: str = "") -> Iterator[int]:
    """Yield the descriptor of a folder below a root, reached without following a link.

    Args:
        root: any folder.
        relative: of the folder wanted; "" for the root.

    Raises:
        FileNotFoundError: there is no such folder.
        ForeignPathError: a link or a file stands in the way.
    """
    with naming(root):
        handle = os.open(root, _FOLDER)
    place = root
    try:
        for part in _parts(root, relative) if relative else ():
            place = place / part
            inner = _open_inner(handle, part, place)
            handle, outer = inner, handle
            _close_folder(outer)
        yield handle
    finally:
        _close_folder(handle)


def _close_folder(handle: int) -> None:
    # Nothing was written through it that a failing close could lose.
    with suppress(OSError):
        os.close(handle)


def _open_inner(outer: int, name: str, place: Path) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _foreign(place, os.stat(name, dir_fd=outer, follow_symlinks=False).st_mode, "a folder") from None
        raise OSError(error.errno, error.strerror, str(place)) from error


@contextmanager
def _parent(root: Path, relative: str) -> Iterator[tuple[int, str]]:
    *folders, name = _parts(root, relative)
    with open_folder(root, "/".join(folders)) as handle:
        yield handle, name


def _stat(handle: int, name: str, path: Path) -> os.stat_result:
    with naming(path):
        found = os.stat(name, dir_fd=handle, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise _foreign(path, found.st_mode, "a file")
    return found


def file_stat(root: Path, relative: str) -> os.stat_result:
    """Return the state of a plain file.

    Raises:
        FileNotFoundError: there is none.
        ForeignPathError: it is something else, or behind a link.
    """
    with _parent(root, relative) as (handle, name):
        return _stat(handle, name, root / relative)


def exists(root: Path, relative: str) -> bool:
    """Tell whether there is a plain file.

    Raises:
        ForeignPathError: something else stands there, or a link on the way.
    """
    try:
        file_stat(root, relative)
    except FileNotFoundError:
        return False
    return True


def open_to_read(root: Path, relative: str) -> BinaryIO:
    """Open a plain file; never waits for a pipe.

    Raises:
        FileNotFoundError: there is none.
        ForeignPathError: it is something else, or behind a link.
    """
    file_stat(root, relative)
    return os.fdopen(_open(root, relative, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _open(root: Path, relative: str, flags: int) -> int:
    inner: int | None = None
    try:
        with _parent(root, relative) as (handle, name), naming(root / relative):
            inner = os.open(name, flags | os.O_CLOEXEC, 0o666, dir_fd=handle)
        return inner
    except BaseException:
        if inner is not None:
            os.close(inner)
        raise


def read_bytes(root: Path, relative: str) -> bytes:
    """Return the content of a plain file.

    Raises:
        FileNotFoundError: there is none.
        ForeignPathError: it is something else, or behind a link.
    """
    with open_to_read(root, relative) as stream, naming(root / relative):
        return stream.read()


def open_in_place(root: Path, relative: str, flags: int) -> int:
    """Open a plain file that is changed where it lies, unlike all that appears by renaming; created if missing.

    Args:
        root: any folder.
        relative: of the file.
        flags: `os.O_RDWR`, or `os.O_WRONLY | os.O_APPEND`.

    Raises:
        ForeignPathError: it is something else, behind a link, or has another name that would be changed with it.
    """
    try:
        found = file_stat(root, relative)
    except FileNotFoundError:
        found = None
    if found is not None and found.st_nlink > 1:
        raise ForeignPathError(
            f"{root / relative} has {found.st_nlink} names (hard links), and what is written to it would change the "
            f"others; {_NEXT_STEP}. Delete it, then run the same command again"
        )
    return _open(root, relative, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)


def append_line(root: Path, relative: str, line: str) -> None:
    """Add a line to a log, which is created with its folder if missing.

    Raises:
        ForeignPathError: it is no plain file, behind a link, or has another name.
    """
    folder = relative.rpartition("/")[0]
    if folder:
        make_folders(root, folder)
    handle = open_in_place(root, relative, os.O_WRONLY | os.O_APPEND)
    with naming(root / relative), os.fdopen(handle, "ab") as stream:
        stream.write(line.encode("utf-8") + b"\n")


def create(root: Path, relative: str, flags: int = os.O_WRONLY) -> int:
    """Open a new file for writing, or with `os.O_RDWR` for both.

    Raises:
        FileExistsError: the name is taken, by whatever.
        ForeignPathError: a link stands on the way.
    """
    return _open(root, relative, flags | os.O_CREAT | os.O_EXCL)


def replace(root: Path, old: str, new: str) -> None:
    """Give a file another name in its folder, replacing what has it; a link is replaced, not followed."""
    with _parent(root, old) as (handle, name), naming(root / new):
        os.replace(name, new.rsplit("/", 1)[-1], src_dir_fd=handle, dst_dir_fd=handle)


def link(source_root: Path, source: str, root: Path, relative: str) -> bool:
    """Give a plain file another name below another root; False where the file system cannot.

    Raises:
        ForeignPathError: the source is no plain file, or a link stands on one of the ways.
    """
    with _parent(source_root, source) as (here, old), _parent(root, relative) as (there, new):
        _stat(here, old, source_root / source)
        try:
            os.link(old, new, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
        except OSError:
            return False
    return True


def unlink(root: Path, relative: str) -> None:
    """Remove a plain file; do nothing if it is not there.

    Raises:
        ForeignPathError: it is something else, or behind a link.
    """
    try:
        with _parent(root, relative) as (handle, name):
            _stat(handle, name, root / relative)
            with naming(root / relative):
                os.unlink(name, dir_fd=handle)
    except FileNotFoundError:
        return


def remove_empty_folders(root: Path, relative: str) -> None:
    """Remove a folder and those above it, up to the root, as long as they are empty."""
    while relative:
        try:
            with _parent(root, relative) as (handle, name):
                os.rmdir(name, dir_fd=handle)
        except OSError:  # it still holds something, or is gone
            return
        relative = relative.rpartition("/")[0]


def sync_folder(root: Path, relative: str = "") -> None:
    """Make the names in a folder durable (file systems that do not know the operation are let pass)."""
    with open_folder(root, relative) as handle, naming(root / relative):
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def make_folders(root: Path, relative: str) -> None:
    """Create a folder below an existing root, and the missing ones on the way, durably.

    Raises:
        ForeignPathError: a link or a file stands in the way.
    """
    try:
        with open_folder(root, relative):
            return
    except FileNotFoundError:
        pass
    parts = _parts(root, relative)
    for i, name in enumerate(parts):
        above = "/".join(parts[:i])
        with open_folder(root, above) as handle:
            try:
                with naming(root.joinpath(*parts[: i + 1])):
                    os.mkdir(name, dir_fd=handle)
            except FileExistsError:
                continue
        sync_folder(root, above)


def walk(root: Path, relative: str = "") -> Iterator[str]:
    """List everything below a folder that is no folder, sorted; nothing if the folder is missing.

    Links are listed, never followed: whoever opens one is refused.

    Raises:
        ForeignPathError: the folder itself is a link or no folder.
    """
    folders = [relative]
    while folders:
        folder = folders.pop(0)
        try:
            with open_folder(root, folder) as handle, os.scandir(handle) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except FileNotFoundError:
            continue
        inner = [f"{folder}/{name}" if folder else name for name, is_folder in found if is_folder]
        yield from (f"{folder}/{name}" if folder else name for name, is_folder in found if not is_folder)
        folders[:0] = inner
