"""What can be compared without knowing any language: length, numbers, names and code, punctuation, sentence end.

Shapes legend: N sentences, P pairs.
"""

import functools
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.scoring.ragged import HashSets, Int64Array
from emsmine.mining.text.normalise import digits
from emsmine.mining.text.rules import english_length

FloatArray = NDArray[np.float32]

SIDE_FEATURES = ("numbers_missing", "numbers_shared", "names_missing", "names_shared")
"""Of one side against the other: how many of its numbers and names the other lacks, and has; log(1 + n)."""
PAIR_FEATURES = ("length", "marks_differ", "marks_shared", "ends_differ", "question_differs", "exclamation_differs")
"""Of a pair, the same for both orders of its sides."""

_LATIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_@/.\-]*[A-Za-z0-9_]|[A-Za-z]")
# What turns a word into a name that a translation keeps: `kube-system`, `file.txt`, `user@host`, `HTTP`, `iPhone`.
_NAME = re.compile(r"[_@/.0-9]|(?<=.)[A-Z]")
_MARKS = "()[]{}:;\"'%<>=/*&#@$+!?-_|~`"
_ENDS = {"?": 1, "!": 2, ":": 3, ".": 4, "…": 4, "。": 4, "।": 4, "۔": 4, "။": 4, "։": 4, "؟": 1, "፧": 1}
_CLOSING = " \"'”’»」』)]"
_MARK = re.compile(f"[{re.escape(_MARKS)}]")
_COLUMN = {mark: column for column, mark in enumerate(_MARKS)}
_LARGEST_COUNT = 20
# Added to both lengths, so that short sentences may vary, as in the rule `length_ratio`.
_SMOOTHING = 15.0


@dataclass(frozen=True, eq=False)
class Surface:
    """What is compared of the sentences of one side.

    Shapes: length float32 [N]; marks int16 [N, 28]; end int8 [N]; the sets [N].
    """

    length: FloatArray
    """Logarithm of the length that the English translation is expected to have."""
    marks: NDArray[np.int16]
    end: NDArray[np.int8]
    numbers: HashSets
    names: HashSets
    words: HashSets
    """Where the names of the other side are looked for: all words in Latin letters, and the numbers."""

    @classmethod
    def of(cls, texts: Sequence[str], lang: str) -> "Surface":
        """Read sentences of a language (canonical code)."""
        size = len(texts)
        length, marks = np.empty(size), np.zeros((size, len(_MARKS)), np.int16)
        end = np.zeros(size, np.int8)
        numbers, names, words = [], [], []
        for row, text in enumerate(texts):
            length[row] = english_length(text, lang)
            folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
            for mark in _MARK.findall(folded):
                marks[row, _COLUMN[mark]] += 1
            end[row] = _ENDS.get(folded.rstrip(_CLOSING)[-1:], 0)
            found = _LATIN_WORD.findall(folded)
            own_numbers = [_hash(number) for number in digits(folded)]
            numbers.append(own_numbers)
            names.append([_hash(word) for word in names_among(found, folded)])
            words.append([*map(_hash, found), *own_numbers])
        lengths = np.log(length + _SMOOTHING).astype(np.float32)
        counted = np.minimum(marks, _LARGEST_COUNT)
        return cls(lengths, counted, end, HashSets.of(numbers), HashSets.of(names), HashSets.of(words))


def names_among(words: Sequence[str], text: str) -> list[str]:
    """Return the words that a translation keeps as they are: code, names with digits, inner capitals.

    In a text of another script every word in Latin letters is such a name.
    """
    is_foreign = not text.isascii() and sum(map(len, words)) < 0.5 * sum(map(str.isalpha, text))
    return [word for word in words if _is_name(word) or (is_foreign and len(word) > 1)]


# Words come again and again: with both caches a sentence takes half as long.
@functools.lru_cache(maxsize=1 << 16)
def _is_name(word: str) -> bool:
    return _NAME.search(word) is not None


@functools.lru_cache(maxsize=1 << 16)
def _hash(text: str) -> int:
    """Return a hash of a word, whatever its case."""
    return zlib.crc32(text.lower().encode("utf-8", "replace"))


def surface_features(
    source: Surface, target: Surface, source_rows: Int64Array, target_rows: Int64Array
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Compare the sentences of pairs.

    Args:
        source: one side.
        target: the other.
        source_rows: the source of each pair.
        target_rows: its target.

    Shapes: rows [P].
    Returns: `SIDE_FEATURES` of source and target, float32 [P, 4] each, and `PAIR_FEATURES`, float32 [P, 6].
    """
    forward = _side(source, target, source_rows, target_rows)
    backward = _side(target, source, target_rows, source_rows)
    one, other = source.marks[source_rows], target.marks[target_rows]
    ends = source.end[source_rows], target.end[target_rows]
    columns = [
        np.abs(source.length[source_rows] - target.length[target_rows]),
        np.log1p(np.abs(one - other).sum(axis=1)),
        np.log1p(np.minimum(one, other).sum(axis=1)),
        ends[0] != ends[1],
        (ends[0] == _ENDS["?"]) != (ends[1] == _ENDS["?"]),
        (ends[0] == _ENDS["!"]) != (ends[1] == _ENDS["!"]),
    ]
    return forward, backward, np.stack(columns, axis=1).astype(np.float32)


def _side(one: Surface, other: Surface, rows: Int64Array, other_rows: Int64Array) -> FloatArray:
    counts = []
    for sets, found in ((one.numbers, other.numbers), (one.names, other.words)):
        shared = sets.shared(rows, found, other_rows)
        counts += [sets.sizes(rows) - shared, shared]
    return np.log1p(np.stack(counts, axis=1)).astype(np.float32)
