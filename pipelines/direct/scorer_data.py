"""Training data of a pair scorer: small crawls made of known pairs, mined with the encoder."""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emsmine.encoder.data.pairs import PairFile, find_pair_files, read_pairs
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.preprocessing import preprocess
from emsmine.encoder.protocol import FloatArray, usable_rows
from emsmine.errors import InputError
from emsmine.fields import setting
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import BoolArray
from emsmine.mining.scoring.interaction import MAX_TOKENS
from emsmine.mining.scoring.near_misses import KINDS, Vocabulary
from emsmine.mining.scoring.ragged import TokenLists
from emsmine.mining.scoring.simulate import Crawl, Pair, Traps, simulate
from emsmine.mining.scoring.surface import Surface
from emsmine.mining.scoring.training import Examples
from emsmine.mining.selection.retrieve import candidates
from emsmine.mining.text.normalise import dedup_key, sanitise
from emsmine.pipelines.direct.sentences import Embedded
from emsmine.pipelines.rescoring import LEAST_MARGIN

logger = logging.getLogger(__name__)

_ENGLISH = "eng_Latn"
_ENGLISH_ONLY = ("negation", "opposite")
_FEWEST_PAIRS = 200
"""A crawl of fewer pairs teaches nothing."""
_LARGEST_POOL = 60_000
"""Pairs that sentences without a partner are taken from."""
_K = 4
_SMALL_CRAWLS, _LARGEST_SMALL = 60, 20


@dataclass(frozen=True)
class ScorerData:
    """What a scorer learns from: pairs that the encoder was not trained on."""

    train: tuple[str, ...] = setting((), "pair files, or folders of them, kept from the training of the encoder")
    alone: tuple[str, ...] = setting((), "pair files whose sentences stand in the crawls without their partner")
    pairs: int = setting(4000, "pairs of a crawl, at most", low=_FEWEST_PAIRS)
    crawls: int = setting(2, "crawls per pair file", low=1)
    bridged: int = setting(20, "crawls of two other languages, through equal sentences of a third", low=0)
    alone_per_pair: float = setting(2.0, "sentences of either side without a partner, per pair", low=0)
    near: float = setting(0.5, "share of those that are chosen for being near to a pair", low=0, high=1)
    near_misses: float = setting(0.1, "share of pairs whose target gets a copy with one word exchanged", low=0, high=1)
    kinds: tuple[str, ...] = setting(KINDS, "what is exchanged", choices=KINDS)
    copies: float = setting(0.02, "share of targets that stand on the source side as well", low=0, high=1)


_PLANTED = (0.25, 0.5, 0.75)
"""Shares of pairs whose both sides are in a crawl."""


def scorer_examples(encoder: EMSEncoder, data: ScorerData, seed: int) -> list[Examples]:
    """Make all crawls, mine them, and label their candidates.

    Raises:
        InputError: a file is missing, or none has enough pairs.
    """
    rng = random.Random(seed)
    files = find_pair_files([Path(path) for path in data.train])
    pools = (
        {(f.source_lang, f.target_lang): f for f in find_pair_files([Path(p) for p in data.alone])}
        if data.alone
        else {}
    )
    pairs = {file: _read(file) for file in files}
    vocabulary = {
        lang: Vocabulary.of(text for file, rows in pairs.items() if file.target_lang == lang for _, text in rows)
        for lang in {file.target_lang for file in files}
    }
    found = []
    for file, rows in pairs.items():
        langs = (file.source_lang, file.target_lang)
        pool = _read(pools[langs], rng) if langs in pools else []
        for number in range(data.crawls if len(rows) >= data.pairs else 1):
            if len(rows) < _FEWEST_PAIRS:
                continue
            drawn = rng.sample(rows, min(len(rows), data.pairs))
            traps = _traps(encoder, drawn, pool, langs, data, rng)
            crawl = simulate(drawn, rng.choice(_PLANTED), traps, vocabulary[langs[1]], rng)
            found.append(_examples(encoder, [crawl], langs, f"{file.path.name} {number + 1}"))
        if len(rows) >= _FEWEST_PAIRS:
            traps = Traps(share_near_misses=2 * data.near_misses, kinds=_kinds(data, langs[1]))
            small = _small_crawls(rows, traps, vocabulary[langs[1]], rng)
            found.append(_examples(encoder, small, langs, f"{file.path.name} in small parts"))
    for langs, rows in _bridged(pairs, data, rng):
        crawl = simulate(rows, rng.choice(_PLANTED), Traps(), Vocabulary((), ()), rng)
        found.append(_examples(encoder, [crawl], langs, "-".join(langs)))
    if not found:
        raise InputError(
            f"train-scorer: no file of {', '.join(data.train)} has {_FEWEST_PAIRS} pairs; give more, or other files"
        )
    return found


def _read(file: PairFile, rng: random.Random | None = None) -> list[Pair]:
    """Read clean pairs; with a generator, a sample of at most `_LARGEST_POOL`."""
    cleaned = ((sanitise(one), sanitise(other)) for one, other in read_pairs(file, Counter()))
    rows = [(one, other) for one, other in cleaned if one and other]
    return rows if rng is None or len(rows) <= _LARGEST_POOL else rng.sample(rows, _LARGEST_POOL)


