"""Which language a text is in, behind one protocol.

The default, `py3langid`, was measured best among the pip-installable identifiers on the 62 EMS languages; restricting
it to the languages that may occur raises its accuracy further. A Unicode-script check catches what a byte model gets
wrong on mixed or very short text: a text in Cyrillic is never German.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from emsmine.errors import ConfigError
from emsmine.languages import resolve

UNDETERMINED = "und"

# First word of a letter's Unicode name → ISO 15924. Han, kana and Hangul are merged by `script_of`.
_SCRIPT_NAMES = {
    "LATIN": "Latn", "CYRILLIC": "Cyrl", "GREEK": "Grek", "ARABIC": "Arab", "HEBREW": "Hebr", "ARMENIAN": "Armn",
    "GEORGIAN": "Geor", "DEVANAGARI": "Deva", "BENGALI": "Beng", "GURMUKHI": "Guru", "GUJARATI": "Gujr",
    "ORIYA": "Orya", "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda", "MALAYALAM": "Mlym", "SINHALA": "Sinh",
    "THAI": "Thai", "LAO": "Laoo", "TIBETAN": "Tibt", "MYANMAR": "Mymr", "KHMER": "Khmr", "ETHIOPIC": "Ethi",
    "MONGOLIAN": "Mong", "SYRIAC": "Syrc", "THAANA": "Thaa", "NKO": "Nkoo", "TIFINAGH": "Tfng", "CHEROKEE": "Cher",
    "JAVANESE": "Java", "COPTIC": "Copt", "CJK": "Hani", "IDEOGRAPHIC": "Hani", "HIRAGANA": "Hira", "KATAKANA": "Kana",
    "HANGUL": "Hang", "BOPOMOFO": "Bopo",
}  # fmt: skip
_WIDTH_WORDS = ("FULLWIDTH", "HALFWIDTH")
# A Han character says as much as three Latin letters (median length ratios of real pairs: 0.31 zh, 0.5 ja and ko).
_WEIGHTS = {"Hani": 3, "Hira": 2, "Kana": 2, "Hang": 2}
# Chinese uses no kana but for a stray の; Japanese is rarely below a third.
_JAPANESE_KANA_SHARE = 0.1

# What `script_of` may find in a text of a language written in the script of its code.
_WRITTEN_IN = {"Hans": ("Hani",), "Hant": ("Hani",), "Jpan": ("Jpan", "Hani"), "Kore": ("Kore",)}
# A prediction is impossible only if less than this share of the letters is in its script: `PythonでJSONを読む` is
# Japanese.
_POSSIBLE_SHARE = 0.25

# Languages that the model reads in two scripts; without a list of wanted languages both are answers.
_SECOND_SCRIPTS = ("srp_Latn", "kur_Arab")

# Frequent characters that differ, in the same order; enough to tell the two scripts in ordinary sentences.
_SIMPLIFIED = "这说国来们时会为个学对开关问间门车东马长见现头书万与从过还让该话语请谁认识电脑网页应经给练边远买卖钱样"
_TRADITIONAL = "這說國來們時會為個學對開關問間門車東馬長見現頭書萬與從過還讓該話語請誰認識電腦網頁應經給練邊遠買賣錢樣"


@dataclass(frozen=True)
class Prediction:
    """The language of a text: a canonical code, or `und`; and how sure that is, from 0 to 1."""

    lang: str
    score: float


class LanguageIdentifier(Protocol):
    """Anything that names the language of texts."""

    name: str

    def identify(self, texts: Sequence[str]) -> list[Prediction]:
        """Return one prediction per text, in order; `und` with score 0.0 for a text without letters or evidence."""
        ...


@lru_cache(maxsize=1 << 16)
def _script_of_letter(character: str) -> str:
    if not character.isalpha():
        return ""
    words = unicodedata.name(character, "").split()
    if words and words[0] in _WIDTH_WORDS:
        words = words[1:]
    return _SCRIPT_NAMES.get(words[0], "Zyyy") if words else "Zyyy"


def _script_weights(text: str) -> dict[str, int]:
    """Weigh the letters of a text by script, with the parts of Japanese and Korean put together."""
    counts = Counter(map(_script_of_letter, text))
    weights = {
        script: count * _WEIGHTS.get(script, 1) for script, count in counts.items() if script not in ("", "Zyyy")
    }
    kana = weights.pop("Hira", 0) + weights.pop("Kana", 0)
    han = weights.pop("Hani", 0)
    if kana or han:
        weights["Jpan" if kana > _JAPANESE_KANA_SHARE * (kana + han) else "Hani"] = kana + han
    if "Hang" in weights:
        weights["Kore"] = weights.pop("Hang")
    return weights


def script_of(text: str) -> str:
    """Return the dominant script among the letters of a text, as ISO 15924.

    Han alone is `Hani`, Han with kana `Jpan`, Hangul `Kore`; an East Asian character weighs as much as two or three
    letters of an alphabet. Ties go to the first in alphabetical order.

    Returns:
        the code; `Zyyy` if there is no letter of a known script.
    """
    if text.isascii():
        return "Latn" if any(map(str.isalpha, text)) else "Zyyy"
    weights = _script_weights(text)
    return min(weights, key=lambda script: (-weights[script], script)) if weights else "Zyyy"


def _han_variant(text: str) -> str:
    """Tell Simplified from Traditional by characters that only one of them uses; Simplified if none does."""
    simplified = sum(map(text.count, _SIMPLIFIED))
    traditional = sum(map(text.count, _TRADITIONAL))
    return "Hant" if traditional > simplified else "Hans"


def _alpha3(canonical: str) -> str:
    return canonical.partition("_")[0]


def _written_in(lang: str) -> tuple[str, ...]:
    script = lang.partition("_")[2]
    return _WRITTEN_IN.get(script, (script,))


class Py3langidIdentifier:
    """py3langid (Naive Bayes over byte n-grams, model in the wheel), with normalised probabilities.

    Args:
        languages: canonical codes to choose from; None for all that the model knows. One of `zho_Hans` and `zho_Hant`
            stands for all Chinese; with both, frequent characters decide. For a language in two scripts (`srp_Cyrl`,
            `srp_Latn`) the script of the text decides; Serbian in Latin script is no answer when only `srp_Cyrl` is
            listed.

    Raises:
        ConfigError: the model does not know one of the languages.
    """

    name = "py3langid"

    def __init__(self, languages: Collection[str] | None = None) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        # Regional forms with a label of their own (arz, wuu, nn) stay languages of their own; zxx is "no language".
        label_languages = {label: resolve(label) for label in self._model.labels if label != "zxx"}
        wanted = {*label_languages.values(), *_SECOND_SCRIPTS} if languages is None else {*map(resolve, languages)}
        known = {_alpha3(canonical) for canonical in label_languages.values()}
        unknown = sorted(canonical for canonical in wanted if _alpha3(canonical) not in known)
        if unknown or not wanted:
            raise ConfigError(
                f"language identifier {self.name}: no model for {', '.join(unknown) or 'an empty list of languages'}; "
                f"it knows {', '.join(sorted(set(label_languages.values())))}"
            )
        # Label → the wanted forms of that language: one, or one per script.
        self._forms = {
            label: forms
            for label, canonical in label_languages.items()
            if (forms := sorted(form for form in wanted if _alpha3(form) == _alpha3(canonical)))
        }
        self._model.set_languages(sorted(self._forms))
        # What the model answers when it knows no part of a text: all languages alike, so the first of them.
        self._no_evidence = self._model.classify("")

    def identify(self, texts: Sequence[str]) -> list[Prediction]:
        """Return one prediction per text, in order."""
        return [self._identify(text) for text in texts]

    def _identify(self, text: str) -> Prediction:
        weights = _script_weights(text)
        if not weights:
            return Prediction(UNDETERMINED, 0.0)
        floor = _POSSIBLE_SHARE * sum(weights.values())
        possible = {script for script, weight in weights.items() if weight >= floor}
        label, score = self._model.classify(text)
        if (label, score) == self._no_evidence and len(self._forms) > 1:
            return Prediction(UNDETERMINED, 0.0)
        lang = self._form(label, possible, text)
        if lang is not None:
            return Prediction(lang, float(score))
        return self._best_in_script(text)

    def _form(self, label: str, scripts: set[str], text: str) -> str | None:
        """Return the wanted form of a language that fits the scripts of the text, or None."""
        forms = [form for form in self._forms.get(label, ()) if not scripts.isdisjoint(_written_in(form))]
        if forms == ["zho_Hans", "zho_Hant"]:
            return f"zho_{_han_variant(text)}"
        return forms[0] if forms else None

    def _best_in_script(self, text: str) -> Prediction:
        """Return the likeliest language of the dominant script with the model's own, then low, probability."""
        dominant = {script_of(text)}
        for label, score in self._model.rank(text):
            lang = self._form(label, dominant, text)
            if lang is not None:
                return Prediction(lang, float(score))
        return Prediction(UNDETERMINED, 0.0)


_IDENTIFIERS = {"py3langid": Py3langidIdentifier}


def load_identifier(name: str = "py3langid", *, languages: Collection[str] | None = None) -> LanguageIdentifier:
    """Load a language identifier by name.

    Args:
        name: one of the known identifiers.
        languages: the languages to choose from, in any form that `emsmine.languages.resolve` accepts; None for all that
            the model knows. Fewer are more accurate, but list what the texts may be in, not only what is wanted: the
            answer to a text in another language is one of the list.

    Raises:
        ConfigError: unknown name (the message lists the known), or a language that the model lacks.
        LanguageError: a code is not a language.
    """
    if name not in _IDENTIFIERS:
        raise ConfigError(f"language identifier: unknown name {name!r}; known: {', '.join(sorted(_IDENTIFIERS))}")
    return _IDENTIFIERS[name](languages)
