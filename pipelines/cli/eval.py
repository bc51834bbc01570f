"""The command `eval` and its tasks."""

import json
import logging
from pathlib import Path
from typing import Any

import click

from emsmine import languages
from emsmine.columns import parse_columns
from emsmine.pipelines.cli.options import APPROXIMATE_ONLY, RUN_ONLY, Command, device_option, overrides, stage_options
from emsmine.pipelines.cli.streams import echo
from emsmine.pipelines.configuration import build_settings
from emsmine.pipelines.rescoring import load_rescorer, scorer_of
from emsmine.pipelines.settings import EncodeSettings, RescoreSettings

logger = logging.getLogger(__name__)

_BUCC_STAGES = ("encode", "search", "rescore", "select")

_encoder = click.option("--encoder", default=EncodeSettings.encoder, show_default=True, help="Encoder to evaluate.")


@click.group("eval")
def evaluate() -> None:
    """Evaluate an encoder with the very code that mines. Prints JSON with a signature."""


@evaluate.command("tatoeba", cls=Command)
@click.argument("folder", metavar="DIR")
@click.option("--langs", default="", metavar="LIST", help="Languages, as in de,fr  [default: those of EMS]")
@click.option("--all", "everything", is_flag=True, help="All languages that the folder holds.")
@click.option(
    "--rescore/--no-rescore", default=None, help="Take the most probable of the ten nearest.  [default: the nearest]"
)
@click.option("--scorer", default="auto", help="Model whose pair scorer is used  [default: the encoder's own]")
@_encoder
@device_option
def tatoeba(
    folder: str, langs: str, everything: bool, rescore: bool | None, scorer: str, encoder: str, device: str
) -> None:
    """Retrieval accuracy on Tatoeba v1, both directions, per language and mean."""
    codes = [code.strip() for code in langs.split(",") if code.strip()] or list(languages.EMS_CODES)
    wanted = [] if everything else [languages.resolve(code) for code in codes]
    from emsmine.encoder.registry import load_encoder
    from emsmine.pipelines.direct.evaluation import evaluate_tatoeba, find_tatoeba

    sets = find_tatoeba(Path(folder), wanted, all_of_them=bool(langs.strip()) and not everything)
    spec = scorer_of(encoder, RescoreSettings(rescore, scorer)) if rescore or scorer != "auto" else ""
    rescorer = load_rescorer(spec) if spec else None
    echo(json.dumps(evaluate_tatoeba(load_encoder(encoder, device=device), sets, rescorer), indent=1))
    logger.info("eval: mine with this encoder: emsmine mine a.de b.en --encoder %s", encoder)


@evaluate.command("bucc", cls=Command)
@click.argument("folder", metavar="DIR")
@click.option("--langs", required=True, metavar="PAIRS", help="Pairs, as in de-en,zh-en; English second, as in BUCC.")
@click.option("--split", default="", help="Part of the file names: sample, training, test.")
@device_option
@stage_options(_BUCC_STAGES, (*APPROXIMATE_ONLY, *RUN_ONLY))
def bucc(folder: str, langs: str, split: str, device: str, **given: Any) -> None:
    """Mining F1 on sets in BUCC format: at the default threshold, and the best that a tuned one could reach.

    With and without rescoring; with several sets, also at the thresholds that are best on the others.
    """
    settings = build_settings({}, overrides(_BUCC_STAGES, given))
    from emsmine.encoder.registry import load_encoder
    from emsmine.pipelines.direct.bucc import evaluate_bucc, find_bucc

    sets = [find_bucc(Path(folder), pair.strip(), split) for pair in langs.split(",")]
    encoder = load_encoder(settings.encode.encoder, device=device)
    scorer = scorer_of(settings.encode.encoder, settings.rescore)
    settings.select.lowest_score(rescored=bool(scorer))
    results = evaluate_bucc(
        encoder,
        sets,
        k=settings.search.k,
        settings=settings.select,
        device=device,
        rescorer=load_rescorer(scorer) if scorer else None,
    )
    echo(json.dumps(results if len(results) > 1 else results[0], indent=1))
    for result in results:
        if result["best_threshold"] is not None:
            logger.info("eval: %s is best mined with --threshold %.3f", result["pair"], result["best_threshold"])


@evaluate.command("pairs", cls=Command)
@click.argument("mined", metavar="MINED.tsv")
@click.argument("gold", metavar="GOLD.tsv")
@click.option("--mined-columns", metavar="S,T", help="Columns of source and target in MINED.tsv, from 1.")
@click.option("--gold-columns", metavar="S,T", help="Columns of source and target in GOLD.tsv, from 1.")
def pairs(mined: str, gold: str, mined_columns: str | None, gold_columns: str | None) -> None:
    """Precision and recall of mined pairs against gold pairs, by text.

    Both are TSV of source and target; scores, labels and URLs in front of them are recognised.
    """
    from emsmine.pipelines.direct.evaluation import evaluate_pairs

    given = (("--mined-columns", mined_columns), ("--gold-columns", gold_columns))
    columns = [None if text is None else parse_columns(text, option) for option, text in given]
    echo(json.dumps(evaluate_pairs(Path(mined), Path(gold), *columns), indent=1))


COMMANDS: dict[str, click.Command] = {"eval": evaluate}
