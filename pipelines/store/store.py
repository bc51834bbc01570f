"""The run directory: which tasks are done, what they wrote, and how the next one writes.

The store holds no state of its own; all truth lies in files (see `layout`), so any process may open one on the same
directory. Only one *run* may, see `lock`.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from emsmine.errors import (
    AccountingError,
    ConfigError,
    CorruptOutputError,
    InputError,
    StaleOutputError,
    TaskFailedError,
)
from emsmine.pipelines.store import inside, layout, publish
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.files import hash_inside, matches_inside, new_attempt, write_atomically
from emsmine.pipelines.store.manifests import StepManifest, TaskManifest
from emsmine.pipelines.store.stat_cache import StatCache
from emsmine.pipelines.store.tasks import FileRef, Runtime, TaskReport, TaskSpec, describe_changes

logger = logging.getLogger(__name__)

Status = Literal["done", "missing", "stale"]


class Store:
    """A run directory.

    Args:
        root: local folder; created when the first file is published. It may be a link; none below it is followed.

    Raises:
        ConfigError: `root` is a URL.
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            raise ConfigError(
                f"output directory {root} is a URL; a run directory must be local (inputs and exports may be remote)"
            )
        self.root = Path(root).absolute()

    def task(self, spec: TaskSpec, runtime: Runtime | None = None) -> TaskContext:
        """Open an attempt at a task, to be used in a `with` statement.

        Args:
            spec: the task.
            runtime: settings that cannot change the result.
        """
        return TaskContext(self.root, spec, runtime or Runtime())

    # ---- state of tasks ----

    def status(
        self, spec: TaskSpec, *, redo: bool = False, verify: bool = False, cache: StatCache | None = None
    ) -> Status:
        """Tell whether a task must run.

        Args:
            spec: the task as planned now.
            redo: accept results of other settings as replaceable.
            verify: compare the hashes of the outputs, rather than sizes only. (Reading them always verifies.)
            cache: with `verify`, what was verified before.

        Returns:
            `done`; `missing` if there is no manifest, or an output is missing or damaged; `stale` (with `redo` only) if
            the results come from other settings, inputs or code.

        Raises:
            StaleOutputError: as `stale`, without `redo`. The message names each changed field, old and new.
        """
        manifest = publish.find_task_manifest(self.root, spec.stage, spec.step, spec.partition)
        if manifest is None:
            return "missing"
        if manifest.fingerprint != spec.fingerprint():
            if redo:
                return "stale"
            raise StaleOutputError(self._stale_message(manifest, spec))
        return "done" if publish.is_intact(self.root, manifest, verify=verify, cache=cache) else "missing"

    def _stale_message(self, manifest: TaskManifest, spec: TaskSpec) -> str:
        changes = describe_changes(manifest.spec, spec)
        if not changes:
            changes = [f"fingerprint {manifest.fingerprint[:12]} -> {spec.fingerprint()[:12]}"]
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        return (
            f"{spec.task_id}: {self.root} holds results made otherwise: {'; '.join(changes[:5])}{more}. "
            f"Rerun with --redo {spec.stage} to replace them, or choose another output directory"
        )

    def skipped(self, spec: TaskSpec) -> TaskReport:
        """Return the report of a task whose status is `done`, from its manifest."""
        return self.manifest(spec.stage, spec.step, spec.partition).report(skipped=True)

    # ---- manifests ----

    def manifest(self, stage: str, step: str, partition: str) -> TaskManifest:
        """Return the manifest of one task, whether or not its step is finished.

        Raises:
            InputError: the task is not done.
            CorruptOutputError: the manifest is damaged.
        """
        try:
            return layout.load_task_manifest(self.root, stage, step, partition)
        except FileNotFoundError:
            raise InputError(f"{stage}.{step}/{partition} is not done in {self.root}; run: emsmine {stage}") from None

    def has_step(self, stage: str, step: str) -> bool:
        """Tell whether a step is finished."""
        return inside.exists(self.root, layout.step_manifest_path(stage, step))

    def step_manifest(self, stage: str, step: str) -> StepManifest:
        """Return the manifest of a finished step.

        Raises:
            InputError: the step is not finished.
            CorruptOutputError: the manifest is damaged.
        """
        try:
            return layout.load_step_manifest(self.root, stage, step)
        except FileNotFoundError:
            raise InputError(f"{stage}.{step} is not finished in {self.root}; run: emsmine {stage}") from None

    def step_ref(self, stage: str, step: str) -> FileRef:
        """Return a reference to the step manifest, which as an input stands for all outputs of the step.

        `rows` is the number of rows in all outputs. See `TaskContext.inputs_of`.
        """
        step_manifest = self.step_manifest(stage, step)
        path = layout.step_manifest_path(stage, step)
        rows = step_manifest.totals["rows"]
        return FileRef(path, hash_inside(self.root, path)[0], rows if isinstance(rows, int) else 0)

    def manifests(self, stage: str, step: str) -> list[TaskManifest]:
        """Return the task manifests of a finished step, sorted by partition.

        Only those listed in the step manifest: one left by an earlier plan does not count.

        Raises:
            InputError: the step is not finished.
            CorruptOutputError: a manifest is missing or damaged.
        """
        return layout.load_listed(self.root, self.step_manifest(stage, step))

    def outputs(self, stage: str, step: str, dataset: str) -> list[FileRef]:
        """List the files that a finished step wrote to a dataset, sorted by path.

        Args:
            stage: name of the stage.
            step: name of the step.
            dataset: first folders of the path, as in `sentences` (all languages) or `sentences/eng_Latn`.

        Raises:
            InputError: the step is not finished.
            CorruptOutputError: a manifest is missing or damaged.
        """
        return layout.select_outputs(self.manifests(stage, step), dataset)

    def verified(self, ref: FileRef) -> Path:
        """Return where an output lies, after verifying its hash (once per process, while it is the same file).

        Raises:
            CorruptOutputError: the file is missing or damaged.
            ForeignPathError: it is no plain file, or behind a link.
        """
        try:
            good, found = matches_inside(self.root, ref.path, ref.sha256)
        except FileNotFoundError:
            good, found = False, "no file"
        if not good:
            raise CorruptOutputError(
                f"{self.root / ref.path} does not match its manifest: SHA-256 expected {ref.sha256[:12]}, found "
                f"{found[:12]}; rerun the stage that made it with --redo {layout.stage_that_made(self.root, ref.path)}"
            )
        return self.root / ref.path

    # ---- steps ----

    def finish_step(self, stage: str, step: str, specs: Iterable[TaskSpec]) -> StepManifest:
        """Write the step manifest, after the tasks of a step are done.

        Tasks that an earlier plan had and this one has not are removed with their outputs.

        Args:
            stage: name of the stage.
            step: name of the step.
            specs: all tasks of the step.

        Raises:
            TaskFailedError: a task is not done.
            AccountingError: two tasks wrote the same file.
            StaleOutputError: a task's results come from other settings.
        """
        planned = list(specs)
        undone = [spec.task_id for spec in planned if self.status(spec) != "done"]
        if undone:
            raise TaskFailedError(
                f"{stage}.{step}: {len(undone)} of {len(planned)} tasks are not done (first: {undone[0]}); "
                "the others are kept: run the same command again"
            )
        manifests = {spec.partition: self.manifest(stage, step, spec.partition) for spec in planned}
        owners: dict[str, str] = {}
        for partition, manifest in manifests.items():
            for output in manifest.outputs:
                if owners.setdefault(output.path, partition) != partition:
                    raise AccountingError(
                        f"{stage}.{step}: the tasks {owners[output.path]} and {partition} both wrote {output.path}; "
                        "this is a bug in the stage, please report it"
                    )
        path = layout.step_manifest_path(stage, step)
        finished = StepManifest.build(stage, step, manifests.values())
        if not (self.has_step(stage, step) and inside.read_bytes(self.root, path) == finished.encode()):
            publish.remove_step_manifest(self.root, stage, step)
            self._remove_tasks(stage, step, keep=set(manifests), keep_files=set(owners))
            write_atomically(self.root / path, finished.encode(), new_attempt(), root=self.root)
        return finished

    def remove_step(self, stage: str, step: str) -> None:
        """Remove the outputs and manifests of a step, for `--redo`. Call it under the lock, when no task runs.

        Each manifest goes after its outputs, so an interrupted removal leaves no file without one.
        """
        publish.remove_step_manifest(self.root, stage, step)
        self._remove_tasks(stage, step, keep=set(), keep_files=set())

    def _remove_tasks(self, stage: str, step: str, *, keep: set[str], keep_files: set[str]) -> None:
        for partition in layout.existing_task_manifests(self.root, stage, step):
            if partition in keep:
                continue
            logger.info("%s.%s/%s and its outputs are removed", stage, step, partition)
            manifest = publish.find_task_manifest(self.root, stage, step, partition)
            for output in manifest.outputs if manifest else ():
                if output.path not in keep_files:
                    self._remove_file(output.path)
            self._remove_file(layout.task_manifest_path(stage, step, partition))

    def _remove_file(self, path: str) -> None:
        inside.unlink(self.root, path)
        inside.remove_empty_folders(self.root, path.rpartition("/")[0])

    def clean_temporaries(self) -> int:
        """Remove what interrupted attempts left behind. Call it under the lock, before any task runs.

        Returns:
            The number of temporary files removed.
        """
        return publish.clean_temporaries(self.root)


def statuses(store: Store, specs: Sequence[TaskSpec], cache: StatCache, threads: int) -> list[Status]:
    """Return the status of each task, with the contents of its outputs compared.

    Args:
        store: the run directory.
        specs: the tasks as planned now.
        cache: what was verified before.
        threads: files to hash at a time.

    Raises:
        StaleOutputError: results of a task come from other settings, inputs or code; that of the first such task.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(lambda spec: store.status(spec, verify=True, cache=cache), specs))
    finally:
        pool.shutdown(cancel_futures=True)
