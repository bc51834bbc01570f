"""Properties of the pipeline's own small functions, and of one run whatever the text."""

import io
import json
import tempfile
import tomllib
from pathlib import Path

import pipeline_kit as kit
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emsmine import languages
from emsmine.lines import compression_of
from emsmine.mining.selection import MARGINS, SCORES
from emsmine.mining.text.langid import Prediction
from emsmine.mining.text.normalise import dedup_key
from emsmine.mining.text.rules import RulesConfig
from emsmine.pipelines.configuration import build_settings, parse_pairs, to_toml
from emsmine.pipelines.direct.sentences import collect, read_lines
from emsmine.pipelines.runner.report import FunnelRow, format_funnel
from emsmine.pipelines.settings import (
    EXPORT_FORMATS,
    ExportSettings,
    LangidSettings,
    RescoreSettings,
    SelectSettings,
    Settings,
)
from emsmine.pipelines.stages.langid import decide_language

CODES = [languages.resolve(code) for code in ("de", "en", "fr", "es", "zh", "ja", "sr", "el")]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def pair_lists(draw: st.DrawFn) -> list[str]:
    words = []
    for _ in range(draw(st.integers(0, 6))):
        left, right = draw(st.lists(st.sampled_from(CODES), min_size=2, max_size=2, unique=True))
        words.append(f"{left}-{languages.short(right)}")
    return words


@settings(deadline=None, max_examples=60)
@given(
    inputs=st.lists(TEXT, max_size=4),
    pairs=pair_lists(),
    rescore=st.builds(
        RescoreSettings, rescore=st.sampled_from([None, True, False]), scorer=TEXT, documents=st.booleans()
    ),
    select=st.builds(
        SelectSettings,
        margin=st.sampled_from(MARGINS),
        sort_by=st.sampled_from(SCORES),
        threshold=st.none() | FINITE,
        cosine_floor=FINITE,
    ),
    rows=st.integers(1, 10**9),
    off=st.lists(TEXT, max_size=3, unique=True),
    formats=st.lists(st.sampled_from(EXPORT_FORMATS), max_size=4, unique=True),
)
def test_settings_come_back_from_toml(
    inputs: list[str],
    pairs: list[str],
    rescore: RescoreSettings,
    select: SelectSettings,
    rows: int,
    off: list[str],
    formats: list[str],
) -> None:
    written = Settings(
        inputs=tuple(inputs),
        pairs=parse_pairs(pairs),
        rescore=rescore,
        select=select,
        langid=LangidSettings(shard_rows=rows),
        filter=RulesConfig(rules_off=tuple(sorted(off))),
        export=ExportSettings(formats=tuple(sorted(formats, key=EXPORT_FORMATS.index))),
    )
    assert build_settings(tomllib.loads(to_toml(written)), {}) == written


@settings(deadline=None, max_examples=40)
@given(words=pair_lists(), data=st.data())
def test_order_and_repetition_of_pairs_do_not_matter(words: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(words))
    assert parse_pairs([",".join([*shuffled, *words])]) == parse_pairs(words)
    assert list(parse_pairs(words)) == sorted(set(parse_pairs(words)))
    assert all(left < right for left, right in parse_pairs(words))


@settings(deadline=None, max_examples=60)
@given(lines=st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=20))
def test_every_line_is_used_or_counted(lines: list[bytes]) -> None:
    side = collect(lines, "deu_Latn", 10)
    assert len(side.places) == len(lines)
    assert len(lines) == len(side.texts) + sum(side.dropped.values())
    assert len(set(map(dedup_key, side.texts))) == len(side.texts)
    used = [place for place in side.places if place >= 0]
    assert set(used) == set(range(len(side.texts)))
    assert all(text and len(text) <= 10 for text in side.texts)


@settings(deadline=None, max_examples=40)
@given(content=st.binary(max_size=200), packed=st.booleans())
def test_reading_lines_loses_nothing_but_line_ends(content: bytes, packed: bool) -> None:
    import zstandard

    # Content decides: what starts as a compressed file does is one.
    assume(packed or not compression_of(content))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.zst" if packed else "a")
        path.write_bytes(zstandard.compress(content) if packed else content)
        found = list(read_lines(str(path)))
    expected = [line.removesuffix(b"\n").removesuffix(b"\r") for line in io.BytesIO(content)]
    assert found == expected


@settings(deadline=None, max_examples=60)
@given(
    sentence=st.text(max_size=40),
    said=st.tuples(st.sampled_from([*CODES, "und"]), st.floats(0, 1)),
    document=st.tuples(st.sampled_from([*CODES, "und"]), st.floats(0, 1)),
)
def test_a_sentence_gets_its_own_language_or_that_of_its_document(
    sentence: str, said: tuple[str, float], document: tuple[str, float]
) -> None:
    lang, score, level = decide_language(sentence, Prediction(*said), Prediction(*document))
    assert (lang, score) == (said if level == "sentence" else document)
    assert level == "sentence" or lang != "und"


@settings(deadline=None, max_examples=40)
@given(
    dropped=st.dictionaries(st.sampled_from(["too_long", "empty", "no_text"]), st.integers(1, 10**9)),
    rows_out=st.integers(0, 10**9),
    missing=st.integers(0, 3),
)
def test_the_funnel_tells_whether_it_adds_up(dropped: dict[str, int], rows_out: int, missing: int) -> None:
    row = FunnelRow("ingest.read", "", rows_out + sum(dropped.values()) + missing, rows_out, dropped)
    text = format_funnel([row])
    assert ("ROWS ARE MISSING" in text) == bool(missing)
    assert all(f"{number:,}" in text for number in dropped.values())


_ALPHABET = st.sampled_from(
    [*"abc .!?\n\t1ä東я", "\u200b", "\u2028", "\U0001f642", "Das Haus ist alt. ", "Good morning. "]
)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@settings(deadline=None, max_examples=8)
@given(texts=st.lists(st.lists(_ALPHABET, max_size=25).map("".join), max_size=5), shard_rows=st.integers(1, 4))
def test_a_run_ends_well_whatever_the_text(texts: list[str], shard_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        crawl, root = Path(folder) / "a.jsonl", Path(folder) / "run"
        crawl.write_bytes(b"".join(kit.json_line(f"http://{n}", text) for n, text in enumerate(texts)))
        result = kit.run([crawl], root, "--shard-rows", shard_rows, "--min-lid-score", 0, pairs=["de-en"])
        assert result.code == 0, result.err
        assert all(row["adds_up"] for row in json.loads(kit.emsmine("report", root, "--json").out))
        assert {row["source_text"] for row in kit.rows(root, "pairs")} <= {
            row["text"] for row in kit.rows(root, "sentences/deu_Latn")
        }
