"""Lists of sentences: read, cleaned, each distinct one kept once, encoded."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from emsmine import languages
from emsmine.encoder.protocol import Encoder, usable_rows
from emsmine.lines import unpacked_lines
from emsmine.mining.text.normalise import dedup_key, sanitise
from emsmine.pipelines.progress import Progress
from emsmine.pipelines.readers.source import open_binary

_BATCH = 8192


@dataclass(frozen=True)
class SentenceList:
    """The distinct usable sentences of one side.

    Args:
        lang: canonical code.
        texts: sanitised, distinct by dedup key, in order of first occurrence.
        dropped: lines left out, by reason.
        places: for every line of the input that was used or is a copy: its number in `texts`; -1 for a dropped line.
    """

    lang: str
    texts: list[str]
    dropped: dict[str, int] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)


def read_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, or of stdin for `-`, without their line feed; what is compressed is unpacked.

    See `emsmine.lines.unpacked_lines`.

    Raises:
        InputError: the file does not exist, or its compression is damaged.
    """
    if path == "-":
        try:
            yield from unpacked_lines(sys.stdin.buffer, "stdin")
        except OSError as error:
            raise OSError(error.errno, error.strerror, "stdin") from error
        return
    with open_binary(path) as stream:
        yield from unpacked_lines(stream, path)


def collect(lines: Iterable[bytes | str], lang: str, max_chars: int) -> SentenceList:
    """Clean the lines of one side and keep each distinct sentence once; everything left out is counted."""
    texts: list[str] = []
    numbers: dict[str, int] = {}
    places: list[int] = []
    dropped: Counter[str] = Counter()
    for line in lines:
        try:
            text = sanitise(line.decode("utf-8") if isinstance(line, bytes) else line)
        except UnicodeDecodeError:
            text, reason = "", "invalid_utf8"
        else:
            reason = "empty" if not text else "too_long" if len(text) > max_chars else ""
        if reason:
            dropped[reason] += 1
            places.append(-1)
            continue
        number = numbers.setdefault(dedup_key(text), len(texts))
        places.append(number)
        if number == len(texts):
            texts.append(text)
        else:
            dropped["duplicate"] += 1
    return SentenceList(lang, texts, dict(dropped), places)


@dataclass(frozen=True, eq=False)
class Embedded:
    """The usable vectors of one side.

    Shapes: vectors float32 [N, D], unit rows; ids int64 [N].
    """

    vectors: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    """The number of each among what was to be embedded."""
    num_unusable: int
    """How many have none: nothing to encode, or values that are not finite."""

    @classmethod
    def of(cls, vectors: npt.NDArray[np.float32]) -> "Embedded":
        """Leave out rows that are zero or not finite."""
        usable = np.flatnonzero(usable_rows(vectors)).astype(np.int64)
        return cls(np.ascontiguousarray(vectors[usable]), usable, len(vectors) - len(usable))


def encode_usable(encoder: Encoder, sentences: SentenceList) -> Embedded:
    """Encode a side in batches; ids are numbers in `sentences.texts`."""
    parts = []
    with Progress(f"encode {languages.short(sentences.lang)}", len(sentences.texts), "sentences") as progress:
        for start in range(0, len(sentences.texts), _BATCH):
            part = sentences.texts[start : start + _BATCH]
            parts.append(encoder.encode(part, lang=sentences.lang))
            progress.advance(len(part))
    return Embedded.of(np.concatenate([np.zeros((0, encoder.dim), np.float32), *parts]))
