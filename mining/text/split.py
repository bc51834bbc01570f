"""Paragraphs to sentences, for every language.

The rules and abbreviation lists are those of `sentencex` (Wikimedia; compiled, offline, no model), which knows the
terminators of all scripts of the 62 EMS languages and falls back to a related language's abbreviations for one it has
no list for. Around it stand small repairs, found by joining Tatoeba sentences by twenty and looking at what was not
split again, and a window that keeps its worst case (nested quotes: quadratic) linear in the length of the text.
"""

import re
from collections.abc import Iterator

from emsmine.languages import resolve, short
from emsmine.mining.text.normalise import sanitise

# Longer than any sentence worth mining, short enough that the quadratic worst case costs 4 ms a window.
_WINDOW_CHARS = 4096

# sentencex pairs apostrophes as quotation marks and never splits between two ("don't … can't", Greek 'ναι). Those that
# do not close a quoted sentence are hidden behind a letter, of the same length.
_APOSTROPHE_PATTERN = re.compile(r"(?<![.!?…;։。！？])['’]")
_HIDDEN_APOSTROPHE = "\u02bc"

# Armenian text on the web ends sentences with an ASCII colon more often than with U+0589.
_ARMENIAN_COLON_PATTERN = re.compile(r"(?<=\w):(?=\s|$)|(?<=[»՞՜]):(?=\s|$)")

# Full stops that mean nothing else, where sentencex lacks the language they belong to.
_FULL_STOPS = "\u0589\u0964\u0965\u06d4\u104b\u1362\u1367\u1368\u17d4\u17d5\u1803\u0f0d\u0f0e"
_FULL_STOP_PATTERN = re.compile(f"(?<![{_FULL_STOPS}])[{_FULL_STOPS}]+[)»”’\"']*\\s+")

# Words that sentencex takes for an abbreviation (Maine, Missouri, Norwegian "det."), found as the last word of
# sentences that it failed to split off. The next word must start with a capital.
_ORDINARY_WORDS = {
    "afr": "op ken",
    "cat": "no sobre fil un",
    "dan": "i med var ham ned",
    "deu": "mich an",
    "eng": "me",
    "epo": "min",
    "hrv": "ga se me",
    "hun": "nem",
    "ita": "file me te via no fa",
    "kur": "e me re min de",
    "nld": "me dat",
    "nob": "det min ut ord med kan i",
    "pol": "tur",
    "ron": "ore",
    "slk": "tu",
    "slv": "me se ga",
    "spa": "bien no",
    "sqi": "re",
    "srp": "me se ga",
    "swe": "det ut med kan i ont",
    "tgl": "mo pa",
    "tur": "ver al",
    "vie": "con may ba no",
    "yor": "kan mo re",
}
_ORDINARY_WORD_PATTERNS = {
    language: re.compile(rf"(?:^|(?<=[\s\"“”«(]))(?:{'|'.join(words.split())})\.[\"”»]?\s+(?=[\"“«(¿¡]?[^\W\d_])")
    for language, words in _ORDINARY_WORDS.items()
}

# A Japanese quotation that goes on ("…。」と言った) is one sentence.
_QUOTED_PATTERN = re.compile("[。！？!?][」』]$")
_QUOTE_GOES_ON = ("と", "って", "という")

# Scripts that end sentences with a space and nothing else. Spaces also part clauses, so only long text is cut.
_SPACE_IS_STOP = ("Thai", "Laoo")
_LONG_CHARS = 160
_CHUNK_CHARS = 120


def _windows(text: str, language: str) -> Iterator[str]:
    """Yield sentencex's pieces of a text (they add up to it), looking at a bounded window at a time."""
    import sentencex

    start = position = 0
    while position < len(text):
        window = text[position : position + _WINDOW_CHARS]
        pieces = sentencex.segment(language, window)
        is_last = position + len(window) >= len(text)
        # The last piece may go on in the next window, which starts with it.
        complete = pieces[:-1]
        for piece in complete:
            position += len(piece)
            yield text[start:position]
            start = position
        if is_last:
            break
        if not complete:
            # No boundary in the whole window: the sentence goes on.
            position += len(window)
    if start < len(text):
        yield text[start:]