def _traps(
    encoder: EMSEncoder,
    pairs: Sequence[Pair],
    pool: Sequence[Pair],
    langs: tuple[str, str],
    data: ScorerData,
    rng: random.Random,
) -> Traps:
    """Choose sentences without a partner, for both sides; no pair of the pool gives both."""
    kinds = _kinds(data, langs[1])
    wanted = min(int(len(pairs) * data.alone_per_pair), len(pool) // 2)
    halves = list(range(len(pool)))
    rng.shuffle(halves)
    alone: list[list[Pair]] = []
    for side, part in enumerate((halves[: len(pool) // 2], halves[len(pool) // 2 :])):
        num_near = int(wanted * data.near)
        near = _nearest(encoder, [row[side] for row in pairs], [pool[row][side] for row in part], langs[side], num_near)
        chosen = dict.fromkeys([*(part[place] for place in near), *part])
        alone.append([pool[row] for row in list(chosen)[:wanted]])
    share = data.near_misses if kinds else 0.0
    return Traps(alone[0], alone[1], share, data.copies, kinds)


def _kinds(data: ScorerData, lang: str) -> tuple[str, ...]:
    """Return the near misses that can be made in a language."""
    return data.kinds if lang == _ENGLISH else tuple(kind for kind in data.kinds if kind not in _ENGLISH_ONLY)


def _nearest(encoder: EMSEncoder, texts: Sequence[str], pool: Sequence[str], lang: str, number: int) -> list[int]:
    """Return places in the pool of sentences that are nearest to one of the texts, at most so many."""
    if not number or not pool:
        return []
    one, other = (Embedded.of(encoder.encode(side, lang=lang)) for side in (texts, pool))
    forward, _ = search_both(one.vectors, other.vectors, 2, target_ids=other.ids)
    near = forward.ids[forward.ids >= 0]
    distinct = list(dict.fromkeys(near.tolist()))
    return distinct[:number]


def _bridged(
    pairs: dict[PairFile, list[Pair]], data: ScorerData, rng: random.Random
) -> Iterator[tuple[tuple[str, str], list[Pair]]]:
    """Join pairs of two languages whose targets are equal."""
    files = sorted(pairs, key=lambda file: file.path.name)
    if len(files) < 2:
        return
    for _ in range(data.bridged):
        one, other = rng.sample(files, 2)
        if one.target_lang != other.target_lang or one.source_lang == other.source_lang:
            continue
        by_target: dict[str, str] = {}
        for source, target in pairs[other]:
            by_target.setdefault(dedup_key(target), source)
        rows = [(source, by_target[key]) for source, target in pairs[one] if (key := dedup_key(target)) in by_target]
        if len(rows) >= _FEWEST_PAIRS:
            yield (one.source_lang, other.source_lang), rng.sample(rows, min(len(rows), data.pairs))


def _small_crawls(pairs: Sequence[Pair], traps: Traps, vocabulary: Vocabulary, rng: random.Random) -> list[Crawl]:
    """Make crawls of a few sentences, in which there is little to compare a pair with."""
    crawls = []
    for _ in range(_SMALL_CRAWLS):
        drawn = rng.sample(list(pairs), rng.randint(1, min(len(pairs), _LARGEST_SMALL)))
        crawls.append(simulate(drawn, rng.choice((0.5, 1.0)), traps, vocabulary, rng))
    return [crawl for crawl in crawls if crawl.source and crawl.target]


def _examples(encoder: EMSEncoder, crawls: Sequence[Crawl], langs: tuple[str, str], name: str) -> Examples:
    """Mine crawls apart from each other, leave out what is not to be learned from, and label the rest."""
    source, target = ([text for crawl in crawls for text in getattr(crawl, side)] for side in ("source", "target"))
    sides = [encoder.encode(texts, lang=lang) for texts, lang in zip((source, target), langs, strict=True)]
    found, start = [], (0, 0)
    for crawl in crawls:
        stop = start[0] + len(crawl.source), start[1] + len(crawl.target)
        rows, labels = _labelled(crawl, sides[0][start[0] : stop[0]], sides[1][start[1] : stop[1]])
        found.append((rows + np.array(start), labels))
        start = stop
    rows, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    logger.info(
        "%s: %s × %s sentences, %s candidates, %s translations",
        name,
        *(f"{number:,}" for number in (len(source), len(target), len(labels), labels.sum())),
    )
    return Examples(
        name,
        _tokens(encoder, source, langs[0]),
        _tokens(encoder, target, langs[1]),
        Surface.of(source, langs[0]),
        Surface.of(target, langs[1]),
        np.ascontiguousarray(rows[:, 0]),
        np.ascontiguousarray(rows[:, 1]),
        labels,
    )


def _labelled(crawl: Crawl, source: FloatArray, target: FloatArray) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """Return the candidates of a crawl that are worth reading, int64 [P, 2], and which are translations."""
    ids = [np.flatnonzero(usable_rows(vectors)).astype(np.int64) for vectors in (source, target)]
    neighbours = search_both(source[ids[0]], target[ids[1]], _K, source_ids=ids[0], target_ids=ids[1])
    pool = candidates(*neighbours, ids[0], ids[1])
    named = pool.pairs()
    kept = (pool.margin >= LEAST_MARGIN["ratio"]) & np.array([pair not in crawl.known for pair in named], dtype=bool)
    labels = np.array([pair in crawl.gold for pair in named], dtype=bool)
    return np.stack([pool.source_ids, pool.target_ids], axis=1)[kept], labels[kept]


def _tokens(encoder: EMSEncoder, texts: Sequence[str], lang: str) -> TokenLists:
    return encoder.tokenizer.encode(preprocess(texts, lang, encoder.preprocessing), MAX_TOKENS)[0]
