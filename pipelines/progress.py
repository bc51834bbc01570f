"""Progress on stderr: a bar with rate and remaining time on a terminal, one plain line per step elsewhere."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)


class Progress:
    """Progress of one step, to be used in a `with` statement."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        """Start at `done` of `total` tasks."""
        self.name, self.total, self.kept = name, total, done
        self.rows = 0
        self._started = time.monotonic()
        self._bar: RichProgress | None = None
        if sys.stderr.isatty() and total > done:
            self._bar = RichProgress(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, completed=done, rate="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if error is None:
            seconds = time.monotonic() - self._started
            kept = f", {self.kept} kept" if self.kept else ""
            logger.info("%s: %d tasks%s, %s rows in %.1f s", self.name, self.total, kept, f"{self.rows:,}", seconds)

    def advance(self, rows: int) -> None:
        """Count one finished task and its rows."""
        self.rows += rows
        if self._bar:
            rate = self.rows / max(1e-9, time.monotonic() - self._started)
            self._bar.update(self._task, advance=1, rate=f"{rate:,.0f} rows/s")
