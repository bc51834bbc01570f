"""The order in which a task's files become visible, and how an interrupted publication is undone.

1. All data files and the manifest lie complete on the disk under temporary names.
2. The step manifest, which may list an older version of this task, is removed. Of an older version, the outputs that
   the new one lacks go next, then its manifest: never may it stand beside the data of another version.
3. The data files get their names.
4. The manifest gets its name. Only now is the task done.

A crash between 2 and 4 leaves a complete manifest under its temporary name. It tells the next run exactly which files
may have been published without their manifest, so that none stays behind as an orphan in a dataset folder.
"""

import contextlib
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from emsmine.errors import CorruptOutputError, ForeignPathError
from emsmine.pipelines.store import inside, layout
from emsmine.pipelines.store.files import AtomicFile, hash_inside, is_temporary, sync_folders_of
from emsmine.pipelines.store.manifests import TaskManifest
from emsmine.pipelines.store.stat_cache import StatCache, State
from emsmine.pipelines.store.tasks import OutputRef

logger = logging.getLogger(__name__)


def find_task_manifest(root: Path, stage: str, step: str, partition: str) -> TaskManifest | None:
    """Read a task manifest; None, with a warning where it is damaged, if there is none to trust.

    Raises:
        ForeignPathError: it is no plain file, or names a path outside the run directory.
    """
    try:
        return layout.load_task_manifest(root, stage, step, partition)
    except FileNotFoundError:
        return None
    except ForeignPathError:
        raise
    except CorruptOutputError as error:
        logger.warning("%s.%s/%s runs again: %s", stage, step, partition, error)
        return None


def is_intact(root: Path, manifest: TaskManifest, *, verify: bool, cache: StatCache | None = None) -> bool:
    """Tell whether the outputs of a manifest exist with the right size; warn if not.

    Args:
        root: run directory.
        manifest: of the task.
        verify: compare hashes too.
        cache: what was verified before, so that `verify` need not read it again.
    """
    for output in manifest.outputs:
        state = _state(root, output, verify=verify, cache=cache)
        if state != "good":
            fault = "is missing" if state == "missing" else "does not match its manifest"
            logger.warning("%s runs again: %s %s", manifest.spec.task_id, root / output.path, fault)
            return False
    return True


def _state(root: Path, output: OutputRef, *, verify: bool, cache: StatCache | None) -> State:
    if verify and cache is not None:
        return cache.state(output)
    try:
        if inside.file_stat(root, output.path).st_size != output.bytes:
            return "damaged"
        return "good" if not verify or hash_inside(root, output.path)[0] == output.sha256 else "damaged"
    except FileNotFoundError:
        return "missing"


def remove_step_manifest(root: Path, stage: str, step: str) -> None:
    """Declare a step unfinished, durably."""
    path = layout.step_manifest_path(stage, step)
    if inside.exists(root, path):
        inside.unlink(root, path)
        sync_folders_of(root, [path])


class Unpublished(Protocol):
    """A complete file under a temporary name."""

    def publish(self) -> None:
        """Give the file its name, replacing what was there."""
        ...


def publish_task(root: Path, manifest: TaskManifest, files: Mapping[str, Unpublished], attempt: str) -> TaskManifest:
    """Make the files of a finished task visible, the manifest last.

    Args:
        root: run directory.
        manifest: of the task.
        files: its closed data files by path relative to `root`.
        attempt: see `new_attempt`.

    Returns:
        The manifest that now stands: this one, or that of another attempt at the same task that was first.

    Raises:
        OSError: the disk refuses. Files already published are withdrawn.
    """
    spec = manifest.spec
    older = find_task_manifest(root, spec.stage, spec.step, spec.partition)
    if older and older.fingerprint == manifest.fingerprint and is_intact(root, older, verify=True):
        if older.outputs != manifest.outputs:
            logger.warning("%s: two attempts gave different bytes; the first is kept", spec.task_id)
        return older
    path = layout.task_manifest_path(spec.stage, spec.step, spec.partition)
    record = AtomicFile(root / path, attempt, root=root)
    try:
        record.write(manifest.encode())
        record.close()
        sync_folders_of(root, [path])
        remove_step_manifest(root, spec.stage, spec.step)
        if older:
            _remove_older(root, older, keep=files)
        for name in sorted(files):
            files[name].publish()
        sync_folders_of(root, files)
        record.publish()
        sync_folders_of(root, [path])
    except BaseException:
        # In this order: should the withdrawal fail too, the temporary manifest stays for `clean_temporaries`.
        withdraw(root, manifest)
        record.discard()
        raise
    return manifest


def _remove_older(root: Path, older: TaskManifest, keep: Collection[str]) -> None:
    path = layout.task_manifest_path(older.spec.stage, older.spec.step, older.spec.partition)
    for output in older.outputs:
        if output.path not in keep:
            inside.unlink(root, output.path)
    inside.unlink(root, path)
    for name in (path, *(output.path for output in older.outputs)):
        with contextlib.suppress(FileNotFoundError):  # the user removed a whole folder
            sync_folders_of(root, [name])


def withdraw(root: Path, manifest: TaskManifest) -> None:
    """Remove the published files of a task whose manifest was not published.

    A file that the manifest which stands claims, stays.
    """
    spec = manifest.spec
    standing = find_task_manifest(root, spec.stage, spec.step, spec.partition)
    claimed = {output.path: output.sha256 for output in standing.outputs} if standing else {}
    for output in manifest.outputs:
        owner = claimed.get(output.path)
        if owner == output.sha256 or not inside.exists(root, output.path):
            continue
        # Where the manifest that stands claims other content, the file may be that content.
        if owner is None or hash_inside(root, output.path)[0] == output.sha256:
            inside.unlink(root, output.path)


def clean_temporaries(root: Path) -> int:
    """Remove what interrupted attempts left: temporary files, and data published without a manifest.

    Call it under the lock only, when no task runs.

    Returns:
        The number of temporary files removed.

    Raises:
        ForeignPathError: one is no plain file, or a manifest among them names a path outside the run directory.
    """
    leftovers = [path for path in inside.walk(root) if is_temporary(path.rpartition("/")[2])]
    for path in leftovers:
        manifest = _unpublished_manifest(root, path)
        if manifest is not None:
            withdraw(root, manifest)
        inside.unlink(root, path)
    return len(leftovers)


def _unpublished_manifest(root: Path, path: str) -> TaskManifest | None:
    """Read a temporary file if it is the complete manifest of the task that it is named after."""
    folder, _, name = path.rpartition("/")
    # Manifests of steps lie directly in `manifests`, those of tasks below it.
    if not folder.startswith("manifests/") or not name.endswith(".json"):
        return None
    try:
        manifest = TaskManifest.decode(inside.read_bytes(root, path), str(root / path))
    except ForeignPathError:
        raise
    except CorruptOutputError:
        # One that was cut off while it was written: its task had published nothing yet.
        return None
    own, _, last = layout.task_manifest_path(*_task(manifest)).rpartition("/")
    return manifest if own == folder and name.endswith(f"-{last}") else None


def _task(manifest: TaskManifest) -> tuple[str, str, str]:
    return manifest.spec.stage, manifest.spec.step, manifest.spec.partition
