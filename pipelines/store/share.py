"""Finished stages of one run directory, made part of another without doing or storing them twice."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.store import inside, layout
from emsmine.pipelines.store.files import AtomicFile, make_directory, new_attempt, sync_folders_of, temporary_path
from emsmine.pipelines.store.store import Store


def share_stages(source: Store, target: Path, stages: Sequence[str]) -> None:
    """Link the results of finished stages into another run directory, manifests last.

    Published files are never written to, only replaced, so both directories may hold the same file by a hard link;
    where the file system has none it is copied. Whoever reads them compares their hashes with the manifests. Call it
    under the locks of both directories, or of what holds both.

    Args:
        source: where the stages are finished.
        target: run directory; created if missing.
        stages: names of the stages.

    Raises:
        InputError: a step is not finished.
        CorruptOutputError: a manifest is missing or damaged.
    """
    for stage in stages:
        for step in load_stage(stage).steps:
            manifests = source.manifests(stage, step.name)
            outputs = [output.path for manifest in manifests for output in manifest.outputs]
            records = [layout.task_manifest_path(stage, step.name, manifest.spec.partition) for manifest in manifests]
            for paths in (outputs, records, [layout.step_manifest_path(stage, step.name)]):
                for path in paths:
                    _share(source.root, target, path)
                sync_folders_of(target, paths)


def _share(source: Path, target: Path, path: str) -> None:
    """Link or copy one file, known by the same path in both directories."""
    make_directory(target)
    if _same(source, target, path):
        return
    inside.make_folders(target, path.rpartition("/")[0])
    temporary = temporary_path(Path(path), new_attempt()).as_posix()
    if inside.link(source, path, target, temporary):
        inside.replace(target, temporary, path)
        return
    file = AtomicFile(target / path, new_attempt(), root=target)
    try:
        with inside.open_to_read(source, path) as stream:
            shutil.copyfileobj(stream, file)
        file.close()
        file.publish()
    finally:
        file.discard()


def _same(source: Path, target: Path, path: str) -> bool:
    """Tell a file that needs no linking. To replace a name by another of the same file would do nothing at all."""
    try:
        there = inside.file_stat(target, path)
    except FileNotFoundError:
        return False
    here = inside.file_stat(source, path)
    if os.path.samestat(here, there):
        return True
    if path.endswith(".json"):
        return inside.read_bytes(source, path) == inside.read_bytes(target, path)
    # The hash of a copy is verified when it is read.
    return here.st_size == there.st_size
