"""Count the training pairs that nearly repeat a test sentence, and find the test pairs that training nearly repeats.

Needs `../shared/data` beside the repository. Takes about ten minutes of processor time; writes a JSON file that
`model_report.py` turns into tables.

Usage: python tests/perf/model_overlap.py OUTPUT.json [PAIRS]

`PAIRS` is a folder of training files in place of `../shared/data/train`, such as the one that `model_data.py` writes.
"""

import json
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from emsmine import languages
from emsmine.mining.text.normalise import sanitise
from emsmine.mining.text.overlap import OverlapIndex
from emsmine.pipelines.direct.evaluation import find_tatoeba
from emsmine.pipelines.direct.sentences import read_lines

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MINING_PAIRS = ("de-en", "sw-en", "zh-en")
THRESHOLDS = (0.6, 0.8)
SIDES = ("foreign", "english", "either", "translation")


@dataclass
class TestPairs:
    """The test pairs of one language, Tatoeba before mining gold, and their nearest training sentences.

    `nearest` holds a similarity for each pair: of its foreign side, of its English side (to the English of this
    language's training pairs, and to that of all), and of the training pair whose sides are near to both.
    """

    foreign: list[str] = field(default_factory=list)
    english: list[str] = field(default_factory=list)
    num_tatoeba: int = 0
    nearest: dict[str, list[float]] = field(default_factory=dict)


def lines_of(path: Path) -> list[str]:
    """Read the clean lines of a file."""
    return [sanitise(line.decode("utf-8")) for line in read_lines(str(path))]


def unpack_tatoeba(folder: Path) -> Path:
    """Unpack the Tatoeba test sets into a folder."""
    with (
        zstandard.open(DATA / "tatoeba" / "tatoeba-v1.tar.zst", "rb") as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        archive.extractall(folder, filter="data")
    return folder


def mining_gold(pair: str) -> list[tuple[str, str]]:
    """Return the gold pairs of a mining set as texts."""
    foreign, english = (
        dict(line.split("\t", 1) for line in lines_with_tabs(DATA / "mining-dev" / f"{pair}.{lang}.zst"))
        for lang in pair.split("-")
    )
    gold = (line.split("\t") for line in lines_with_tabs(DATA / "mining-dev" / f"{pair}.gold"))
    return [(foreign[left], english[right]) for left, right in gold]


def lines_with_tabs(path: Path) -> Iterator[str]:
    """Yield the lines of a file as they are."""
    for line in read_lines(str(path)):
        yield line.decode("utf-8")


def read_tests(codes: list[str], tatoeba: Path) -> dict[str, TestPairs]:
    """Read all test pairs by short code; languages without any have empty lists."""
    tests = {code: TestPairs() for code in codes}
    short = {languages.resolve(code): code for code in codes}
    for item in find_tatoeba(tatoeba, list(short)):
        test = tests[short[item.lang]]
        test.foreign, test.english = lines_of(item.foreign), lines_of(item.english)
        test.num_tatoeba = len(test.foreign)
    for pair in MINING_PAIRS:
        test = tests[pair.split("-")[0]]
        for foreign, english in mining_gold(pair):
            test.foreign.append(foreign)
            test.english.append(english)
    return tests


class EnglishSide:
    """All English test sentences; remembers its answers, since many languages translate the same English."""

    def __init__(self, tests: dict[str, TestPairs]) -> None:
        """Index the distinct sentences."""
        texts = sorted({text for test in tests.values() for text in test.english})
        self._index = OverlapIndex(texts, "eng_Latn", threshold=THRESHOLDS[0])
        self.row_of = {text: row for row, text in enumerate(texts)}
        self.nearest = [0.0] * len(texts)
        self._far: set[str] = set()
        self._near: dict[str, dict[int, float]] = {}

    def near(self, text: str) -> dict[int, float]:
        """Return the rows that a text is near to."""
        if text in self._far:
            return {}
        if text not in self._near:
            found = self._index.near(text)
            if not found:
                self._far.add(text)
                return {}
            self._near[text] = found
            for row, similarity in found.items():
                self.nearest[row] = max(self.nearest[row], similarity)
        return self._near[text]


def training_file(folder: Path, code: str) -> Path:
    """Return the training file of a language, compressed or not."""
    return next(path for path in sorted(folder.glob(f"{code}-en.tsv*")) if path.suffix in (".tsv", ".zst"))


def count_language(path: Path, code: str, test: TestPairs, english: EnglishSide) -> dict[str, Any]:
    """Compare the training pairs of a language with the test; fills `test.nearest`, returns counts."""
    index = OverlapIndex(test.foreign, languages.resolve(code), threshold=THRESHOLDS[0])
    rows_of: dict[int, list[int]] = {}
    for row, text in enumerate(test.english):
        rows_of.setdefault(english.row_of[text], []).append(row)
    nearest = {side: [0.0] * len(test.foreign) for side in ("foreign", "english", "translation")}
    counts: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    for line in lines_with_tabs(path):
        left, right, source = line.split("\t")[:3]
        in_foreign, in_english = index.near(left), english.near(right)
        same = {
            row: min(in_foreign[row], similarity)
            for number, similarity in in_english.items()
            for row in rows_of.get(number, ())
            if row in in_foreign
        }
        best = {"foreign": max(in_foreign.values(), default=0.0), "english": max(in_english.values(), default=0.0)}
        best |= {"either": max(best.values()), "translation": max(same.values(), default=0.0)}
        counts["pairs"] += 1
        counts.update(f"{side} {limit}" for side in SIDES for limit in THRESHOLDS if best[side] >= limit)
        if best["either"] >= THRESHOLDS[0]:
            sources[source] += 1
        own = {row: similarity for number, similarity in in_english.items() for row in rows_of.get(number, ())}
        for side, found in (("foreign", in_foreign), ("english", own), ("translation", same)):
            for row, similarity in found.items():
                nearest[side][row] = max(nearest[side][row], similarity)
    test.nearest = nearest
    return {"counts": dict(counts), "sources": dict(sources)}


def main() -> None:
    """Compare every training file with every test set and write what was found."""
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else DATA / "train"
    codes = sorted(path.name.partition("-en.tsv")[0] for path in folder.glob("*-en.tsv*"))
    with tempfile.TemporaryDirectory() as tatoeba:
        tests = read_tests(codes, unpack_tatoeba(Path(tatoeba)))
    english = EnglishSide(tests)
    result: dict[str, dict[str, Any]] = {}
    for code in codes:
        started = time.process_time()
        result[code] = count_language(training_file(folder, code), code, tests[code], english)
        print(f"{code} {result[code]['counts']} {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
    for code, test in tests.items():
        test.nearest["any_english"] = [english.nearest[english.row_of[text]] for text in test.english]
        result[code]["num_tatoeba"] = test.num_tatoeba
        result[code]["nearest"] = {side: [round(value, 3) for value in values] for side, values in test.nearest.items()}
    Path(sys.argv[1]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
