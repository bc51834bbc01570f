"""The commands `train`, `train-scorer` and `convert`."""

import logging
from contextlib import nullcontext
from pathlib import Path

import click

from emsmine.errors import ConfigError
from emsmine.outputs import check_output_folder
from emsmine.pipelines.cli.options import command, device_option
from emsmine.pipelines.cli.streams import echo

logger = logging.getLogger(__name__)


@command("train")
@click.argument("config", metavar="CONFIG.toml")
@click.option("--steps", type=click.IntRange(min=1), help="Stop, with a checkpoint, at this step.")
@device_option
def train(config: str, steps: int | None, device: str) -> None:
    """Train an EMS encoder, or continue where an earlier call stopped. Prints the model directory.

    On several GPUs: torchrun --nproc-per-node N -m emsmine train CONFIG.toml
    """
    from emsmine.encoder.training.parallel import launched
    from emsmine.encoder.training.run import WRITTEN
    from emsmine.encoder.training.run import train as run_training
    from emsmine.encoder.training.settings import load_training_config
    from emsmine.pipelines.direct.declared import check_pair_files
    from emsmine.pipelines.progress import TrainingProgress
    from emsmine.pipelines.store.lock import run_lock

    settings = load_training_config(Path(config))
    data = settings.data
    encoders = [name.removeprefix("ems:") for name in (data.teacher, data.negatives, settings.optimiser.init)]
    read = (config, *data.train, data.tokenizer, *encoders)
    check_output_folder("train", "run.output", settings.run.output, read, (*WRITTEN, data.cache))
    rank, _ = launched()
    if rank:
        # One process speaks and holds the lock for all that torchrun started.
        logging.disable(logging.INFO)
    else:
        check_pair_files("train", data.train)
    lock = nullcontext() if rank else run_lock(settings.run.output, "train")
    with lock, TrainingProgress(settings.optimiser.steps, settings.data.batch_size) as progress:
        folder = run_training(settings, device=device, stop_after=steps, on_log=progress.show)
    if not rank:
        echo(str(folder))
        logger.info("%s", _what_next("train", folder))


def _what_next(name: str, folder: Path) -> str:
    return (
        f"{name}: the model is in {folder}. Measure it: emsmine eval tatoeba DIR --encoder ems:{folder}; "
        f"mine with it: emsmine mine a.de b.en --encoder ems:{folder}"
    )


@command("train-scorer")
@click.argument("config", metavar="CONFIG.toml")
def train_scorer(config: str) -> None:
    """Train the pair scorer of a model, which reads both sentences of a candidate. Prints the file.

    From pairs that the model was not trained on; needs a processor only.
    """
    from emsmine.outputs import check_outputs
    from emsmine.pipelines.direct.declared import check_pair_files
    from emsmine.pipelines.direct.train_scorer import load_scorer_config, train_scorer_of

    settings = load_scorer_config(Path(config))
    check_outputs("train-scorer", {"run.output": str(settings.output)}, (config, *settings.data.train))
    check_pair_files("train-scorer", settings.data.train)
    written = train_scorer_of(settings)
    echo(str(written))
    logger.info(
        "train-scorer: %s is used by emsmine mine and run with --encoder %s. Measure it: emsmine eval bucc DIR "
        "--langs de-en --encoder %s",
        written,
        *(settings.run.encoder,) * 2,
    )


@command("convert")
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
    from emsmine.encoder.folders import CONFIG
    from emsmine.encoder.model.convert import convert as run_conversion
    from emsmine.encoder.model.directory import TOKENIZER, WEIGHTS

    if not output:
        raise ConfigError("convert: --output is empty; name a folder for the model")
    check_output_folder("convert", "--output", output, (checkpoint, sentencepiece), (CONFIG, TOKENIZER, WEIGHTS))
    folder = run_conversion(
        Path(checkpoint), Path(sentencepiece), Path(output), name=name, num_heads=num_heads or 0, table=table
    )
    echo(str(folder))
    logger.info("%s", _what_next("convert", folder))


COMMANDS: dict[str, click.Command] = {"train": train, "train-scorer": train_scorer, "convert": convert}
