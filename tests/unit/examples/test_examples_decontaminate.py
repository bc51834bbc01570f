"""The script that removes near-repeats of a test from training pairs, as a user calls it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import zstandard
from click.testing import CliRunner, Result

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def load_script() -> ModuleType:
    """Import the script, which is in no package."""
    spec = importlib.util.spec_from_file_location("examples_decontaminate", EXAMPLES / "decontaminate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


decontaminate = load_script()

PAIRS = (
    "Die Fähre legt um sieben Uhr ab.\tThe night train is late again.\tx",
    "Der Ofen ist noch warm.\tThe old lighthouse keeper reads by lamplight!\tx",
    "Der Leuchtturmwärter liest beim Licht einer Lampe.\tThe old lighthouse keeper reads by lamplight.\tx",
    "Wir pflanzen im Herbst Zwiebeln.\tWe plant bulbs in autumn.\tx",
)


def run(folder: Path, pairs: bytes, *options: str, output: str = "clean.tsv") -> Result:
    """Call the script on pairs with one test sentence a side."""
    (folder / "pairs.tsv").write_bytes(pairs)
    (folder / "test.de").write_text(
        "Die Fähre legt um sieben Uhr an.\nDer Leuchtturmwärter liest beim Licht einer Lampe\n"
    )
    (folder / "test.en.zst").write_bytes(zstandard.compress(b"The old lighthouse keeper reads by lamplight.\n"))
    tests = ["--langs", "de-en", "--source-test", f"{folder}/test.de", "--target-test", f"{folder}/test.en.zst"]
    return CliRunner().invoke(decontaminate.main, [f"{folder}/pairs.tsv", *tests, "-o", f"{folder}/{output}", *options])


def test_pairs_near_on_either_side_go_and_are_counted(tmp_path: Path) -> None:
    result = run(tmp_path, "\n".join(PAIRS).encode() + b"\n")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "clean.tsv").read_text(encoding="utf-8") == PAIRS[3] + "\n"
    counts = {line[:20].strip(): int(line[20:]) for line in result.stderr.splitlines()}
    assert counts == {"kept": 1, "source near": 1, "target near": 1, "both sides near": 1}


def test_threshold_of_one_keeps_what_is_not_the_same(tmp_path: Path) -> None:
    result = run(tmp_path, "\n".join(PAIRS).encode() + b"\n", "--threshold", "1")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "clean.tsv").read_text(encoding="utf-8").splitlines() == [PAIRS[0], PAIRS[3]]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(b"one\ttwo\nalone\n", "line 2 has 1 column"), (b"\xff\ttwo\n", "line 1 is not UTF-8")],
)
def test_bad_lines_are_errors(tmp_path: Path, pairs: bytes, message: str) -> None:
    result = run(tmp_path, pairs)
    assert result.exit_code == 1
    assert message in result.output


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    result = run(tmp_path, b"one\ttwo\n", output="pairs.tsv")
    assert result.exit_code == 1
    assert "write to another file" in result.output
    assert (tmp_path / "pairs.tsv").read_bytes() == b"one\ttwo\n"


def test_an_empty_test_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "pairs.tsv").write_bytes(b"one\ttwo\n")
    arguments = ["--langs", "de-en", "--source-test", f"{tmp_path}/empty", "--target-test", f"{tmp_path}/empty"]
    result = CliRunner().invoke(decontaminate.main, [f"{tmp_path}/pairs.tsv", *arguments, "-o", f"{tmp_path}/out"])
    assert result.exit_code == 1
    assert "no sentences" in result.output
