"""What was verified in a run directory, so that it need not be hashed again: `emsmine.stat`.

A file whose inode, size, times of change of content (`mtime`) and of anything (`ctime`) are those of the moment at
which it was verified, is taken to be that file. The kernel sets `ctime`, nobody else can; so a copied directory, which
has other inodes and times, is hashed anew. What a failing disk does to a file that nobody writes to is not seen this
way: `emsmine verify` and every stage that reads a file hash it.

The clock of a file system has ticks. A file that was changed in the tick in which it was verified may have been changed
after it; like git, the record therefore leaves out files that are not older than the verification. The record is of
this machine only, decides nothing but how much is read, and may be deleted at any time.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from emsmine.errors import ForeignPathError
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import hash_inside, new_attempt, temporary_path, write_atomically
from emsmine.pipelines.store.layout import STAT_NAME
from emsmine.pipelines.store.tasks import OutputRef

logger = logging.getLogger(__name__)

State = Literal["good", "missing", "damaged"]
_VERSION = 1
_Entry = tuple[str, int, int, int, int]


class StatCache:
    """The record of one run directory.

    Args:
        root: run directory.
        writable: whether new findings are to be noted, which takes the lock; else nothing is written.
        empty: ignore what is recorded, so that all is hashed.

    Raises:
        ForeignPathError: the record is a link or no plain file.
    """

    def __init__(self, root: Path, *, writable: bool = False, empty: bool = False) -> None:
        self.hashed_bytes = 0
        self._root = root
        self._entries = {} if empty else _load(root)
        self._written: dict[str, tuple[str, tuple[int, int]]] = {}
        self._changed = False
        self._mark = _tick(root) if writable else None

    def state(self, output: OutputRef) -> State:
        """Compare a file with its manifest, by the record or by its hash.

        Raises:
            ForeignPathError: it is no plain file, or behind a link.
            OSError: it cannot be read.
        """
        try:
            found = inside.file_stat(self._root, output.path)
            if found.st_size != output.bytes:
                return "damaged"
            entry = _entry(output.sha256, found)
            if self._entries.get(output.path) == entry:
                return "good"
            self.hashed_bytes += found.st_size
            if hash_inside(self._root, output.path)[0] != output.sha256:
                return "damaged"
        except FileNotFoundError:
            return "missing"
        if self._mark is not None and _is_older(entry, self._mark):
            self._entries[output.path] = entry
            self._changed = True
        return "good"

    def wrote(self, outputs: tuple[OutputRef, ...], identities: Mapping[str, tuple[int, int]]) -> None:
        """Note files that this run wrote and hashed while it did.

        Args:
            outputs: of one task.
            identities: inode and mtime of each when it was closed.
        """
        for output in outputs:
            if output.path in identities:
                self._written[output.path] = output.sha256, identities[output.path]

    def save(self) -> None:
        """Write what is new. A failure is only told: the record is not needed."""
        try:
            mark = _tick(self._root)
            for path, (sha256, identity) in self._written.items():
                entry = _entry(sha256, inside.file_stat(self._root, path))
                if (entry[4], entry[2]) == identity and _is_older(entry, mark):
                    self._entries[path] = entry
                    self._changed = True
            if self._changed:
                kept = {path: entry for path, entry in self._entries.items() if inside.exists(self._root, path)}
                content = json.dumps({"version": _VERSION, "files": kept}, sort_keys=True, indent=0)
                write_atomically(
                    self._root / STAT_NAME, content.encode("ascii") + b"\n", new_attempt(), root=self._root
                )
        except (OSError, ForeignPathError) as error:
            logger.warning("what was verified is not recorded, and will be verified again: %s", error)


def _entry(sha256: str, found: os.stat_result) -> _Entry:
    return sha256, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _is_older(entry: _Entry, mark: int) -> bool:
    return max(entry[2], entry[3]) < mark


def _tick(root: Path) -> int:
    """Return the time by the clock of the file system, in nanoseconds."""
    name = temporary_path(Path("clock"), new_attempt()).name
    handle = inside.create(root, name)
    try:
        return os.fstat(handle).st_mtime_ns
    finally:
        os.close(handle)
        inside.unlink(root, name)


def _load(root: Path) -> dict[str, _Entry]:
    try:
        body = json.loads(inside.read_bytes(root, STAT_NAME))
        if body["version"] != _VERSION:
            return {}
        return {
            str(path): (str(entry[0]), int(entry[1]), int(entry[2]), int(entry[3]), int(entry[4]))
            for path, entry in body["files"].items()
            if len(entry) == 5
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        logger.info("%s is damaged and ignored: all is verified again", root / STAT_NAME)
        return {}
