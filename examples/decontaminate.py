"""Remove from training pairs those that nearly repeat a test sentence, on either side.

Two sentences are near if the sets of their pieces (five characters; two in Chinese, Japanese and Korean; without case
and punctuation) have a Jaccard similarity of at least the threshold. Nothing is estimated: every such pair is found.

Usage:
    python examples/decontaminate.py pairs.tsv --langs de-en --source-test test.de --target-test test.en -o clean.tsv

Pair files have the texts in the first two columns, in the order of --langs; test files one sentence a line. Both may be
.gz or .zst, and each --…-test may be given several times. The result is plain text.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from emsmine import languages
from emsmine.errors import EmsmineError, InputError
from emsmine.mining.text.overlap import OverlapIndex
from emsmine.pipelines.direct.sentences import read_lines


def read_tests(paths: Sequence[str]) -> list[str]:
    """Read the sentences of several files.

    Raises:
        InputError: there are none, or a file is not UTF-8.
    """
    texts = []
    for path in paths:
        for row, line in enumerate(read_lines(path), start=1):
            try:
                texts.append(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(f"decontaminate: {path} line {row} is not UTF-8 ({error.reason})") from error
    if not texts:
        raise InputError(f"decontaminate: no sentences in {', '.join(paths)}; nothing could be found with them")
    return texts


def decontaminate(pairs: str, output: Path, indexes: Sequence[OverlapIndex]) -> Counter[str]:
    """Copy the lines of which no side is near to a test sentence.

    Returns:
        the number of lines by what became of them.

    Raises:
        InputError: a line has fewer than two columns or is not UTF-8.
    """
    counts: Counter[str] = Counter()
    with output.open("wb") as stream:
        for row, line in enumerate(read_lines(pairs), start=1):
            try:
                columns = line.decode("utf-8").split("\t")
            except UnicodeDecodeError as error:
                raise InputError(f"decontaminate: {pairs} line {row} is not UTF-8 ({error.reason})") from error
            if len(columns) < 2:
                raise InputError(f"decontaminate: {pairs} line {row} has 1 column; two texts are needed")
            source, target = (bool(index.near(text)) for index, text in zip(indexes, columns, strict=False))
            fate = "both sides near" if source and target else "source near" if source else "target near"
            if source or target:
                counts[fate] += 1
            else:
                counts["kept"] += 1
                stream.write(line + b"\n")
    return counts


@click.command(help="Remove training pairs that nearly repeat a test sentence.")
@click.argument("pairs", type=click.Path(exists=True, dir_okay=False))
@click.option("--langs", required=True, help="Languages of the columns, as in de-en.")
@click.option("--source-test", required=True, multiple=True, help="Test sentences of the first language.")
@click.option("--target-test", required=True, multiple=True, help="Test sentences of the second language.")
@click.option("--threshold", default=0.6, show_default=True, type=click.FloatRange(0, 1, min_open=True))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write.")
def main(
    pairs: str, langs: str, source_test: tuple[str, ...], target_test: tuple[str, ...], threshold: float, output: Path
) -> None:
    """Read the test sets, copy what is not near to them, print counts to stderr."""
    try:
        if output.exists() and output.samefile(pairs):
            raise InputError(f"decontaminate: {output} is the input; write to another file")
        indexes = [
            OverlapIndex(read_tests(paths), lang, threshold=threshold)
            for lang, paths in zip(languages.pair(langs), (source_test, target_test), strict=True)
        ]
        counts = decontaminate(pairs, output, indexes)
    except EmsmineError as error:
        raise click.ClickException(str(error)) from error
    for fate in ("kept", "source near", "target near", "both sides near"):
        click.echo(f"{fate:20}{counts[fate]:>12,}", err=True)


if __name__ == "__main__":
    main()
