"""The languages that a user declares: guessed from file names where none is given, checked against the text.

To swap two languages, or to give the wrong one, is the commonest mistake with files of sentences, and no encoder
complains: the default one does not even look at the language.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from emsmine import languages
from emsmine.errors import ConfigError, LanguageError
from emsmine.lines import plain_name
from emsmine.mining.text.langid import UNDETERMINED, LanguageIdentifier, load_identifier

logger = logging.getLogger(__name__)

# Endings that say what a file is, although most of them are codes of some language too.
_NO_LANGUAGE = frozenset(
    [
        "txt",
        "text",
        "tsv",
        "csv",
        "tok",
        "bpe",
        "sp",
        "raw",
        "out",
        "src",
        "tgt",
        "trg",
        "ref",
        "hyp",
        "sent",
        "snt",
        "seg",
        "doc",
        "xml",
        "tmx",
        "json",
        "jsonl",
        "md",
        "html",
        "clean",
    ]
)
_CODE = re.compile(r"[a-z]{2,3}(?:[-_][A-Z][a-z]{3})?(?:[-_][A-Z]{2})?")
_SAMPLE_SENTENCES, _SAMPLE_CHARS, _CHUNK_CHARS = 400, 20_000, 300
_MIN_CHUNKS = 3
_SURE = 0.6
# What even long texts are taken for; no reason for a warning.
_ALIKE = (
    {"hrv", "bos", "srp", "cnr", "hbs", "slv"},
    {"ind", "msa", "zsm", "jav", "sun"},
    {"nob", "nno", "nor", "dan", "swe"},
    {"ces", "slk"},
    {"glg", "por", "spa", "cat", "ast", "oci", "arg"},
    {"bul", "mkd"},
    {"nld", "afr"},
    {"hin", "mar", "nep"},
    {"tgl", "fil", "ceb"},
    {"zho", "yue", "wuu"},
    {"ara", "arz"},
    {"swa", "swh"},
)


def language_of_name(path: str) -> str | None:
    """Return the canonical language that the ending of a file name tells: `a.de`, `corpus.de-en.de.gz`, `b.en.txt`."""
    for word in reversed(os.path.basename(plain_name(path)).split(".")[1:][-2:]):
        if word.lower() in _NO_LANGUAGE:
            continue
        return _resolved(word)
    return None


def languages_of_bitext_name(path: str) -> tuple[str, str] | None:
    """Return the languages of the columns that a file name tells: `de-en.tsv`, `corpus.de-en.tsv.gz`."""
    for word in reversed(os.path.basename(plain_name(path)).split(".")):
        sides = word.split("-")
        if len(sides) == 2 and all(map(_resolved, sides)):
            left, right = map(languages.resolve, sides)
            return (left, right) if left != right else None
    return None


def _resolved(word: str) -> str | None:
    try:
        return languages.resolve(word) if _CODE.fullmatch(word) else None
    except LanguageError:
        return None


def declared_language(command: str, option: str, example: str, path: str | None, lang: str | None) -> str:
    """Return the canonical language of one file, or of sentences in memory: as given, else as the file name tells.

    Args:
        command: for messages.
        option: what the language is given by.
        example: how.
        path: the file; None for sentences in memory.
        lang: code given by the user, or None.

    Raises:
        ConfigError: it is neither given nor told.
        LanguageError: the code is no language.
    """
    if lang is not None:
        return languages.resolve(lang)
    guess = language_of_name(path) if path is not None else None
    if guess is None:
        why = "" if path is None else f": the file name does not end in a language, as a.de does ({path})"
        raise ConfigError(f"{command}: {option} must be given, as in {example}{why}")
    logger.info("%s: %s is %s, by the file name", command, path, languages.short(guess))
    return guess


def declared_languages(
    command: str, paths: Sequence[str], source_lang: str | None, target_lang: str | None
) -> tuple[str, str]:
    """Return the languages of both sides: as given, else as the file names tell.

    Args:
        command: for messages.
        paths: one file of two columns, or a file a side.
        source_lang: code given by the user, or None.
        target_lang: the same for the other side.

    Raises:
        ConfigError: a language is neither given nor told by a name; all that is missing is named.
        LanguageError: a code is no language.
    """
    guessed = languages_of_bitext_name(paths[0]) if len(paths) == 1 else [language_of_name(path) for path in paths]
    found, missing = [], []
    options = (("--source-lang", "-s", source_lang), ("--target-lang", "-t", target_lang))
    for (option, letter, given), guess in zip(options, guessed or (None, None), strict=True):
        if given is None and guess is None:
            missing.append(f"{option} ({letter})")
        found.append(languages.resolve(given) if given is not None else guess or "")
        if given is None and guess:
            logger.info("%s: %s is %s, by the file name", command, option, languages.short(guess))
    if missing:
        raise ConfigError(
            f"{command}: {' and '.join(missing)} must be given, as in -s de -t en: no file name ends in a language, as "
            f"a.de does ({', '.join(paths)})"
        )
    check_different(command, *found)
    return found[0], found[1]


def check_different(command: str, left: str, right: str) -> None:
    """Refuse two sides of one language; "" is that of vectors, of which it need not be known.

    Raises:
        ConfigError: they are the same.
    """
    if left and left == right:
        raise ConfigError(f"{command}: both sides are {left}; two different languages are needed")


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    return load_identifier()


def check_languages(command: str, sides: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Warn if the text of a side does not look like its declared language.

    Args:
        command: for messages.
        sides: by what to call a side (its file): canonical language, and sentences, of which a sample is looked at.
    """
    declared = {lang for lang, _ in sides.values()}
    identifier = _identifier()
    for name, (lang, sentences) in sides.items():
        found = majority_language(sentences, identifier)
        if found is None or _alike(found[0], lang):
            continue
        other, share = found
        looks, said = languages.name(other), languages.name(lang)
        if other in declared or any(other[:3] == code[:3] for code in declared):
            advice = "were the two languages swapped?"
        else:
            advice = "check the language given for it"
        logger.warning(
            "%s: %s was declared as %s (%s), but %.0f %% of a sample looks like %s (%s); %s",
            *(command, name, said, languages.short(lang), 100 * share, looks, languages.short(other), advice),
        )


