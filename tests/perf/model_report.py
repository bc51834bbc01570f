"""Print the tables of docs/models.md, as Markdown: accuracy with and without near-repeats in training, and tokens.

Needs `../shared/data` beside the repository and the file that `model_overlap.py` writes.

Usage: python tests/perf/model_report.py OVERLAP.json [ENCODER]
"""

import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import numpy.typing as npt
from model_overlap import DATA, MINING_PAIRS, SIDES, THRESHOLDS, TestPairs, lines_with_tabs, read_tests, unpack_tatoeba
from sentencepiece import SentencePieceProcessor

from emsmine import languages
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.tokenizer import UNK_ID
from emsmine.encoder.registry import load_encoder
from emsmine.mining.evaluate import tatoeba_accuracy
from emsmine.mining.selection.retrieve import select
from emsmine.mining.text.normalise import dedup_key
from emsmine.pipelines.direct.mine import mine_sides
from emsmine.pipelines.direct.sentences import collect
from emsmine.pipelines.settings import SelectSettings

# Sources whose texts are of the Tatoeba project, as is the test, and the pairs from which a language has many of them.
TATOEBA_SOURCES = ("tatoeba-", "tanaka")
MANY_PAIRS = 3_000
GROUPS = ("none", "side", "translation")
WORD_LIMITS = (4, 6, 9, 13, 20)
MAX_CHARS = 10_000
# Accuracy of fewer pairs than this is not printed.
FEWEST = 50


@dataclass(frozen=True)
class LanguageResult:
    """Hits of one language's Tatoeba set and the length of each pair."""

    forward: npt.NDArray[np.bool_]
    backward: npt.NDArray[np.bool_]
    # Class of the number of words of the English side, see WORD_LIMITS.
    length_class: npt.NDArray[np.int64]

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """Share of the two directions that are right, in per cent."""
        return 50.0 * (self.forward.astype(np.float64) + self.backward)


def groups(nearest: dict[str, list[float]], limit: float) -> npt.NDArray[np.str_]:
    """Say of each test pair what training nearly repeats: nothing, a side, or both sides in one training pair."""
    near = {side: np.array(values) >= limit - 1e-9 for side, values in nearest.items()}
    side = near["foreign"] | near["any_english"]
    return np.where(near["translation"], "translation", np.where(side, "side", "none"))


def length_classes(english: list[str]) -> npt.NDArray[np.int64]:
    """Sort sentences into classes of similar length."""
    words = [len(dedup_key(text).split()) for text in english]
    return np.digitize(words, WORD_LIMITS, right=True).astype(np.int64)


def measure(encoder: EMSEncoder, code: str, test: TestPairs) -> LanguageResult:
    """Retrieve the Tatoeba set of a language."""
    foreign, english = test.foreign[: test.num_tatoeba], test.english[: test.num_tatoeba]
    hits = tatoeba_accuracy(
        encoder.encode(foreign, lang=languages.resolve(code)), encoder.encode(english, lang="eng_Latn")
    )
    return LanguageResult(hits.forward_hits, hits.backward_hits, length_classes(english))


def has_much_tatoeba_text(code: str) -> bool:
    """Tell whether many training pairs of a language are of the Tatoeba project."""
    sources = (line.rsplit("\t", 1)[1] for line in lines_with_tabs(DATA / "train" / f"{code}-en.tsv.zst"))
    return sum(source.startswith(TATOEBA_SOURCES) for source in sources) >= MANY_PAIRS


def percent(part: float, whole: float) -> str:
    """Write a share with two decimals."""
    return f"{100 * part / whole:.2f}" if whole else "–"


def print_counts(overlap: dict[str, Any], codes: list[str]) -> None:
    """Print how many training pairs nearly repeat a test sentence."""
    names = [f"{side} {limit}" for side in SIDES for limit in THRESHOLDS]
    print("\n| code | training pairs | " + " | ".join(names) + " | % either 0.6 |")
    print("|---|" + "--:|" * (len(names) + 2))
    total: Counter[str] = Counter()
    for code in sorted(codes, key=lambda code: -overlap[code]["counts"].get("either 0.6", 0)):
        counts = overlap[code]["counts"]
        total.update(counts)
        cells = [f"{counts.get(name, 0):,}" for name in ["pairs", *names]]
        print(f"| {code} | {' | '.join(cells)} | {percent(counts.get('either 0.6', 0), counts['pairs'])} |")
    cells = [f"{total[name]:,}" for name in ["pairs", *names]]
    print(f"| all | {' | '.join(cells)} | {percent(total['either 0.6'], total['pairs'])} |")
    sources: Counter[str] = Counter()
    for code in codes:
        sources.update(overlap[code]["sources"])
    print("\nsources of pairs with a near side:", ", ".join(f"{name} {n:,}" for name, n in sources.most_common(12)))


