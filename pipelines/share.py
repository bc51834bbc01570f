"""Finished stages of one run directory, made part of another without doing or storing them twice."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from emsmine.pipelines import layout
from emsmine.pipelines.files import make_directory, new_attempt, sync_directories, temporary_path
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.store import Store


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
                    _share(source.root / path, target / path)
                sync_directories([target / path for path in paths])


def _share(source: Path, target: Path) -> None:
    if target.exists() and _same(source, target):
        return
    make_directory(target.parent)
    temporary = temporary_path(target, new_attempt())
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _same(source: Path, target: Path) -> bool:
    """Tell a file that needs no linking. To replace a name by another of the same file would do nothing at all."""
    if os.path.samefile(source, target):
        return True
    if source.suffix == ".json":
        return source.read_bytes() == target.read_bytes()
    # The hash of a copy is verified when it is read.
    return source.stat().st_size == target.stat().st_size
