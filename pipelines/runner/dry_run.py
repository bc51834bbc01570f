"""What a run would do, said without doing any of it: not a file, folder or lock is made, changed or removed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emsmine.errors import InputError, StaleOutputError
from emsmine.pipelines.runner.run import RunOptions, check_settings, redone_stages, refuse_to_remove
from emsmine.pipelines.settings import STAGE_NAMES, Settings
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.stages.base import PlanContext, Step
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.earlier import check_reuse
from emsmine.pipelines.store.files import is_temporary, size
from emsmine.pipelines.store.layout import existing_task_manifests
from emsmine.pipelines.store.lock import lock_holder
from emsmine.pipelines.store.publish import find_task_manifest
from emsmine.pipelines.store.stat_cache import StatCache
from emsmine.pipelines.store.store import Store, statuses
from emsmine.pipelines.store.tasks import TaskSpec


@dataclass(frozen=True)
class StepPreview:
    """What a run would do in one step.

    Args:
        step: `stage.step`.
        tasks: planned tasks; None: known only when the steps before it are done.
        done: tasks whose results are there and stay.
        rows: rows that the results which are there took in.
        removed_tasks: tasks whose results `redo` removes, with `removed_files` files of `removed_bytes` bytes.
        note: why results are stale, or what the plan waits for.
    """

    step: str
    tasks: int | None
    done: int
    rows: int
    removed_tasks: int = 0
    removed_files: int = 0
    removed_bytes: int = 0
    note: str = ""


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Args:
        steps: of all stages that would run, in order, and of those that `redo` would remove.
        holder: who holds the directory now, or None.
        temporaries: files of an interrupted run that would be removed first.
        refusal: the error that the run would end with, as it is not told to redo what is stale.
    """

    steps: list[StepPreview]
    holder: str | None
    temporaries: int
    refusal: StaleOutputError | None


def preview(root: Path, settings: Settings, stages: Sequence[str], options: RunOptions) -> Preview:
    """Find out what `run_stages` would do with the same arguments.

    Raises:
        ConfigError, ModelError, InputError: as `run_stages`, before it does anything.
        ForeignPathError: the directory holds links, or manifests with paths that lead out of it.
    """
    check_reuse(root, settings.reuse, stages, redone_stages(options))
    check_settings(settings, stages, options)
    look = _Look(PlanContext(Store(root), settings), options)
    redone = redone_stages(options)
    steps = [
        look.step(step, runs=name in stages, redone=name in redone)
        for name in STAGE_NAMES
        if name in stages or name in redone
        for step in load_stage(name).steps
    ]
    temporaries = sum(is_temporary(path.rpartition("/")[2]) for path in inside.walk(look.root))
    return Preview(steps, lock_holder(look.root) if look.root.is_dir() else None, temporaries, look.refusal)


class _Look:
    """Goes through the steps in order, and remembers the first that has work to do."""

    def __init__(self, context: PlanContext, options: RunOptions) -> None:
        self.root = context.store.root
        self.refusal: StaleOutputError | None = None
        self._context = context
        self._options = options
        self._cache = StatCache(self.root)
        self._waits_for = self._unnoted = ""

    def step(self, step: Step, *, runs: bool, redone: bool) -> StepPreview:
        name = f"{step.stage}.{step.name}"
        found = existing_task_manifests(self.root, step.stage, step.name)
        manifests = [find_task_manifest(self.root, step.stage, step.name, partition) for partition in found]
        rows = sum(manifest.rows_in for manifest in manifests if manifest)
        if redone:
            sizes = [output.bytes for manifest in manifests if manifest for output in manifest.outputs]
            removed = (len(found), len(sizes), sum(sizes))
            planned = self._plan(step) if runs and not self._waits_for else None
            note = self._note(planned) if runs else "removed only: not among the stages to run"
            self._waits_for = self._waits_for or name
            return StepPreview(name, None if planned is None else len(planned), 0, 0, *removed, note)
        planned = None if self._waits_for else self._plan(step)
        if planned is None:
            return StepPreview(name, None, len(found), rows, note=self._note(planned))
        note, done = "", 0
        try:
            refuse_to_remove(step, planned, self._context.store)
            states = statuses(self._context.store, planned, self._cache, self._options.workers)
            done = states.count("done")
        except StaleOutputError as error:
            self.refusal = self.refusal or error
            note = f"STALE: {error}"
        finished = self._context.store.has_step(step.stage, step.name)
        # A step without tasks needs only to be noted as finished; most steps after it can be planned without that.
        if note or done < len(planned) or (planned and not finished):
            self._waits_for = name
        elif not finished:
            self._unnoted = name
        return StepPreview(name, len(planned), done, rows, note=note)

    def _plan(self, step: Step) -> list[TaskSpec] | None:
        try:
            return step.plan(step, self._context)
        except InputError:
            # A stage that is not among those to run is missing; a step without inputs has nobody to wait for.
            if step.stage == "ingest":
                raise
            self._waits_for = self._unnoted
            return None

    def _note(self, planned: list[TaskSpec] | None) -> str:
        if planned is not None:
            return ""
        return f"planned when {self._waits_for} is done" if self._waits_for else "the stages before it have not run"


def format_preview(found: Preview) -> str:
    """Lay a preview out as text."""
    lines = [f"in use by {found.holder}: a run would be refused now"] if found.holder else []
    if found.temporaries:
        lines.append(f"{found.temporaries} temporary files of an interrupted run would be removed")
    lines.append(f"{'step':<20}{'tasks':>8}{'done':>8}{'to run':>8}{'rows so far':>16}")
    for step in found.steps:
        tasks, left = ("?", "?") if step.tasks is None else (str(step.tasks), str(step.tasks - step.done))
        lines.append(f"{step.step:<20}{tasks:>8}{step.done:>8}{left:>8}{step.rows:>16,}  {step.note}".rstrip())
        if step.removed_tasks:
            lines.append(
                f"{'':<4}--redo removes the results of {step.removed_tasks} tasks: {step.removed_files} files, "
                f"{size(step.removed_bytes)}"
            )
    lines.append("nothing was written (--dry-run)")
    return "\n".join(lines)
