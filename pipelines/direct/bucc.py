"""Evaluate mining on sets in BUCC format with the functions that mine: precision, recall and F1 against gold pairs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emsmine import languages
from emsmine.encoder.protocol import Encoder
from emsmine.errors import InputError, LanguageError
from emsmine.mining.evaluate import BuccScores, bucc_scores, content_hash, signature
from emsmine.mining.selection.retrieve import Candidates, select
from emsmine.pipelines.direct.evaluation import encoder_fields
from emsmine.pipelines.direct.mine import mine_sides, rescore_candidates
from emsmine.pipelines.direct.sentences import SentenceList, collect, read_lines
from emsmine.pipelines.rescoring import Rescorer
from emsmine.pipelines.settings import RATIO_THRESHOLD, SelectSettings

_MAX_CHARS = 10_000


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


@dataclass(frozen=True, eq=False)
class MinedSet:
    """A BUCC set with its candidates: by margin, and rescored if they were."""

    item: BuccSet
    sides: tuple[SentenceList, SentenceList]
    gold: set[tuple[int, int]]
    by_margin: Candidates
    rescored: Candidates | None

    def chosen(self, settings: SelectSettings, *, rescored: bool) -> Candidates:
        """Choose pairs without a threshold; by margin or by probability."""
        pool = self.rescored if rescored else self.by_margin
        assert pool is not None
        if rescored and settings.score(rescored=True) == "margin":
            pool = pool.rescored(pool.margin)
        return select(pool, settings.retrieval, cosine_floor=settings.cosine_floor)


def mine_bucc(
    encoder: Encoder,
    item: BuccSet,
    *,
    k: int,
    settings: SelectSettings,
    device: str = "cpu",
    rescorer: Rescorer | None = None,
) -> MinedSet:
    """Mine a BUCC set.

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
    pool = mine_sides(encoder, sides[0], sides[1], k=k, margin=settings.margin, device=device)
    rescored = None
    if rescorer is not None:
        margin, floor = settings.margin, settings.cosine_floor
        rescored = rescore_candidates(rescorer, pool, sides[0], sides[1], margin=margin, cosine_floor=floor)
    return MinedSet(item, (sides[0], sides[1]), gold, pool, rescored)


def evaluate_bucc(
    encoder: Encoder,
    sets: Sequence[BuccSet],
    *,
    k: int,
    settings: SelectSettings,
    device: str = "cpu",
    rescorer: Rescorer | None = None,
) -> list[dict[str, Any]]:
    """Mine BUCC sets and compare with their gold: precision, recall and F1 at the threshold, and the best F1.

    With a rescorer the same without it stands under `without_rescoring`. With several sets, `transferred` has the F1 of
    each at the threshold that is best on another.
    """
    mined = [mine_bucc(encoder, item, k=k, settings=settings, device=device, rescorer=rescorer) for item in sets]
    name = rescorer.fingerprint[:12] if rescorer is not None else ""
    results = [_bucc_result(encoder, found, k, settings, name) for found in mined]
    for result, found in zip(results, mined, strict=True):
        chosen = found.chosen(settings, rescored=rescorer is not None)
        others = {other["pair"]: other["best_threshold"] for other in results if other["pair"] != result["pair"]}
        known = {pair: threshold for pair, threshold in others.items() if threshold is not None}
        if known:
            result["transferred"] = {
                pair: round(100 * bucc_scores(chosen, found.gold, threshold=threshold).f1, 2)
                for pair, threshold in known.items()
            }
    return results


def _bucc_result(encoder: Encoder, found: MinedSet, k: int, settings: SelectSettings, scorer: str) -> dict[str, Any]:
    rescored = found.rescored is not None
    threshold = settings.lowest_score(rescored=rescored)
    scores = bucc_scores(found.chosen(settings, rescored=rescored), found.gold, threshold=threshold)
    fields = {"rescore": scorer, "sort": settings.score(rescored=True)} if rescored else {}
    result = {
        "task": "bucc",
        "pair": found.item.pair,
        "sentences": [len(side.texts) for side in found.sides],
        "gold": len(found.gold),
        "score": settings.score(rescored=rescored),
        "threshold": threshold,
        **_rounded(scores),
        "signature": signature(
            **encoder_fields(encoder),
            data=f"bucc:{found.item.pair}",
            texts=content_hash(_bucc_content(found.sides, found.gold)),
            margin=settings.margin,
            k=k,
            ret=settings.retrieval,
            th=threshold,
            floor=settings.cosine_floor,
            chars=_MAX_CHARS,
            index="exact",
            **fields,
        ),
    }
    if rescored:
        lowest = RATIO_THRESHOLD if settings.margin == "ratio" else None
        plain = bucc_scores(found.chosen(settings, rescored=False), found.gold, threshold=lowest)
        result["without_rescoring"] = {"score": "margin", "threshold": lowest, **_rounded(plain)}
    return result


def _rounded(scores: BuccScores) -> dict[str, Any]:
    return {
        "precision": round(100 * scores.precision, 2),
        "recall": round(100 * scores.recall, 2),
        "f1": round(100 * scores.f1, 2),
        "mined": scores.num_mined,
        "best_f1": round(100 * scores.best_f1, 2),
        # JSON has no infinity; no threshold is best where no mined pair is correct.
        "best_threshold": round(scores.best_threshold, 4) if np.isfinite(scores.best_threshold) else None,
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
