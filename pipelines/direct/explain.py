"""Why a pair has its score, for people: what `emsmine score --explain` prints and `emsmine.explain` returns."""

import unicodedata
from collections.abc import Sequence

from emsmine import languages
from emsmine.mining.scoring.explain import Explanation, WordMatch
from emsmine.mining.scoring.explain import explain as explain_tokens
from emsmine.pipelines.rescoring import DEFAULT_SCORER, Rescorer, load_rescorer

_COVERED = 0.5
"""A cosine from which a word counts as covered, for display only."""
_WIDEST = 28


def explain(
    source: str, target: str, *, source_lang: str, target_lang: str, scorer: str = DEFAULT_SCORER
) -> Explanation:
    """Show which words of a pair found what partner, and what was left uncovered.

    Args:
        source: a sentence.
        target: its supposed translation.
        source_lang: any code of its language.
        target_lang: the same of the target.
        scorer: model whose pair scorer looks.

    Returns:
        The words of both sides; `print` a text of it with `format_explanation`.

    Raises:
        LanguageError: a code is unknown or ambiguous.
        ModelError: the model has no scorer.
    """
    codes = languages.resolve(source_lang), languages.resolve(target_lang)
    return explain_pair(load_rescorer(scorer), (source, target), codes)


def explain_pair(rescorer: Rescorer, texts: tuple[str, str], langs: tuple[str, str]) -> Explanation:
    """Explain a pair with a loaded scorer; canonical codes."""
    tokens = [rescorer.tokens([text], lang).ids for text, lang in zip(texts, langs, strict=True)]
    pieces = [rescorer.tokenizer.pieces(ids.tolist()) for ids in tokens]
    return explain_tokens(rescorer.scorer.vectors, tokens[0], tokens[1], pieces[0], pieces[1])


def format_explanation(found: Explanation) -> str:
    """Lay out both sides as columns: word, its share of the weight, partner, cosine; what is uncovered is marked."""
    parts = []
    for name, matches in (("source", found.source), ("target", found.target)):
        width = max([len(name), *(_width(match.word) for match in matches)], default=0)
        lines = [f"  {_pad(name, min(width, _WIDEST))}  weight  cosine  partner"]
        lines += [_line(match, min(width, _WIDEST)) for match in matches]
        parts.append("\n".join(lines))
    missing = [f"{match.word} ({match.weight:.0%})" for match in _uncovered((*found.source, *found.target))]
    parts.append(f"  uncovered: {', '.join(missing) or 'nothing'}")
    return "\n".join(parts)


def _uncovered(matches: Sequence[WordMatch]) -> list[WordMatch]:
    return sorted((match for match in matches if match.cosine < _COVERED), key=lambda match: -match.uncovered)


def _line(match: WordMatch, width: int) -> str:
    sign = " " if match.cosine >= _COVERED else "!"
    return f"{sign} {_pad(match.word, width)}  {match.weight:6.1%}  {match.cosine:6.2f}  {match.partner}"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _pad(text: str, width: int) -> str:
    return text + " " * max(0, width - _width(text))
