"""Pre-tokenisation of the released EMS: lower-case, then Moses, jieba or Juman++ by language.

Reference: released code, inference/embed.py: Moses with `escape=False` for all but Chinese (jieba) and Japanese
(Juman++).
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from emsmine import languages
from emsmine.errors import MissingDependencyError

PREPROCESSINGS = ("none", "ems")
_CHINESE = ("zho", "wuu", "yue", "cmn")


def preprocess(sentences: Sequence[str], lang: str, kind: str) -> list[str]:
    """Prepare sentences for the tokeniser.

    Args:
        sentences: texts.
        lang: any code of the language.
        kind: `none` leaves them as they are; `ems` lower-cases and splits words as the released EMS does.

    Raises:
        LanguageError: the code is unknown or ambiguous.
        MissingDependencyError: the word splitter of the language is not installed.
        ValueError: the kind is unknown.
    """
    if kind == "none":
        return list(sentences)
    if kind != "ems":
        raise ValueError(f"preprocessing is {kind!r}; choose from {', '.join(PREPROCESSINGS)}")
    split = _splitter(lang)
    return [split(text.lower().strip()) for text in sentences]


@functools.lru_cache(maxsize=128)
def _splitter(lang: str) -> Callable[[str], str]:
    alpha3 = languages.resolve(lang).split("_")[0]
    if alpha3 in _CHINESE:
        jieba = _import("jieba", "jieba", lang)
        jieba.setLogLevel(60)
        return lambda text: " ".join(jieba.cut(text))
    if alpha3 == "jpn":
        juman = _import("rhoknp", "rhoknp", lang).Jumanpp()
        return lambda text: " ".join(m.text for m in juman.apply_to_sentence(text).morphemes) if text else ""
    moses = _import("sacremoses", "sacremoses", lang).MosesTokenizer(lang=languages.short(lang).split("-")[0])
    return lambda text: str(moses.tokenize(text, return_str=True, escape=False))


def _import(module: str, package: str, lang: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingDependencyError(
            f"encode: this model splits words of {lang} with {package}, which is not installed; "
            f"run: pip install {package}"
        ) from None
