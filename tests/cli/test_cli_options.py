"""The frozen list of commands and options, and what every command answers to `--help`.

After a change that is meant: python tests/cli/test_cli_options.py
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from emsmine import __version__
from emsmine.languages import EMS_CODES
from emsmine.pipelines.cli.main import cli
from emsmine.pipelines.settings import STAGE_NAMES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cli_options.txt"


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from commands(found, f"{name} {child}")


def listing() -> str:
    """Return one line per argument and option: names, type and whether it repeats; help texts may change freely."""
    lines = []
    for name, command in commands(cli, "emsmine"):
        lines.append(name)
        for parameter in command.params:
            names = " ".join([*parameter.opts, *parameter.secondary_opts])
            kind = parameter.type
            shown = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else kind.name
            flag = "flag" if getattr(parameter, "is_flag", False) else shown
            notes = [word for word, true in (("required", parameter.required), ("repeats", repeats(parameter))) if true]
            lines.append("  " + " ".join([names, flag, *notes]))
    return "\n".join(lines) + "\n"


def repeats(parameter: click.Parameter) -> bool:
    return bool(getattr(parameter, "multiple", False) or getattr(parameter, "count", False) or parameter.nargs == -1)


def test_options_are_those_that_were_promised() -> None:
    assert listing() == GOLDEN.read_text(encoding="utf-8"), (
        "commands or options changed, which breaks scripts of users; if that is meant: "
        "python tests/cli/test_cli_options.py"
    )


@pytest.mark.parametrize("name", [name for name, _ in commands(cli, "emsmine")])
def test_every_command_explains_itself_on_stdout(name: str) -> None:
    import pipeline_kit as kit

    for flag in ("-h", "--help"):
        result = kit.emsmine(*name.split()[1:], flag)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("Usage: emsmine")
    command = dict(commands(cli, "emsmine"))[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts} has no help"


def test_every_stage_is_a_command() -> None:
    names = {name for name, _ in commands(cli, "emsmine")}
    assert {f"emsmine {stage}" for stage in STAGE_NAMES} <= names


def test_version() -> None:
    import pipeline_kit as kit

    for flag in ("-V", "--version"):
        assert kit.emsmine(flag).out == f"emsmine, version {__version__}\n"


def test_unknown_command_and_no_command() -> None:
    import pipeline_kit as kit

    wrong = kit.emsmine("rnu")
    assert (wrong.code, wrong.out) == (2, "")
    assert "rnu" in wrong.err
    assert kit.emsmine().code == 2


def test_langs() -> None:
    import pipeline_kit as kit

    result = kit.emsmine("langs")
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert (result.code, len(rows)) == (0, len(EMS_CODES))
    assert ["deu_Latn", "de", "German"] in rows
    looked_up = kit.emsmine("langs", "ger", "zh-TW")
    assert [line.split("\t")[:2] for line in looked_up.out.splitlines()] == [
        ["deu_Latn", "de"],
        ["zho_Hant", "zh-Hant"],
    ]
    unknown = kit.emsmine("langs", "germn")
    assert (unknown.code, unknown.out) == (2, "")
    assert "'germn'" in unknown.err


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["mine", "--help"], ["langs", "de"]])
def test_nothing_heavy_is_loaded_for_help(args: list[str]) -> None:
    heavy = ["torch", "faiss", "datasketch", "scipy", "py3langid", "resiliparse", "pyarrow", "sentencepiece"]
    program = (
        "import sys\nfrom emsmine.pipelines.cli.main import run_cli\n"
        f"code = run_cli({args!r})\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_a_closed_pipe_is_no_traceback() -> None:
    program = f"{sys.executable} -m emsmine langs | head -n 1"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("afr_Latn")
    assert done.stderr == ""


if __name__ == "__main__":
    GOLDEN.write_text(listing(), encoding="utf-8")
