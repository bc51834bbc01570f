"""The one gateway for language codes.

Every code that enters emsmine passes `resolve`; everything inside is canonical: ISO 639-3 (of the macrolanguage where
BCP 47 has one) plus ISO 15924 script, as in `eng_Latn`, `zho_Hant`. Nothing ever falls back to another language.
"""

import difflib
from functools import lru_cache

import langcodes
from langcodes.tag_parser import LanguageTagError

from emsmine.errors import LanguageError

# The 62 languages of EMS (Mao, Chu & Kurohashi 2024), as ISO 639-1 codes or EMS's own.
_EMS = (
    "af ar bg bn ca cs da de el en eo es et eu fa fi fr gl gu he hi hr hu hy id it ja jv ka kk ko ku lt lv ml mn mr ms "
    "mk my nb nl pl pt ro ru sk sl sq sr sv sw ta te th tl tr uk ur vi yo zh"
)
EMS_CODES = tuple(_EMS.split())

# Codes whose standard reading would surprise: nb/nn keep their own identity in MT data, plain `no` means Bokmål there,
# and Tagalog and Filipino are one language to every corpus.
_ALIASES = {"no": "nb", "nor": "nb", "nb": "nb", "nob": "nb", "fil": "tl", "tl": "tl", "tgl": "tl"}
_ALPHA3 = {"nb": "nob", "nn": "nno", "tl": "tgl"}
# Scripts that differ from CLDR's likely script in the texts that people mine.
_AMBIGUOUS = {
    "hbs": "hr, sr or bs",
    "sh": "hr, sr or bs",
    "mul": "one language code per side",
    "und": "the code of a real language",
}


def _fail(code: str) -> LanguageError:
    known = sorted({*EMS_CODES, *(canonical for canonical in map(_canonical_or_none, EMS_CODES) if canonical)})
    near = difflib.get_close_matches(code.lower().replace("-", "_"), known, n=3, cutoff=0.5)
    try:
        found = str(langcodes.find(code))
        near = [found, *(n for n in near if n != found)]
    except LookupError:
        pass
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return LanguageError(f"language: unknown code {code!r}{hint} (list them with: emsmine langs)")


def _canonical_or_none(code: str) -> str | None:
    try:
        return _canonical(code)
    except (LookupError, LanguageTagError):
        return None


def _canonical(code: str) -> str:
    tag = code.strip().replace("_", "-")
    primary, _, rest = tag.partition("-")
    alias = _ALIASES.get(primary.lower())
    tag = "-".join(part for part in (alias or primary, rest) if part)
    given = langcodes.Language.get(tag, normalize=False)
    if alias is None:
        given = langcodes.Language.get(langcodes.standardize_tag(tag, macro=True))
    if not given.language or not langcodes.Language.make(language=given.language).is_valid():
        raise LookupError(code)
    script = given.script or given.maximize().script
    if not script or (given.script and not given.is_valid()):
        raise LookupError(code)
    alpha3 = _ALPHA3.get(given.language) or given.to_alpha3()
    return f"{alpha3}_{script}"


@lru_cache(maxsize=4096)
def resolve(code: str) -> str:
    """Return the canonical form of a language code.

    Args:
        code: any common form: `de`, `deu`, `de-DE`, `deu_Latn`, `zh-Hant`, `zho_Hant`; case does not matter.

    Returns:
        ISO 639-3 and ISO 15924, as in `deu_Latn`.

    Raises:
        LanguageError: the code is unknown, or stands for several languages. The message names the nearest codes.
    """
    if code.strip().lower() in _AMBIGUOUS:
        raise LanguageError(f"language: {code!r} is ambiguous; use {_AMBIGUOUS[code.strip().lower()]}")
    try:
        return _canonical(code)
    except (LookupError, LanguageTagError):
        raise _fail(code) from None


@lru_cache(maxsize=4096)
def short(code: str) -> str:
    """Return the code that corpora use in file names: ISO 639-1 where there is one, plus an unusual script.

    `eng_Latn` → `en`, `zho_Hant` → `zh-Hant`, `yue_Hant` → `yue`.
    """
    canonical = resolve(code)
    alpha3, script = canonical.split("_")
    plain = next((two for two, three in _ALPHA3.items() if three == alpha3), None)
    plain = plain or str(langcodes.Language.get(langcodes.standardize_tag(alpha3, macro=True)).language)
    return plain if resolve(plain) == canonical else f"{plain}-{script}"


def name(code: str) -> str:
    """Return the English name of a language, as in `German`."""
    return str(langcodes.Language.get(short(code)).display_name())


def pair(code: str) -> tuple[str, str]:
    """Split a pair such as `de-en`, `deu_Latn-eng_Latn` or `zh-Hant-en` into two canonical codes.

    Raises:
        LanguageError: not two codes, or the same language twice.
    """
    parts = code.split("-")
    readings = []
    for cut in range(1, len(parts)):
        left, right = _canonical_or_none("-".join(parts[:cut])), _canonical_or_none("-".join(parts[cut:]))
        if left and right:
            readings.append((left, right))
    # `zh-Hant-en` has one reading with a script; a region or script never stands alone, so take the first that works.
    if not readings:
        for part in parts:
            if len(part) in (2, 3):
                resolve(part)
        raise LanguageError(f"language pair: {code!r} is not two language codes joined by '-'; write it as de-en")
    left, right = readings[0]
    if left == right:
        raise LanguageError(f"language pair: {code!r} names {left} twice; two different languages are needed")
    return left, right


def pair_name(left: str, right: str, *, canonical: bool = True) -> str:
    """Name a pair in the field's way: alphabetical, joined by `-` (`deu_Latn-eng_Latn`, or short: `de-en`)."""
    codes = (resolve(left), resolve(right)) if canonical else (short(left), short(right))
    return "-".join(sorted(codes))
