"""Standard streams that are closed, full, gone or of another encoding, and several things missing at once."""

import subprocess
import sys
from pathlib import Path

import pipeline_kit as kit
import pytest


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `$EMS` is the command."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; EMS="{sys.executable} -m emsmine"; {line}'],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("$EMS langs de >&-", 1, "stdout: Bad file descriptor"),
        ("$EMS langs de > /dev/full", 1, "stdout: No space left on device; free some space"),
        ("$EMS langs > /dev/full", 1, "stdout: No space left on device; free some space"),
        ("$EMS langs | head -n 1 > /dev/null", 1, ""),
        ("$EMS langs de 2>&-", 0, ""),
        ("$EMS langs xx 2>&-", 2, ""),
        ("$EMS langs de <&-", 0, ""),
        ("$EMS langs de <&- >&- 2>&-", 1, ""),
    ],
)
def test_streams_that_are_not_there(line: str, code: int, words: str) -> None:
    done = shell(line)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert (words in done.stderr) if words else done.stderr == ""
    # What belongs to stderr never goes where data go.
    assert "error" not in done.stdout


def test_a_closed_stdin_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.en").write_text("One.\n", encoding="utf-8")
    done = shell(f"$EMS mine - {tmp_path}/b.en -s de <&-")
    assert done.returncode == 1
    assert "stdin: Bad file descriptor" in done.stderr
    assert "Traceback" not in done.stderr


def test_characters_that_a_terminal_lacks_are_escaped() -> None:
    done = shell("$EMS langs xx 'ü'", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.isascii()


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["run"], ["INPUT", "--output", "--pairs"]),
        (["run", "x.warc.gz"], ["--output", "--pairs"]),
        (["run", "-o", "out"], ["INPUT", "--pairs"]),
        (["run", "x.warc.gz", "-o", "out"], ["--pairs"]),
        (["run", "-o", "out", "--until", "dedup"], ["INPUT"]),
        (["mine"], ["SOURCE", "TARGET"]),
        (["mine", "a", "b"], ["--source-lang", "--target-lang"]),
        (["convert"], ["CHECKPOINT.pt", "--sentencepiece", "--output"]),
        (["convert", "x.pt"], ["--sentencepiece", "--output"]),
        (["eval", "bucc"], ["DIR", "--langs"]),
        (["eval", "pairs"], ["MINED.tsv", "GOLD.tsv"]),
    ],
)
def test_all_that_is_missing_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], names: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = kit.emsmine(*args)
    assert (result.code, result.out) == (2, "")
    (message,) = (line for line in result.err.splitlines() if "issing" in line or "must be given" in line)
    for name in names:
        assert name in message
    assert "--pairs" in names or "--pairs" not in message.split(", as in")[0]
    assert list(tmp_path.iterdir()) == [], "nothing is made for a command that cannot run"


def test_nothing_that_is_quoted_acts_on_the_terminal(tmp_path: Path) -> None:
    evil = tmp_path / "a\x1b[31m\u202e.de"
    for args in (
        ["mine", evil, evil, "-s", "de", "-t", "en"],
        ["run", evil, "-p", "de-en", "-o", tmp_path / "out"],
        ["langs", "\x1b[2J"],
    ):
        result = kit.emsmine(*args)
        assert result.code != 0
        assert "\\x1b" in result.err
        assert "\x1b" not in result.err
        assert "\u202e" not in result.err
    (tmp_path / "b.en").write_text("One.\n", encoding="utf-8")
    evil.write_text("Eins.\n", encoding="utf-8")
    found = kit.emsmine("mine", evil, tmp_path / "b.en", "-s", "de", "-o", tmp_path / "p\x07.tsv", "--threshold", "0")
    assert found.code == 0, found.err
    assert "p\\x07.tsv" in found.err
    assert "\x07" not in found.err
