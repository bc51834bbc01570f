"""The log of a training: `log.jsonl`, and TensorBoard where it is installed."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


class TrainingLog:
    """Rows of numbers by step. A resumed training writes no step twice."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open the log of a run.

        Args:
            folder: of the run; `tensorboard/` in it holds the event files, if TensorBoard is installed.
            step: where the training stands: rows after it, which a killed run wrote beyond its last checkpoint, go.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG
        _keep_until(self.path, step)
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)

    def write(self, row: dict[str, float]) -> None:
        """Append a row; `step` is one of its numbers."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({key: round(value, 6) for key, value in row.items()}) + "\n")
        if self._writer is not None:
            for key, value in row.items():
                if key != "step":
                    self._writer.add_scalar(key, value, int(row["step"]))
            self._writer.flush()

    def close(self) -> None:
        """End the event file."""
        if self._writer is not None:
            self._writer.close()


def _keep_until(path: Path, step: int) -> None:
    """Drop the rows after a step, and what is no row: a kill can cut the last line."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _step(line) <= step]
    if kept == lines and path.read_bytes().endswith(b"\n"):
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
