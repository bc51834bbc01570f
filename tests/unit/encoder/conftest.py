"""Fixtures of the encoder tests; the helper modules beside this file are importable from the tests."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def spm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny SentencePiece model, trained once a session on invented sentences."""
    import encoder_tiny

    return encoder_tiny.train_tiny_tokenizer(tmp_path_factory.mktemp("spm") / "tiny.model")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of tiny pair files; tests that change them make their own."""
    import encoder_tiny

    return encoder_tiny.write_pairs(tmp_path_factory.mktemp("pairs"))
