"""Where things lie in a run directory, and the reading of its manifests.

DIR/emsmine.lock
DIR/<dataset>/<name>.parquet                      documents/00003.parquet, sentences/eng_Latn/00003.parquet
DIR/rejects/<stage>.<step>/<partition>.parquet    dropped rows with their reasons
DIR/manifests/<stage>.<step>/<partition>.json     one per finished task
DIR/manifests/<stage>.<step>.json                 one per finished step
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from emsmine.errors import CorruptOutputError
from emsmine.pipelines.files import is_temporary
from emsmine.pipelines.manifests import StepManifest, TaskManifest
from emsmine.pipelines.tasks import FileRef, TaskSpec

LOCK_NAME = "emsmine.lock"
RESERVED = ("manifests", "rejects", LOCK_NAME)
WRITTEN = (
    *("audit", "distinct", "documents", "duplicates", "embeddings", "export", "held", "index", "known", "logs"),
    *("neighbours", "occurrences", "pairs", "samples", "segments", "selected", "sentences", "signatures", "tiles"),
    *("tuning", "config.toml", "emsmine.*", *RESERVED),
)
"""All that a run writes at the top of its directory."""


def rejects_path(spec: TaskSpec) -> str:
    """Return the path of a task's rejects, relative to the run directory."""
    return f"rejects/{spec.stage}.{spec.step}/{spec.partition}.parquet"


def task_manifest_path(stage: str, step: str, partition: str) -> str:
    """Return the path of a task manifest, relative to the run directory."""
    return f"manifests/{stage}.{step}/{partition}.json"


def step_manifest_path(stage: str, step: str) -> str:
    """Return the path of a step manifest, relative to the run directory."""
    return f"manifests/{stage}.{step}.json"


def walk_files(folder: Path) -> Iterator[Path]:
    """List all files under a folder in sorted order; none if there is no folder."""
    for current, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(current, name)


def existing_task_manifests(root: Path, stage: str, step: str) -> list[Path]:
    """List the task manifests of a step that exist, whether they count or not."""
    files = walk_files(root / f"manifests/{stage}.{step}")
    return [path for path in files if path.suffix == ".json" and not is_temporary(path.name)]


def load_task_manifest(root: Path, stage: str, step: str, partition: str) -> TaskManifest:
    """Read a task manifest.

    Raises:
        FileNotFoundError: there is none.
        CorruptOutputError: it is damaged, or belongs to another task.
    """
    path = root / task_manifest_path(stage, step, partition)
    manifest = TaskManifest.decode(path.read_bytes(), str(path))
    if manifest.spec.task_id != f"{stage}.{step}/{partition}":
        raise CorruptOutputError(
            f"manifest {path} belongs to the task {manifest.spec.task_id}; rerun with --redo {stage}"
        )
    return manifest


def load_step_manifest(root: Path, path: Path) -> StepManifest:
    """Read a step manifest.

    Raises:
        FileNotFoundError: there is none.
        CorruptOutputError: it is damaged, or belongs to another step.
    """
    manifest = StepManifest.decode(path.read_bytes(), str(path))
    if root / step_manifest_path(manifest.stage, manifest.step) != path:
        raise CorruptOutputError(
            f"manifest {path} belongs to {manifest.stage}.{manifest.step}; rerun with --redo STAGE"
        )
    return manifest


def load_listed(root: Path, step: StepManifest) -> list[TaskManifest]:
    """Read the task manifests that a step manifest lists, in its order.

    Raises:
        CorruptOutputError: one is missing, or is not the one listed.
    """
    manifests = []
    for partition, expected in step.tasks.items():
        path = root / task_manifest_path(step.stage, step.step, partition)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != expected:
            raise CorruptOutputError(
                f"manifest {path} is {'damaged' if data else 'missing'}: SHA-256 expected {expected[:12]}, found "
                f"{hashlib.sha256(data).hexdigest()[:12]}; rerun with --redo {step.stage}"
            )
        manifests.append(TaskManifest.decode(data, str(path)))
    return manifests


def stage_that_made(root: Path, output: str) -> str:
    """Name the stage whose manifest lists an output, for messages; `STAGE` if none that is readable does."""
    for path in sorted((root / "manifests").rglob("*.json")):
        try:
            manifest = json.loads(path.read_bytes())
            if any(written["path"] == output for written in manifest["outputs"]):
                return str(manifest["stage"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "STAGE"


def select_outputs(manifests: Iterable[TaskManifest], dataset: str) -> list[FileRef]:
    """List the outputs that lie in a dataset or below it, sorted by path.

    Args:
        manifests: of finished tasks.
        dataset: first folders of the path, as in `sentences` or `sentences/eng_Latn`.
    """
    prefix = f"{dataset.rstrip('/')}/"
    refs = [output.ref for item in manifests for output in item.outputs if output.path.startswith(prefix)]
    return sorted(refs, key=lambda ref: ref.path)
