"""Make a small crawl of known pairs: some sentences with their translation, others without, and traps among them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from emsmine.mining.scoring.near_misses import KINDS, Vocabulary, near_miss
from emsmine.mining.text.normalise import dedup_key

Pair = tuple[str, str]


@dataclass(frozen=True)
class Traps:
    """What stands in a crawl beside the pairs.

    Args:
        source: pairs whose source stands there alone.
        target: pairs whose target does.
        share_near_misses: of the number of pairs whose target gets a near miss beside it.
        share_copies: of the targets that also stand on the source side, as text in a wrong language does.
        kinds: of near misses.
    """

    source: Sequence[Pair] = ()
    target: Sequence[Pair] = ()
    share_near_misses: float = 0.0
    share_copies: float = 0.0
    kinds: tuple[str, ...] = KINDS


@dataclass(frozen=True)
class Crawl:
    """Distinct sentences of two sides, and which of them translate each other, by number.

    `gold` are pairs to learn from; `known` translate each other as well, but are not to be learned from.
    """

    source: list[str]
    target: list[str]
    gold: frozenset[tuple[int, int]]
    known: frozenset[tuple[int, int]] = field(default=frozenset())


class _Distinct:
    """Sentences, each kept once by dedup key."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.numbers: dict[str, int] = {}

    def add(self, text: str) -> None:
        if self.numbers.setdefault(dedup_key(text), len(self.texts)) == len(self.texts):
            self.texts.append(text)


def simulate(pairs: Sequence[Pair], planted: float, traps: Traps, vocabulary: Vocabulary, rng: random.Random) -> Crawl:
    """Mix pairs into a crawl.

    Args:
        pairs: source and target; several targets of one source all count as its translations.
        planted: share of the pairs whose two sides are both there; of the others one side is, either alike often.
        traps: wrong partners.
        vocabulary: for near misses.
        rng: draws.
    """
    source, target = _Distinct(), _Distinct()
    for one, other in pairs:
        drawn = rng.random()
        if drawn < (1 + planted) / 2:
            source.add(one)
        if drawn < planted or drawn >= (1 + planted) / 2:
            target.add(other)
    translations = {(dedup_key(one), dedup_key(other)) for one, other in pairs}
    kept = {key for _, key in translations}
    for _, other in rng.sample(list(pairs), int(len(pairs) * traps.share_near_misses)):
        missed = near_miss(other, vocabulary, rng, traps.kinds)
        if missed is not None and dedup_key(missed[1]) not in kept:
            target.add(missed[1])
    for text in rng.sample(target.texts, int(len(target.texts) * traps.share_copies)):
        source.add(text)
    for one, _ in traps.source:
        source.add(one)
    for _, other in traps.target:
        target.add(other)
    alone = {(dedup_key(one), dedup_key(other)) for one, other in (*traps.source, *traps.target)}
    gold, known = (_numbered(keys, source, target) for keys in (translations, alone - translations))
    return Crawl(source.texts, target.texts, gold, known)


def _numbered(keys: set[tuple[str, str]], source: _Distinct, target: _Distinct) -> frozenset[tuple[int, int]]:
    found = ((source.numbers.get(one), target.numbers.get(other)) for one, other in keys)
    return frozenset((one, other) for one, other in found if one is not None and other is not None)
