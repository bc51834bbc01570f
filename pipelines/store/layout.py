"""Where things lie in a run directory, and the reading of its manifests.

DIR/emsmine.lock
DIR/emsmine.stat                                  what was verified here already, see `stat_cache`
DIR/config.toml                                   settings of the last run
DIR/logs/
DIR/<dataset>/<name>.parquet                      documents/00003.parquet, sentences/eng_Latn/00003.parquet
DIR/rejects/<stage>.<step>/<partition>.parquet    dropped rows with their reasons
DIR/manifests/<stage>.<step>/<partition>.json     one per finished task
DIR/manifests/<stage>.<step>.json                 one per finished step
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from emsmine.errors import CorruptOutputError, ForeignPathError
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import is_temporary
from emsmine.pipelines.store.manifests import RESERVED, StepManifest, TaskManifest
from emsmine.pipelines.store.tasks import FileRef

LOCK_NAME, STAT_NAME, CONFIG_NAME, LOG_NAME = "emsmine.lock", "emsmine.stat", "config.toml", "logs/steps.jsonl"
WRITTEN = (
    *(
        "audit",
        "candidates",
        "distinct",
        "documents",
        "duplicates",
        "embeddings",
        "export",
        "held",
        "index",
        "known",
        "logs",
        "looked",
    ),
    *(
        "neighbours",
        "occurrences",
        "pairs",
        "rescored",
        "samples",
        "segments",
        "selected",
        "sentences",
        "signatures",
        "tiles",
    ),
    *("tuning", "config.toml", "emsmine.*", *RESERVED),
)
"""All that a run writes at the top of its directory."""


def task_manifest_path(stage: str, step: str, partition: str) -> str:
    """Return the path of a task manifest, relative to the run directory."""
    return f"manifests/{stage}.{step}/{partition}.json"


def step_manifest_path(stage: str, step: str) -> str:
    """Return the path of a step manifest, relative to the run directory."""
    return f"manifests/{stage}.{step}.json"


def existing_task_manifests(root: Path, stage: str, step: str) -> list[str]:
    """List the partitions of a step whose task manifests exist, whether they count or not, sorted by path."""
    folder = f"manifests/{stage}.{step}"
    found = [path for path in inside.walk(root, folder) if path.endswith(".json")]
    return [
        path.removeprefix(f"{folder}/").removesuffix(".json")
        for path in found
        if not is_temporary(path.rpartition("/")[2])
    ]


def load_task_manifest(root: Path, stage: str, step: str, partition: str) -> TaskManifest:
    """Read a task manifest.

    Raises:
        FileNotFoundError: there is none.
        CorruptOutputError: it is damaged, or belongs to another task.
        ForeignPathError: it is no plain file, or names a path outside the run directory.
    """
    path = task_manifest_path(stage, step, partition)
    manifest = TaskManifest.decode(inside.read_bytes(root, path), str(root / path))
    if manifest.spec.task_id != f"{stage}.{step}/{partition}":
        raise CorruptOutputError(
            f"manifest {root / path} belongs to the task {manifest.spec.task_id}; rerun with --redo {stage}"
        )
    return manifest


def load_step_manifest(root: Path, stage: str, step: str) -> StepManifest:
    """Read a step manifest.

    Raises:
        FileNotFoundError: there is none.
        CorruptOutputError: it is damaged, or belongs to another step.
        ForeignPathError: it is no plain file, or names a path outside the run directory.
    """
    path = step_manifest_path(stage, step)
    manifest = StepManifest.decode(inside.read_bytes(root, path), str(root / path))
    if (manifest.stage, manifest.step) != (stage, step):
        raise CorruptOutputError(
            f"manifest {root / path} belongs to {manifest.stage}.{manifest.step}; rerun with --redo {stage}"
        )
    return manifest


def load_listed(root: Path, step: StepManifest) -> list[TaskManifest]:
    """Read the task manifests that a step manifest lists, in its order.

    Raises:
        CorruptOutputError: one is missing, or is not the one listed.
        ForeignPathError: one is no plain file, or names a path outside the run directory.
    """
    manifests = []
    for partition, expected in step.tasks.items():
        path = task_manifest_path(step.stage, step.step, partition)
        try:
            data = inside.read_bytes(root, path)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != expected:
            raise CorruptOutputError(
                f"manifest {root / path} is {'damaged' if data else 'missing'}: SHA-256 expected {expected[:12]}, "
                f"found {hashlib.sha256(data).hexdigest()[:12]}; rerun with --redo {step.stage}"
            )
        manifests.append(TaskManifest.decode(data, str(root / path)))
    return manifests


def stage_that_made(root: Path, output: str) -> str:
    """Name the stage whose manifest lists an output, for messages; `STAGE` if none that is readable does."""
    for path in inside.walk(root, "manifests"):
        try:
            manifest = json.loads(inside.read_bytes(root, path))
            if any(written["path"] == output for written in manifest["outputs"]):
                return str(manifest["stage"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ForeignPathError):
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


def shard_name(number: int) -> str:
    """Name shard `number`: five digits, so that names sort like numbers."""
    return f"{number:05d}"


def shard_of(ref: FileRef) -> str:
    """Return the shard that a Parquet file is: `sentences/eng_Latn/00003.parquet` → `00003`."""
    return ref.path.rsplit("/", 1)[1].removesuffix(".parquet")


def pair_folder(pair: tuple[str, str]) -> str:
    """Name the folder of a canonical pair: `deu_Latn-eng_Latn`."""
    return f"{pair[0]}-{pair[1]}"
