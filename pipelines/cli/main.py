"""The command line. A command parses, builds one frozen dataclass, calls one function and prints a summary.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 directory in use, 130 and 143
interrupted and resumable. Command modules are imported when they are called, so that `--help` is quick.
"""

import errno
import importlib
import io
import logging
import sys
from collections.abc import Sequence

import click

from emsmine import __version__
from emsmine.display import printable
from emsmine.errors import EmsmineError
from emsmine.pipelines.cli.streams import open_standard_streams, silence
from emsmine.pipelines.runner.executor import exit_on_sigterm
from emsmine.pipelines.settings import STAGES

logger = logging.getLogger(__name__)

_COMMANDS = {
    "run": ("emsmine.pipelines.cli.run", "Run the whole pipeline: crawl files to a parallel corpus."),
    "mine": ("emsmine.pipelines.cli.mine", "Mine translations from two files of sentences."),
    "score": ("emsmine.pipelines.cli.score", "Score the pairs of an existing bitext by margin."),
    "embed": ("emsmine.pipelines.cli.embed", "Turn a file of sentences into a file of vectors."),
    **{
        name: ("emsmine.pipelines.cli.run", f"Stage {number}: {stage.summary}.")
        for number, (name, stage) in enumerate(STAGES.items(), 1)
    },
    "plan": ("emsmine.pipelines.cli.plan", "Say what a search will take, and whether this machine can do it."),
    "report": ("emsmine.pipelines.cli.run", "Print the funnel of a run directory."),
    "verify": ("emsmine.pipelines.cli.run", "Check every file of a run directory by its hash."),
    "eval": ("emsmine.pipelines.cli.eval", "Evaluate an encoder with the code that mines: tatoeba, bucc, pairs."),
    "train": ("emsmine.pipelines.cli.train", "Train an EMS encoder from a TOML configuration."),
    "train-scorer": ("emsmine.pipelines.cli.train", "Train the pair scorer of a model from a TOML configuration."),
    "bootstrap": ("emsmine.pipelines.cli.bootstrap", "Train and mine in rounds, from a small seed and plain text."),
    "convert": ("emsmine.pipelines.cli.train", "Convert a released EMS checkpoint into a model directory."),
    "langs": ("emsmine.pipelines.cli.run", "List the languages of the shipped model, or look codes up."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use, not of the alphabet."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = module.COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


class _Formatter(logging.Formatter):
    """Messages quote file names and texts from anywhere: nothing in them may act on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message as it may be shown."""
        return printable(super().format(record), lines=True)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="emsmine")
@click.option("-v", "--verbose", count=True, help="More messages; twice for debugging.")
@click.option("-q", "--quiet", is_flag=True, help="Warnings and errors only.")
def cli(verbose: int, quiet: bool) -> None:
    """From a web crawl to a parallel corpus.

    \b
    emsmine run crawl/*.warc.gz --pairs de-en --output out     the whole pipeline
    emsmine mine a.de b.en --source-lang de --target-lang en   two files of sentences
    """
    level = logging.WARNING if quiet else logging.DEBUG if verbose > 1 else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter("%(message)s"))
    if verbose < 2:
        for name in ("datasketch", "jieba", "numexpr", "matplotlib"):
            logging.getLogger(name).setLevel(logging.WARNING)


def run_cli(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    open_standard_streams()
    try:
        with exit_on_sigterm():
            cli.main(list(args) if args is not None else None, prog_name="emsmine", standalone_mode=False)
        return 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        print(printable(shown.getvalue(), lines=True), end="", file=sys.stderr)
        return error.exit_code
    except EmsmineError as error:
        print(f"emsmine: error: {printable(str(error), lines=True)}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("emsmine: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except SystemExit as leaving:
        if leaving.code == 143:
            print("emsmine: terminated; run the same command again to continue", file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else 1
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`): no message.
        silence(sys.stdout)
        return 1
    except OSError as error:
        # A disk that is full, a folder that may not be written to: the user's to solve, not a fault in the program.
        if error.filename == "stdout":
            silence(sys.stdout)
        print(f"emsmine: error: {printable(_describe(error), lines=True)}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(
            f"emsmine: error: out of memory ({error or 'no details'}); take fewer --workers or smaller inputs, see "
            "docs/memory.md",
            file=sys.stderr,
        )
        return 1


_ADVICE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "name a place that can be written to",
    errno.EBADF: "it is closed; lead it somewhere",
    errno.ENOENT: "check the path",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def _describe(error: OSError) -> str:
    """Say what the system refused, where, and what to do about it; the run goes on with the same command."""
    place = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    return f"{place}{reason}; {_ADVICE.get(error.errno or 0, 'check the path, its permissions and the free space')}"
