"""Sentences that differ from a translation in one word that matters: wrong partners for a scorer to learn from.

Reference: Chen et al. 2023, "xSIM++: An Improved Proxy to Bitext Mining Performance for Low-Resource Languages", ACL:
numbers, entities and the sense (negation, opposites) of a sentence are exchanged; we also exchange any one word.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

KINDS = ("number", "negation", "opposite", "name", "word")
"""What is exchanged. `negation` and `opposite` know English only, the others any language that separates its words."""

_NUMBER = re.compile(r"\d+")
_NEGATIONS: tuple[tuple[str, str], ...] = (
    (r"\bnot ", ""),
    (r"n't\b", ""),
    (r"\b(is|are|was|were|will|can|should|must|does|do|did)\b(?! not|n't)", r"\1 not"),
    (r"\bcannot\b", "can"),
    (r"\bwithout\b", "with"),
    (r"\bwith\b", "without"),
    (r"\bno\b", "some"),
    (r"\bnever\b", "always"),
    (r"\balways\b", "never"),
)
_OPPOSITES = (
    "enable disable, select deselect, open close, first last, add remove, left right, up down, before after, "
    "more less, show hide, start stop, next previous, input output, yes no, true false, minimum maximum, "
    "increase decrease, "
    "client server, public private, on off, good bad, man woman, he she, his her, black white, day night, old new, "
    "big small, import export, upload download, install uninstall, lock unlock, read write, top bottom, "
    "same different, all none, can must, north south, east west, summer winter, king queen, week month, year hour, "
    "source target, begin end, buy sell, early late, high low, hot cold, inside outside, long short, many few, "
    "optional required, push pull, send receive, strong weak, success failure, above below, allow deny, connect "
    "disconnect, encode decode, expand collapse, father mother, brother sister, son daughter, love hate, win lose, "
    "war peace, life death, rich poor, young old, morning evening, today tomorrow, always never, everyone nobody"
)
_OPPOSITE = {
    one: other for pair in (item.split() for item in _OPPOSITES.split(", ")) for one, other in (pair, reversed(pair))
}
_EDGES = ".,;:!?()\"'“”«»[]"
_ATTEMPTS = 4


@dataclass(frozen=True)
class Vocabulary:
    """Words to put in place of others: common ones, and names."""

    words: Sequence[str]
    names: Sequence[str]

    @classmethod
    def of(cls, sentences: Iterable[str], least_words: int = 5, least_names: int = 3) -> "Vocabulary":
        """Collect words that occur often enough; a name has a capital inside sentences more often than none."""
        lower: Counter[str] = Counter()
        capital: Counter[str] = Counter()
        for sentence in sentences:
            for place, word in enumerate(sentence.split(" ")):
                core = word.strip(_EDGES)
                if len(core) > 2 and core.isalpha():
                    if core.islower():
                        lower[core] += 1
                    elif place and core[:1].isupper():
                        capital[core] += 1
        return cls(
            sorted(word for word, number in lower.items() if number >= least_words and len(word) > 3),
            sorted(word for word, number in capital.items() if number >= max(least_names, lower[word.lower()] + 1)),
        )


def near_miss(
    sentence: str, vocabulary: Vocabulary, rng: random.Random, kinds: Sequence[str] = KINDS
) -> tuple[str, str] | None:
    """Exchange one thing that matters.

    Args:
        sentence: any sentence.
        vocabulary: words to take.
        rng: decides which kind is tried first, and what is taken.
        kinds: of `KINDS`; which may be used.

    Returns:
        The kind and the other sentence; None where nothing can be exchanged.
    """
    for kind in rng.sample(list(kinds), len(kinds)):
        for _ in range(_ATTEMPTS):
            found = _EXCHANGES[kind](sentence, vocabulary, rng)
            if found is not None and found != sentence:
                return kind, found
    return None


def _number(sentence: str, _: Vocabulary, rng: random.Random) -> str | None:
    matches = list(_NUMBER.finditer(sentence))
    if not matches:
        return None
    match = rng.choice(matches)
    old = match.group()
    if rng.random() < 0.5 and old.isascii() and len(old) < 10:
        new = str(abs(int(old) + rng.choice((-1, 1, 2, 10, 100))))
    else:
        new = "".join(rng.choice("123456789") for _ in old)
    return sentence[: match.start()] + new + sentence[match.end() :]


def _negation(sentence: str, _: Vocabulary, rng: random.Random) -> str | None:
    for pattern, replacement in rng.sample(_NEGATIONS, len(_NEGATIONS)):
        found = re.sub(pattern, replacement, sentence, count=1)
        if found != sentence:
            return found
    return None


def _exchange(sentence: str, rng: random.Random, replacement: Callable[[int, str], str | None]) -> str | None:
    """Replace one word, keeping the punctuation around it and a capital at its begin."""
    words = sentence.split(" ")
    for place in rng.sample(range(len(words)), len(words)):
        core = words[place].strip(_EDGES)
        new = replacement(place, core) if core else None
        if new is not None and new.lower() != core.lower():
            words[place] = words[place].replace(core, new.capitalize() if core[0].isupper() else new, 1)
            return " ".join(words)
    return None


def _opposite(sentence: str, _: Vocabulary, rng: random.Random) -> str | None:
    return _exchange(sentence, rng, lambda _, core: _OPPOSITE.get(core.lower()))


def _name(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> str | None:
    def replacement(place: int, core: str) -> str | None:
        is_name = place > 0 and len(core) > 2 and core[:1].isupper() and vocabulary.names
        return rng.choice(vocabulary.names) if is_name else None

    return _exchange(sentence, rng, replacement)


def _word(sentence: str, vocabulary: Vocabulary, rng: random.Random) -> str | None:
    def replacement(_: int, core: str) -> str | None:
        return rng.choice(vocabulary.words) if len(core) > 3 and core.isalpha() and vocabulary.words else None

    # One word alone would leave nothing of the sentence.
    return _exchange(sentence, rng, replacement) if sentence.count(" ") > 1 else None


_EXCHANGES = {"number": _number, "negation": _negation, "opposite": _opposite, "name": _name, "word": _word}
