"""Progress on stderr: a bar with rate and remaining time on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from emsmine.pipelines.store.tasks import TaskReport, TaskSpec, work_of

logger = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Time between the plain lines of one piece of work."""

_bars: ContextVar[bool | None] = ContextVar("bars", default=None)


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Show bars on a terminal, or none, within a `with` block; elsewhere they follow the level of the log."""
    token = _bars.set(shown)
    try:
        yield
    finally:
        _bars.reset(token)


class Progress:
    """Progress of one piece of work, to be used in a `with` statement.

    Args:
        name: what is done.
        total: how much there is, in `unit`; 0 if that is not known.
        unit: `rows`, `bytes`, `sentences` …
        num_tasks: how many tasks it is cut into; 0 for work in one piece, which says nothing when it ends.
        kept: tasks that were done before.
        kept_amount: how much those were.
    """

    def __init__(
        self, name: str, total: float, unit: str = "rows", *, num_tasks: int = 0, kept: int = 0, kept_amount: float = 0
    ) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.num_tasks, self.kept, self.num_done = num_tasks, kept, kept
        self.rows = 0
        self._kept_amount = self._done = kept_amount
        self._started = self._said = time.monotonic()
        self._bar: RichProgress | None = None
        asked = _bars.get()
        is_wanted = logger.isEnabledFor(logging.INFO) if asked is None else asked
        if is_wanted and sys.stderr.isatty() and (num_tasks > kept or not num_tasks):
            self._bar = RichProgress(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(
                name, total=total or None, completed=int(kept_amount), detail=self._detail()
            )

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if error is None and self.num_tasks:
            seconds = time.monotonic() - self._started
            kept = f", {self.kept} kept" if self.kept else ""
            logger.info("%s: %d tasks%s, %s rows in %.1f s", self.name, self.num_tasks, kept, f"{self.rows:,}", seconds)

    def show(self, done: float) -> None:
        """Show that so much of the total is done, what was kept included."""
        self._done = max(self._done, min(done, self.total) if self.total else done)
        if self._bar:
            self._bar.update(self._task, completed=self._done, detail=self._detail())
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            logger.info("%s", self._line())

    def advance(self, amount: float) -> None:
        """Count a further amount of the work."""
        self.show(self._done + amount)

    def listener(self) -> Callable[[float], None]:
        """Return what to hear reports of this piece of work with, see `emsmine.progress.listening`."""
        return lambda share: self.advance(share * self.total)

    def _rate(self) -> float:
        return (self._done - self._kept_amount) / max(1e-9, time.monotonic() - self._started)

    def _detail(self) -> str:
        tasks = f"{self.num_done}/{self.num_tasks} tasks  " if self.num_tasks else ""
        return f"{tasks}{_amount(self._rate(), self.unit)}/s"

    def _line(self) -> str:
        share = f"{100 * self._done / self.total:.0f} %" if self.total else _amount(self._done, self.unit)
        left = (self.total - self._done) / max(1e-9, self._rate())
        remaining = f", about {_duration(left)} left" if self.total and self._rate() > 0 else ""
        return f"{self.name}: {share}  {self._detail()}{remaining}"


class StepProgress(Progress):
    """Progress of a step: all its tasks, by the work that each is.

    Args:
        name: of the step.
        specs: all tasks.
        pending: those among them that run now.
    """

    def __init__(self, name: str, specs: Sequence[TaskSpec], pending: Sequence[TaskSpec]) -> None:
        work = {spec.task_id: work_of(spec) for spec in specs}
        self._work = {task: amount for task, (amount, _) in work.items()}
        self._running: dict[str, float] = {}
        units = {unit for _, unit in work.values()}
        total, left = sum(self._work.values()), sum(self._work[spec.task_id] for spec in pending)
        super().__init__(
            name,
            total,
            units.pop() if len(units) == 1 else "rows",
            num_tasks=len(specs),
            kept=len(specs) - len(pending),
            kept_amount=total - left,
        )
        self._ended = total - left

    def hear(self, spec: TaskSpec, share: float) -> None:
        """Count a further share of a running task."""
        whole = self._work[spec.task_id]
        self._running[spec.task_id] = min(whole, self._running.get(spec.task_id, 0) + share * whole)
        self.show(self._ended + sum(self._running.values()))

    def end(self, report: TaskReport) -> None:
        """Count a finished task."""
        self._running.pop(report.task_id, None)
        self._ended += self._work[report.task_id]
        self.num_done += 1
        self.rows += report.rows_in
        self.show(self._ended + sum(self._running.values()))


def _amount(number: float, unit: str) -> str:
    if unit != "bytes":
        return f"{number:,.0f} {unit}"
    for name in ("B", "kB", "MB", "GB"):
        if number < 1000 or name == "GB":
            break
        number /= 1000
    return f"{number:,.1f} {name}"


def _duration(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


_LOSSES = ("total", "xtr", "contrastive", "distill", "temperature")


class TrainingProgress:
    """Shows the rows that a trainer logs, to be used in a `with` statement."""

    def __init__(self, total_steps: int, batch_size: int, console: Console | None = None) -> None:
        """Start.

        Args:
            total_steps: at which the training ends.
            batch_size: pairs of a step.
            console: where the bar goes; None: stderr. Without a terminal there is no bar.
        """
        self.total_steps, self.batch_size = total_steps, batch_size
        self._bar: RichProgress | None = None
        console = console or Console(stderr=True, file=sys.stderr)
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("train", total=total_steps, state="")

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, row: dict[str, float]) -> None:
        """Show a row of the log."""
        losses = [f"{name} {row[name]:.4f}" for name in _LOSSES if name in row]
        accuracies = [
            f"{text} {100 * row[name]:.2f} %"
            for name, text in (
                ("validation_accuracy", "validation accuracy"),
                ("validation_accuracy_ema", "of the average"),
            )
            if name in row
        ]
        line = [f"step {row['step']:.0f}/{self.total_steps}", *losses, *self._rates(row), *accuracies]
        if self._bar is None:
            logger.info("  ".join(line))
            return
        # Not before: of several processes only one has rows to show.
        self._bar.start()
        if accuracies:
            self._bar.console.print("  ".join(line), highlight=False)
        state = "  ".join([*losses[:1], *self._rates(row)])
        self._bar.update(self._task, completed=row["step"], state=state)

    def _rates(self, row: dict[str, float]) -> list[str]:
        remaining = (self.total_steps - row["step"]) * self.batch_size / row["pairs_per_second"]
        return [
            f"{row['pairs_per_second']:,.0f} pairs/s",
            f"{row['tokens_per_second']:,.0f} tokens/s",
            f"{remaining / 60:.0f} min left",
        ]
