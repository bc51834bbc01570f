"""The command `embed`."""

import logging
from typing import Any

import click

from emsmine.outputs import check_outputs
from emsmine.pipelines.cli.options import command, device_option, overrides, stage_options
from emsmine.pipelines.configuration import build_settings
from emsmine.pipelines.direct.declared import declared_language

logger = logging.getLogger(__name__)

_READ_BY = {
    ".npy": "numpy.load({path!r})",
    ".f32": "numpy.fromfile({path!r}, '<f4').reshape(-1, {dim})",
    ".bin": "numpy.fromfile({path!r}, '<f4').reshape(-1, {dim})",
    ".f16": "numpy.fromfile({path!r}, '<f2').reshape(-1, {dim})",
    ".parquet": "emsmine.read_embeddings({path!r})",
}


@command("embed")
@click.argument("file", metavar="FILE")
@click.option("-l", "--lang", metavar="CODE", help="Language, as in de.  [default: as the file name ends]")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="File to write: .npy; .f32 or .bin, .f16 (plain numbers, as LASER has them); .parquet.",
)
@device_option
@stage_options(("encode",))
def embed(file: str, lang: str | None, output: str, **given: Any) -> None:
    """Turn a file of sentences, one a line, into vectors; - is stdin, a compressed file is read.

    Row i is the vector of line i, zeros for a line that has none (their number is said); Parquet leaves those out, and
    has the number of the line as sentence_id.
    """
    check_outputs("embed", {"--output": output}, (file,))
    from emsmine.encoder.registry import load_encoder
    from emsmine.pipelines.direct.embed import embed_file, output_kind

    kind = output_kind(output)
    canonical = declared_language("embed", "--lang (-l)", "-l de", None if file == "-" else file, lang)
    settings = build_settings({}, overrides(("encode",), given))
    encoder = load_encoder(settings.encode.encoder, device=given["device"])
    counts = embed_file(file, canonical, encoder, output)
    for name, number in counts.items():
        logger.info("%-24s %10s", name, f"{number:,}")
    how = _READ_BY[kind].format(path=output, dim=encoder.dim)
    logger.info(
        "embed: %s vectors of %d by %s in %s; read them: %s",
        f"{counts['vectors']:,}",
        encoder.dim,
        encoder.name,
        output,
        how,
    )


COMMANDS: dict[str, click.Command] = {"embed": embed}
