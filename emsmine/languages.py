"""The one gateway for language codes.

Every code that enters emsmine passes `resolve`; everything inside is canonical: ISO 639-3 (of the macrolanguage where
CLDR equates the two: `cmn` → `zho`, `pes` → `fas`, `kmr` → `kur`) plus ISO 15924 script, as in `eng_Latn`, `zho_Hant`.
A canonical code is always `[a-z]{3}_[A-Z][a-z]{3}`, so it is safe in a path. Regions and variants are read and dropped
(`pt-BR` → `por_Latn`) unless they decide the script (`zh-TW` → `zho_Hant`, `sr-ME` → `srp_Latn`).

Nothing ever falls back to another language, nor to Latin script: a language whose script is unknown needs it spelt out.
"""

import difflib
import re
from functools import lru_cache
from typing import cast

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS
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
# Primary codes that name no single language, and what to do instead. qaa to qtz are private use.
_NO_LANGUAGE = {
    "hbs": "is ambiguous; use hr, sr or bs",
    "sh": "is ambiguous; use hr, sr or bs",
    "mul": "means several languages; use one language code per side",
    "und": "means an undetermined language; use the code of a real language",
    "root": "means no language; use the code of a real language",
    "mis": "means a language without a code; use the code of a real language",
    "zxx": "means no linguistic content; use the code of a real language",
}
_PRIVATE = re.compile(r"q[a-t][a-z]")
# ISO 639 groups of languages (scope "collection" in the IANA registry), but for `ber`, which Tatoeba and OPUS use as a
# language, and `bh`, `him`, which CLDR reads as one.
_GROUP_CODES = (
    "aav afa alg alv apa aqa aql art ath auf aus awd azc bad bai bat bnt btk cai cau cba ccn ccs cdc cdd cel cmc "
    "cpe cpf cpp crp csu cus day dmn dra egx esx euq fiu fox gem gme gmq gmw grk hmx hok hyx iir ijo inc ine ira "
    "iro itc jpx kar kdo khi kro map mkh mno mun myn nah nai ngf nic nub omq omv oto paa phi plf poz pqe pqw pra "
    "qwe roa sai sal sdv sem sgn sio sit sla smi son sqj ssa syd tai tbq trk tup tut tuw urj wak wen xgn xnd ypk "
    "zhx zle zls zlw znd"
)
_GROUPS = frozenset(_GROUP_CODES.split())
# Usual scripts that the CLDR of langcodes lacks, of languages in FLORES-200, Tatoeba or py3langid, as written there.
_SCRIPTS = {
    "acm": "Arab", "acq": "Arab", "ajp": "Arab", "ang": "Latn", "azb": "Arab", "ber": "Latn", "cbk": "Latn",
    "cjk": "Latn", "din": "Latn", "gcf": "Latn", "hbo": "Hebr", "ie": "Latn", "lfn": "Latn", "lus": "Latn",
    "max": "Latn", "nov": "Latn", "orv": "Cyrl", "pbt": "Arab", "quy": "Latn", "tzl": "Latn", "uzs": "Arab",
}  # fmt: skip
# Typographic variants of a script, which no corpus tells apart.
_SAME_SCRIPT = {"Aran": "Arab", "Cyrs": "Cyrl", "Latf": "Latn", "Latg": "Latn"}
# ISO 15924 codes that name no script; Qaaa to Qabx are private use.
_NO_SCRIPT = re.compile(r"Zinh|Zmth|Zsye|Zsym|Zxxx|Zyyy|Zzzz|Qa[ab][a-x]")

_TAG = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,7}")
_CANONICAL = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_MAX_SHOWN = 60


class _Refused(LanguageError):
    """A code that is understood and cannot be used; its message is complete."""


def _shown(code: str) -> str:
    return repr(code if len(code) <= _MAX_SHOWN else code[:_MAX_SHOWN] + "…")


def _refuse_no_language(code: str) -> None:
    primary = re.split("[-_]", code.strip().lower())[0]
    reason = _NO_LANGUAGE.get(primary)
    if _PRIVATE.fullmatch(primary):
        reason = "is a private-use code, which means nothing to others; use the code of a real language"
    if reason:
        raise _Refused(f"language: {_shown(code)} {reason}")