def matched(results: dict[str, LanguageResult], kinds: dict[str, npt.NDArray[np.str_]], seen: str) -> tuple[float, ...]:
    """Compare the pairs of a group with those that training does not repeat, of the same language and length.

    Returns:
        accuracy of the group and of its match, and the number of pairs of the group that have a match.
    """
    left = right = number = 0.0
    for code, result in results.items():
        for length in range(len(WORD_LIMITS) + 1):
            of_length = result.length_class == length
            group, match = of_length & (kinds[code] == seen), of_length & (kinds[code] == "none")
            if group.any() and match.any():
                left += result.score[group].sum()
                right += result.score[match].mean() * group.sum()
                number += group.sum()
    return (left / number, right / number, number) if number else (float("nan"), float("nan"), 0)


def print_accuracy(
    overlap: dict[str, Any], results: dict[str, LanguageResult], sets: dict[str, list[str]], limit: float
) -> None:
    """Print the accuracy of test pairs by what training nearly repeats, per group of languages."""
    kinds = {
        code: groups({side: rows[: len(results[code].score)] for side, rows in overlap[code]["nearest"].items()}, limit)
        for code in results
    }
    print(f"\nTatoeba, near from {limit}\n")
    print("| languages | group | pairs | to English | from English | mean | matched group / none (pairs) |")
    print("|---|---|--:|--:|--:|--:|---|")
    for name, codes in sets.items():
        members = {code: results[code] for code in codes}
        for kind in GROUPS:
            pairs = {code: kinds[code] == kind for code in codes}
            number = sum(int(rows.sum()) for rows in pairs.values())
            if not number:
                continue
            forward, backward = (
                100 * sum(int(getattr(members[code], way)[pairs[code]].sum()) for code in codes) / number
                for way in ("forward", "backward")
            )
            left, right, compared = matched(members, kinds, kind)
            against = "" if kind == "none" else f"{left:.1f} / {right:.1f} ({compared:,.0f})"
            print(
                f"| {name} ({len(codes)}) | {kind} | {number:,} | {forward:.1f} | {backward:.1f} | "
                f"{(forward + backward) / 2:.1f} | {against} |"
            )
        # Over languages that have enough pairs that training does not repeat.
        enough = [code for code in codes if (kinds[code] == "none").sum() >= FEWEST]
        every = np.mean([results[code].score.mean() for code in enough])
        unseen = np.mean([results[code].score[kinds[code] == "none"].mean() for code in enough])
        print(f"| {name} ({len(codes)}) | mean over {len(enough)} languages: all {every:.2f}, none {unseen:.2f} |")


def print_mining(encoder: EMSEncoder, overlap: dict[str, Any], tests: dict[str, TestPairs], limit: float) -> None:
    """Print the recall of gold pairs by what training nearly repeats, at the default threshold."""
    print(f"\nmining sets, near from {limit}\n\n| pair | group | gold pairs | recall | matched group / none (pairs) |")
    print("|---|---|--:|--:|---|")
    settings = SelectSettings()
    for pair in MINING_PAIRS:
        code = pair.split("-")[0]
        sides = [
            collect(
                [line.split("\t", 1)[1] for line in lines_with_tabs(DATA / "mining-dev" / f"{pair}.{lang}.zst")],
                languages.resolve(lang),
                MAX_CHARS,
            )
            for lang in pair.split("-")
        ]
        pool, _ = mine_sides(encoder, sides[0], sides[1], k=4, margin=settings.margin)
        mined = select(pool, settings.retrieval, threshold=settings.threshold, cosine_floor=settings.cosine_floor)
        found = {(dedup_key(sides[0].texts[left]), dedup_key(sides[1].texts[right])) for left, right in mined.pairs()}
        test, start = tests[code], tests[code].num_tatoeba
        gold = list(zip(map(dedup_key, test.foreign[start:]), map(dedup_key, test.english[start:]), strict=True))
        hits = np.array([item in found for item in gold])
        kinds = groups({side: rows[start:] for side, rows in overlap[code]["nearest"].items()}, limit)
        result = LanguageResult(hits, hits, length_classes(test.english[start:]))
        for kind in GROUPS:
            rows = kinds == kind
            left, right, compared = matched({code: result}, {code: kinds}, kind)
            against = f"{left:.1f} / {right:.1f} ({compared:,.0f})" if kind != "none" and compared else ""
            print(f"| {pair} | {kind} | {rows.sum():,} | {percent(hits[rows].sum(), rows.sum())} | {against} |")


