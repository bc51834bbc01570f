"""Finished tasks of one run directory, made part of another without doing them, or storing their files, twice.

Published files are never written to, only replaced, so two directories may hold the same file by a hard link; where the
file system has none, it is copied. Either way its hash is compared with the manifest first.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from emsmine.errors import CorruptOutputError
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import AtomicFile, make_directory, matches_inside, new_attempt, temporary_path
from emsmine.pipelines.store.publish import find_task_manifest, is_intact, publish_task
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import OutputRef, TaskSpec

logger = logging.getLogger(__name__)


class LinkedFile:
    """A file of another directory that gets a name here when it is published, as an `AtomicFile` does.

    Args:
        root: run directory.
        relative: its path there.
        temporary: the path that it is linked under until then.
    """

    def __init__(self, root: Path, relative: str, temporary: str) -> None:
        self._root, self._relative, self._temporary = root, relative, temporary

    def publish(self) -> None:
        """Give the file its name, replacing what was there."""
        inside.replace(self._root, self._temporary, self._relative)
        # To rename one name of a file to another name of it does nothing at all.
        self.discard()

    def discard(self) -> None:
        """Remove the temporary name, if it is still there."""
        inside.unlink(self._root, self._temporary)


def adopt(root: Path, source: Path, spec: TaskSpec) -> bool:
    """Take over the results of a task that another run directory has done under the very same fingerprint.

    Args:
        root: this run directory.
        source: the other one; nothing is written there.
        spec: the task.

    Returns:
        False, with a warning if they are damaged, where there are no such results.
    """
    manifest = find_task_manifest(source, spec.stage, spec.step, spec.partition)
    if manifest is None or manifest.fingerprint != spec.fingerprint():
        return False
    attempt = new_attempt()
    files: dict[str, LinkedFile | AtomicFile] = {}
    try:
        for output in manifest.outputs:
            file = _take(root, source, output, attempt)
            if file is None:
                path = source / output.path
                logger.warning("%s is damaged or missing; the task %s is not taken over", path, spec.task_id)
                return False
            files[output.path] = file
        publish_task(root, manifest, files, attempt)
    finally:
        for file in files.values():
            file.discard()
    return True


def _take(root: Path, source: Path, output: OutputRef, attempt: str) -> LinkedFile | AtomicFile | None:
    """Link or copy a file under a temporary name; None if it is missing or damaged."""
    try:
        if not matches_inside(source, output.path, output.sha256)[0]:
            return None
    except FileNotFoundError:
        return None
    make_directory(root)
    inside.make_folders(root, output.path.rpartition("/")[0])
    temporary = temporary_path(Path(output.path), attempt).as_posix()
    if inside.link(source, output.path, root, temporary):
        return LinkedFile(root, output.path, temporary)
    file = AtomicFile(root / output.path, attempt, output.rows, root=root)
    try:
        with inside.open_to_read(source, output.path) as stream:
            shutil.copyfileobj(stream, file)
        file.close()
    except BaseException:
        file.discard()
        raise
    if file.sha256() != output.sha256:
        file.discard()
        return None
    return file


def adopt_steps(source: Store, target: Path, steps: Sequence[tuple[str, str]]) -> None:
    """Take over whole finished steps; what is there already and intact is kept.

    Call it under the locks of both directories, or of what holds both.

    Args:
        source: where the steps are finished.
        target: run directory; created if missing.
        steps: names of stage and step, in the order in which they run.

    Raises:
        InputError: a step is not finished.
        CorruptOutputError: a manifest or a file is missing or damaged.
    """
    store = Store(target)
    for stage, step in steps:
        specs = [manifest.spec for manifest in source.manifests(stage, step)]
        for spec in specs:
            if not _is_done(target, spec) and not adopt(target, source.root, spec):
                raise CorruptOutputError(
                    f"{spec.task_id}: its files in {source.root} are damaged; see emsmine verify {source.root}, and "
                    "run the same command again with the damaged ones deleted"
                )
        store.finish_step(stage, step, specs)


def _is_done(target: Path, spec: TaskSpec) -> bool:
    there = find_task_manifest(target, spec.stage, spec.step, spec.partition)
    return there is not None and there.fingerprint == spec.fingerprint() and is_intact(target, there, verify=True)
