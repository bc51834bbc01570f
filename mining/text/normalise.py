"""Text normal forms: the clean line that is stored, the key that duplicates share, and what the rules count.

Three forms, from gentle to harsh:

- `sanitise`: one clean line, what every stage stores. Only characters that cannot be seen, or break a line, change.
- `dedup_key`: what two sentences share when a reader would call them the same. Never shown, never encoded.
- `letters_only`, `digits`: evidence for the rules in `emsmine.mining.text.rules`.
"""

import re
import unicodedata
from functools import lru_cache

import xxhash

_REPLACEMENT = "\ufffd"
# Whatever str.splitlines() or a viewer may take for a line or column break, and the no-break and fixed-width spaces.
_SPACES = "\t\n\v\f\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# Other C0/C1 controls; soft hyphen; zero-width space, word joiner, BOM; bidi marks, embeddings, isolates; invisible
# operators; interlinear annotation; tag characters. None is visible, and a translation never depends on one.
_REMOVED = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0001\U000e0020-\U000e007f"
)
# Lone surrogates cannot be encoded. Noncharacters can, but XML (TMX) refuses them.
_REPLACED = "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff" + "".join(
    f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 17)
)
_SPACE_PATTERN = re.compile(f"[{_SPACES}]")
_REMOVED_PATTERN = re.compile(f"[{_REMOVED}]")
_REPLACED_PATTERN = re.compile(f"[{_REPLACED}]")
_SUSPECT_PATTERN = re.compile(f"[{_SPACES}{_REMOVED}{_REPLACED}\u200c\u200d]")
# ZWNJ and ZWJ shape Persian, Indic and emoji text (a Malayalam word may end in one), so they stay after any letter
# outside ASCII; at the start, after ASCII, or as a second in a row they do nothing.
_IDLE_JOINER_PATTERN = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]+|(?<=[\u200c\u200d])[\u200c\u200d]+")
_RUN_OF_SPACES_PATTERN = re.compile("  +")


def sanitise(text: str) -> str:
    """Return the text as one clean line that every format of ours can hold.

    NFC; every line break, tab and Unicode space becomes a plain space; controls, bidi marks and zero-width characters
    without meaning go (ZWJ and ZWNJ stay where they shape letters); lone surrogates and noncharacters become U+FFFD;
    runs of spaces collapse and the ends are stripped.

    Returns:
        text without tab, LF, CR or any Unicode break, always encodable as UTF-8; sanitising it again changes nothing.
    """
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if _SUSPECT_PATTERN.search(text):
        text = _SPACE_PATTERN.sub(" ", text)
        text = _REMOVED_PATTERN.sub("", text)
        text = _REPLACED_PATTERN.sub(_REPLACEMENT, text)
        text = _IDLE_JOINER_PATTERN.sub("", text)
        # What was removed may have kept a letter and its accent apart.
        text = unicodedata.normalize("NFC", text)
    if "  " in text:
        text = _RUN_OF_SPACES_PATTERN.sub(" ", text)
    return text.strip(" ")


_APOSTROPHES = "'\u2018\u2019\u02bc\u2032`\u00b4"
_QUESTIONS = "?\u061f\u037e\u2047\u1367\u055e"
# Punctuation to Unicode, but it changes what a sentence says: C#, 50 %, A&B, */5, @name, and/or, \n.
_SYMBOL_LIKE = "#%&*@/\\"
_INVISIBLE_PATTERN = re.compile(f"[{_REMOVED}\u200c\u200d\u034f\ufe00-\ufe0f]")
_APOSTROPHE_PATTERN = re.compile(f"(?<=\\w)[{_APOSTROPHES}](?=\\w)")
_NUMBER_PUNCTUATION_PATTERN = re.compile(r"(?<=\d)[.,:\-](?=\d)")
_UNSPACED = "\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u9fff\u0e01-\u0e30\u1000-\u102a"
_UNSPACED_GAP_PATTERN = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")
# Punctuation that stays is sheltered behind controls, which no folded text holds.
_SHELTERED = "'.,:-"
_SHELTERS = "".join(chr(1 + index) for index in range(len(_SHELTERED)))
_SHELTER = {ord(kept): shelter for kept, shelter in zip(_SHELTERED, _SHELTERS, strict=True)}
_UNSHELTER = {ord(shelter): kept for kept, shelter in zip(_SHELTERED, _SHELTERS, strict=True)}


@lru_cache(maxsize=1 << 16)
def _key_character(character: str) -> str:
    if character in _QUESTIONS:
        return "?"
    category = unicodedata.category(character)
    if category[0] == "Z" or character in "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85":
        return " "
    if category[0] == "P" and character not in _SYMBOL_LIKE:
        return " "
    return character


