"""Files of `torch.save`: read without running code, refused in our own words.

`weights_only=True` builds tensors and plain containers and refuses everything else. torch's messages then advise to
switch that off, which would run whatever the file says; that advice is never passed on.
"""

import pickle
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

_GLOBAL = re.compile(r"unsupported (?:global|class):? (?:GLOBAL )?([\w.]+)", re.IGNORECASE)


class TensorFileError(Exception):
    """A file cannot be read as tensors; the message says why, without the name of the file."""


def load_tensors(path: Path, device: torch.device | str) -> Any:
    """Read what `torch.save` wrote: tensors, plain values, and lists and dictionaries of them.

    Args:
        path: the file.
        device: where tensors go.

    Raises:
        FileNotFoundError: there is no such file.
        TensorFileError: it cannot be read, is damaged, or holds more than that.
    """
    try:
        with warnings.catch_warnings():
            # Of an unusual pickle protocol; the file is refused or loaded all the same.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TensorFileError(f"it cannot be read: {error.strerror or type(error).__name__}") from None
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        if found is None:
            raise TensorFileError("it is damaged, or no file of torch.save") from None
        raise TensorFileError(
            f"it holds {found[1]}, which is more than tensors and plain values: such a file can run code when it is "
            "loaded, so it is refused"
        ) from None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:
        # A damaged archive raises almost anything, and torch's words advise what we do not want.
        if is_torchscript(path):
            raise TensorFileError("it is a TorchScript program, not a file of tensors, so it is refused") from None
        raise TensorFileError("it is damaged, or no file of torch.save") from None


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is an archive of `torch.jit.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return False
