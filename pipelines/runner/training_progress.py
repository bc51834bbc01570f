"""Progress of a training on stderr: a bar on a terminal with a line for every validation, plain lines elsewhere."""

import logging
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)

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
