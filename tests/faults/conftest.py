"""The tiny network and tokeniser of the encoder's tests, for the faults of models and trainings."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

_ENCODER_TESTS = Path(__file__).resolve().parents[1] / "unit" / "encoder"


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Return the module `encoder_tiny`."""
    if str(_ENCODER_TESTS) not in sys.path:
        sys.path.append(str(_ENCODER_TESTS))
    return importlib.import_module("encoder_tiny")


@pytest.fixture(scope="session")
def spm(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a trained tokeniser."""
    return Path(tiny.train_tiny_tokenizer(tmp_path_factory.mktemp("spm") / "tiny.model"))
