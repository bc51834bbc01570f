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

from emsmine.errors import CorruptOutputError
from emsmine.pipelines import layout
from emsmine.pipelines.files import (
    AtomicFile,
    hash_file,
    is_temporary,
    sync_directories,
    sync_directory,
)
from emsmine.pipelines.manifests import TaskManifest

logger = logging.getLogger(__name__)


def find_task_manifest(root: Path, stage: str, step: str, partition: str) -> TaskManifest | None:
    """Read a task manifest; None, with a warning where it is damaged, if there is none to trust."""
    try:
        return layout.load_task_manifest(root, stage, step, partition)
    except FileNotFoundError:
        return None
    except CorruptOutputError as error:
        logger.warning("%s.%s/%s runs again: %s", stage, step, partition, error)
        return None


def is_intact(root: Path, manifest: TaskManifest, *, verify: bool) -> bool:
    """Tell whether the outputs of a manifest exist with the right size, and hash if `verify`; warn if not."""
    for output in manifest.outputs:
        path = root / output.path
        try:
            size = path.stat().st_size
            found = hash_file(path)[0] if verify and size == output.bytes else output.sha256
        except FileNotFoundError:
            logger.warning("%s runs again: %s is missing", manifest.spec.task_id, path)
            return False
        if (size, found) != (output.bytes, output.sha256):
            logger.warning("%s runs again: %s does not match its manifest", manifest.spec.task_id, path)
            return False
    return True


def remove_step_manifest(root: Path, stage: str, step: str) -> None:
    """Declare a step unfinished, durably."""
    path = root / layout.step_manifest_path(stage, step)
    if path.exists():
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def publish_task(root: Path, manifest: TaskManifest, files: Mapping[str, AtomicFile], attempt: str) -> TaskManifest:
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
    record = AtomicFile(root / layout.task_manifest_path(spec.stage, spec.step, spec.partition), attempt)
    try:
        record.write(manifest.encode())
        record.close()
        sync_directories([record.path])
        remove_step_manifest(root, spec.stage, spec.step)
        if older:
            _remove_older(root, older, keep=files)
        for path in sorted(files):
            files[path].publish()
        sync_directories([root / path for path in files])
        record.publish()
        sync_directories([record.path])
    except BaseException:
        # In this order: should the withdrawal fail too, the temporary manifest stays for `clean_temporaries`.
        withdraw(root, manifest)
        record.discard()
        raise
    return manifest


def _remove_older(root: Path, older: TaskManifest, keep: Collection[str]) -> None:
    for output in older.outputs:
        if output.path not in keep:
            (root / output.path).unlink(missing_ok=True)
    path = root / layout.task_manifest_path(older.spec.stage, older.spec.step, older.spec.partition)
    path.unlink(missing_ok=True)
    sync_directories([path, *(root / output.path for output in older.outputs)])


def withdraw(root: Path, manifest: TaskManifest) -> None:
    """Remove the published files of a task whose manifest was not published.

    A file that the manifest which stands claims, stays.
    """
    spec = manifest.spec
    standing = find_task_manifest(root, spec.stage, spec.step, spec.partition)
    claimed = {output.path: output.sha256 for output in standing.outputs} if standing else {}
    for output in manifest.outputs:
        path = root / output.path
        owner = claimed.get(output.path)
        if owner == output.sha256 or not path.exists():
            continue
        # Where the manifest that stands claims other content, the file may be that content.
        if owner is None or hash_file(path)[0] == output.sha256:
            path.unlink(missing_ok=True)


def clean_temporaries(root: Path) -> int:
    """Remove what interrupted attempts left: temporary files, and data published without a manifest.

    Call it under the lock only, when no task runs.

    Returns:
        The number of temporary files removed.
    """
    leftovers = [path for path in layout.walk_files(root) if is_temporary(path.name)]
    for path in leftovers:
        # Manifests of steps lie directly in `manifests`, those of tasks below it.
        if path.suffix == ".json" and root / "manifests" in path.parent.parents:
            # One that was cut off while it was written does not decode: its task had published nothing yet.
            with contextlib.suppress(CorruptOutputError):
                withdraw(root, TaskManifest.decode(path.read_bytes(), str(path)))
        path.unlink(missing_ok=True)
    return len(leftovers)
