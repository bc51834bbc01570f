"""The pair scorer: from candidates to the probability that a pair is a translation.

Two networks. The first reads the two sentences of a pair, and nothing else. The second sees what the first said of the
pair and of the other candidates of its two sentences. Nothing comes from the encoder that found the candidates, so a
scorer works beside any.

Shapes legend: P pairs, F features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.scoring import competition, interaction, surface
from emsmine.mining.scoring.competition import Competition, context_features
from emsmine.mining.scoring.head import Head
from emsmine.mining.scoring.interaction import interaction_features
from emsmine.mining.scoring.ragged import Int64Array, TokenLists
from emsmine.mining.scoring.surface import Surface, surface_features
from emsmine.mining.scoring.tokens import TokenVectors, cosines

FloatArray = NDArray[np.float32]

SIDE_FEATURES = (*interaction.SIDE_FEATURES, *surface.SIDE_FEATURES)
PAIR_FEATURES = ("cosine", *surface.PAIR_FEATURES)
CONTEXT_SIDE_FEATURES = competition.SIDE_FEATURES
CONTEXT_PAIR_FEATURES = competition.PAIR_FEATURES
MARGIN_WEIGHT, MARGIN_CENTRE, MARGIN_BOUNDS = 5.0, 0.15, (0.95, 1.35)
"""How the margin of the search counts. Weights of 0, 1, 2, 3, 5, 8, 12, 18 gave mean best F1 of 81.4, 81.7, 82.0, 82.1,
82.5, 82.8, 82.8, 82.5 on the mining development sets, and likewise on Tatoeba; wider bounds changed nothing."""
_PIECE = 1 << 18
"""Pairs whose features are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Side:
    """The sentences of one side, ready to be compared."""

    tokens: TokenLists
    surface: Surface
    vectors: FloatArray
    """See `TokenVectors.sentence_vectors`."""

    @classmethod
    def of(cls, texts: Sequence[str], lang: str, tokens: TokenLists, vectors: TokenVectors) -> "Side":
        """Read sentences.

        Args:
            texts: the sentences.
            lang: their canonical code.
            tokens: their pieces, by the tokeniser of the scorer.
            vectors: of the scorer.
        """
        return cls(tokens, Surface.of(texts, lang), vectors.sentence_vectors(tokens))


@dataclass(frozen=True, eq=False)
class FirstLook:
    """What a pair says by itself.

    Shapes: cosine, logit float32 [P].
    """

    cosine: FloatArray
    logit: FloatArray


@dataclass(frozen=True, eq=False)
class PairScorer:
    """A trained scorer; the second network includes the calibration."""

    vectors: TokenVectors
    pair_head: Head
    context_head: Head

    def features(
        self, source: Side, target: Side, source_rows: Int64Array, target_rows: Int64Array
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return `SIDE_FEATURES` of both sides, float32 [P, F] each, and `PAIR_FEATURES` of pairs."""
        return pair_features(self.vectors, source, target, source_rows, target_rows)

    def first_look(
        self,
        source: Side,
        target: Side,
        source_rows: Int64Array,
        target_rows: Int64Array,
        on_progress: Callable[[float], None] | None = None,
    ) -> FirstLook:
        """Read the sentences of pairs; the result of a pair does not depend on the others.

        Args:
            source: one side.
            target: the other.
            source_rows: the source of each pair.
            target_rows: its target.
            on_progress: told which share of the pairs was read since the last time.
        """
        cosine, logit = (np.empty(len(source_rows), dtype=np.float32) for _ in range(2))
        for first in range(0, len(cosine), _PIECE):
            part = slice(first, first + _PIECE)
            one, other, pair = self.features(source, target, source_rows[part], target_rows[part])
            cosine[part], logit[part] = pair[:, 0], self.pair_head(one, other, pair)
            if on_progress is not None:
                on_progress(len(pair) / len(cosine))
        return FirstLook(cosine, logit)

    def second_look(
        self,
        source: Competition,
        target: Competition,
        source_rows: Int64Array,
        target_rows: Int64Array,
        look: FirstLook,
    ) -> FloatArray:
        """Return the logit of the probability that each pair is a translation, float32 [P].

        Args:
            source: the candidates of the source side, those of all pairs.
            target: of the target side.
            source_rows: the source of each pair.
            target_rows: its target.
            look: what the pairs say by themselves.
        """
        found = context_features(source, target, source_rows, target_rows, look.cosine, look.logit)
        return self.context_head(*found)

    def logits(
        self,
        source: Side,
        target: Side,
        source_rows: Int64Array,
        target_rows: Int64Array,
        on_progress: Callable[[float], None] | None = None,
    ) -> FloatArray:
        """Return the logit of each pair, where the pairs are all candidates of these two sides, float32 [P]."""
        look = self.first_look(source, target, source_rows, target_rows, on_progress)
        sides = Competition.empty(len(source.vectors)), Competition.empty(len(target.vectors))
        for side, rows in zip(sides, (source_rows, target_rows), strict=True):
            side.add(rows, look.cosine, look.logit)
        return self.second_look(*sides, source_rows, target_rows, look)


def pair_features(
    vectors: TokenVectors, source: Side, target: Side, source_rows: Int64Array, target_rows: Int64Array
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `SIDE_FEATURES` of both sides and `PAIR_FEATURES` of pairs, see `PairScorer.features`."""
    words = interaction_features(vectors, source.tokens, target.tokens, source_rows, target_rows)
    seen = surface_features(source.surface, target.surface, source_rows, target_rows)
    cosine = cosines(source.vectors, target.vectors, source_rows, target_rows)
    one, other = (np.concatenate(parts, axis=1) for parts in zip(words, seen[:2], strict=True))
    return one, other, np.concatenate([cosine[:, None], seen[2]], axis=1)


def with_margin(logits: FloatArray, margins: FloatArray) -> FloatArray:
    """Let the ratio margin of the search count: MARGIN_WEIGHT · (log margin - MARGIN_CENTRE), bounded on both sides.

    The encoder sees more than the projected tokens. The bounds keep the margins of small collections, which mean
    little, and those of other encoders from deciding by themselves.

    Args:
        logits: of the second look.
        margins: ratio margins; one that is undefined changes nothing.

    Shapes: [P] each → float32 [P].
    """
    low, high = MARGIN_BOUNDS
    distance = np.log(np.clip(margins.astype(np.float64), low, high)) - MARGIN_CENTRE
    return (logits + np.where(np.isnan(margins), 0.0, MARGIN_WEIGHT * distance)).astype(np.float32)


def probabilities(logits: FloatArray) -> FloatArray:
    """Turn logits into probabilities, float32."""
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
