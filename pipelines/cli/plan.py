"""The command `plan`."""

import json
from pathlib import Path
from typing import Any

import click

from emsmine.errors import ConfigError
from emsmine.pipelines.cli.options import (
    command,
    device_option,
    memory_options,
    overrides,
    stage_options,
    workers_option,
)
from emsmine.pipelines.cli.streams import echo
from emsmine.pipelines.configuration import build_settings, parse_pairs, read_saved_config
from emsmine.pipelines.runner.prepare import output_path

_STAGES = ("langid", "encode", "index", "search")
_NO_MATTER = ("identifier", "min_lid_score", "max_sentence_chars", "target_recall", "min_recall", "min_precision")
_ROWS = click.IntRange(min=0)


@command("plan")
@click.option("-o", "--output", metavar="DIR", help="Run directory: plan its pairs with the rows that are there.")
@click.option("-p", "--pairs", multiple=True, metavar="PAIRS", help="Language pairs of the run directory.")
@click.option(
    "--reuse", metavar="DIR", help="Earlier run that the run would take over: what that saves at most; '' for none."
)
@click.option("--source-rows", type=_ROWS, help="Without a run directory: sentences of one side.")
@click.option("--target-rows", type=_ROWS, help="Without a run directory: sentences of the other side.")
@click.option("--dim", type=click.IntRange(min=1), help="Dimension of the vectors  [default: that of the encoder]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@workers_option
@memory_options
@device_option
@stage_options(_STAGES, leave_out=_NO_MATTER)
def plan(
    output: str | None,
    pairs: tuple[str, ...],
    reuse: str | None,
    source_rows: int | None,
    target_rows: int | None,
    dim: int | None,
    as_json: bool,
    workers: int,
    device: str,
    max_memory_gb: float | None,
    max_gpu_memory_gb: float | None,
    **given: Any,
) -> None:
    """Say what a search will take: engine and index with the reason, memory, disk, tasks, estimated time.

    Nothing is searched or written. Fails if this machine has too little memory or disk, and says what would fit.
    """
    from emsmine.pipelines.planning.advice import check_fits
    from emsmine.pipelines.planning.earlier import add_reuse, check_reuse_fits, plan_reuse, reuse_json, reuse_lines
    from emsmine.pipelines.planning.machine import SearchLimits
    from emsmine.pipelines.planning.of_run import encoder_dim, plan_and_measure, request_from_run
    from emsmine.pipelines.planning.plan import SearchRequest, even_shards
    from emsmine.pipelines.planning.text import as_json as plan_as_json
    from emsmine.pipelines.planning.text import format_plan
    from emsmine.pipelines.store.store import Store

    folder = output_path(output) if output is not None else Path()
    base = read_saved_config(folder) if output is not None else {}
    settings = build_settings(base, overrides(_STAGES, given), pairs=parse_pairs(list(pairs)), reuse=reuse)
    if output is not None and source_rows is None and target_rows is None:
        request = request_from_run(Store(folder), settings, workers, dim=dim, shard_rows=given["shard_rows"])
    elif output is None and source_rows is not None and target_rows is not None:
        rows = {"source": source_rows, "target": target_rows}
        request = SearchRequest(
            {side: even_shards(number, settings.langid.shard_rows) for side, number in rows.items()},
            (("source", "target"),),
            dim or encoder_dim(settings.encode.encoder),
            settings.index.engine,
            settings.index.index_memory_gb,
            settings.search.k,
            settings.search.audit_queries,
            workers,
        )
    else:
        raise ConfigError("plan: give either --output DIR, or both --source-rows and --target-rows")
    reused = plan_reuse(request, settings, folder if output is not None else None)
    planned, speed = plan_and_measure(request, folder, SearchLimits(max_memory_gb, device, max_gpu_memory_gb))
    whole = planned
    planned = add_reuse(whole, reused) if reused else whole
    if as_json:
        taken = reuse_json(reused, planned) if reused else None
        echo(json.dumps({**plan_as_json(planned, speed), "reuse": taken}, indent=1))
    else:
        *lines, verdict = format_plan(planned, speed).split("\n")
        echo("\n".join([*lines, *(reuse_lines(reused, planned, speed) if reused else []), verdict]))
    check_fits(whole)
    check_reuse_fits(planned)


COMMANDS: dict[str, click.Command] = {"plan": plan}
