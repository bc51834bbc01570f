"""Command-line options that several commands share, most of them made from the settings."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from emsmine.fields import kind_of
from emsmine.pipelines.settings import STAGE_SETTINGS, LangidSettings

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Command(click.Command):
    """A command that names everything that is missing in one message, not one thing at a time."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            click.UsageError: arguments or options are missing; all are named.
        """
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            values, _, _ = self.make_parser(ctx).parse_args(given)
            missing = [
                item
                for item in self.params
                if item.required and item.value_is_missing(item.consume_value(ctx, values)[0])
            ]
            if len(missing) < 2:
                raise
            names = [item.make_metavar(ctx) if isinstance(item, click.Argument) else item.opts[-1] for item in missing]
            raise click.UsageError(f"Missing {', '.join(names[:-1])} and {names[-1]}.", ctx) from error


command = functools.partial(click.command, cls=Command)
"""Decorator of commands."""


RUN_ONLY = ("documents",)
"""Settings that mean nothing to commands that know no documents."""
APPROXIMATE_ONLY = ("target_recall", "min_recall", "min_precision", "audit_queries")
"""Settings of `search` that mean nothing to commands that search exactly in memory."""


def stage_options(stages: Sequence[str], leave_out: Sequence[str] = ()) -> Callable[[_Function], _Function]:
    """Add one flag per setting of the given stages. One that is not given stays None: file or default win."""

    def decorate(function: _Function) -> _Function:
        for stage in reversed(stages):
            for field in reversed(dataclasses.fields(STAGE_SETTINGS[stage])):
                if field.name not in leave_out:
                    function = _option(stage, field)(function)
        return function

    return decorate


def _option(stage: str, field: "dataclasses.Field[Any]") -> Callable[[Any], Any]:
    flag = field.name.replace("_", "-")
    default = "" if field.default is None else f"; default: {_show(field.default)}"
    text = f"{field.metadata['help'][0].upper()}{field.metadata['help'][1:]}  [{stage}{default}]"
    choices = field.metadata["choices"]
    if kind_of(field) is bool:
        return click.option(f"--{flag}/--no-{flag}", field.name, default=None, help=text)
    if isinstance(field.default, tuple):
        known = f" from {', '.join(choices)}" if choices else ""
        return click.option(
            f"--{flag}", field.name, metavar="LIST", default=None, help=f"{text}; comma-separated{known}"
        )
    kind = click.Choice(choices) if choices else kind_of(field)
    return click.option(f"--{flag}", field.name, type=kind, default=None, help=text)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(value) or "none" if isinstance(value, tuple) else str(value)


def overrides(stages: Sequence[str], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Collect the flags that were given, by stage."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        for field in dataclasses.fields(STAGE_SETTINGS[stage]):
            value = given.get(field.name)
            if value is None:
                continue
            if isinstance(field.default, tuple):
                value = tuple(word.strip() for word in value.split(",") if word.strip())
            found.setdefault(stage, {})[field.name] = value
    return found


def device_option(function: _Function) -> _Function:
    """Add `--device`."""
    option: Callable[[_Function], _Function] = click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where to compute: cpu, cuda, cuda:N, or auto (a GPU if there is one).",
    )
    return option(function)


def sentence_limit_option(text: str) -> Callable[[_Function], _Function]:
    """Add `--max-sentence-chars`; its help says what happens to longer sentences."""
    return click.option(
        "--max-sentence-chars",
        type=click.IntRange(min=1),
        default=LangidSettings.max_sentence_chars,
        show_default=True,
        help=text,
    )


def language_options(function: _Function) -> _Function:
    """Add `--source-lang` and `--target-lang`, which file names may tell as well."""
    for letter, side, example in (("t", "target", "en"), ("s", "source", "de")):
        option: Callable[[_Function], _Function] = click.option(
            f"-{letter}",
            f"--{side}-lang",
            metavar="CODE",
            help=f"Language of the {side} side, as in {example}.  [default: as the file name ends]",
        )
        function = option(function)
    return function


def workers_option(function: _Function) -> _Function:
    """Add `--workers`."""
    option: Callable[[_Function], _Function] = click.option(
        "-j",
        "--workers",
        type=click.IntRange(min=1),
        default=os.cpu_count() or 1,
        show_default="number of cores",
        help="Worker processes.",
    )
    return option(function)


def memory_options(function: _Function) -> _Function:
    """Add `--max-memory` and `--max-gpu-memory`."""
    option: Callable[[_Function], _Function] = click.option(
        "--max-gpu-memory",
        "max_gpu_memory_gb",
        type=click.FloatRange(min=0, min_open=True),
        metavar="GIB",
        help="Memory of the GPU that all processes of a search may take together  [default: nine tenths of it]",
    )
    function = option(function)
    option = click.option(
        "--max-memory",
        "max_memory_gb",
        type=click.FloatRange(min=0, min_open=True),
        metavar="GIB",
        help="Memory that all processes of a search may take together; what needs more is refused before it starts, "
        "with what would fit  [default: what is available]",
    )
    return option(function)
