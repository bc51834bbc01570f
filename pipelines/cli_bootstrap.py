"""The command `bootstrap`."""

import logging
from pathlib import Path

import click

from emsmine.pipelines.cli_options import device_option, workers_option

logger = logging.getLogger(__name__)


@click.command("bootstrap")
@click.argument("config", metavar="CONFIG.toml")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds in all  [default: bootstrap.rounds]")
@workers_option
@device_option
def bootstrap(config: str, rounds: int | None, workers: int, device: str) -> None:
    """Train, mine, and train again on what was mined, from a small seed of pairs and text of each language.

    Interrupt it at any time; the same command continues. Ends with a table of the rounds; the model of the best round
    is in OUTPUT/model.
    """
    from emsmine.pipelines.bootstrap import BootstrapOptions, run_bootstrap
    from emsmine.pipelines.bootstrap_report import format_report
    from emsmine.pipelines.bootstrap_settings import load_bootstrap_config

    settings = load_bootstrap_config(Path(config), rounds=rounds)

    def log(row: dict[str, float]) -> None:
        parts = [f"step {row['step']:.0f}/{settings.train.optimiser.steps}", f"loss {row['total']:.4f}"]
        if "validation_accuracy" in row:
            parts.append(f"validation accuracy {100 * row['validation_accuracy']:.2f} %")
        logger.info("  ".join(parts))

    report = run_bootstrap(settings, BootstrapOptions(workers=workers, device=device, on_log=log))
    click.echo(format_report(report, settings.bootstrap.output))


COMMANDS: dict[str, click.Command] = {"bootstrap": bootstrap}