def check_pair_files(command: str, paths: Sequence[str]) -> None:
    """Warn of pair files for training whose columns do not look like the languages that their names tell."""
    from emsmine.encoder.data.pairs import find_pair_files, read_pairs

    for file in find_pair_files([Path(path) for path in paths]):
        rows = list(islice(read_pairs(file, Counter()), _SAMPLE_SENTENCES))
        named = (("source", file.source_lang), ("target", file.target_lang))
        check_languages(
            command,
            {f"{file.path}, {name}": (lang, [row[n] for row in rows]) for n, (name, lang) in enumerate(named)},
        )


def _alike(found: str, declared: str) -> bool:
    codes = {found[:3], declared[:3]}
    return len(codes) == 1 or any(codes <= group for group in _ALIKE)


def majority_language(sentences: Sequence[str], identifier: LanguageIdentifier) -> tuple[str, float] | None:
    """Return the language that most of a sample of sentences looks like, and its share.

    Sentences are put together to pieces of a few hundred characters: one alone is often too short to tell.

    Returns:
        None if there is too little text, or no language for more than half of it.
    """
    step = max(1, len(sentences) // _SAMPLE_SENTENCES)
    chunks, size = [""], 0
    for sentence in sentences[::step]:
        if size > _SAMPLE_CHARS:
            break
        size += len(sentence)
        chunks[-1] += f" {sentence}"
        if len(chunks[-1]) >= _CHUNK_CHARS:
            chunks.append("")
    whole = [chunk for chunk in chunks if len(chunk) >= _CHUNK_CHARS]
    if len(whole) < _MIN_CHUNKS:
        return None
    counts = Counter(prediction.lang for prediction in identifier.identify(whole))
    lang, number = counts.most_common(1)[0]
    return (lang, number / len(whole)) if lang != UNDETERMINED and number >= _SURE * len(whole) else None
