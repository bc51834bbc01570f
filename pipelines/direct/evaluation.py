"""Evaluate on files with the functions that mine: Tatoeba, and mined pairs against gold pairs. BUCC: `bucc`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emsmine import languages
from emsmine.columns import find_columns
from emsmine.encoder.protocol import Encoder, FloatArray, usable_rows
from emsmine.errors import InputError, LanguageError
from emsmine.mining.evaluate import (
    bootstrap_interval,
    content_hash,
    retrieval_hits,
    signature,
    tatoeba_accuracy,
)
from emsmine.mining.exact.search import search_both
from emsmine.mining.selection.retrieve import candidates
from emsmine.mining.text.normalise import dedup_key, sanitise
from emsmine.pipelines.direct.mine import rescore_all
from emsmine.pipelines.direct.sentences import SentenceList, read_lines
from emsmine.pipelines.progress import Progress
from emsmine.pipelines.rescoring import Rescorer

logger = logging.getLogger(__name__)

_Pair = tuple[str, str]


RESCORED_NEIGHBOURS = 10
"""Nearest sentences among which rescored retrieval looks."""
_LISTED_LANGUAGES = 6
"""A signature names up to as many languages, and counts more; their hash is that of the texts."""


def encoder_fields(encoder: Encoder) -> dict[str, str]:
    """Return what a signature says of an encoder: its name, a short hash of its fingerprint, the kind of its device.

    The device is there because vectors are rounded otherwise on a GPU, which decides between near-equal neighbours.
    """
    fields = {"enc": _one_line(encoder.name), "model": content_hash([encoder.fingerprint()])}
    device = getattr(encoder, "device", None)
    return fields if device is None else {**fields, "dev": str(getattr(device, "type", device)).partition(":")[0]}


def _one_line(name: str) -> str:
    """Write the characters that would end a field of a signature as in a URL; a name may hold a prompt or a path."""
    return "".join(f"%{ord(c):02X}" if c in "%|" or len(f"a{c}a".splitlines()) > 1 else c for c in name) or "unnamed"


@dataclass(frozen=True)
class TatoebaSet:
    """One language of the Tatoeba test set: line i of both files translate each other."""

    lang: str
    foreign: Path
    english: Path


def find_tatoeba(folder: Path, wanted: Sequence[str], *, all_of_them: bool = False) -> list[TatoebaSet]:
    """Find `tatoeba.<xxx>-eng.<xxx>` and `.eng` files below a folder.

    Args:
        folder: where to look, sub-folders included.
        wanted: canonical languages; empty: all that have a known code.
        all_of_them: refuse a folder that lacks one of the wanted languages.

    Raises:
        InputError: no set is found, or one is missing.
    """
    sets, unknown = [], []
    for english in sorted(folder.rglob("tatoeba.*-eng.eng")):
        code = english.name.split(".")[1].removesuffix("-eng")
        try:
            lang = languages.resolve(code)
        except LanguageError:
            unknown.append(code)
            continue
        foreign = english.with_name(f"tatoeba.{code}-eng.{code}")
        if foreign.exists() and (not wanted or lang in wanted):
            sets.append(TatoebaSet(lang, foreign, english))
    if unknown:
        logger.warning("eval: left out %d sets in %s, no known language: %s", len(unknown), folder, ", ".join(unknown))
    if not sets:
        raise InputError(f"eval: {folder} holds no tatoeba.<xxx>-eng.<xxx> and .eng files of the wanted languages")
    missing = sorted(set(wanted) - {item.lang for item in sets})
    if all_of_them and missing:
        raise InputError(f"eval: {folder} holds no Tatoeba set of {', '.join(missing)}; leave them out of --langs")
    return sets


def _showing(sets: Sequence[TatoebaSet]) -> Iterator[TatoebaSet]:
    with Progress("eval tatoeba", len(sets), "languages") as progress:
        for item in sets:
            yield item
            progress.advance(1)


def evaluate_tatoeba(encoder: Encoder, sets: Sequence[TatoebaSet], rescorer: Rescorer | None = None) -> dict[str, Any]:
    """Return retrieval accuracy, both directions, per language and on average.

    By cosine nearest neighbour; with a rescorer by probability among the `RESCORED_NEIGHBOURS` nearest of either side.
    """
    english = languages.resolve("en")
    per_language: dict[str, dict[str, Any]] = {}
    accuracies: list[tuple[float, float]] = []
    texts: list[str | int] = []
    for item in _showing(sets):
        source, target = (_lines(path) for path in (item.foreign, item.english))
        if len(source) != len(target):
            raise InputError(f"eval: {item.foreign} has {len(source)} lines but {item.english} {len(target)}")
        if not source:
            raise InputError(f"eval: {item.foreign} is empty")
        vectors = (
            _vectors(encoder, source, item.lang, item.foreign),
            _vectors(encoder, target, english, item.english),
        )
        if rescorer is None:
            hits = tatoeba_accuracy(*vectors)
        else:
            pool = candidates(*search_both(*vectors, RESCORED_NEIGHBOURS))
            sides = SentenceList(item.lang, source), SentenceList(english, target)
            hits = retrieval_hits(rescore_all(rescorer, pool, *sides, margin="ratio"), len(source))
        accuracies.append((100 * hits.forward, 100 * hits.backward))
        texts += [item.lang, len(source), *source, *target]
        both = np.concatenate([hits.forward_hits, hits.backward_hits])
        low, high = bootstrap_interval(both)
        # Some sets are of one language to us (kzj and dtp are both Kadazan Dusun).
        key = item.lang if item.lang not in per_language else f"{item.lang} ({item.foreign.suffix[1:]})"
        per_language[key] = {
            "sentences": len(source),
            "to_english": round(100 * hits.forward, 2),
            "from_english": round(100 * hits.backward, 2),
            "mean": round(50 * (hits.forward + hits.backward), 2),
            "interval_95": [round(100 * low, 2), round(100 * high, 2)],
        }
    to_english, from_english = np.mean(accuracies, axis=0).tolist()
    means = {"to_english": to_english, "from_english": from_english, "mean": (to_english + from_english) / 2}
    return {
        "task": "tatoeba",
        "languages": len(per_language),
        **{name: round(value, 2) for name, value in means.items()},
        "per_language": per_language,
        "signature": signature(
            **encoder_fields(encoder),
            data="tatoeba",
            langs=_languages([item.lang for item in sets]),
            texts=content_hash(texts),
            margin="none",
            k=1 if rescorer is None else RESCORED_NEIGHBOURS,
            ret="forward",
            index="exact",
            **({} if rescorer is None else {"rescore": rescorer.fingerprint[:12]}),
        ),
    }


def _languages(langs: Sequence[str]) -> str:
    return ",".join(langs) if len(langs) <= _LISTED_LANGUAGES else str(len(langs))


def _vectors(encoder: Encoder, texts: list[str], lang: str, path: Path) -> FloatArray:
    vectors = encoder.encode(texts, lang=lang)
    unusable = np.flatnonzero(~usable_rows(vectors))
    if len(unusable):
        row = int(unusable[0])
        raise InputError(
            f"eval: {encoder.name} has no vector for {len(unusable)} of {len(texts)} lines of {path} "
            f"(first: line {row + 1}, {texts[row][:40]!r}); each line must be a sentence"
        )
    return vectors


def _lines(path: Path) -> list[str]:
    return [sanitise(line.decode("utf-8", "replace")) for line in read_lines(str(path))]


def evaluate_pairs(
    mined: Path,
    gold: Path,
    mined_columns: tuple[int, int] | None = None,
    gold_columns: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Compare mined pairs with gold pairs by text.

    Args:
        mined: TSV; scores, labels or URLs may stand before source and target, see `emsmine.columns`.
        gold: the same; it may be a mined file too.
        mined_columns: columns of source and target, from 0; None: recognised.
        gold_columns: the same of the other file.

    Raises:
        InputError: a file is missing, has too few columns, or no two columns of it can be a bitext.
    """
    found = _pairs(mined, mined_columns, "--mined-columns")
    wanted = set(_pairs(gold, gold_columns, "--gold-columns"))
    hits = len(set(found) & wanted)
    if not hits and found and wanted:
        logger.warning("eval: %s", _why_nothing_matches(set(found), wanted, mined, gold))
    precision, recall = hits / max(1, len(found)), hits / max(1, len(wanted))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    rounded = {
        name: round(100 * value, 2) for name, value in (("precision", precision), ("recall", recall), ("f1", f1))
    }
    texts = content_hash(text for side in (found, sorted(wanted)) for pair in side for text in pair)
    return {
        "task": "pairs",
        "mined": len(found),
        "gold": len(wanted),
        "correct": hits,
        **rounded,
        "signature": signature(data="pairs", texts=texts),
    }


