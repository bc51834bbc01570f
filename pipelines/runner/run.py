"""Run stages in order on a run directory: plan, skip what is done, execute the rest, write manifests.

Everything that decides what runs is read from the run directory and the settings, so an interrupted run continues with
the same command.
"""

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emsmine.errors import ConfigError, StaleOutputError, TaskFailedError
from emsmine.pipelines.configuration import to_toml
from emsmine.pipelines.planning.machine import SearchLimits, peak_rss_bytes
from emsmine.pipelines.planning.of_run import NO_LIMITS, check_search
from emsmine.pipelines.progress import StepProgress
from emsmine.pipelines.runner.executor import Executor, LocalExecutor, OnProgress
from emsmine.pipelines.settings import STAGE_NAMES, STAGES, Settings
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.earlier import adopt_finished, check_reuse
from emsmine.pipelines.store.files import new_attempt, write_atomically
from emsmine.pipelines.store.layout import CONFIG_NAME, LOG_NAME, existing_task_manifests
from emsmine.pipelines.store.lock import run_lock
from emsmine.pipelines.store.stat_cache import StatCache
from emsmine.pipelines.store.store import Store, statuses
from emsmine.pipelines.store.tasks import Runtime, TaskReport, TaskSpec

logger = logging.getLogger(__name__)

_SHOWN_FAILURES = 5


@dataclass(frozen=True)
class RunOptions:
    """How to run; nothing here changes a result."""

    workers: int = 1
    runtime: Runtime = field(default_factory=Runtime)
    redo: tuple[str, ...] = ()
    """Stages whose results are removed first, with those of all later stages."""
    limits: SearchLimits = NO_LIMITS
    """What a search may take of the machine."""


def execute(root: Path, runtime: Runtime, spec: TaskSpec) -> TaskReport:
    """Run one task; what the executors call, in whatever process."""
    step = next(step for step in load_stage(spec.stage).steps if step.name == spec.step)
    with Store(root).task(spec, runtime) as task:
        step.run(task)
    return replace(task.report, peak_rss_bytes=peak_rss_bytes())


def run_stages(root: Path, settings: Settings, stages: Sequence[str], options: RunOptions) -> None:
    """Run stages on a directory, in pipeline order.

    Args:
        root: run directory; created if missing.
        settings: all settings; saved beside the results.
        stages: names of the stages to run.
        options: workers, device and the like.

    Raises:
        DirectoryInUseError: another run holds the directory.
        ConfigError: wrong settings, or a search that this machine has too little memory or disk for.
        StaleOutputError: results of other settings or inputs are there and `redo` does not name their stage.
        TaskFailedError: tasks failed; those that ended well are kept.
    """
    check_reuse(root, settings.reuse, stages, redone_stages(options))
    check_settings(settings, stages, options)
    with run_lock(root, "run"):
        store = Store(root)
        store.clean_temporaries()
        _redo(store, options)
        context = PlanContext(store, settings)
        cache = StatCache(store.root, writable=True)
        run = functools.partial(execute, store.root, options.runtime)
        try:
            with LocalExecutor(options.workers, environment=_worker_environment(options.workers)) as pool:
                for name in STAGE_NAMES:
                    if name == "search" and name in stages:
                        check_search(store, settings, options.workers, options.limits)
                    if name in stages:
                        _run_stage(load_stage(name), context, options, _Workers(pool, run, cache))
            _save_settings(context)
        finally:
            cache.save()


def check_settings(settings: Settings, stages: Sequence[str], options: RunOptions) -> None:
    """Refuse to start with settings that a stage would trip over later, perhaps after hours.

    Raises:
        ConfigError: no language pairs where a stage needs them, or an unknown stage, identifier, encoder, rule, device.
        ModelError: the encoder cannot be loaded.
        InputError: an input does not exist.
    """
    unknown = sorted(set(options.redo) - set(STAGE_NAMES))
    if unknown:
        raise ConfigError(f"--redo: unknown stage {', '.join(unknown)}; stages: {', '.join(STAGE_NAMES)}")
    needing = [name for name in stages if STAGES[name].needs_pairs]
    if needing and not settings.pairs:
        raise ConfigError(f"{needing[0]}: no language pair given; add --pairs de-en (several: --pairs de-en,en-ru)")
    for name in stages:
        check = load_stage(name).check
        if check is not None:
            check(settings, options.runtime)


@dataclass(frozen=True)
class _Workers:
    """Who runs tasks, the one function that all of them are run with, and what is known of their files."""

    pool: Executor
    run: Callable[[TaskSpec], TaskReport]
    cache: StatCache

    def map(self, specs: Sequence[TaskSpec], on_progress: OnProgress) -> Iterator[TaskReport]:
        # A single task is run here, with all cores: there is nothing to be done beside it.
        executor = self.pool if len(specs) > 1 else LocalExecutor(1)
        return executor.map(self.run, specs, on_progress)


