"""Checkpoints and best weights on disk: written atomically, verified when read, never unpickled.

A checkpoint is an archive whose comment is the XXH3-128 of all before it. The checksums of its members are not enough:
of 6,000 flipped bits one, in the directory of the archive, made torch read other numbers.
"""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
import xxhash

from emsmine.encoder.model.tensor_files import TensorFileError, load_tensors
from emsmine.errors import ModelError

logger = logging.getLogger(__name__)

BEST = "best.pt"
_MARK = b"emsmine xxh3_128 "
_COMMENT_BYTES = len(_MARK) + 32
_BLOCK_BYTES = 4 * 1024 * 1024


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
        except (OSError, TensorFileError) as error:
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
    except (OSError, TensorFileError) as error:
        raise ModelError(
            f"train: {folder / BEST} cannot be read ({error}); set run.export to last, or train again in another "
            "run.output"
        ) from error


def _write(state: dict[str, Any], final: Path) -> None:
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    with temporary.open("w+b") as stream:
        torch.save(state, stream)
        # The last field of an archive is the length of its comment.
        stream.seek(-2, os.SEEK_END)
        stream.write(_COMMENT_BYTES.to_bytes(2, "little"))
        stream.write(_MARK + _digest(stream, stream.tell()))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(final)


def _digest(stream: BinaryIO, size: int) -> bytes:
    """Return the hash of the first bytes of a file; the stream stands behind them afterwards."""
    hasher = xxhash.xxh3_128()
    stream.seek(0)
    while size and (block := stream.read(min(size, _BLOCK_BYTES))):
        hasher.update(block)
        size -= len(block)
    return hasher.hexdigest().encode()


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    _verify(path)
    state = load_tensors(path, device)
    if not isinstance(state, dict):
        raise TensorFileError(f"it holds {type(state).__name__}, no dictionary")
    return state


def _verify(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - _COMMENT_BYTES))
        comment = stream.read()
        if comment.startswith(_MARK):
            if _digest(stream, size - _COMMENT_BYTES) != comment.removeprefix(_MARK):
                raise TensorFileError("it is damaged: its hash is wrong")
            return
    # An earlier version wrote it. torch writes checksums into the archive but does not compare them when it reads.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as error:
        # zipfile raises almost anything for a damaged archive.
        raise TensorFileError(f"it is damaged: {error or type(error).__name__}") from None
    if damaged is not None:
        raise TensorFileError(f"it is damaged: the checksum of {damaged} is wrong")
