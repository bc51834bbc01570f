"""The command `score`."""

import logging
from typing import TYPE_CHECKING, Any

import click

from emsmine.columns import parse_columns
from emsmine.errors import ConfigError
from emsmine.outputs import check_outputs, write_output
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

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

logger = logging.getLogger(__name__)

_STAGES = ("encode", "search", "rescore", "select")
_LEFT_OUT = (*APPROXIMATE_ONLY, *RUN_ONLY, "retrieval", "sort_by", "threshold", "cosine_floor")


@command("score")
@click.argument("files", nargs=-1, required=True, metavar="FILE [FILE]")
@language_options
@click.option(
    "--columns",
    metavar="S,T",
    help="Columns of source and target in one file, from 1.  [default: the first two behind scores, labels and URLs]",
)
@click.option("-o", "--output", default="-", show_default=True, metavar="FILE", help="TSV to write; - is stdout.")
@click.option("--threshold", type=float, help="Write only lines of this score or more.  [default: all lines]")
@click.option("--explain", "explained", is_flag=True, help="Show words and their partners instead of the lines.")
@sentence_limit_option("Leave longer sentences without a score.")
@device_option
@stage_options(_STAGES, _LEFT_OUT)
def score(
    files: tuple[str, ...],
    source_lang: str | None,
    target_lang: str | None,
    columns: str | None,
    output: str,
    threshold: float | None,
    explained: bool,
    max_sentence_chars: int,
    **given: Any,
) -> None:
    """Score translations that are there already: one file of TAB-separated columns, or two files line by line.

    Writes the score, a TAB and the line, in the order of the input; nan for a line that cannot be scored (the reasons
    are counted on stderr). The score is the probability that the line is a translation; without rescoring the margin.
    Both are taken over the bitext itself and compare with those of mining.
    """
    if len(files) > 2:
        raise ConfigError(f"score: {len(files)} files given; give one with two columns, or two whose lines correspond")
    if columns is not None and len(files) == 2:
        raise ConfigError("score: --columns is for one file of columns; two files have a side each")
    check_outputs("score", {"--output": output}, files)
    langs = declared_languages("score", files, source_lang, target_lang)
    settings = build_settings({}, overrides(_STAGES, given))
    scorer = scorer_of(settings.encode.encoder, settings.rescore)
    if explained and not scorer:
        raise ConfigError("score: --explain shows what the pair scorer sees, and none is used; add --rescore")
    from emsmine.encoder.registry import load_encoder
    from emsmine.pipelines.direct.score import explained_lines, read_bitext, scored_lines
    from emsmine.pipelines.direct.score import score as run_scoring

    bitext = read_bitext(files, langs, max_sentence_chars, parse_columns(columns) if columns is not None else None)
    encoder = load_encoder(settings.encode.encoder, device=given["device"])
    rescorer = load_rescorer(scorer) if scorer else None
    how = {"k": settings.search.k, "margin": settings.select.margin, "device": given["device"]}
    scored = run_scoring(encoder, bitext, **how, rescorer=rescorer)
    written = list(scored_lines(bitext.lines, scored.scores, threshold))
    if explained and rescorer is not None:
        written = list(explained_lines(rescorer, bitext, scored, threshold))
    write_output(b"".join(written), output)
    for name, number in {**scored.counts, "written": len(written)}.items():
        logger.info("%-24s %10s", name, f"{number:,}")
    if not written:
        logger.warning("score: nothing was written; %s", _why_none(scored.scores, threshold))
    elif output != "-":
        logger.info(
            "score: %s lines in %s, the score first; sort -rn %s | head shows the best",
            f"{len(written):,}",
            output,
            output,
        )


def _why_none(scores: "npt.NDArray[np.float64]", threshold: float | None) -> str:
    scored = scores[scores == scores]
    if not len(scored):
        return "no line could be scored, see the counts above"
    return f"the largest score is {scored.max():.3f}; lower --threshold (now {threshold:g})"


COMMANDS: dict[str, click.Command] = {"score": score}