def _parse(code: str) -> tuple[str, str | None, str | None]:
    """Read a code as a BCP 47 tag, normalised but for our aliases.

    Returns:
        language, script and region; two letters for a language that has them.

    Raises:
        LookupError, LanguageTagError: not a tag, or one of its parts is not registered.
        _Refused: a tag that names no single language.
    """
    _refuse_no_language(code)
    tag = code.strip().replace("_", "-")
    if not _TAG.fullmatch(tag):
        raise LookupError(code)
    primary, _, rest = tag.partition("-")
    alias = _ALIASES.get(primary.lower())
    if alias is None:
        # Not `standardize_tag`, which drops a usual script: `kk-Cyrl-CN` would become Arabic script, as `kk-CN` is.
        given = langcodes.Language.get(langcodes.Language.get(tag).prefer_macrolanguage().to_tag())
    else:
        given = langcodes.Language.get("-".join(part for part in (alias, rest) if part), normalize=False)
    if given.private:
        raise _Refused(f"language: {_shown(code)} has a private-use part; leave out what follows the language")
    if not given.language or given.extlangs or not given.is_valid():
        raise LookupError(code)
    if given.language in _GROUPS:
        raise _Refused(f"language: {_shown(code)} is a group of languages; use the code of one of them")
    return given.language, given.script, given.territory


def _usual_script(language: str, region: str | None) -> str | None:
    """Return the script that CLDR expects of a language in a region; None if it does not know."""
    if language in _SCRIPTS:
        return _SCRIPTS[language]
    # Asked directly because `maximize` answers Latin script for whatever it does not know.
    if language not in LIKELY_SUBTAGS:
        return None
    return langcodes.Language.make(language=language, territory=region).maximize().script


def _canonical(code: str) -> str:
    language, given, region = _parse(code)
    alpha3 = langcodes.Language.make(language=language).to_alpha3()
    usual = _usual_script(language, region)
    script = _SAME_SCRIPT.get(given, given) if given else usual
    if script is None:
        raise _Refused(
            f"language: {_shown(code)}: the usual script of {alpha3} is not known here; write it out, "
            f"as in {alpha3}_Latn"
        )
    if _NO_SCRIPT.fullmatch(script):
        raise _Refused(f"language: {_shown(code)}: {script} names no script; leave it out or name a real one")
    if script == "Hani" and usual in ("Hans", "Hant"):
        raise _Refused(f"language: {_shown(code)} is ambiguous; use {alpha3}_Hans or {alpha3}_Hant")
    # FLORES-200 writes Korean as kor_Hang.
    if script == "Hang" and usual == "Kore":
        script = "Kore"
    canonical = f"{alpha3}_{script}"
    if not _CANONICAL.fullmatch(canonical):
        raise LookupError(code)
    return canonical


@lru_cache(maxsize=4096)
def _canonical_or_none(code: str) -> str | None:
    try:
        return _canonical(code)
    except (LookupError, LanguageTagError, LanguageError):
        return None


def _languages_meant(code: str) -> list[str]:
    """Guess what an unknown code means: canonical codes, best first, or nothing."""
    word = code.strip().lower().removeprefix("__label__")[:_MAX_SHOWN]
    head = re.split(r"[^a-z]", word)[0]
    # `en_US.UTF-8`, `deu_Latm`: only the rest is wrong.
    start = _canonical_or_none(head) if len(head) in (2, 3) else None
    if start:
        return [start]
    # `jp`, `cz`: a country. Asked directly because `maximize` answers English for whatever it does not know.
    if f"und-{word.upper()}" in LIKELY_SUBTAGS:
        country = _canonical_or_none(LIKELY_SUBTAGS[f"und-{word.upper()}"])
        return [country] if country else []
    try:
        # Its index of names fails to decode what it finds for a NUL or half a surrogate pair.
        named = _canonical_or_none(str(langcodes.find(word))) if len(word) > 3 and word.isprintable() else None
    except LookupError:
        named = None
    if named:
        return [named]
    ems = [resolve(ems_code) for ems_code in EMS_CODES]
    if len(head) == 3:
        by_code = {canonical[:3]: canonical for canonical in ems}
        return [by_code[near] for near in difflib.get_close_matches(head, by_code, n=3, cutoff=0.6)]
    by_name = {name(canonical).lower(): canonical for canonical in ems}
    return [by_name[near] for near in difflib.get_close_matches(word, by_name, n=3, cutoff=0.7)]


def _unknown(code: str) -> LanguageError:
    sides = _sides(code)
    if len(sides) == 2 and all(map(_canonical_or_none, sides)):
        return LanguageError(f"language: {_shown(code)} looks like a pair of languages; one language is needed here")
    near = ", ".join(f"{short(canonical)} ({name(canonical)})" for canonical in _languages_meant(code))
    hint = f"; did you mean {near}?" if near else ""
    return LanguageError(f"language: unknown code {_shown(code)}{hint} (list them with: emsmine langs)")