def _starts_sentence(text: str, position: int) -> bool:
    return any(character.isupper() for character in text[position : position + 2])


def _split_again(piece: str, pattern: re.Pattern[str], *, needs_capital: bool) -> list[str]:
    pieces, start = [], 0
    for match in pattern.finditer(piece):
        if match.end() < len(piece) and (not needs_capital or _starts_sentence(piece, match.end())):
            pieces.append(piece[start : match.end()])
            start = match.end()
    return [*pieces, piece[start:]]


def _merge_quotes(pieces: list[str]) -> list[str]:
    merged: list[list[str]] = []
    for piece in pieces:
        # Only the end is looked at, and parts are joined at last: a chain of quotations stays linear.
        if merged and piece.startswith(_QUOTE_GOES_ON) and _QUOTED_PATTERN.search(merged[-1][-1][-2:]):
            merged[-1].append(piece)
        else:
            merged.append([piece])
    return ["".join(parts) for parts in merged]


def _cut_at_spaces(piece: str) -> list[str]:
    """Cut a long piece at spaces into chunks of about `_CHUNK_CHARS`; one without spaces stays whole."""
    if len(piece) <= _LONG_CHARS:
        return [piece]
    chunks, current = [], ""
    for clause in re.split(r"(?<=\s)(?=\S)", piece):
        if current and len(current) + len(clause) > _CHUNK_CHARS:
            chunks.append(current)
            current = ""
        current += clause
    return [*chunks, current]


def _split_paragraph(paragraph: str, alpha3: str, script: str, library_code: str) -> list[str]:
    masked = _APOSTROPHE_PATTERN.sub(_HIDDEN_APOSTROPHE, paragraph)
    if alpha3 == "hye":
        masked = _ARMENIAN_COLON_PATTERN.sub("։", masked)
    ordinary = _ORDINARY_WORD_PATTERNS.get(alpha3)
    masked_pieces = list(_windows(masked, library_code))
    masked_pieces = [p for piece in masked_pieces for p in _split_again(piece, _FULL_STOP_PATTERN, needs_capital=False)]
    if ordinary:
        masked_pieces = [p for piece in masked_pieces for p in _split_again(piece, ordinary, needs_capital=True)]
    if alpha3 == "jpn":
        masked_pieces = _merge_quotes(masked_pieces)
    if script in _SPACE_IS_STOP:
        masked_pieces = [chunk for piece in masked_pieces for chunk in _cut_at_spaces(piece)]
    # Masking keeps lengths, so the pieces' lengths cut the text itself.
    pieces, start = [], 0
    for piece in masked_pieces:
        pieces.append(paragraph[start : start + len(piece)])
        start += len(piece)
    return pieces


def split_sentences(text: str, lang: str) -> list[str]:
    """Split a document's text into sentences.

    Every line break (LF, CR, form feed, U+2028 …) is a paragraph break and always separates. Nothing is lost: the
    letters of the result are the letters of the text. There is no limit on the length of a sentence, because what is
    too long is for the caller to reject and count; time is linear in the length of the text.

    Args:
        text: any text; it need not be clean.
        lang: the language of the text, in any form that `emsmine.languages.resolve` accepts.

    Returns:
        non-empty sentences in order, each as `emsmine.mining.text.normalise.sanitise` returns it.

    Raises:
        LanguageError: the language code is unknown.
    """
    canonical = resolve(lang)
    alpha3, script = canonical.split("_")
    library_code = short(canonical).partition("-")[0]
    sentences = []
    for line in text.splitlines():
        paragraph = sanitise(line)
        for piece in _split_paragraph(paragraph, alpha3, script, library_code):
            sentence = sanitise(piece)
            if sentence:
                sentences.append(sentence)
    return sentences
