"""Commands on a run directory: `run`, one per stage, `report`, `verify`, `langs`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emsmine import languages
from emsmine.display import printable
from emsmine.errors import CorruptOutputError
from emsmine.pipelines.cli.options import (
    Command,
    device_option,
    memory_options,
    overrides,
    stage_options,
    workers_option,
)
from emsmine.pipelines.cli.streams import echo
from emsmine.pipelines.runner.prepare import output_path, run_options, run_settings
from emsmine.pipelines.settings import STAGE_NAMES, STAGES, Settings

if TYPE_CHECKING:
    from emsmine.pipelines.runner.run import RunOptions

logger = logging.getLogger(__name__)

COMMANDS: dict[str, click.Command] = {}


def _settings(
    output: Path | None, config: str | None, inputs: tuple[str, ...], pairs: Sequence[str], given: dict[str, Any]
) -> Settings:
    return run_settings(output, config, inputs, pairs, overrides(STAGE_NAMES, given), given.get("reuse"))


def _close(output: Path, settings: Settings, last: str) -> None:
    """Say where the results are, what is next, and why a pair has none."""
    from emsmine.pipelines.runner.closing import closing_lines
    from emsmine.pipelines.runner.report import funnel
    from emsmine.pipelines.store.store import Store

    lines, warnings = closing_lines(funnel(Store(output)), settings, output, last)
    for line in lines:
        logger.info("%s", line)
    for line in warnings:
        logger.warning("%s", line)


def _run(settings: Settings, output: Path, stages: Sequence[str], given: dict[str, Any]) -> None:
    from emsmine.pipelines.runner.run import run_stages

    run_stages(output, settings, stages, _run_options(given))


def _run_options(given: dict[str, Any]) -> "RunOptions":
    return run_options(
        given["workers"],
        given["device"],
        given.get("redo") or (),
        given.get("max_memory_gb"),
        given.get("max_gpu_memory_gb"),
    )


def _print_preview(settings: Settings, output: Path, stages: Sequence[str], given: dict[str, Any]) -> None:
    from emsmine.pipelines.runner.dry_run import format_preview, preview

    found = preview(output, settings, stages, _run_options(given))
    echo(printable(format_preview(found), lines=True))
    if found.refusal is not None:
        raise found.refusal


def _print_funnel(output: Path) -> None:
    from emsmine.pipelines.runner.report import format_funnel, verified_funnel
    from emsmine.pipelines.store.store import Store

    echo(format_funnel(*verified_funnel(Store(output))))


_output = click.option(
    "-o", "--output", required=True, metavar="DIR", help="Run directory: results and their manifests."
)
_output_of_run = click.option("-o", "--output", metavar="DIR", help="Run directory: results and their manifests.")
_config = click.option("-c", "--config", metavar="FILE", help="TOML settings; flags win over it.")
_pairs = click.option("-p", "--pairs", multiple=True, metavar="PAIRS", help="Language pairs, as in de-en,en-zh.")
_reuse = click.option(
    "--reuse", metavar="DIR", help="Earlier run whose results are taken over where they are still right; '' for none."
)
_redo = click.option("--redo", multiple=True, metavar="STAGE", help="Remove and redo a stage and all later ones.")


@click.command("run", cls=Command)
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@_output_of_run
@_pairs
@_config
@_reuse
@_redo
@click.option(
    "--until", type=click.Choice(STAGE_NAMES), default=STAGE_NAMES[-1], show_default=True, help="Last stage to run."
)
@click.option("--dry-run", is_flag=True, help="Say what would run, then stop.")
@workers_option
@memory_options
@device_option
@stage_options(STAGE_NAMES)
def run(
    inputs: tuple[str, ...], output: str | None, pairs: tuple[str, ...], config: str | None, until: str, **given: Any
) -> None:
    """Run the whole pipeline: crawl files (WARC, WET, JSONL, Parquet, text) to a parallel corpus.

    Interrupt it at any time; the same command continues. Ends with the funnel of what was kept and dropped, and why.
    """
    stages = STAGE_NAMES[: STAGE_NAMES.index(until) + 1]
    folder = output_path(output) if output is not None else None
    settings = _settings(folder, config, inputs, pairs, given)
    wanted = {
        "INPUT": bool(settings.inputs),
        "--output (-o)": folder is not None,
        "--pairs (-p)": bool(settings.pairs) or not any(STAGES[name].needs_pairs for name in stages),
    }
    missing = [name for name, is_there in wanted.items() if not is_there]
    if missing or folder is None:
        raise click.UsageError(
            f"Missing {' and '.join(missing)}, as in: emsmine run crawl/*.warc.gz --pairs de-en --output out"
        )
    if given["dry_run"]:
        _print_preview(settings, folder, stages, given)
        return
    _run(settings, folder, stages, given)
    _print_funnel(folder)
    _close(folder, settings, until)


def _stage_command(name: str) -> click.Command:
    takes_inputs = name == "ingest"

    def command(
        output: str, config: str | None, pairs: tuple[str, ...], inputs: tuple[str, ...] = (), **given: Any
    ) -> None:
        folder = output_path(output)
        settings = _settings(folder, config, inputs, pairs, given)
        _run(settings, folder, [name], given)
        _close(folder, settings, name)

    command.__doc__ = f"Run the stage {name} on a run directory that holds the results of the stages before it."
    for decorate in (stage_options([name]), device_option, workers_option, _redo, _reuse, _config, _pairs, _output):
        command = decorate(command)
    if name == "search":
        command = memory_options(command)
    if takes_inputs:
        command = click.argument("inputs", nargs=-1, metavar="INPUT...")(command)
    return click.command(name, cls=Command)(command)


@click.command("report", cls=Command)
@click.argument("output", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(output: str, as_json: bool) -> None:
    """Print the funnel of a run directory: what came in, what was dropped and why, what came out.

    Only what is verified is shown, and what is missing for a complete run is said.
    """
    from emsmine.pipelines.runner.report import funnel
    from emsmine.pipelines.store.store import Store

    if as_json:
        echo(json.dumps([row.as_dict() for row in funnel(Store(output_path(output)))], indent=1))
    else:
        _print_funnel(output_path(output))


@click.command("verify", cls=Command)
@click.argument("output", metavar="DIR")
@workers_option
def verify(output: str, workers: int) -> None:
    """Check a run directory: every manifest, and every file by its hash. Changes nothing.

    Prints a line for each problem, with the next step, and a summary; exits with 1 if there is a problem.
    """
    from emsmine.pipelines.runner.verify import format_problem, verify
    from emsmine.pipelines.store.files import size
    from emsmine.pipelines.store.lock import lock_holder
    from emsmine.pipelines.store.store import Store

    root = Store(output_path(output)).root
    found = verify(root, workers)
    holder = lock_holder(root)
    if holder is not None:
        logger.warning("%s", printable(f"in use by {holder}: what it is writing now may be named below"))
    for problem in found.problems:
        echo(printable(format_problem(problem)))
    if found.unfinished:
        echo(f"not finished: {', '.join(found.unfinished)} (to continue: emsmine run -o DIR)")
    verdict = f"{len(found.problems)} problems" if found.problems else "no problem"
    echo(f"{found.num_tasks} tasks, {found.num_files} files, {size(found.num_bytes)} verified: {verdict}")
    if found.problems:
        raise CorruptOutputError(f"verify: {root} is not whole: {verdict}; each line above ends with the next step")


@click.command("langs", cls=Command)
@click.argument("codes", nargs=-1)
def langs(codes: tuple[str, ...]) -> None:
    """List the languages of the shipped model as canonical code, short code and name; or look CODES up."""
    for code in codes or languages.EMS_CODES:
        canonical = languages.resolve(code)
        echo(f"{canonical}\t{languages.short(canonical)}\t{languages.name(canonical)}")


COMMANDS |= {name: _stage_command(name) for name in STAGE_NAMES}
COMMANDS |= {"run": run, "report": report, "verify": verify, "langs": langs}
