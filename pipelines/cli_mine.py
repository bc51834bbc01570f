"""The command `mine`."""

import logging
from typing import Any

import click

from emsmine import languages
from emsmine.pipelines.cli_options import (
    APPROXIMATE_ONLY,
    device_option,
    overrides,
    sentence_limit_option,
    stage_options,
)
from emsmine.pipelines.settings import build_settings

logger = logging.getLogger(__name__)

_STAGES = ("encode", "search", "select")


@click.command("mine")
@click.argument("source")
@click.argument("target")
@click.option("--source-lang", required=True, metavar="CODE", help="Language of SOURCE, as in de.")
@click.option("--target-lang", required=True, metavar="CODE", help="Language of TARGET, as in en.")
@click.option("-o", "--output", default="-", show_default=True, metavar="FILE", help="TSV to write; - is stdout.")
@click.option(
    "--suspicious", metavar="FILE", help="TSV of pairs with a doubtful margin: margin, cosine, reasons, both texts."
)
@sentence_limit_option("Leave out longer sentences.")
@device_option
@stage_options(_STAGES, APPROXIMATE_ONLY)
def mine(
    source: str,
    target: str,
    source_lang: str,
    target_lang: str,
    output: str,
    suspicious: str | None,
    max_sentence_chars: int,
    **given: Any,
) -> None:
    """Mine translations from two files of sentences, one a line; - is stdin, .gz and .zst are read.

    Writes score, source, target per line, best first. The score is the margin; see docs/guide.md for what it means.
    """
    langs = (languages.resolve(source_lang), languages.resolve(target_lang))
    settings = build_settings({}, overrides(_STAGES, given))
    from emsmine.encoder.registry import load_encoder
    from emsmine.pipelines.mine import check_outputs, mine_files, write_pairs

    check_outputs(output, suspicious)
    mined = mine_files(
        source,
        target,
        langs,
        load_encoder(settings.encode.encoder, device=given["device"]),
        k=settings.search.k,
        settings=settings.select,
        max_chars=max_sentence_chars,
        device=given["device"],
    )
    write_pairs(mined.pairs, output, suspicious)
    for name, number in mined.counts.items():
        logger.info("%-24s %10s", name, f"{number:,}")


COMMANDS: dict[str, click.Command] = {"mine": mine}
