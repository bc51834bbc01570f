"""The command `score`."""

import logging
from typing import Any

import click

from emsmine import languages
from emsmine.errors import ConfigError
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
_LEFT_OUT = (*APPROXIMATE_ONLY, "retrieval", "threshold", "cosine_floor")


@click.command("score")
@click.argument("files", nargs=-1, required=True, metavar="FILE [FILE]")
@click.option("--source-lang", required=True, metavar="CODE", help="Language of the first side, as in de.")
@click.option("--target-lang", required=True, metavar="CODE", help="Language of the second side, as in en.")
@click.option("-o", "--output", default="-", show_default=True, metavar="FILE", help="TSV to write; - is stdout.")
@click.option("--threshold", type=float, help="Write only lines of this margin or more.  [default: all lines]")
@sentence_limit_option("Leave longer sentences without a score.")
@device_option
@stage_options(_STAGES, _LEFT_OUT)
def score(
    files: tuple[str, ...],
    source_lang: str,
    target_lang: str,
    output: str,
    threshold: float | None,
    max_sentence_chars: int,
    **given: Any,
) -> None:
    """Score translations that are there already: one file of source TAB target, or two files line by line.

    Writes the margin, a TAB and the line, in the order of the input; nan for a line that cannot be scored (the reasons
    are counted on stderr). Margins are taken over the bitext itself and compare with those of mining.
    """
    if len(files) > 2:
        raise ConfigError(f"score: {len(files)} files given; give one with two columns, or two whose lines correspond")
    langs = (languages.resolve(source_lang), languages.resolve(target_lang))
    chosen = overrides(_STAGES, given)
    # It decides nothing here, but every margin but ratio asks for one.
    chosen.setdefault("select", {})["threshold"] = 0.0
    settings = build_settings({}, chosen)
    from emsmine.encoder.registry import load_encoder
    from emsmine.pipelines.mine import write_bytes
    from emsmine.pipelines.score import read_bitext, scored_lines
    from emsmine.pipelines.score import score as run_scoring

    bitext = read_bitext(files, langs, max_sentence_chars)
    encoder = load_encoder(settings.encode.encoder, device=given["device"])
    scored = run_scoring(encoder, bitext, k=settings.search.k, margin=settings.select.margin, device=given["device"])
    written = list(scored_lines(bitext.lines, scored.margins, threshold))
    write_bytes(b"".join(written), output, "score")
    for name, number in {**scored.counts, "written": len(written)}.items():
        logger.info("%-24s %10s", name, f"{number:,}")


COMMANDS: dict[str, click.Command] = {"score": score}