def dedup_key(text: str) -> str:
    """Return the key under which exact deduplication and the `identical` rule compare texts.

    Folded: compatibility forms (NFKC: full width, ligatures), case, zero-width characters and variation selectors, the
    shape of apostrophes, all other punctuation and the spaces around it, spaces between Han, kana, Thai and Burmese
    letters. Kept, because the translation depends on it: letters, accents, digits, symbols such as `+ $ %`,
    punctuation inside numbers (3.5 is not 35) and that a text is a question.

    Returns:
        the key; empty for a text of punctuation only. `dedup_key(dedup_key(x)) == dedup_key(x)`.
    """
    folded = _INVISIBLE_PATTERN.sub("", text)
    if folded.isascii():
        folded = folded.lower()
    else:
        # Casefolding can undo NFKC and the reverse; two rounds reach the fixed point for every character.
        for _ in range(2):
            folded = unicodedata.normalize("NFKC", folded).casefold()
        folded = _INVISIBLE_PATTERN.sub("", unicodedata.normalize("NFKC", folded))
    folded = _APOSTROPHE_PATTERN.sub(_SHELTERS[0], folded)
    folded = _NUMBER_PUNCTUATION_PATTERN.sub(lambda match: _SHELTER[ord(match[0])], folded)
    characters = "".join(map(_key_character, folded)).translate(_UNSHELTER)
    key = " ".join(characters.split())
    # "ça va ?" and "50 %" are a matter of house style.
    key = key.replace(" ?", "?").replace(" %", "%")
    return key if key.isascii() else _UNSPACED_GAP_PATTERN.sub("", key)


def hash128(text: str) -> bytes:
    """Return the 16-byte xxh3_128 digest (big-endian) of the text's UTF-8.

    Raises:
        UnicodeEncodeError: the text holds a lone surrogate; pass it through `sanitise` first.
    """
    return xxhash.xxh3_128_digest(text.encode("utf-8"))


@lru_cache(maxsize=1 << 16)
def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def letters_only(text: str) -> str:
    """Return the letters and combining marks of a text (Indic vowel signs are marks), in order."""
    return "".join(filter(_is_letter, text))


_GROUPED_BY_SPACE_PATTERN = re.compile(r"(?<![\d.,])\d{1,3}(?:[ \xa0\u2009\u202f]\d{3})+(?!\d)")
_DIGIT_PATTERN = re.compile(r"\d")
_NUMBER_PATTERN = re.compile(r"\d+(?:[.,']\d+)*")
_SEPARATORS = str.maketrans({"٫": ".", "٬": ",", "،": ",", "’": "'", "·": ".", "．": ".", "，": ","})


def _plain(number: str) -> str:
    whole, point, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (point + fraction if fraction else "")


def _is_grouped(groups: list[str]) -> bool:
    """Tell thousands (1,234,567) and Indian lakhs (12,34,567) from a decimal or a date."""
    if not 1 <= len(groups[0]) <= 3 or len(groups[-1]) != 3 or groups[0].startswith("0"):
        return False
    middle = {len(group) for group in groups[1:-1]}
    return middle <= {3} or (middle == {2} and len(groups[0]) <= 2)


def _read_number(token: str) -> list[str]:
    """Read one run of digits and separators as one number, or as several (dates, versions)."""
    groups = re.split(r"[.,']", token)
    if len(groups) == 1:
        return [_plain(token)]
    separators = re.findall(r"[.,']", token)
    if len(set(separators)) == 1:
        if _is_grouped(groups):
            return [_plain("".join(groups))]
        if len(groups) == 2 and separators[0] != "'":
            return [_plain(".".join(groups))]
    # 1,234.5 and 1.234,5: grouping of one kind, then one decimal mark of another.
    elif len(set(separators[:-1])) == 1 and separators[-1] != separators[0] and _is_grouped(groups[:-1]):
        return [_plain("".join(groups[:-1]) + "." + groups[-1])]
    return [_plain(group) for group in groups]


def digits(text: str) -> tuple[str, ...]:
    """Return the numbers of a text in order, in one notation over all scripts and locales.

    Decimal digits of every script become ASCII; `1,000`, `1.000`, `1 000` and `١٬٠٠٠` all give `1000`; `1,5` and `1.5`
    give `1.5`; `1.234,56` and `1,234.56` give `1234.56`; zeros that carry no value go; dates and versions come apart.
    A three-digit fraction (3.141) reads as thousands: alike on both sides of a pair, which is what matters.
    """
    if _DIGIT_PATTERN.search(text) is None:
        return ()
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c)) if not c.isascii() and c.isdecimal() else c for c in text)
        text = text.translate(_SEPARATORS)
    text = _GROUPED_BY_SPACE_PATTERN.sub(lambda match: "".join(re.findall(r"\d", match[0])), text)
    return tuple(number for token in _NUMBER_PATTERN.findall(text) for number in _read_number(token))
