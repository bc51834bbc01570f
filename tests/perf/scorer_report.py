"""Measure a pair scorer on sets that it was not trained on: calibration, and every language against the margin.

- Reliability and expected calibration error of the probabilities, on the mining sets of `../shared/data`.
- Per language, best F1 by margin and by probability on Tatoeba made into a mining set: the foreign side of the first
  two thirds of the lines, the English side of the last two thirds, so a third of the lines is gold.

Usage: python tests/perf/scorer_report.py [ENCODER]
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from model_overlap import DATA, MINING_PAIRS, unpack_tatoeba

from emsmine import languages
from emsmine.encoder.protocol import Encoder
from emsmine.encoder.registry import load_encoder
from emsmine.mining.evaluate import bucc_scores
from emsmine.mining.selection.retrieve import select
from emsmine.pipelines.direct.bucc import find_bucc, mine_bucc
from emsmine.pipelines.direct.evaluation import find_tatoeba
from emsmine.pipelines.direct.mine import mine_sides, rescore_candidates
from emsmine.pipelines.direct.sentences import SentenceList, collect, read_lines
from emsmine.pipelines.rescoring import Rescorer, load_rescorer
from emsmine.pipelines.settings import SelectSettings

BINS = 10
_FLOOR = SelectSettings.cosine_floor


def reliability(probability: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_]) -> tuple[list[str], float]:
    """Return a row per bin, and the expected calibration error (Guo et al. 2017)."""
    rows, error = [], 0.0
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    for number in range(BINS):
        here = bins == number
        if here.any():
            said, held = float(probability[here].mean()), float(correct[here].mean())
            error += float(here.mean()) * abs(said - held)
            rows.append(
                f"| {number / BINS:.1f} to {(number + 1) / BINS:.1f} | {here.sum():,} | {said:.3f} | {held:.3f} |"
            )
    return rows, error


def calibration(encoder: Encoder, rescorer: Rescorer) -> Iterator[str]:
    """Yield tables of all candidates that are read, and of the pairs chosen among them."""
    settings = SelectSettings()
    pools: dict[str, list[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]] = {"candidates": [], "chosen": []}
    for pair in MINING_PAIRS:
        found = mine_bucc(encoder, find_bucc(DATA / "mining-dev", pair), k=4, settings=settings, rescorer=rescorer)
        assert found.rescored is not None
        chosen = found.chosen(settings, rescored=True)
        for name, pairs in (("candidates", found.rescored), ("chosen", chosen)):
            correct = np.array([item in found.gold for item in pairs.pairs()], dtype=bool)
            pools[name].append((pairs.score, correct))
            yield f"{pair}, {name}: ECE {reliability(pairs.score, correct)[1]:.3f}"
    for name, parts in pools.items():
        rows, error = reliability(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        yield (
            f"\n{name}, all sets: ECE {error:.3f}\n\n| score | pairs | mean score | right |\n|---|--:|--:|--:|\n"
            + "\n".join(rows)
        )


def per_language(encoder: Encoder, rescorer: Rescorer, tatoeba: Path) -> Iterator[str]:
    """Yield best F1 by margin and by probability of every language."""
    wanted = [languages.resolve(code) for code in languages.EMS_CODES]
    gains = []
    for item in find_tatoeba(tatoeba, wanted):
        foreign, english = ([line.decode() for line in read_lines(str(p))] for p in (item.foreign, item.english))
        third = len(foreign) // 3
        source = collect(foreign[: 2 * third], item.lang, 10_000)
        target = collect(english[third:], "eng_Latn", 10_000)
        gold = {
            (source.places[line], target.places[line - third])
            for line in range(third, 2 * third)
            if source.places[line] >= 0 and target.places[line - third] >= 0
        }
        margin, probability = _best(encoder, rescorer, source, target, gold)
        gains.append(probability - margin)
        yield f"{languages.short(item.lang)} {margin:.1f} {probability:.1f} {probability - margin:+.1f}"
    worse = sum(gain < 0 for gain in gains)
    yield f"mean gain {np.mean(gains):+.1f} over {len(gains)} languages, least {min(gains):+.1f}; worse in {worse}"


def _best(
    encoder: Encoder, rescorer: Rescorer, source: SentenceList, target: SentenceList, gold: set[tuple[int, int]]
) -> tuple[float, float]:
    pool = mine_sides(encoder, source, target, k=4, margin="ratio")
    rescored = rescore_candidates(rescorer, pool, source, target, margin="ratio", cosine_floor=_FLOOR)
    scores = [bucc_scores(select(pairs, cosine_floor=_FLOOR), gold).best_f1 for pairs in (pool, rescored)]
    return 100 * scores[0], 100 * scores[1]


def main() -> None:
    """Print everything."""
    spec = sys.argv[1] if len(sys.argv) > 1 else "ems:default"
    encoder, rescorer = load_encoder(spec, device="cpu"), load_rescorer(spec)
    print("\n".join(calibration(encoder, rescorer)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(per_language(encoder, rescorer, unpack_tatoeba(Path(folder)))))


if __name__ == "__main__":
    main()
