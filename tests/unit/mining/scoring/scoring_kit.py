"""What the tests of the pair scorer share: a table of words made by hand, random sides, and slow oracles."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.scoring import interaction
from emsmine.mining.scoring.competition import PAIR_FEATURES as CONTEXT_PAIR_FEATURES
from emsmine.mining.scoring.competition import SIDE_FEATURES as CONTEXT_SIDE_FEATURES
from emsmine.mining.scoring.head import Head
from emsmine.mining.scoring.interaction import KERNEL_WIDTH, KERNELS, MAX_TOKENS, NUM_UNCOVERED
from emsmine.mining.scoring.ragged import Int64Array
from emsmine.mining.scoring.scorer import PAIR_FEATURES, SIDE_FEATURES, PairScorer, Side
from emsmine.mining.scoring.surface import Surface
from emsmine.mining.scoring.tokens import NUM_SPECIAL, UNIT, WEIGHT_UNIT, TokenVectors

ONE = UNIT * UNIT


@dataclass(frozen=True, eq=False)
class Lists:
    """Token lists without a tokeniser."""

    ids: NDArray[np.int32]
    offsets: Int64Array

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> "Lists":
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in sentences], dtype=np.int64)]).astype(np.int64)
        return cls(np.array([token for ids in sentences for token in ids], dtype=np.int32), offsets)

    def sentence(self, row: int) -> list[int]:
        return self.ids[self.offsets[row] : self.offsets[row + 1]].tolist()


# Axes of the table: what a word means.
DOG, SLEEP, NOT, WATER, RED = range(5)
# A vector of length 127 whose cosine with WATER is 64 / 127.
ICE = (0, 0, 0, 64, 110)
# Word → meaning and weight.
WORDS: dict[str, tuple[int | tuple[int, ...], float]] = {
    "dog": (DOG, 1.0),
    "sleeps": (SLEEP, 2.0),
    "not": (NOT, 0.5),
    "water": (WATER, 1.0),
    "red": (RED, 1.5),
    "ice": (ICE, 2.0),
    "собака": (DOG, 2.0),
    "спит": (SLEEP, 1.0),
    "не": (NOT, 0.25),
    "狗": (DOG, 1.0),
    "不": (NOT, 0.5),
    "睡觉": (SLEEP, 1.5),
    "الكلب": (DOG, 1.0),
    "لا": (NOT, 2.0),
    "ينام": (SLEEP, 1.0),
    "कुत्ता": (DOG, 1.0),
    "पानी": (WATER, 3.0),
}
_NUMBERS = {word: NUM_SPECIAL + place for place, word in enumerate(WORDS)}


def word_vectors() -> TokenVectors:
    """Return the table of `WORDS` behind padding and unknown."""
    vectors = np.zeros((NUM_SPECIAL + len(WORDS), 5), dtype=np.int8)
    weights = np.full(len(vectors), WEIGHT_UNIT, dtype=np.int32)
    for word, (meaning, weight) in WORDS.items():
        if isinstance(meaning, int):
            vectors[_NUMBERS[word], meaning] = UNIT
        else:
            vectors[_NUMBERS[word]] = meaning
        weights[_NUMBERS[word]] = round(weight * WEIGHT_UNIT)
    return TokenVectors(vectors, weights)


def ids_of(sentence: str) -> list[int]:
    """Return the tokens of words between spaces; 1 for an unknown one."""
    return [_NUMBERS.get(word, 1) for word in sentence.split()]


def random_vectors(rng: np.random.Generator, size: int = 40, width: int = 12) -> TokenVectors:
    """Return unit vectors, some of them near each other, and weights of all sizes."""
    centres = rng.normal(size=(size // 3 + 1, width))
    raw = centres[rng.integers(0, len(centres), size)] + 0.5 * rng.normal(size=(size, width))
    unit = np.rint(raw / np.linalg.norm(raw, axis=1, keepdims=True) * UNIT).astype(np.int8)
    unit[:NUM_SPECIAL] = 0
    return TokenVectors(unit, np.exp(rng.normal(0, 1.5, size) + 5).clip(1, 1 << 14).astype(np.int32))


def random_lists(rng: np.random.Generator, number: int, longest: int, size: int = 40) -> Lists:
    """Return sentences of random tokens, empty ones among them."""
    return Lists.of([rng.integers(0, size, length).tolist() for length in rng.integers(0, longest + 1, number)])


def all_pairs(source: Lists, target: Lists) -> tuple[Int64Array, Int64Array]:
    """Return every pair of two sides."""
    rows, columns = np.indices((len(source.offsets) - 1, len(target.offsets) - 1)).reshape(2, -1)
    return rows.astype(np.int64), columns.astype(np.int64)


def slow_side(vectors: TokenVectors, own: Sequence[int], others: Sequence[int]) -> list[float]:
    """Return `interaction.SIDE_FEATURES` of a side that has tokens, as does the other, in plain Python."""
    own, others = own[:MAX_TOKENS], others[:MAX_TOKENS]
    table = vectors.vectors.astype(int).tolist()
    dots = [[sum(a * b for a, b in zip(table[one], table[two], strict=True)) for two in others] for one in own]
    partner = [row.index(max(row)) for row in dots]
    columns = [[row[place] for row in dots] for place in range(len(others))]
    back = [column.index(max(column)) for column in columns]
    best = [min(ONE, max(-ONE, max(row))) for row in dots]
    weight = [int(vectors.weights[token]) for token in own]
    total = sum(weight)
    kernels = []
    for centre in KERNELS:
        middles = [((value + ONE) // 64 + 0.5) * 64 / ONE - 1 for value in best]
        kernel = [round(math.exp(-((c - centre) ** 2) / (2 * KERNEL_WIDTH**2)) * 2**16) / 2**16 for c in middles]
        kernels.append(sum(w * value for w, value in zip(weight, kernel, strict=True)) / total)
    alone = sorted((w * (ONE - value) / ONE for w, value in zip(weight, best, strict=True)), reverse=True)
    alone = (alone + [0.0] * NUM_UNCOVERED)[:NUM_UNCOVERED]
    mutual = [back[partner[place]] == place for place in range(len(own))]
    apart = [abs(place * len(others) - partner[place] * len(own)) for place in range(len(own))]
    steps = [partner[place + 1] >= partner[place] for place in range(len(own) - 1)]
    return [
        sum(w * value for w, value in zip(weight, best, strict=True)) / total / ONE,
        *kernels,
        *(value / WEIGHT_UNIT for value in alone),
        *(value / total for value in alone),
        sum(w for w, flag in zip(weight, mutual, strict=True) if flag) / total,
        sum(w * d for w, d, flag in zip(weight, apart, mutual, strict=True) if flag) / total / len(own) / len(others),
        sum(steps) / max(1, len(steps)),
        math.log(total / WEIGHT_UNIT),
        math.log(len(own)),
    ]


def named(row: NDArray[np.float32]) -> dict[str, float]:
    """Return the features of a side by name."""
    return dict(zip(interaction.SIDE_FEATURES, row.tolist(), strict=True))


def random_head(rng: np.random.Generator, num_side: int, num_pair: int, hidden: int = 8) -> Head:
    """Return a head with weights of a usual size."""
    sizes = [2 * num_side + num_pair, hidden, hidden, 1]
    weights = [rng.normal(0, one**-0.5, (one, two)) for one, two in itertools.pairwise(sizes)]
    biases = [rng.normal(0, 0.3, two) for two in sizes[1:]]
    return Head(
        rng.normal(0, 1, sizes[0]).astype(np.float32),
        rng.uniform(0.5, 2, sizes[0]).astype(np.float32),
        tuple(weight.astype(np.float32) for weight in weights),
        tuple(bias.astype(np.float32) for bias in biases),
    )


def random_scorer(rng: np.random.Generator, vectors: TokenVectors | None = None) -> PairScorer:
    """Return a scorer that nobody trained."""
    pair = random_head(rng, len(SIDE_FEATURES), len(PAIR_FEATURES))
    context = random_head(rng, len(CONTEXT_SIDE_FEATURES), len(CONTEXT_PAIR_FEATURES))
    return PairScorer(random_vectors(rng) if vectors is None else vectors, pair, context)


def random_side(rng: np.random.Generator, vectors: TokenVectors, texts: Sequence[str], lang: str) -> Side:
    """Return sentences whose tokens have nothing to do with their texts."""
    lists = random_lists(rng, len(texts), 20)
    return Side(lists, Surface.of(texts, lang), vectors.sentence_vectors(lists))