@lru_cache(maxsize=4096)
def resolve(code: str) -> str:
    """Return the canonical form of a language code.

    Args:
        code: any common form: `de`, `deu`, `ger`, `de-DE`, `deu_Latn`, `eng-Latn`, `zh-Hant`, `zh-TW`; case, outer
            white space and `-` or `_` do not matter. `no` is Bokmål, `fil` is `tl`, `ckb` stays apart from `kur`.

    Returns:
        ISO 639-3 and ISO 15924, as in `deu_Latn`; `resolve` and `short` give it back unchanged and equivalent.

    Raises:
        LanguageError: the code is unknown (the message names the nearest), stands for several languages or none, or
            needs a script.
    """
    if not isinstance(cast(object, code), str):
        raise LanguageError(f"language: {code!r} is no code of a language; give a string, as in 'de'")
    try:
        return _canonical(code)
    except _Refused as error:
        raise LanguageError(str(error)) from None
    except (LookupError, LanguageTagError):
        raise _unknown(code) from None


@lru_cache(maxsize=4096)
def short(code: str) -> str:
    """Return the code that corpora use in file names: ISO 639-1 where there is one, plus an unusual script.

    `eng_Latn` → `en`, `zho_Hant` → `zh-Hant`, `yue_Hant` → `yue`. `resolve` undoes it.

    Raises:
        LanguageError: as `resolve`.
    """
    canonical = resolve(code)
    alpha3, script = canonical.split("_")
    plain = next((two for two, three in _ALPHA3.items() if three == alpha3), None)
    plain = plain or str(langcodes.Language.get(langcodes.standardize_tag(alpha3, macro=True)).language)
    return plain if _canonical_or_none(plain) == canonical else f"{plain}-{script}"


@lru_cache(maxsize=4096)
def name(code: str) -> str:
    """Return the English name of a language, as in `German` or `Chinese (Traditional)`.

    The first call loads a table of names, which takes a fifth of a second.

    Raises:
        LanguageError: as `resolve`.
    """
    return str(langcodes.Language.get(short(code)).display_name())


def _sides(code: str) -> list[str]:
    """Cut `zh-Hant-en-US` where languages start: parts of two or three letters, but a region in capitals is none.

    Only capitals tell a region from a language (`br` is Breton), so where all letters are capitals none is a region.
    """
    sides: list[str] = []
    parts = code.split("-")
    for part in parts:
        is_region = part.isdigit() or (len(part) == 2 and part.isupper() and not code.isupper())
        is_language = not is_region and (len(part.partition("_")[0].strip()) in (2, 3) or len(parts) == 2)
        if is_language or not sides:
            sides.append(part)
        else:
            sides[-1] += f"-{part}"
    return sides


def pair(code: str) -> tuple[str, str]:
    """Split a pair such as `de-en`, `deu_Latn-eng_Latn`, `zh-Hant-en` or `en-pt-BR` into two canonical codes.

    There is one reading: a part in capitals after a language is a region (`en-pt-BR`), one in small letters is a
    language (`en-pt-br` names three, and is refused); `en-pt_br` has no such doubt.

    Returns:
        canonical codes in the order given.

    Raises:
        LanguageError: not two languages (the message names the wrong part and the nearest codes), or the same twice.
    """
    sides = _sides(code)
    if len(sides) != 2:
        found = f"{len(sides)} codes ({', '.join(map(_shown, sides[:5]))})" if len(sides) > 1 else "one code"
        raise LanguageError(
            f"language pair: {_shown(code)} is {found}, not two; join two codes by '-', as in de-en, "
            f"and write a region in capitals, as in en-pt-BR"
        )
    try:
        left, right = (resolve(side) for side in sides)
    except LanguageError as error:
        raise LanguageError(f"language pair {_shown(code)}: {error}") from None
    if left == right:
        raise LanguageError(f"language pair: {_shown(code)} names {left} twice; two different languages are needed")
    return left, right


def pair_name(left: str, right: str, *, canonical: bool = True) -> str:
    """Name a pair in the field's way: alphabetical, joined by `-` (`deu_Latn-eng_Latn`, or short: `de-en`).

    Raises:
        LanguageError: as `resolve`.
    """
    codes = (resolve(left), resolve(right)) if canonical else (short(left), short(right))
    return "-".join(sorted(codes))
