"""Evaluate an encoder on files with the functions that mine: Tatoeba, BUCC, and mined pairs against gold pairs."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emsmine import languages
from emsmine.columns import find_columns
from emsmine.encoder.protocol import Encoder, FloatArray, usable_rows
from emsmine.errors import InputError, LanguageError
from emsmine.mining.evaluate import bootstrap_interval, bucc_scores, content_hash, signature, tatoeba_accuracy
from emsmine.mining.selection.retrieve import select
from emsmine.mining.text.normalise import dedup_key, sanitise
from emsmine.pipelines.direct.mine import mine_sides
from emsmine.pipelines.direct.sentences import SentenceList, collect, read_lines
from emsmine.pipelines.progress import Progress
from emsmine.pipelines.settings import SelectSettings

logger = logging.getLogger(__name__)

_MAX_CHARS = 10_000
_Pair = tuple[str, str]


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


def evaluate_tatoeba(encoder: Encoder, sets: Sequence[TatoebaSet]) -> dict[str, Any]:
    """Return retrieval accuracy by cosine nearest neighbour, both directions, per language and on average."""
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
        hits = tatoeba_accuracy(
            _vectors(encoder, source, item.lang, item.foreign), _vectors(encoder, target, english, item.english)
        )
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
            k=1,
            ret="forward",
            index="exact",
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


@dataclass(frozen=True)
class BuccSet:
    """One pair in BUCC format."""

    pair: str
    langs: tuple[str, str]
    source: Path
    target: Path
    gold: Path


def _resolves(code: str) -> str | None:
    try:
        return languages.resolve(code)
    except LanguageError:
        return None


def find_bucc(folder: Path, pair: str, split: str = "") -> BuccSet:
    """Find `<pair>[.<split>].<lang>[.gz|.zst]` and `<pair>[.<split>].gold` in a folder or its sub-folder `<pair>`.

    Raises:
        InputError: a file is missing; the message names what was looked for.
        LanguageError: the pair is not two languages.
    """
    source, target = languages.pair(pair)
    parts = pair.split("-")
    # `zh-Hant-en` has three parts and two languages: the cut is where both halves are the languages of the pair.
    cuts = [("-".join(parts[:cut]), "-".join(parts[cut:])) for cut in range(1, len(parts))]
    codes = next(cut for cut in cuts if [_resolves(code) for code in cut] == [source, target])
    stem = f"{pair}.{split}" if split else pair
    found = []
    for ending in (codes[0], codes[1], "gold"):
        names = [f"{stem}.{ending}{packed}" for packed in ("", ".zst", ".gz")]
        paths = [place / name for place in (folder, folder / pair) for name in names]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            raise InputError(
                f"eval: {folder} holds no {names[0]} (or .zst, .gz); BUCC sets are <pair>.<lang> and "
                "<pair>.gold, or <pair>.<split>.<lang> with --split"
            )
        found.append(path)
    return BuccSet(pair, (source, target), *found)


def evaluate_bucc(
    encoder: Encoder, item: BuccSet, *, k: int, settings: SelectSettings, device: str = "cpu"
) -> dict[str, Any]:
    """Mine a BUCC set and compare with its gold: precision, recall and F1 at the threshold, and the best F1.

    Copies of a sentence are mined once, and gold pairs of a copy count for the sentence that stands for it.
    Reference: BUCC 2018 shared task; protocol of LASER's tasks/bucc.
    """
    sides, numbers = [], []
    for path, lang in zip((item.source, item.target), item.langs, strict=True):
        rows = [line.decode("utf-8", "replace").split("\t", 1) for line in read_lines(str(path))]
        wrong = next((n for n, row in enumerate(rows) if len(row) != 2), None)
        if wrong is not None:
            raise InputError(f"eval: {path} line {wrong + 1} is not id TAB sentence")
        side = collect([row[1] for row in rows], lang, _MAX_CHARS)
        sides.append(side)
        # A line that was left out gets a number of its own, below zero: its gold pairs count as missed, one by one.
        found = {
            row[0]: place if place >= 0 else -1 - n
            for n, (row, place) in enumerate(zip(rows, side.places, strict=True))
        }
        if len(found) < len(rows):
            twice = next(name for name, number in Counter(row[0] for row in rows).items() if number > 1)
            raise InputError(f"eval: {path} has the id {twice!r} more than once; ids must be distinct")
        numbers.append(found)
    gold = _read_gold(item.gold, numbers)
    pool, _ = mine_sides(encoder, sides[0], sides[1], k=k, margin=settings.margin, device=device)
    mined = select(pool, settings.retrieval, cosine_floor=settings.cosine_floor)
    scores = bucc_scores(mined, gold, threshold=settings.threshold)
    return {
        "task": "bucc",
        "pair": item.pair,
        "sentences": [len(side.texts) for side in sides],
        "gold": len(gold),
        "threshold": settings.threshold,
        "precision": round(100 * scores.precision, 2),
        "recall": round(100 * scores.recall, 2),
        "f1": round(100 * scores.f1, 2),
        "mined": scores.num_mined,
        "best_f1": round(100 * scores.best_f1, 2),
        # JSON has no infinity; no threshold is best where no mined pair is correct.
        "best_threshold": round(scores.best_threshold, 4) if np.isfinite(scores.best_threshold) else None,
        "signature": signature(
            **encoder_fields(encoder),
            data=f"bucc:{item.pair}",
            texts=content_hash(_bucc_content(sides, gold)),
            margin=settings.margin,
            k=k,
            ret=settings.retrieval,
            th=settings.threshold,
            floor=settings.cosine_floor,
            chars=_MAX_CHARS,
            index="exact",
        ),
    }


def _bucc_content(sides: Sequence[SentenceList], gold: set[tuple[int, int]]) -> Iterator[str | int]:
    """Yield what is mined and what is right: the distinct sentences of both sides, and the gold pairs by number."""
    for side in sides:
        yield side.lang
        yield len(side.texts)
        yield from side.texts
    for pair in sorted(gold):
        yield from pair


def _read_gold(path: Path, numbers: Sequence[dict[str, int]]) -> set[tuple[int, int]]:
    gold = set()
    for row, line in enumerate(read_lines(str(path)), start=1):
        ids = line.decode("utf-8", "replace").split("\t")
        if len(ids) != 2 or ids[0] not in numbers[0] or ids[1] not in numbers[1]:
            raise InputError(f"eval: {path} line {row} is not source id TAB target id of this set: {ids!r}")
        gold.add((numbers[0][ids[0]], numbers[1][ids[1]]))
    if not gold:
        raise InputError(f"eval: {path} is empty; without gold pairs there is nothing to measure")
    return gold


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
