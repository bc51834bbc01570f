"""The commands `train` and `convert`."""

import logging
from contextlib import nullcontext
from pathlib import Path

import click

from emsmine.pipelines.cli_options import device_option


@click.command("train")
@click.argument("config", metavar="CONFIG.toml")
@click.option("--steps", type=click.IntRange(min=1), help="Stop, with a checkpoint, at this step.")
@device_option
def train(config: str, steps: int | None, device: str) -> None:
    """Train an EMS encoder, or continue where an earlier call stopped. Prints the model directory.

    On several GPUs: torchrun --nproc-per-node N -m emsmine train CONFIG.toml
    """
    from emsmine.encoder.parallel import launched
    from emsmine.encoder.training import train as run_training
    from emsmine.encoder.training_config import load_training_config
    from emsmine.pipelines.lock import run_lock
    from emsmine.pipelines.training_progress import TrainingProgress

    settings = load_training_config(Path(config))
    rank, _ = launched()
    if rank:
        # One process speaks and holds the lock for all that torchrun started.
        logging.disable(logging.INFO)

    lock = nullcontext() if rank else run_lock(settings.run.output, "train")
    with lock, TrainingProgress(settings.optimiser.steps, settings.data.batch_size) as progress:
        folder = run_training(settings, device=device, stop_after=steps, on_log=progress.show)
    if not rank:
        click.echo(folder)


@click.command("convert")
@click.argument("checkpoint", metavar="CHECKPOINT.pt")
@click.option("--sentencepiece", required=True, metavar="FILE", help="SentencePiece model of the release.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Model directory to write.")
@click.option("--name", default="released", show_default=True, help="Name of the model, shown in signatures.")
@click.option("--num-heads", type=click.IntRange(min=1), help="Attention heads  [default: width / 64]")
@click.option(
    "--table", type=click.Choice(("float32", "float16", "int8")), default="float32", show_default=True, help="Storage."
)
def convert(checkpoint: str, sentencepiece: str, output: str, name: str, num_heads: int | None, table: str) -> None:
    """Convert a released EMS checkpoint into a model directory; use it with --encoder ems:DIR.

    No pickled code runs: a file that holds anything but tensors is refused.
    """
    from emsmine.encoder.convert import convert as run_conversion

    folder = run_conversion(
        Path(checkpoint), Path(sentencepiece), Path(output), name=name, num_heads=num_heads or 0, table=table
    )
    click.echo(folder)


COMMANDS: dict[str, click.Command] = {"train": train, "convert": convert}
