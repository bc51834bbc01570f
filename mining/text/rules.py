"""Rules that refuse a mined pair for what its texts show.

A rule has a `score`, which is stored, and `accept`, which compares it with a threshold: thresholds change without
scoring again. A rule's name is the reason code of its rejects. Defaults are lenient on purpose, because short and plain
pairs are good pairs: each rule was set so that it refuses well under one in a hundred of human-translated pairs.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from emsmine.errors import ConfigError
from emsmine.fields import setting
from emsmine.mining.text.langid import UNDETERMINED, Prediction
from emsmine.mining.text.normalise import dedup_key, digits, letters_only


@dataclass(frozen=True)
class PairView:
    """What the rules see of a pair; languages are canonical codes, predictions None where none was made."""

    source: str
    target: str
    source_lang: str
    target_lang: str
    source_lid: Prediction | None = None
    target_lid: Prediction | None = None


class Rule(Protocol):
    """One reason to refuse a pair."""

    @property
    def name(self) -> str:
        """Return the reason code."""
        ...

    def score(self, pair: PairView) -> float:
        """Return a finite number to be stored with the pair."""
        ...

    def accept(self, score: float) -> bool:
        """Return whether a pair of this score may stay."""
        ...


# Characters per English character: the median over human translations of at least 40 English characters in the
# training collection of this project (up to 20,000 pairs a language, at most 1,000 from one source so that no genre
# rules). A language without an entry counts as 1, one of unspaced Han as Chinese.
_CHARACTERS_PER_ENGLISH = {
    "afr": 1.08, "ara": 0.86, "ben": 1.02, "bul": 1.09, "cat": 1.13, "ces": 0.98, "dan": 1.02, "deu": 1.16, "ell": 1.20,
    "epo": 1.00, "est": 1.00, "eus": 1.10, "fas": 0.98, "fin": 1.02, "fra": 1.19, "glg": 1.11, "guj": 1.01, "heb": 0.75,
    "hin": 1.02, "hrv": 0.98, "hun": 1.07, "hye": 1.05, "ind": 1.09, "ita": 1.13, "jav": 0.98, "jpn": 0.48, "kat": 1.06,
    "kaz": 1.03, "kor": 0.50, "kur": 1.01, "lav": 1.00, "lit": 1.04, "mal": 1.16, "mar": 1.00, "mkd": 1.09, "mon": 1.04,
    "msa": 1.10, "mya": 1.17, "nld": 1.12, "nob": 1.00, "pol": 1.05, "por": 1.09, "ron": 1.12, "rus": 1.05, "slk": 1.03,
    "slv": 0.99, "spa": 1.12, "sqi": 1.11, "srp": 0.98, "swa": 1.04, "swe": 1.03, "tam": 1.18, "tel": 1.05, "tgl": 1.23,
    "tha": 0.91, "tur": 1.02, "ukr": 1.05, "urd": 1.00, "vie": 1.03, "yor": 0.95, "zho": 0.31,
}  # fmt: skip
# Chinese, Japanese and Korean lie below, every other language above.
_DENSE_BELOW = 0.6
_CHARACTERS_PER_ENGLISH_BY_SCRIPT = {"Hans": 0.31, "Hant": 0.31, "Hani": 0.31}


def characters_per_english(lang: str) -> float:
    """Return how many characters of a language say what one character of English says (median)."""
    alpha3, _, script = lang.partition("_")
    return _CHARACTERS_PER_ENGLISH.get(alpha3, _CHARACTERS_PER_ENGLISH_BY_SCRIPT.get(script, 1.0))


def _is_dense(character: str) -> bool:
    """Tell whether a character is Han, kana or Hangul: a syllable or a word."""
    return "\u1100" <= character <= "\u11ff" or character >= "\u2e80"


def english_length(text: str, lang: str) -> float:
    """Estimate how many characters the English translation of a text has.

    In languages of dense scripts only the dense characters are scaled: names, code and numbers among them are as long
    as in English, and technical Chinese is full of them.
    """
    factor = characters_per_english(lang)
    if factor >= _DENSE_BELOW:
        return len(text) / factor
    dense = sum(map(_is_dense, text))
    return dense / factor + len(text) - dense


@dataclass(frozen=True)
class LengthRatio:
    """Refuse a pair whose sides differ in length far more than their languages do.

    The score is the longer side over the shorter, in characters scaled to English, with `smoothing` characters added to
    both so that short sentences may vary: 1 is what is expected.
    """

    max_ratio: float = 2.0
    smoothing: float = 15.0
    name: str = field(default="length_ratio", init=False)

    def score(self, pair: PairView) -> float:
        """Return the ratio, at least 1."""
        source = english_length(pair.source, pair.source_lang) + self.smoothing
        target = english_length(pair.target, pair.target_lang) + self.smoothing
        return max(source / target, target / source)

    def accept(self, score: float) -> bool:
        """Return whether the ratio is within bounds."""
        return score <= self.max_ratio


def _num_letters(text: str) -> int:
    """Count letters; a Han, kana or Hangul character is a syllable or a word and counts as two."""
    return sum(2 if _is_dense(letter) else 1 for letter in letters_only(text))


@dataclass(frozen=True)
class TooShort:
    """Refuse a pair with a side of fewer letters than `Go.` or `好`."""

    min_letters: int = 2
    name: str = field(default="too_short", init=False)

    def score(self, pair: PairView) -> float:
        """Return the number of letters of the side that has fewer."""
        return float(min(_num_letters(pair.source), _num_letters(pair.target)))

    def accept(self, score: float) -> bool:
        """Return whether there are enough letters."""
        return score >= self.min_letters


@dataclass(frozen=True)
class TooLong:
    """Refuse a pair with a side that is no sentence any more."""

    max_characters: int = 1000
    name: str = field(default="too_long", init=False)

    def score(self, pair: PairView) -> float:
        """Return the number of characters of the longer side."""
        return float(max(len(pair.source), len(pair.target)))

    def accept(self, score: float) -> bool:
        """Return whether the longer side is short enough."""
        return score <= self.max_characters


@dataclass(frozen=True)
class Identical:
    """Refuse a pair whose sides are one text but for case, punctuation and spaces."""

    name: str = field(default="identical", init=False)

    def score(self, pair: PairView) -> float:
        """Return 1.0 if the sides have the same `dedup_key`, else 0.0."""
        return float(dedup_key(pair.source) == dedup_key(pair.target))

    def accept(self, score: float) -> bool:
        """Return whether the sides differ."""
        return score < 1.0


_COMPARED_CHARACTERS = 2000


def _trigrams(text: str) -> Counter[str]:
    padded = f"  {dedup_key(text[:_COMPARED_CHARACTERS])} "
    return Counter(padded[i : i + 3] for i in range(len(padded) - 2))


@dataclass(frozen=True)
class NearIdentical:
    """Refuse a pair whose target is the source with small edits: a text left untranslated.

    The score is the Dice similarity of character trigrams, linear in the length (of at most 2,000 characters).
    """

    max_similarity: float = 0.85
    name: str = field(default="near_identical", init=False)

    def score(self, pair: PairView) -> float:
        """Return the similarity, from 0 to 1."""
        source, target = _trigrams(pair.source), _trigrams(pair.target)
        return 2.0 * (source & target).total() / (source.total() + target.total())

    def accept(self, score: float) -> bool:
        """Return whether the sides differ enough."""
        return score <= self.max_similarity


_WINNING_SCORE = 0.005


def _same_language(predicted: str, expected: str) -> bool:
    """Compare two codes; the two scripts of Chinese count as one, other scripts of a language do not."""
    if predicted == expected:
        return True
    chinese = ("zho_Hans", "zho_Hant")
    return predicted in chinese and expected in chinese


@dataclass(frozen=True)
class WrongLanguage:
    """Refuse a pair with a side that language identification is sure is in another language.

    The score is the support for the expected language on the worse side: from 0.5 to 1 where the prediction agrees,
    from 0.5 down to 0 where it disagrees, by its confidence; 0.5 where there is no prediction. The default refuses on a
    disagreement of more than 0.9 only, because unsure ones are mostly short sentences and close relatives: of 53,000
    Tatoeba sentences 5 % were named another language, 0.03 % with such confidence. A threshold above 0.5 demands that
    both sides are confirmed.
    """

    min_support: float = 0.05
    name: str = field(default="wrong_language", init=False)

    def score(self, pair: PairView) -> float:
        """Return the support, from 0 to 1."""
        return min(
            self._support(pair.source_lid, pair.source_lang),
            self._support(pair.target_lid, pair.target_lang),
        )

    @staticmethod
    def _support(prediction: Prediction | None, expected: str) -> float:
        if prediction is None or prediction.lang == UNDETERMINED:
            return 0.5
        if not _same_language(prediction.lang, expected):
            return (1.0 - prediction.score) / 2.0
        # Whoever wins among 140 languages has at least 1/140; less is an answer that only the script allowed.
        return (1.0 + prediction.score) / 2.0 if prediction.score >= _WINNING_SCORE else prediction.score / 2.0

    def accept(self, score: float) -> bool:
        """Return whether the support is high enough."""
        return score >= self.min_support


@dataclass(frozen=True)
class DigitsDisagree:
    """Refuse a pair whose numbers differ.

    The score is the share of numbers that both sides have (Dice over the multisets of `digits`). Numbers may be written
    out on one side: a side without any digit is no evidence, and gives 1.
    """

    min_agreement: float = 0.3
    name: str = field(default="digits_disagree", init=False)

    def score(self, pair: PairView) -> float:
        """Return the agreement, from 0 to 1."""
        source, target = Counter(digits(pair.source)), Counter(digits(pair.target))
        if not source or not target:
            return 1.0
        return 2.0 * (source & target).total() / (source.total() + target.total())

    def accept(self, score: float) -> bool:
        """Return whether the numbers agree enough."""
        return score >= self.min_agreement


@dataclass(frozen=True)
class FewLetters:
    """Refuse a pair with a side that is mostly digits, symbols and punctuation: tables, code, rows of icons.

    The score is the share of letters among the characters that are no spaces, of the side that has less. `smoothing`
    letters are added to each, so that `At 7:45.` is a sentence.
    """

    min_share: float = 0.4
    smoothing: float = 4.0
    name: str = field(default="few_letters", init=False)

    def score(self, pair: PairView) -> float:
        """Return the smoothed share of letters, from 0 to 1."""
        return min(self._share(pair.source), self._share(pair.target))

    def _share(self, text: str) -> float:
        num_visible = sum(not character.isspace() for character in text)
        return (len(letters_only(text)) + self.smoothing) / (num_visible + self.smoothing)

    def accept(self, score: float) -> bool:
        """Return whether there are enough letters."""
        return score >= self.min_share


@dataclass(frozen=True)
class RulesConfig:
    """The settings of the rules: a threshold for each that has one, and the names of those to leave out."""

    max_length_ratio: float = setting(
        LengthRatio.max_ratio, "largest ratio of lengths, corrected for the languages", low=1
    )
    min_letters: int = setting(TooShort.min_letters, "fewest letters a side", low=0)
    max_pair_chars: int = setting(TooLong.max_characters, "most characters a side", low=1)
    max_similarity: float = setting(
        NearIdentical.max_similarity, "largest character similarity of the two sides", low=0
    )
    min_lid_support: float = setting(
        WrongLanguage.min_support, "lowest support for the expected language of either side", low=0
    )
    min_digit_agreement: float = setting(
        DigitsDisagree.min_agreement, "lowest agreement of the numbers of both sides", low=0
    )
    min_letter_share: float = setting(
        FewLetters.min_share, "lowest share of letters among the visible characters", low=0
    )
    rules_off: tuple[str, ...] = setting((), "rules to leave out, by name")


def default_rules(config: RulesConfig | None = None) -> tuple[Rule, ...]:
    """Build the default rules, cheapest first.

    Raises:
        ConfigError: `rules_off` names a rule that does not exist, or a threshold is not a finite number.
    """
    config = config or RulesConfig()
    rules: tuple[Rule, ...] = (
        TooLong(config.max_pair_chars),
        TooShort(config.min_letters),
        FewLetters(config.min_letter_share),
        LengthRatio(config.max_length_ratio),
        Identical(),
        NearIdentical(config.max_similarity),
        DigitsDisagree(config.min_digit_agreement),
        WrongLanguage(config.min_lid_support),
    )
    names = [rule.name for rule in rules]
    unknown = sorted(set(config.rules_off) - set(names))
    if unknown:
        raise ConfigError(f"rules: rules_off names {', '.join(unknown)}; known rules: {', '.join(names)}")
    for key, value in vars(config).items():
        if isinstance(value, int | float) and not math.isfinite(value):
            raise ConfigError(f"rules: {key} is {value}; give a finite number, or turn the rule off by its name")
    return tuple(rule for rule in rules if rule.name not in config.rules_off)


def apply(rules: Sequence[Rule], pairs: Iterable[PairView]) -> list[tuple[dict[str, float], str | None]]:
    """Score pairs with every rule.

    Returns:
        per pair, in order, its score by rule name, and the first rule that refuses it, or None if all accept. All rules
        score every pair, so that thresholds can be changed on what is stored.
    """
    results = []
    for pair in pairs:
        scores = {rule.name: rule.score(pair) for rule in rules}
        refused = next((rule.name for rule in rules if not rule.accept(scores[rule.name])), None)
        results.append((scores, refused))
    return results