def _why_nothing_matches(found: set[_Pair], wanted: set[_Pair], mined: Path, gold: Path) -> str:
    if found & {(target, source) for source, target in wanted}:
        return (
            f"no pair of {mined} is in {gold}, but pairs with the sides swapped are: give the columns of one as in 2,1"
        )
    sources, targets = ({pair[side] for pair in found} & {pair[side] for pair in wanted} for side in (0, 1))
    return (
        f"no pair of {mined} is in {gold} ({len(sources)} of its sources and {len(targets)} of its targets are); check "
        "that both hold the same languages in the same columns"
    )


def _pairs(path: Path, given: tuple[int, int] | None, option: str) -> list[_Pair]:
    lines = list(read_lines(str(path)))
    try:
        source, target = find_columns(lines, f"eval: {path}", given)
    except InputError as error:
        raise InputError(str(error).replace("--columns", option)) from None
    rows = [line.decode("utf-8", "replace").split("\t") for line in lines]
    wrong = next((n for n, row in enumerate(rows) if len(row) <= max(source, target)), None)
    if wrong is not None:
        raise InputError(
            f"eval: {path} line {wrong + 1} has {len(rows[wrong])} columns; {max(source, target) + 1} are needed"
        )
    return [(dedup_key(sanitise(row[source])), dedup_key(sanitise(row[target]))) for row in rows]
