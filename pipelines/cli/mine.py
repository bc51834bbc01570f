"""The command `mine`."""

import logging
from typing import Any

import click

from emsmine.outputs import check_outputs
from emsmine.pipelines.cli.options import (
    APPROXIMATE_ONLY,
    RUN_ONLY,
    command,
    device_option,
    language_options,
    overrides,
    sentence_limit_option,
    stage_options,
)
from emsmine.pipelines.configuration import build_settings
from emsmine.pipelines.direct.declared import declared_languages
from emsmine.pipelines.rescoring import load_rescorer, scorer_of
from emsmine.pipelines.settings import SelectSettings

logger = logging.getLogger(__name__)

_STAGES = ("encode", "search", "rescore", "select")


@command("mine")
@click.argument("source")
@click.argument("target")
@language_options
@click.option("-o", "--output", default="-", show_default=True, metavar="FILE", help="TSV to write; - is stdout.")
@click.option(
    "--suspicious", metavar="FILE", help="TSV of pairs with a doubtful margin: margin, cosine, reasons, both texts."
)
@sentence_limit_option("Leave out longer sentences.")
@device_option
@stage_options(_STAGES, (*APPROXIMATE_ONLY, *RUN_ONLY))
def mine(
    source: str,
    target: str,
    source_lang: str | None,
    target_lang: str | None,
    output: str,
    suspicious: str | None,
    max_sentence_chars: int,
    **given: Any,
) -> None:
    """Mine translations from two files of sentences, one a line; - is stdin, compressed files are read.

    Writes score, source, target per line, best first. The score is the probability that the pair is a translation;
    without rescoring, the margin. docs/guide.md says what both mean.
    An output whose name ends in .gz, .zst, .bz2 or .xz is compressed.
    """
    check_outputs("mine", {"--output": output, "--suspicious": suspicious}, (source, target))
    langs = declared_languages("mine", (source, target), source_lang, target_lang)
    settings = build_settings({}, overrides(_STAGES, given))
    from emsmine.encoder.registry import load_encoder
    from emsmine.pipelines.direct.mine import mine_files, write_pairs

    scorer = scorer_of(settings.encode.encoder, settings.rescore)
    settings.select.lowest_score(rescored=bool(scorer))
    # First, as it holds another token table while it is loaded.
    rescorer = load_rescorer(scorer) if scorer else None
    mined = mine_files(
        source,
        target,
        langs,
        load_encoder(settings.encode.encoder, device=given["device"]),
        k=settings.search.k,
        settings=settings.select,
        max_chars=max_sentence_chars,
        device=given["device"],
        rescorer=rescorer,
    )
    write_pairs(mined.pairs, output, suspicious)
    for name, number in mined.counts.items():
        logger.info("%-24s %10s", name, f"{number:,}")
    if not mined.pairs:
        logger.warning("mine: no pair; %s", _why_none(mined.best, settings.select, rescored=bool(scorer)))
    elif output != "-":
        logger.info(
            "mine: %s pairs in %s (score, source, target; best first). See whether the last ones are still "
            "translations, and set --threshold above those that are not",
            *(f"{len(mined.pairs):,}", output),
        )


def _why_none(best: tuple[float, float] | None, settings: SelectSettings, *, rescored: bool) -> str:
    if best is None:
        return "no sentence has a neighbour on the other side that is near enough"
    score, cosine = best
    name, threshold = settings.score(rescored=rescored), settings.lowest_score(rescored=rescored)
    return (
        f"the largest {name} is {score:.3f} (--threshold {threshold:g}), the largest cosine {cosine:.3f} "
        f"(--cosine-floor {settings.cosine_floor:g}): lower what was not reached, and check that the files hold the "
        "languages given and speak of the same things"
    )


COMMANDS: dict[str, click.Command] = {"mine": mine}
