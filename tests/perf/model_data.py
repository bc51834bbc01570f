"""Prepare the pairs that encoder and pair scorer are trained on: clean, distinct, apart from what is evaluated on.

Dropped are repeated pairs, pairs that a rule of `emsmine filter` refuses, pairs of a source whose text is not in the
language it is filed under, and pairs with a side near (Jaccard similarity of the pieces at least 0.6, as
`emsmine.mining.text.overlap` finds it) to a sentence of Tatoeba or of a gold pair of the mining sets. English counts
whatever language it is paired with. Pairs near a mere distractor stay.

A tenth of the pairs, chosen by their English side, is kept from the encoder: the pair scorer learns from pairs whose
words were not trained on each other.

Needs `../shared/data` beside the repository; takes about 40 minutes of processor time, in one process for each core.
Writes `encoder/<xx>-en.tsv` and `held-out/<xx>-en.tsv` (text, English, source tag) and `report.json` with the counts.

Usage: python tests/perf/model_data.py OUTPUT [CODE ...]

With codes, such as `sw yo`, only these languages are prepared.
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from model_overlap import DATA, lines_with_tabs, read_tests, unpack_tatoeba

from emsmine import languages
from emsmine.mining.text.langid import UNDETERMINED, LanguageIdentifier, load_identifier
from emsmine.mining.text.normalise import dedup_key, hash128, sanitise
from emsmine.mining.text.overlap import OverlapIndex
from emsmine.mining.text.rules import PairView, Rule, default_rules

NEAR = 0.6
# One pair of so many is kept from the encoder.
HELD_OUT = 10
PARTS = ("encoder", "held-out")
FOLDERS = ("train", "train-2")
ENGLISH = "eng_Latn"
# A source is looked at if it has this many texts of this many characters; fewer, or shorter, tell little.
_AUDIT_TEXTS, _AUDIT_CHARACTERS = 50, 40
# Close relatives (Norwegian and Danish, Serbian and Croatian) are mistaken for one another in up to 0.9 of the texts.
_WRONG_SHARE = 0.95

state: "State"


class State:
    """What every process needs: the evaluation sentences, indexed; rules; language identification."""

    def __init__(self, tatoeba: Path) -> None:
        """Read and index the evaluation sets."""
        codes = [path.name.removesuffix("-en.tsv.zst") for path in training_files()]
        tests = read_tests(codes, tatoeba)
        self.texts = {code: set(test.foreign) for code, test in tests.items()}
        english = {text for test in tests.values() for text in test.english}
        self.english = OverlapIndex(sorted(english), ENGLISH, threshold=NEAR)
        self.rules: list[Rule] = [rule for rule in default_rules() if rule.name != "wrong_language"]
        self.identifier: LanguageIdentifier = load_identifier()
        # Many languages translate the same English.
        self.is_near: dict[str, bool] = {}

    def near_english(self, text: str) -> bool:
        """Say whether an English text is near to an evaluation sentence."""
        if text not in self.is_near:
            self.is_near[text] = bool(self.english.near(text))
        return self.is_near[text]


def training_files() -> list[Path]:
    """List the training files of the first part, which has all languages, largest first."""
    return sorted((DATA / "train").glob("*-en.tsv.zst"), key=lambda path: -path.stat().st_size)


def start(tatoeba: Path) -> None:
    """Prepare a process."""
    global state
    state = State(tatoeba)


def wrong_sources(rows: list[list[str]], lang: str) -> dict[str, float]:
    """Return the sources most of whose texts are in another language, with the share."""
    samples: dict[str, list[str]] = {}
    for text, _, source in rows:
        if len(text) >= _AUDIT_CHARACTERS and len(samples.setdefault(source, [])) < _AUDIT_TEXTS:
            samples[source].append(text)
    found = {}
    for source, texts in samples.items():
        if len(texts) == _AUDIT_TEXTS:
            # The script is left out: Chinese and Serbian are filed under one code with both.
            names = [prediction.lang for prediction in state.identifier.identify(texts)]
            share = sum(name != UNDETERMINED and name[:3] != lang[:3] for name in names) / len(texts)
            if share >= _WRONG_SHARE:
                found[source] = share
    return found


def prepare(code: str, output: Path) -> tuple[str, dict[str, Any]]:
    """Write the pairs of a language that may stay; returns its code and counts."""
    lang = languages.resolve(code)
    index = OverlapIndex(sorted(state.texts[code]), lang, threshold=NEAR)
    files = [DATA / folder / f"{code}-en.tsv.zst" for folder in FOLDERS]
    lines = (line for file in files if file.exists() for line in lines_with_tabs(file))
    rows = [[sanitise(column) for column in line.split("\t")[:3]] for line in lines]
    wrong = wrong_sources(rows, lang)
    seen: set[bytes] = set()
    counts: Counter[str] = Counter(pairs=len(rows))
    with ExitStack() as stack:
        paths = [output / part / f"{code}-en.tsv" for part in PARTS]
        streams = [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in paths]
        for text, english, source in rows:
            key = hash128(f"{dedup_key(text)}\t{dedup_key(english)}")
            view = PairView(text, english, lang, ENGLISH)
            reason = "wrong language" if source in wrong else "repeated" if key in seen else None
            seen.add(key)
            reason = reason or next((rule.name for rule in state.rules if not rule.accept(rule.score(view))), None)
            if reason is None and (index.near(text) or state.near_english(english)):
                reason = "near evaluation"
            part = int.from_bytes(hash128(dedup_key(english))[:4], "big") % HELD_OUT == 0
            counts[reason or PARTS[part]] += 1
            if reason is None:
                streams[part].write(f"{text}\t{english}\t{source}\n")
    return code, {"counts": dict(counts), "wrong_sources": wrong}


def main() -> None:
    """Prepare every training file."""
    output = Path(sys.argv[1])
    for part in PARTS:
        (output / part).mkdir(parents=True, exist_ok=True)
    codes = [path.name.removesuffix("-en.tsv.zst") for path in training_files()]
    codes = [code for code in codes if len(sys.argv) == 2 or code in sys.argv[2:]]
    report: dict[str, Any] = {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tatoeba = unpack_tatoeba(Path(folder))
        with ProcessPoolExecutor(os.cpu_count(), initializer=start, initargs=(tatoeba,)) as pool:
            for task in [pool.submit(prepare, code, output) for code in codes]:
                code, found = task.result()
                report[code] = found
                print(f"{code} {found} {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    (output / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True), encoding="utf-8")
    total = sum((Counter(found["counts"]) for found in report.values()), Counter())
    print(json.dumps(total))


if __name__ == "__main__":
    main()
