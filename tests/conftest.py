"""Fixtures that several test folders share; `pipeline_kit` beside this file is importable from all tests."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

# A shell without job control starts what it puts into the background with an ignored SIGINT, which every process that a
# test starts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the files of the invented crawl; do not change them."""
    import pipeline_kit

    return pipeline_kit.write_crawl(tmp_path_factory.mktemp("crawl"))


@pytest.fixture(scope="session")
def finished(crawl: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of the invented crawl for es-fr and de-en; copy it before changing anything."""
    import pipeline_kit

    root = tmp_path_factory.mktemp("finished") / "run"
    result = pipeline_kit.run(crawl, root, "--formats", "tsv,moses,parquet,jsonl")
    assert result.code == 0, result.err
    return root
