"""Single output files of commands: checked before the work, never an input, compressed as their name says.

What stands at the name decides how it is written. A regular file, or nothing: atomically, so that readers see the old
content or all of the new. A link: what it points to, and the link stays. A device, a pipe, or anything below `/dev` and
`/proc`: the bytes go into it as it is.
"""

import bz2
import gzip
import io
import lzma
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from emsmine.errors import ConfigError
from emsmine.lines import SUFFIXES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_LINKS = 40


def check_outputs(command: str, outputs: Mapping[str, str | None], inputs: Iterable[str]) -> None:
    """Refuse output files that could not be written, or that would take the place of an input or of each other.

    Call it before any work: an hour is too late to hear of a misspelt folder.

    Args:
        command: name of the command, for messages.
        outputs: option → file, `-` for stdout; None for one that was not given.
        inputs: files and folders that the command reads; `-` and URLs are passed over.

    Raises:
        ConfigError: the message names the option, the file, and what to do.
    """
    read = [path for path in inputs if path != "-" and "://" not in path]
    given = [(option, path) for option, path in outputs.items() if path is not None]
    for number, (option, path) in enumerate(given):
        if path != "-":
            _check_writable(command, option, path)
            for other in read:
                if is_same_file(path, other):
                    raise ConfigError(
                        f"{command}: {option} {path} is the input {other}, which would be lost; name another file"
                    )
        for earlier_option, earlier in given[:number]:
            if path == earlier or ("-" not in (path, earlier) and is_same_file(path, earlier)):
                raise ConfigError(
                    f"{command}: {earlier_option} and {option} are both {path}; give each a file of its own"
                )


def check_output_folder(
    command: str, option: str, folder: str | Path, inputs: Iterable[str], written: Iterable[str]
) -> None:
    """Refuse a folder of results if writing them could touch an input.

    Args:
        command: name of the command, for messages.
        option: that named the folder.
        folder: where the results go; it need not exist.
        inputs: files and folders that the command reads; URLs are passed over.
        written: names in the folder that the command writes, as patterns (`checkpoint-*`).

    Raises:
        ConfigError: an input is the folder, or lies in it under such a name (through links and `..` as well).
    """
    root, patterns = os.path.realpath(folder), tuple(written)
    for path in inputs:
        if not path or "://" in path:
            continue
        inside = os.path.relpath(os.path.realpath(path), root).split(os.sep)
        if inside == ["."] or any(fnmatchcase(inside[0], pattern) for pattern in patterns):
            raise ConfigError(
                f"{command}: {option} {folder} is where the results are written, and the input {path} lies there: it "
                "would be mixed with them or lost; name another folder for the results"
            )


def is_same_file(left: str, right: str) -> bool:
    """Tell whether two names lead to one regular file: through links, `..`, hard links or another spelling.

    Devices and pipes are no files of this kind: writing to them destroys nothing that was read.
    """
    try:
        found = os.stat(left), os.stat(right)
    except OSError:
        # One of them is not there: they are one if both would be made at the same place.
        return os.path.realpath(left) == os.path.realpath(right)
    return os.path.samestat(*found) and (stat.S_ISREG(found[0].st_mode) or stat.S_ISDIR(found[0].st_mode))


