"""Checkpoints and best weights on disk: written atomically, verified when read, never unpickled."""

import logging
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from emsmine.errors import ModelError

logger = logging.getLogger(__name__)

BEST = "best.pt"

# What reading a damaged archive raises.
_DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    zlib.error,
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
)


def save_checkpoint(state: dict[str, Any], folder: Path, keep: int = 2) -> Path:
    """Write `checkpoint-<step>.pt` atomically; delete all but the newest `keep`, and what killed runs left half."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"checkpoint-{state['step']:09d}.pt"
    _write(state, final)
    for old in [*sorted(folder.glob("checkpoint-*.pt"))[:-keep], *folder.glob(".checkpoint-*.pt.*")]:
        old.unlink()
    return final


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the newest whole checkpoint of a folder, or None; a damaged one is reported and passed over.

    Raises:
        ModelError: there are checkpoints, but none is whole: to start anew is not for us to decide.
    """
    paths = sorted(folder.glob("checkpoint-*.pt"), reverse=True)
    for path in paths:
        try:
            return _read(path, device)
        except _DAMAGE as error:
            logger.warning("train: %s cannot be read (%s); trying the one before", path, error)
    if paths:
        raise ModelError(
            f"train: none of the {len(paths)} checkpoints in {folder} can be read; delete them to start anew, "
            "or choose another run.output"
        )
    return None


def save_best(state: dict[str, Any], folder: Path) -> Path:
    """Write `best.pt` atomically, and delete what killed runs left half."""
    _write(state, folder / BEST)
    for half in folder.glob(f".{BEST}.*"):
        half.unlink()
    return folder / BEST


def load_best(folder: Path, device: torch.device) -> dict[str, Any]:
    """Return what `save_best` wrote.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return _read(folder / BEST, device)
    except _DAMAGE as error:
        raise ModelError(
            f"train: {folder / BEST} cannot be read ({error}); set run.export to last, or train again in another "
            "run.output"
        ) from error


def _write(state: dict[str, Any], final: Path) -> None:
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(final)


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    # torch writes checksums into the archive but does not compare them when it reads.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
