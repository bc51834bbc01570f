"""The standard streams of the command line: there whatever the caller closed, and errors that name them."""

import contextlib
import os
import sys
from typing import TextIO

import click


def open_standard_streams() -> None:
    """Give Python the standard streams that it was started without (`>&-`), and let none fail on a character.

    A closed descriptor would be handed to the next file that is opened, which then receives what is printed. In its
    place comes one that reads and writes nothing: to print to a stdout that is closed is an error, as for other
    programs.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def echo(text: str) -> None:
    """Print a line of data to stdout.

    Raises:
        OSError: stdout is closed, or its disk is full; it names stdout.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from error


def silence(stream: TextIO) -> None:
    """Lead a stream into nothing, so that Python's flush on exit does not fail once more."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
