"""Show what a pair's score rests on: which words found what partner, and what was left uncovered.

Shapes legend: L, M tokens of the two sides, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.scoring.tokens import UNIT, TokenVectors

WORD_BEGIN = "\u2581"
"""SentencePiece writes it where a space was: a word begins."""
_UNSPACED = (("\u0e00", "\u0f00"), ("\u1000", "\u10a0"), ("\u2e80", "\uac00"))
"""Thai and Lao, Burmese, Han and kana."""


@dataclass(frozen=True)
class WordMatch:
    """A word of one side and its best partner on the other.

    Attributes:
        word: as the tokeniser sees it (case folded).
        weight: its share of the weight of its sentence, 0 to 1.
        partner: the word of the other side that most of its pieces are nearest to; "" if the other side has none.
        cosine: weighted mean of the best cosines of its pieces.
    """

    word: str
    weight: float
    partner: str
    cosine: float

    @property
    def uncovered(self) -> float:
        """The share of the sentence's weight that finds no partner here."""
        return self.weight * (1 - max(0.0, self.cosine))


@dataclass(frozen=True)
class Explanation:
    """The words of both sides in their order."""

    source: tuple[WordMatch, ...]
    target: tuple[WordMatch, ...]


def words_of(pieces: Sequence[str]) -> list[list[int]]:
    """Group pieces into words: positions of each word's pieces. Without spaces every piece is a word."""
    groups: list[list[int]] = []
    for place, piece in enumerate(pieces):
        before = pieces[place - 1] if place else ""
        # A begin without text belongs to what follows.
        alone = not piece.isascii() and _is_unspaced(piece) and before != WORD_BEGIN
        if not groups or piece.startswith(WORD_BEGIN) or alone or _is_unspaced(before):
            groups.append([])
        groups[-1].append(place)
    return groups


def _is_unspaced(piece: str) -> bool:
    """Tell whether a piece is of a script that puts no spaces between words."""
    core = piece.strip(WORD_BEGIN)
    return bool(core) and all(any(low <= c < high for low, high in _UNSPACED) for c in core)


def explain(
    vectors: TokenVectors,
    source_ids: NDArray[np.int32],
    target_ids: NDArray[np.int32],
    source_pieces: Sequence[str],
    target_pieces: Sequence[str],
) -> Explanation:
    """Match the words of two sentences.

    Args:
        vectors: of the scorer.
        source_ids: tokens of the source, int32 [L].
        target_ids: tokens of the target, int32 [M].
        source_pieces: their text.
        target_pieces: the same of the target.
    """
    one, other = (vectors.vectors[ids].astype(np.float64) / UNIT for ids in (source_ids, target_ids))
    cosine_LM = np.clip(one @ other.T, -1, 1)
    weights = vectors.weights[source_ids], vectors.weights[target_ids]
    words = words_of(source_pieces), words_of(target_pieces)
    return Explanation(
        _matches(cosine_LM, weights[0], words[0], words[1], source_pieces, target_pieces),
        _matches(cosine_LM.T, weights[1], words[1], words[0], target_pieces, source_pieces),
    )


def _matches(
    cosine_LM: NDArray[np.float64],
    weight_L: NDArray[np.int32],
    words: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
    pieces: Sequence[str],
    other_pieces: Sequence[str],
) -> tuple[WordMatch, ...]:
    total = max(1, int(weight_L.sum()))
    word_of = {place: number for number, word in enumerate(others) for place in word}
    found = []
    for word in words:
        own = weight_L[list(word)]
        weight = float(own.sum())
        text = _text(pieces, word)
        if not others:
            found.append(WordMatch(text, weight / total, "", 0.0))
            continue
        best = cosine_LM[list(word)]
        votes = np.zeros(len(others))
        for row, place in enumerate(best.argmax(axis=1).tolist()):
            votes[word_of[place]] += own[row] * max(0.0, best[row, place])
        cosine = float((own * best.max(axis=1)).sum() / max(weight, 1.0))
        found.append(WordMatch(text, weight / total, _text(other_pieces, others[int(votes.argmax())]), cosine))
    return tuple(found)


def _text(pieces: Sequence[str], word: Sequence[int]) -> str:
    return "".join(pieces[place] for place in word).replace(WORD_BEGIN, "")