def count_tokens(encoder: EMSEncoder, texts: list[str]) -> tuple[float, float, float]:
    """Return tokens a sentence, and the shares of pieces of one character (U+2581 aside) and of unknown ones."""
    ids = encoder.tokenizer.encode(texts, 1_000_000)[0].ids
    processor = SentencePieceProcessor(model_file=str(encoder.tokenizer.path))
    pieces = [processor.IdToPiece(number) for number in ids.tolist()]
    single = sum(len(piece.replace("\u2581", "")) == 1 for piece in pieces)
    return len(ids) / len(texts), single / len(ids), float((ids == UNK_ID).mean())


def print_languages(
    encoder: EMSEncoder, overlap: dict[str, Any], tests: dict[str, TestPairs], results: dict[str, LanguageResult]
) -> None:
    """Print one row a language: training pairs near a test sentence, accuracy, and tokens."""
    print(
        "\n| code | training pairs | near a test sentence | to English | from English | mean | "
        "not repeated | their mean | tokens | English | ratio | one character % | unknown % |\n|---|" + "--:|" * 12
    )
    for code, result in sorted(results.items(), key=lambda item: -item[1].score.mean()):
        kinds = groups({side: r[: len(result.score)] for side, r in overlap[code]["nearest"].items()}, THRESHOLDS[0])
        unseen = result.score[kinds == "none"]
        mean = f"{unseen.mean():.1f}" if len(unseen) >= FEWEST else "–"
        test, counts = tests[code], overlap[code]["counts"]
        tokens, single, unknown = count_tokens(encoder, test.foreign[: test.num_tatoeba])
        english = count_tokens(encoder, test.english[: test.num_tatoeba])[0]
        print(
            f"| {code} | {counts['pairs']:,} | {counts.get(f'either {THRESHOLDS[0]}', 0):,} | "
            f"{100 * result.forward.mean():.1f} | {100 * result.backward.mean():.1f} | {result.score.mean():.1f} | "
            f"{len(unseen):,} of {len(result.score):,} | {mean} | {tokens:.1f} | {english:.1f} | "
            f"{tokens / english:.2f} | {100 * single:.1f} | {100 * unknown:.2f} |"
        )


def main() -> None:
    """Print all tables."""
    overlap = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    encoder = load_encoder(sys.argv[2] if len(sys.argv) > 2 else "ems:default", device="cpu")
    if not isinstance(encoder, EMSEncoder):
        sys.exit(f"model_report: {encoder.name} is not an EMS model, and tokens are counted with its tokeniser")
    codes = sorted(overlap)
    with tempfile.TemporaryDirectory() as folder:
        tests = read_tests(codes, unpack_tatoeba(Path(folder)))
    results = {code: measure(encoder, code, tests[code]) for code in codes if tests[code].num_tatoeba}
    in_domain = [code for code in results if has_much_tatoeba_text(code)]
    by_size = sorted(results, key=lambda code: -overlap[code]["counts"]["pairs"])
    third = len(by_size) // 3
    sets = {
        "all": list(results),
        "most pairs in training": by_size[:third],
        "middle": by_size[third:-third],
        "fewest": by_size[-third:],
        "ten with most": by_size[:10],
        "3,000 pairs of Tatoeba text or more": in_domain,
        "fewer": [code for code in results if code not in in_domain],
    }
    print_counts(overlap, codes)
    print("\nten with most:", " ".join(by_size[:10]))
    print("fewer than", MANY_PAIRS, "pairs of the Tatoeba project in training:", " ".join(sets["fewer"]))
    for limit in THRESHOLDS:
        print_accuracy(overlap, results, sets, limit)
    for limit in (*THRESHOLDS, 1.0):
        print_mining(encoder, overlap, tests, limit)
    print_languages(encoder, overlap, tests, results)


if __name__ == "__main__":
    main()
