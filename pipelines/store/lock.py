"""One run at a time per directory.

The lock is the kernel's (`flock`), so it ends with its holder, however that ends. What the file says about the holder
is for the message only.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from emsmine.errors import ConfigError, DirectoryInUseError
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.inside import naming
from emsmine.pipelines.store.layout import LOCK_NAME

_MAX_DESCRIPTION = 1 << 16


@contextmanager
def run_lock(root: str | Path, purpose: str) -> Iterator[None]:
    """Hold a run directory for the length of a `with` block.

    Args:
        root: run directory; created if missing.
        purpose: what the holder does (`run`, `encode`), for the other's message.

    Raises:
        DirectoryInUseError: another process holds it; the message names its pid, host and command.
        ConfigError: the file system of `root` has no locks.
        ForeignPathError: its lock file is a link or no plain file.
    """
    folder = Path(root).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # Python's file descriptors are not inherited by spawned workers, so the lock is this process's alone.
    handle = inside.open_in_place(folder, LOCK_NAME, os.O_RDWR)
    try:
        try:
            _take(handle)
        except BlockingIOError:
            raise DirectoryInUseError(
                f"output directory {folder} is in use by {_describe_holder(handle)}; "
                "wait for it to end, stop it, or choose another output directory"
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise ConfigError(
                    f"output directory {folder} is on a file system without locks ({error.strerror}); "
                    "choose a local disk"
                ) from error
            raise
        with naming(folder / LOCK_NAME):
            _describe_self(handle, purpose)
        try:
            yield
        finally:
            with naming(folder / LOCK_NAME):
                os.ftruncate(handle, 0)
    finally:
        # The file stays: removing it would let a third process lock a new one beside a waiting second.
        os.close(handle)


def lock_holder(root: Path) -> str | None:
    """Describe the process that holds a run directory; None if none does. Writes nothing.

    Raises:
        ForeignPathError: its lock file is a link or no plain file.
    """
    try:
        stream = inside.open_to_read(root, LOCK_NAME)
    except FileNotFoundError:
        return None
    with stream:
        try:
            # Shared, so that several may look at once; given back as the file is closed.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _describe_holder(stream.fileno())
        except OSError:  # a file system without locks has no holder
            return None
    return None


def _take(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # One who only looks (`lock_holder`) is gone in a moment.
        time.sleep(0.05)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _describe_self(handle: int, purpose: str) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "purpose": purpose,
        "command": " ".join(sys.argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(holder).encode("ascii") + b"\n", 0)


def _describe_holder(handle: int) -> str:
    # The holder writes its description a moment after it got the lock.
    for _ in range(5):
        try:
            holder = json.loads(os.pread(handle, _MAX_DESCRIPTION, 0))
            return (
                f"process {holder['pid']} on {holder['host']} ({holder['purpose']}: {holder['command']}, "
                f"since {holder['started']})"
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            time.sleep(0.05)
    return "another process"
