"""Near-duplicates between a large text and a small set of test sentences, found exactly: is the test in the training?

MinHash (`emsmine.mining.text.dedup`) estimates, and misses a few pairs; here one side is small enough for an inverted
index, so nothing is estimated and nothing is missed.
"""

import math
from collections import Counter
from collections.abc import Sequence

from emsmine.mining.text.normalise import dedup_key

_PIECE_CHARACTERS = 5
# Here a character is a syllable or a word, and five of them half a sentence.
_PIECE_SYLLABLES = 2
_SYLLABIC_SCRIPTS = frozenset({"Hani", "Hans", "Hant", "Jpan", "Kore"})
# A product such as 0.8 * 5 may lie a hair above the whole number that is meant.
_ROUNDING = 1e-9


def pieces(text: str, lang: str) -> frozenset[str]:
    """Return the overlapping pieces of a text's `dedup_key`: five characters, or two in Chinese, Japanese and Korean.

    Args:
        text: any text.
        lang: canonical code, whose script decides.

    Returns:
        the set of pieces; the whole key if it is shorter than one; none for a text of punctuation only.
    """
    key = dedup_key(text)
    size = _PIECE_SYLLABLES if lang.partition("_")[2] in _SYLLABIC_SCRIPTS else _PIECE_CHARACTERS
    return frozenset(key[i : i + size] for i in range(max(1, len(key) - size + 1))) if key else frozenset()


class OverlapIndex:
    """The test sentences of one language, to be asked which of them a sentence is a near-duplicate of.

    Two sentences are near if the Jaccard similarity of their `pieces` reaches the threshold t; sets of n and m pieces
    then have at least t / (1 + t) · (n + m) in common. With all pieces in one order, none of those stands before the
    first common one: both sets must hold that many from there on. Rare pieces first leave few sentences to be compared.

    Reference: Chaudhuri, Ganti and Kaushik 2006, prefix filter; Xiao et al. 2008, positional filter.
    """

    def __init__(self, texts: Sequence[str], lang: str, *, threshold: float = 0.6) -> None:
        """Index the test sentences.

        Args:
            texts: the test sentences; one without letters or digits is near to nothing.
            lang: their canonical code.
            threshold: similarity from which two sentences are near, above 0 and at most 1.

        Raises:
            ValueError: the threshold is out of range.
        """
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"OverlapIndex: threshold is {threshold}; it must be above 0 and at most 1")
        self.lang = lang
        self.threshold = threshold
        found = [pieces(text, lang) for text in texts]
        frequency = Counter(piece for item in found for piece in item)
        order = sorted(frequency, key=lambda piece: (frequency[piece], piece))
        self._rank = {piece: rank for rank, piece in enumerate(order)}
        self._ranks = [frozenset(self._rank[piece] for piece in item) for item in found]
        # By piece: the row, the size of its set, and how many of the set stand from this piece on.
        self._places: list[list[tuple[int, int, int]]] = [[] for _ in order]
        for row, item in enumerate(self._ranks):
            for place, rank in enumerate(sorted(item)[: self._prefix(len(item))]):
                self._places[rank].append((row, len(item), len(item) - place))

    def _prefix(self, size: int) -> int:
        """Return among how many pieces of a set the first common one must be, whatever the size of the other set."""
        return size - math.ceil(self.threshold * size - _ROUNDING) + 1 if size else 0

    def near(self, text: str) -> dict[int, float]:
        """Return the rows of the test sentences that a text is near to, with the similarity."""
        found = pieces(text, self.lang)
        size = len(found)
        ranks = sorted([self._rank[piece] for piece in found if piece in self._rank])
        # Pieces of no test sentence are the rarest and stand first.
        num_unknown = size - len(ranks)
        # |both| / |either| >= t is the same as |both| >= share · (n + m).
        share = self.threshold / (1 + self.threshold)
        rows = {
            row
            for place, rank in enumerate(ranks[: max(0, self._prefix(size) - num_unknown)], start=num_unknown)
            for row, other, remaining in self._places[rank]
            if remaining >= (wanted := share * (size + other) - _ROUNDING) and size - place >= wanted
        }
        known = frozenset(ranks)
        result = {}
        for row in rows:
            num_common = len(known & self._ranks[row])
            total = size + len(self._ranks[row])
            if num_common >= share * total - _ROUNDING:
                result[row] = num_common / (total - num_common)
        return result
