"""The command `bootstrap`."""

import logging
from pathlib import Path

import click

from emsmine.outputs import check_output_folder
from emsmine.pipelines.cli.options import command, device_option, workers_option
from emsmine.pipelines.cli.streams import echo

logger = logging.getLogger(__name__)


@command("bootstrap")
@click.argument("config", metavar="CONFIG.toml")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds in all  [default: bootstrap.rounds]")
@workers_option
@device_option
def bootstrap(config: str, rounds: int | None, workers: int, device: str) -> None:
    """Train, mine, and train again on what was mined, from a small seed of pairs and text of each language.

    Interrupt it at any time; the same command continues. Ends with a table of the rounds; the model of the best round
    is in OUTPUT/model.
    """
    from emsmine.pipelines.bootstrap.report import format_report
    from emsmine.pipelines.bootstrap.rounds import WRITTEN, BootstrapOptions, run_bootstrap
    from emsmine.pipelines.bootstrap.settings import load_bootstrap_config
    from emsmine.pipelines.direct.declared import check_pair_files

    settings = load_bootstrap_config(Path(config), rounds=rounds)
    given, output = settings.bootstrap, settings.bootstrap.output
    read = (config, *given.seed, *given.dev, *settings.mine.inputs, given.encoder.removeprefix("ems:"))
    check_output_folder("bootstrap", "bootstrap.output", output, read, WRITTEN)
    check_pair_files("bootstrap", (*given.seed, *given.dev))

    def log(row: dict[str, float]) -> None:
        parts = [f"step {row['step']:.0f}/{settings.train.optimiser.steps}", f"loss {row['total']:.4f}"]
        if "validation_accuracy" in row:
            parts.append(f"validation accuracy {100 * row['validation_accuracy']:.2f} %")
        logger.info("  ".join(parts))

    report = run_bootstrap(settings, BootstrapOptions(workers=workers, device=device, on_log=log))
    echo(format_report(report, output))
    if report["model"]:
        folder = Path(output) / report["model"]
        logger.info(
            "bootstrap: the model is in %s; mine with it: emsmine run INPUT... --encoder ems:%s", folder, folder
        )


COMMANDS: dict[str, click.Command] = {"bootstrap": bootstrap}