def _check_writable(command: str, option: str, path: str) -> None:
    def refuse(fault: str) -> ConfigError:
        return ConfigError(f"{command}: {option} {path or repr(path)} {fault}")

    if not path:
        raise refuse("is empty; name a file, or - for stdout")
    if "://" in path:
        raise refuse("is a URL; name a local file and copy it afterwards")
    if path.endswith("/") or os.path.isdir(path):
        raise refuse("is a folder; name a file in it")
    place = _place(path)
    if place is None:
        if not os.path.exists(path):
            raise refuse("does not exist, and files are not made there; name a file elsewhere")
        if not os.access(path, os.W_OK):
            raise refuse("may not be written to; check its permissions")
        return
    folder = place.parent
    if not folder.is_dir():
        raise refuse(f"lies in {folder}, which is no folder that exists; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise refuse(f"lies in {folder}, which may not be written to; check its permissions")
    if place.exists() and not os.access(place, os.W_OK):
        raise refuse("is write-protected; name another file or change its permissions")


def _place(path: str) -> Path | None:
    """Return the regular file that a name stands for, whether or not it exists, links followed.

    None if what stands there is a device, a pipe or a socket, or is reached through `/dev` or `/proc`: `/dev/stdout`
    may lead to a regular file, but it is one that another program has open and goes on writing to.

    Raises:
        ConfigError: the links go in a circle.
    """
    current = os.path.abspath(path)
    for _ in range(_MAX_LINKS):
        if current.startswith(("/dev/", "/proc/")):
            return None
        if not os.path.islink(current):
            is_special = os.path.exists(current) and not os.path.isfile(current)
            return None if is_special else Path(current)
        folder = os.path.realpath(os.path.dirname(current))
        current = os.path.normpath(os.path.join(folder, os.readlink(current)))
    raise ConfigError(f"output: {path} is a link that leads to itself; name another file")


def write_output(content: bytes, path: str) -> None:
    """Write what a command made to a file, or to stdout for `-`; compressed if the name ends in .gz, .zst, .bz2, .xz.

    Args:
        content: all of it.
        path: checked by `check_outputs` before the work.

    Raises:
        OSError: the disk refuses; it names the file, and what stood there is unchanged.
    """
    if path == "-":
        with _naming("stdout"):
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        return
    packed = _compress(content, path)
    with _naming(path):
        place = _place(path)
        if place is None:
            # Neither emptied nor from its start: behind `/dev/stdout` may be a file that others have written to.
            with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), "wb", buffering=0) as stream:
                _write_all(stream, packed)
        else:
            _replace(place, packed)


def _compress(content: bytes, path: str) -> bytes:
    kind = next((kind for ending, kind in SUFFIXES.items() if path.lower().endswith(ending)), "")
    if kind == "gzip":
        return gzip.compress(content, mtime=0)
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(write_checksum=True).compress(content)
    if kind == "bzip2":
        return bz2.compress(content)
    return lzma.compress(content) if kind == "xz" else content


def _write_all(stream: io.RawIOBase | io.FileIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[stream.write(left) or 0 :]


def _replace(place: Path, content: bytes) -> None:
    """Let a file hold either its old content or all of the new, with the permissions that it had."""
    with _new_content(place) as handle, open(handle, "wb", buffering=0, closefd=False) as stream:
        _write_all(stream, content)


@contextmanager
def _new_content(place: Path) -> Iterator[int]:
    """Open a file that takes the place of another when the block ends well, and is removed otherwise."""
    temporary = place.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{place.name}"[:255])
    with _naming(str(place)):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            with suppress(FileNotFoundError):
                os.fchmod(handle, stat.S_IMODE(os.stat(place).st_mode))
            yield handle
            with _naming(str(place)):
                os.fsync(handle)
        finally:
            os.close(handle)
        with _naming(str(place)):
            os.replace(temporary, place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let an error of the disk name the file that the user knows."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), path) from error


class _NamedFile(io.FileIO):
    """Names its path where the disk refuses to write."""

    def __init__(self, handle: int, path: str) -> None:
        super().__init__(handle, "wb", closefd=False)
        self.path = path

    def write(self, data: "ReadableBuffer", /) -> int:
        with _naming(self.path):
            return super().write(data)


class OutputFile(io.BufferedWriter):
    """A file of results that is written piece by piece, see `open_output`."""

    rows = 0
    """Set by writers of tables."""

    def __init__(self, handle: int, path: str) -> None:
        super().__init__(_NamedFile(handle, path), 1 << 20)
        self.path = Path(path)
        self.root = self.path.parent


@contextmanager
def open_output(path: str) -> Iterator[OutputFile]:
    """Open a file for results that are too large to be held; it appears whole, when the block ends well.

    Args:
        path: checked by `check_outputs` before the work. Not `-`, and never compressed.

    Raises:
        OSError: the disk refuses; it names the file, and what stood there is unchanged.
    """
    place = _place(path)
    if place is None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            with OutputFile(handle, path) as stream:
                yield stream
        finally:
            os.close(handle)
        return
    with _new_content(place) as handle, OutputFile(handle, path) as stream:
        yield stream