def _save_settings(context: PlanContext) -> None:
    """Save the settings beside the results that they made: not before it is sure that none there are of others."""
    root, content = context.store.root, to_toml(context.settings).encode("utf-8")
    if not inside.exists(root, CONFIG_NAME) or inside.read_bytes(root, CONFIG_NAME) != content:
        write_atomically(root / CONFIG_NAME, content, new_attempt(), root=root)


def redone_stages(options: RunOptions) -> tuple[str, ...]:
    """Return the stages whose results go: those named by `redo`, and all later ones; unknown ones do not count."""
    named = [STAGE_NAMES.index(name) for name in options.redo if name in STAGE_NAMES]
    return STAGE_NAMES[min(named) :] if named else ()


def _redo(store: Store, options: RunOptions) -> None:
    for name in reversed(redone_stages(options)):
        for step in reversed(load_stage(name).steps):
            store.remove_step(name, step.name)


def _run_stage(stage: Stage, context: PlanContext, options: RunOptions, workers: _Workers) -> None:
    for step in stage.steps:
        specs = step.plan(step, context)
        refuse_to_remove(step, specs, context.store)
        found = statuses(context.store, specs, workers.cache, options.workers)
        pending = [spec for spec, status in zip(specs, found, strict=True) if status != "done"]
        if pending:
            _save_settings(context)
        if pending and not options.redo:
            pending = adopt_finished(context.store, context.settings.reuse, pending)
        _run_step(step, specs, pending, context, workers)


def refuse_to_remove(step: Step, specs: list[TaskSpec], store: Store) -> None:
    """Keep results of tasks that are not planned any more: they are work done, and go with --redo only.

    Raises:
        StaleOutputError: there are some, as after leaving out a pair or an input.
    """
    names = set(existing_task_manifests(store.root, step.stage, step.name))
    surplus = sorted(names - {spec.partition for spec in specs})
    if surplus:
        shown = ", ".join(surplus[:_SHOWN_FAILURES])
        raise StaleOutputError(
            f"{step.stage}.{step.name}: {store.root} holds {len(surplus)} results that these inputs and pairs do not "
            f"ask for ({shown}). Give all inputs and pairs of the earlier run, rerun with --redo {step.stage} to "
            "remove them, or choose another output directory"
        )


def _run_step(
    step: Step, specs: list[TaskSpec], pending: list[TaskSpec], context: PlanContext, workers: _Workers
) -> None:
    if not specs:  # as the steps of an approximate search where all pairs are searched exactly
        context.store.finish_step(step.stage, step.name, specs)
        return
    started, cpu_started = time.monotonic(), time.process_time()
    failed: list[TaskReport] = []
    rows = peak = 0
    with StepProgress(f"{step.stage}.{step.name}", specs, pending) as progress:
        for report in workers.map(pending, progress.hear):
            progress.end(report)
            rows += report.rows_in
            peak = max(peak, report.peak_rss_bytes)
            workers.cache.wrote(report.outputs, report.identities)
            if report.error is not None:
                failed.append(report)
                logger.error("%s", report.error)
    if failed:
        names = ", ".join(sorted(report.task_id for report in failed)[:_SHOWN_FAILURES])
        raise TaskFailedError(
            f"{step.stage}: {len(failed)} of {len(specs)} tasks failed ({names}); the others are kept: fix the cause "
            f"above and run the same command again. First: {failed[0].error}"
        )
    context.store.finish_step(step.stage, step.name, specs)
    if pending:
        seconds = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu_started}
        _log_step(context.store.root, step, {"tasks": len(pending), "rows_in": rows}, seconds, peak)


def _worker_environment(workers: int) -> dict[str, str]:
    """Share the cores among worker processes: each would otherwise start as many threads as there are cores."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)


def _log_step(root: Path, step: Step, counts: dict[str, int], seconds: dict[str, float], peak: int) -> None:
    """Note time and memory for people; nothing reads this file to decide anything.

    Processor time, which a busy machine blurs least, is that of this process: workers of a pool are not in it. The
    memory is that of whichever process had most, until now.
    """
    row = {
        "step": f"{step.stage}.{step.name}",
        **counts,
        **{name: round(value, 3) for name, value in seconds.items()},
        "peak_rss_mb": round(max(peak, peak_rss_bytes()) / 2**20, 1),
    }
    inside.append_line(root, LOG_NAME, json.dumps(row))
