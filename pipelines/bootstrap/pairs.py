"""The pairs of a bootstrap: seed, development and mined ones, and the training files made of them.

Everything is keyed by the name of a language pair, `de-en`: short codes in alphabetical order, sides in that order.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from emsmine import languages
from emsmine.encoder.data.pairs import find_pair_files, read_pairs
from emsmine.encoder.protocol import Encoder, usable_rows
from emsmine.errors import CorruptOutputError
from emsmine.lines import unpacked_lines
from emsmine.mining.evaluate import bootstrap_interval, content_hash, signature, tatoeba_accuracy
from emsmine.mining.text.normalise import dedup_key, sanitise
from emsmine.pipelines.direct.evaluation import encoder_fields
from emsmine.pipelines.stages.export import best_first, in_export_order
from emsmine.pipelines.store.files import AtomicFile, new_attempt, sync_directory
from emsmine.pipelines.store.layout import pair_folder
from emsmine.pipelines.store.parquet import read_table
from emsmine.pipelines.store.store import Store

Pair = tuple[str, str]


@dataclass(frozen=True)
class PairSet:
    """The pairs of one pair of languages, in the order of its name."""

    langs: tuple[str, str]
    pairs: list[Pair] = field(default_factory=list)


def pair_langs(name: str) -> tuple[str, str]:
    """Return the canonical languages of a pair in the order of its file name: alphabetical by short code."""
    left, right = sorted(languages.pair(name), key=languages.short)
    return left, right


def read_pair_sets(paths: Sequence[str], rejected: Counter[str]) -> dict[str, PairSet]:
    """Read pair files, joining those of the same two languages.

    Args:
        paths: files or folders, as `find_pair_files` takes them.
        rejected: receives the numbers of unusable lines by reason.

    Returns:
        Pair sets by name, sorted; sides as clean lines.

    Raises:
        InputError: a file is missing or cannot be read.
        LanguageError: a name does not start with a language pair.
    """
    found: dict[str, PairSet] = {}
    for file in find_pair_files([Path(path) for path in paths]):
        name = languages.pair_name(file.source_lang, file.target_lang, canonical=False)
        langs = pair_langs(name)
        pairs = found.setdefault(name, PairSet(langs)).pairs
        for sides in read_pairs(file, rejected):
            source, target = map(sanitise, sides)
            if not source or not target:
                rejected["empty_side"] += 1
            else:
                pairs.append((source, target) if file.source_lang == langs[0] else (target, source))
    return dict(sorted(found.items()))


def num_held_out(seed: PairSet, validation_pairs: int) -> int:
    """Return how many pairs at the end of a seed every training holds out: `validation_pairs`, at most a tenth."""
    return min(validation_pairs, len(seed.pairs) // 10)


def held_out(seeds: Mapping[str, PairSet], validation_pairs: int) -> dict[str, PairSet]:
    """Return the pairs of each seed that no training sees; those without any are left out."""
    sizes = {name: num_held_out(seed, validation_pairs) for name, seed in seeds.items()}
    return {name: PairSet(seeds[name].langs, seeds[name].pairs[-size:]) for name, size in sizes.items() if size}


class Known:
    """What mining must not bring back: sentences of the development pairs, and pairs of the seed; by dedup key."""

    def __init__(self, dev: Mapping[str, PairSet], seeds: Mapping[str, PairSet]) -> None:
        """Note the keys."""
        self._dev: set[tuple[str, str]] = set()
        for pairs in dev.values():
            for lang, texts in zip(pairs.langs, zip(*pairs.pairs, strict=True), strict=bool(pairs.pairs)):
                self._dev.update((lang, dedup_key(text)) for text in texts)
        self._seed = {
            (name, dedup_key(source), dedup_key(target))
            for name, seed in seeds.items()
            for source, target in seed.pairs
        }

    def reason(self, name: str, langs: tuple[str, str], pair: Pair) -> str:
        """Return why a mined pair is no news: `in_dev`, `in_seed`; empty if it is."""
        keys = dedup_key(pair[0]), dedup_key(pair[1])
        if any(side in self._dev for side in zip(langs, keys, strict=True)):
            return "in_dev"
        return "in_seed" if (name, *keys) in self._seed else ""

    def num_in_dev(self, sets: Mapping[str, PairSet]) -> int:
        """Count the pairs with a sentence of the development pairs."""
        return sum(
            self.reason(name, pairs.langs, pair) == "in_dev" for name, pairs in sets.items() for pair in pairs.pairs
        )


@dataclass(frozen=True)
class MinedCounts:
    """How many mined pairs were kept, and why the others were not."""

    kept: int
    dropped: dict[str, int]


def write_mined(store: Store, pair: tuple[str, str], folder: Path, known: Known, max_pairs: int) -> MinedCounts:
    """Write the kept pairs of a finished run as `<xx>-<yy>.tsv`: source, target, score; best score first.

    Args:
        store: the run directory.
        pair: canonical languages, as in the settings of the run.
        folder: where to write.
        known: pairs to leave out.
        max_pairs: most pairs to write; 0: all.

    Raises:
        CorruptOutputError: a file of the run is damaged.
    """
    name = languages.pair_name(*pair, canonical=False)
    langs = pair_langs(name)
    dropped: Counter[str] = Counter()
    kept = 0
    file = AtomicFile(folder / f"{name}.tsv", new_attempt())
    try:
        for score, source, target in _ranked(store, pair):
            reason = known.reason(name, langs, (source, target))
            if not reason and max_pairs and kept == max_pairs:
                reason = "over_max_pairs"
            if reason:
                dropped[reason] += 1
                continue
            kept += 1
            file.write(f"{source}\t{target}\t{score:.6f}\n".encode())
        _publish(file)
    except BaseException:
        file.discard()
        raise
    return MinedCounts(kept, dict(sorted(dropped.items())))


def _publish(file: AtomicFile) -> None:
    file.close()
    file.publish()
    sync_directory(file.path.parent)


def _ranked(store: Store, pair: tuple[str, str]) -> Iterator[tuple[float, str, str]]:
    """Yield score and both texts of the kept pairs in the order of the exported files."""
    tables = []
    for ref in store.outputs("filter", "filter", f"pairs/{pair_folder(pair)}"):
        try:
            tables.append(read_table(store.verified(ref), None))
        except CorruptOutputError as error:
            raise CorruptOutputError(
                f"bootstrap: {error}; or delete {store.root} and run the same command again"
            ) from error
    table, _, _ = in_export_order(best_first(pa.concat_tables(tables)), *pair)
    for batch in table.select(["score", "source_text", "target_text"]).to_batches(max_chunksize=8192):
        scores, sources, targets = (batch[name].to_pylist() for name in batch.schema.names)
        yield from zip(scores, map(sanitise, sources), map(sanitise, targets), strict=True)


def write_training(
    seeds: Mapping[str, PairSet], mined: Path | None, names: Iterable[str], folder: Path, validation_pairs: int
) -> dict[str, dict[str, int]]:
    """Write one training file per language pair: seed, mined pairs, and last the seed's pairs that are held out.

    One file, so that a mined pair is drawn as often as one of the seed: sizes of corpora are raised to a power below 1,
    and a small corpus of its own would count for more than its number. Training holds out the end of a corpus; what it
    holds out beyond the seed's share, as a tenth of more pairs is more, are the worst of the mined.

    Args:
        seeds: seed pairs by name.
        mined: folder that `write_mined` wrote to; None: there is none yet.
        names: language pairs that were mined.
        folder: where to write.
        validation_pairs: as in the settings of the training.

    Returns:
        `seed` and `mined`: how many pairs each file has; files without any are not written.
    """
    counts: dict[str, dict[str, int]] = {}
    for name in sorted({*seeds, *names}):
        seed = seeds.get(name) or PairSet(pair_langs(name))
        num_mined, cut = 0, len(seed.pairs) - num_held_out(seed, validation_pairs)
        file = AtomicFile(folder / f"{name}.tsv", new_attempt())
        try:
            _write_pairs(file, seed.pairs[:cut])
            for line in _lines(mined / f"{name}.tsv") if mined is not None else ():
                file.write(line.rpartition(b"\t")[0] + b"\n")
                num_mined += 1
            _write_pairs(file, seed.pairs[cut:])
            if seed.pairs or num_mined:
                _publish(file)
                counts[name] = {"seed": len(seed.pairs), "mined": num_mined}
        finally:
            file.discard()
    return counts


def _write_pairs(file: AtomicFile, pairs: Iterable[Pair]) -> None:
    for source, target in pairs:
        file.write(f"{source}\t{target}\n".encode())


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as stream:
            yield from unpacked_lines(stream, str(path))


def measure(encoder: Encoder, dev: Mapping[str, PairSet]) -> dict[str, dict[str, Any]]:
    """Return retrieval accuracy by cosine nearest neighbour on pairs, both directions, per language pair.

    A pair with a side that has no vector counts as not found.

    Returns:
        By name: `pairs`, `source_to_target`, `target_to_source`, `mean`, `interval_95` (percent) and `signature`.
    """
    results = {}
    for name, item in dev.items():
        texts = [list(side) for side in zip(*item.pairs, strict=True)]
        vectors = [encoder.encode(side, lang=lang) for side, lang in zip(texts, item.langs, strict=True)]
        usable = np.logical_and(*map(usable_rows, vectors))
        rows = np.flatnonzero(usable)
        forward = backward = np.zeros(len(item.pairs), dtype=np.bool_)
        if len(rows):
            known = [[side[row] for row in rows] for side in texts]
            left, right = (np.ascontiguousarray(side[rows]) for side in vectors)
            hits = tatoeba_accuracy(left, right, source_texts=known[0], target_texts=known[1])
            forward, backward = forward.copy(), backward.copy()
            forward[rows], backward[rows] = hits.forward_hits, hits.backward_hits
        low, high = bootstrap_interval(np.concatenate([forward, backward]))
        results[name] = {
            "pairs": len(item.pairs),
            "source_to_target": round(100 * float(forward.mean()), 2),
            "target_to_source": round(100 * float(backward.mean()), 2),
            "mean": round(50 * float(forward.mean() + backward.mean()), 2),
            "interval_95": [round(100 * low, 2), round(100 * high, 2)],
            "signature": signature(
                **encoder_fields(encoder),
                data="dev",
                pair=name,
                texts=content_hash([*item.langs, *texts[0], *texts[1]]),
                margin="none",
                k=1,
                ret="forward",
                index="exact",
            ),
        }
    return results
