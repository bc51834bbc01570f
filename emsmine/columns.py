"""Which columns of a TAB-separated file are the two sides of a bitext.

Tools of the field put scores, labels and addresses in front of the sentences: the output of `mine` is score, source,
target, that of Bitextor two URLs, source, target. Taken for `source, target` such a file gives numbers that look right
and mean nothing, so columns that are not text are recognised, and a file that cannot be a bitext is refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from emsmine.errors import ConfigError, InputError

SAMPLE_LINES = 1000
_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*|\s*[-+]?(?:nan|inf)\s*", re.ASCII)
_ADDRESS = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*://|www\.)\S+\s*", re.IGNORECASE | re.ASCII)
# `few_neighbours,high_margin`: reasons and labels of ours and of others.
_LABEL = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+(?:,[a-z0-9]+(?:_[a-z0-9]+)*)*", re.ASCII)
_Columns = tuple[int, int]


def parse_columns(text: str, option: str = "--columns") -> _Columns:
    """Read `2,3`: the columns of source and target, counted from 1; return them counted from 0.

    Raises:
        ConfigError: not two different numbers from 1 on.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(word.isascii() and word.isdecimal() and 0 < int(word) < 10**6 for word in words):
        raise ConfigError(f"{option} is {text!r}; give the columns of source and target, counted from 1, as in 2,3")
    source, target = (int(word) - 1 for word in words)
    if source == target:
        raise ConfigError(f"{option} is {text!r}; source and target must be different columns")
    return source, target


def _is_text(cell: str) -> bool:
    return any(map(str.isalpha, cell)) and not any(kind.fullmatch(cell) for kind in (_NUMBER, _ADDRESS, _LABEL))


def _leading(rows: Sequence[Sequence[str]]) -> int:
    """Count the columns in front that hold a number, an address or a label in every row."""
    width = min(map(len, rows))
    for column in range(width):
        cells = [row[column] for row in rows]
        if not any(all(map(kind.fullmatch, cells)) for kind in (_NUMBER, _ADDRESS, _LABEL)):
            return column
    return width


def find_columns(lines: Sequence[bytes], where: str, given: _Columns | None = None) -> _Columns:
    """Return the columns of source and target, counted from 0.

    Args:
        lines: the first lines of the file; `SAMPLE_LINES` are looked at.
        where: the command and the file, for messages: `score: pairs.tsv`.
        given: what the user said; None: they are recognised.

    Returns:
        (0, 1) if nothing tells otherwise, as for a file without a line of two columns.

    Raises:
        InputError: no two columns can be the sides of a bitext.
    """
    rows = {
        number: line.decode("utf-8", "replace").split("\t")
        for number, line in enumerate(lines[:SAMPLE_LINES], start=1)
        if line.strip()
    }
    needed = 2 if given is None else max(given) + 1
    wide = [row for row in rows.values() if len(row) >= needed]
    if 2 * len(wide) < len(rows):
        first = next(number for number, row in rows.items() if len(row) < needed)
        raise InputError(
            f"{where}: {len(rows) - len(wide)} of the first {len(rows)} lines have fewer than {needed} columns (first: "
            f"line {first}); a bitext is source TAB target, or two files whose lines correspond"
        )
    if not wide:
        return given or (0, 1)
    if given is None:
        skipped = _leading(wide)
        given = (skipped, skipped + 1) if skipped and min(map(len, wide)) >= skipped + 2 else (0, 1)
    _check_sides(wide, where, given)
    return given


def _check_sides(rows: Sequence[Sequence[str]], where: str, columns: _Columns) -> None:
    advice = "say which columns are source and target, as in --columns 2,3"
    for column in columns:
        cells = [row[column] for row in rows if row[column].strip()]
        if cells and 2 * sum(map(_is_text, cells)) < len(cells):
            example = next(cell for cell in cells if not _is_text(cell))
            raise InputError(
                f"{where}: column {column + 1} holds no sentences (such as {example[:40]!r}), so columns "
                f"{columns[0] + 1} and {columns[1] + 1} are no bitext; {advice}"
            )
    sides = [(row[columns[0]].strip(), row[columns[1]].strip()) for row in rows]
    if len(sides) > 1 and all(left == right for left, right in sides) and any(left for left, _ in sides):
        raise InputError(
            f"{where}: columns {columns[0] + 1} and {columns[1] + 1} are the same on all of the first {len(sides)} "
            f"lines, so they are no bitext; {advice}"
        )


def with_columns(
    lines: Iterable[bytes], where: str, given: _Columns | None = None, tell: Callable[[_Columns], None] | None = None
) -> Iterator[tuple[bytes, _Columns]]:
    """Yield every line with the columns of source and target, which its file's first lines decide.

    Args:
        lines: of one file.
        where: as in `find_columns`.
        given: as in `find_columns`.
        tell: called once with what was recognised, if that is not the first two columns.
    """
    stream = iter(lines)
    first = list(islice(stream, SAMPLE_LINES))
    columns = find_columns(first, where, given)
    if tell and given is None and columns != (0, 1):
        tell(columns)
    for line in chain(first, stream):
        yield line, columns
