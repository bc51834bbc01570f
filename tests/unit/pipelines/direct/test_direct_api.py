"""`import emsmine`: mine, score and search give what the command line gives, whatever form the sides come in."""

import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pyarrow as pa
import pytest

import emsmine
from emsmine.errors import ConfigError, InputError, LanguageError, MissingDependencyError

GERMAN, ENGLISH = kit.PARALLEL["de"], kit.PARALLEL["en"][::-1]
LANGS = {"source_lang": "de", "target_lang": "en"}
FLAGS = ("-s", "de", "-t", "en")
# Lines that are left out or are copies, one of them before its original.
NOISY = [f"{GERMAN[3].upper()} !", "", "  ", *GERMAN, "x" * 1001, GERMAN[5], "Tab\tund\nUmbruch  sind   Abstände."]


@pytest.fixture(scope="module")
def encoder() -> emsmine.Encoder:
    return emsmine.load_encoder("ems:default", device="cpu")


def lines(path: Path, sentences: list[str]) -> Path:
    path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return two files of sentences; a line break inside a sentence is a space there."""
    source = [text.replace("\n", " ") for text in NOISY]
    return lines(tmp_path / "a.de", source), lines(tmp_path / "b.en", ENGLISH)


OPTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"rescore": False}, ["--no-rescore"]),
    ({"rescore": False, "threshold": 1.0, "k": 2}, ["--no-rescore", "--threshold", "1.0", "--k", "2"]),
    (
        {"rescore": False, "margin": "distance", "threshold": 0.1, "retrieval": "forward", "cosine_floor": 0.1},
        [
            "--no-rescore",
            "--margin",
            "distance",
            "--threshold",
            "0.1",
            "--retrieval",
            "forward",
            "--cosine-floor",
            "0.1",
        ],
    ),
    (
        {"rescore": False, "max_sentence_chars": 50, "threshold": 1},
        ["--no-rescore", "--max-sentence-chars", "50", "--threshold", "1"],
    ),
    (
        {"threshold": 0.1, "k": 2, "max_sentence_chars": 50},
        ["--threshold", "0.1", "--k", "2", "--max-sentence-chars", "50"],
    ),
    (
        {"margin": "distance", "retrieval": "forward", "cosine_floor": 0.1, "scorer": "ems:default"},
        ["--margin", "distance", "--retrieval", "forward", "--cosine-floor", "0.1", "--scorer", "ems:default"],
    ),
    ({"sort_by": "margin", "threshold": 1.0}, ["--sort-by", "margin", "--threshold", "1.0"]),
]


@pytest.mark.parametrize(("options", "flags"), OPTIONS)
def test_mine_gives_the_bytes_and_counts_of_the_command(
    files: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], flags: list[str]
) -> None:
    command = kit.emsmine("mine", *files, *FLAGS, *flags, "-o", tmp_path / "expected.tsv")
    assert command.code == 0, command.err
    pairs = emsmine.mine(NOISY, ENGLISH, **LANGS, **options)
    assert len(pairs) > 3
    pairs.write(tmp_path / "pairs.tsv")
    expected = (tmp_path / "expected.tsv").read_bytes()
    assert (tmp_path / "pairs.tsv").read_bytes() == expected
    counted = dict(line.split() for line in command.err.splitlines() if len(line.split()) == 2)
    assert {name: f"{number:,}" for name, number in pairs.counts.items()} == counted
    for row, pair in zip(expected.decode().split("\n")[:-1], pairs, strict=True):
        assert row == f"{pair.score:.6f}\t{pair.source}\t{pair.target}"


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        np.array,
        lambda texts: np.array(texts, dtype=object),
        pa.array,
        lambda texts: {"t": texts}["t"],
    ],
    ids=["list", "tuple", "iterator", "array", "objects", "arrow", "column"],
)
def test_sentences_may_come_in_any_form(form: Callable[[list[str]], Any]) -> None:
    expected = emsmine.mine(GERMAN, ENGLISH, **LANGS).to_list()
    assert emsmine.mine(form(GERMAN), form(ENGLISH), **LANGS).to_list() == expected


def test_files_lists_and_vectors_may_be_mixed(files: tuple[Path, Path], encoder: emsmine.Encoder) -> None:
    how: dict[str, Any] = {"encoder": encoder, "threshold": 1}
    for rescore in (None, False):
        # A probability of 1 is too much to ask for.
        more = how | {"rescore": rescore} | ({} if rescore is False else {"threshold": 0.1})
        expected = emsmine.mine(NOISY, ENGLISH, **LANGS, **more).to_list()
        assert len(expected) > 3
        # The languages are told by the names of the files.
        assert emsmine.mine(files[0], str(files[1]), **more).to_list() == expected
        assert emsmine.mine(NOISY, files[1], source_lang="deu", **more).to_list() == expected
    vectors = encoder.encode(ENGLISH, lang="en")
    # By margin, as vectors cannot be read again.
    mixed = emsmine.mine(NOISY, vectors, source_lang="de", **how).to_list()
    assert mixed == [row | {"target": ""} for row in expected]


def test_vectors_are_mined_as_their_sentences_are(encoder: emsmine.Encoder) -> None:
    expected = emsmine.mine(GERMAN, ENGLISH, **LANGS, encoder=encoder, rescore=False).to_list()
    left, right = encoder.encode(GERMAN, lang="de"), encoder.encode(ENGLISH, lang="en")
    rows = emsmine.mine(left, right).to_list()
    assert rows == [row | {"source": "", "target": ""} for row in expected]
    # Of another length, type or layout they are the same directions.
    for scale in (3.0, 1e-25, 1e25):
        scaled = emsmine.mine(left.astype(np.float64) * scale, np.asfortranarray(right * np.float32(0.5))).to_list()
        assert [(row["source_id"], row["target_id"]) for row in scaled] == [
            (row["source_id"], row["target_id"]) for row in rows
        ]
        np.testing.assert_allclose([row["score"] for row in scaled], [row["score"] for row in rows], atol=1e-5)


def test_ids_are_places_in_the_input(encoder: emsmine.Encoder) -> None:
    pairs = emsmine.mine(NOISY, ["", *ENGLISH], **LANGS, encoder=encoder, rescore=False, threshold=1.0)
    for pair in pairs:
        assert NOISY[pair.source_id] == pair.source
        assert ["", *ENGLISH][pair.target_id] == pair.target
    # Of copies the first stands for all.
    assert 0 in {pair.source_id for pair in pairs}
    assert 3 + 3 not in {pair.source_id for pair in pairs}
    assert pairs.counts["source.duplicate"] == 2


def test_rows_without_a_vector_are_counted_and_keep_their_places(encoder: emsmine.Encoder) -> None:
    left, right = encoder.encode(GERMAN, lang="de"), encoder.encode(ENGLISH, lang="en")
    whole = emsmine.mine(left[2:], right, threshold=1.0)
    left[0], left[1, 5] = 0, np.nan
    pairs = emsmine.mine(left, right, threshold=1.0)
    assert pairs.counts["source.no_vector"] == 2
    shifted = [row | {"source_id": row["source_id"] + 2} for row in whole.to_list()]
    assert pairs.to_list() == shifted


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: emsmine.mine(GERMAN, ENGLISH, target_lang="en"), ConfigError, "source_lang must be given, as in"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, source_lang="de"), ConfigError, "target_lang must be given"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, source_lang="de", target_lang="de-AT"), ConfigError, "both sides are deu"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, source_lang="german", target_lang="en"), LanguageError, "did you mean de"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, source_lang=None, target_lang="en"), ConfigError, "source_lang"),
    (lambda: emsmine.mine([], ENGLISH, **LANGS), InputError, "source the source sentences has no usable sentence"),
    (lambda: emsmine.mine(GERMAN, ["", " "], **LANGS), InputError, "'empty': 2"),
    (lambda: emsmine.mine([*GERMAN, None], ENGLISH, **LANGS), InputError, r"mine: source: item 24 of 25 is None"),  # type: ignore[list-item]
    (lambda: emsmine.mine([b"x"], ENGLISH, **LANGS), InputError, r"item 0 of 1 is b'x' \(bytes\).*decode bytes"),  # type: ignore[list-item]
    (lambda: emsmine.mine("nowhere.de", ENGLISH, target_lang="en"), InputError, "nowhere.de"),
    (lambda: emsmine.mine("Guten Tag.", ENGLISH, **LANGS), InputError, "Guten Tag"),
    (lambda: emsmine.mine("nowhere.txt", ENGLISH, target_lang="en"), ConfigError, r"source_lang.*nowhere\.txt"),
    (lambda: emsmine.mine("-", "-", **LANGS), ConfigError, "only one side can be '-'"),
    (lambda: emsmine.mine(Path("-"), "-", **LANGS), ConfigError, "only one side can be '-'"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, **LANGS, k=0), ConfigError, "search.k is 0"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, **LANGS, max_sentence_chars=0), ConfigError, "max_sentence_chars is 0"),
    (lambda: emsmine.score(GERMAN, ENGLISH, **LANGS, max_sentence_chars=0), ConfigError, "max_sentence_chars is 0"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, **LANGS, margin="cosine"), ConfigError, "choose from ratio, distance"),
    (
        lambda: emsmine.mine(GERMAN, ENGLISH, **LANGS, rescore=False, margin="distance"),
        ConfigError,
        "needs a select.threshold",
    ),
    (
        lambda: emsmine.mine(GERMAN, ENGLISH, **LANGS, sort_by="margin", margin="distance"),
        ConfigError,
        "needs a select.threshold",
    ),
    (lambda: emsmine.mine(np.eye(3), np.eye(3), margin="distance"), ConfigError, "needs a select.threshold"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, **LANGS, retrieval="best"), ConfigError, "'best'; choose from max"),
    (lambda: emsmine.mine(GERMAN, ENGLISH, **LANGS, encoder="word2vec:x"), ConfigError, "'word2vec'"),
    (lambda: emsmine.mine(np.ones((2, 3)), np.ones((2, 4))), InputError, "3 dimensions and target vectors 4"),
    (
        lambda: emsmine.mine(np.ones((2, 3, 1)), np.ones((2, 3))),
        InputError,
        r"floats \[N, D\], got float64 \[2, 3, 1\]",
    ),
    (lambda: emsmine.score(GERMAN, ENGLISH[:3], **LANGS), InputError, "24 sources but 3 targets"),
    (lambda: emsmine.score(np.ones((2, 3)), np.ones((3, 3))), InputError, "2 sources but 3 targets"),
    (lambda: emsmine.score(np.ones((2, 3)), ENGLISH, **LANGS), ConfigError, "one side is vectors"),
    (lambda: emsmine.score(np.ones((2, 3))), ConfigError, "one side is vectors"),
    (lambda: emsmine.score(GERMAN, **LANGS), ConfigError, "target is missing"),
    (lambda: emsmine.score(GERMAN, GERMAN, **LANGS), InputError, "are the same on all of the first 24"),
    (lambda: emsmine.score(GERMAN, ENGLISH, source_lang="de"), ConfigError, "target_lang must be given"),
    (lambda: emsmine.score(GERMAN, ENGLISH, source_lang="en", target_lang="eng"), ConfigError, "both sides are eng"),
    (lambda: emsmine.search(np.ones((2, 3)), np.ones((2, 3)), k=0), ConfigError, "search.k is 0"),
    (lambda: emsmine.search(np.ones((2, 3)), np.ones((2, 4))), InputError, "3 dimensions and target vectors 4"),
    (lambda: emsmine.search(GERMAN, ENGLISH), InputError, r"vectors.*encode sentences first"),
    (lambda: emsmine.search("a.de", "b.en"), InputError, r"vectors.*encode sentences first"),
    (lambda: emsmine.search(np.ones((2, 3), dtype=np.int64), np.ones((2, 3))), InputError, "got int64"),
]


@pytest.mark.parametrize(("call", "kind", "words"), WRONG)
def test_wrong_use_is_an_error_of_ours(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_swapped_languages_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        emsmine.mine(GERMAN, ENGLISH, source_lang="en", target_lang="de")
    assert "were the two languages swapped?" in caplog.text


@pytest.mark.parametrize("rescore", [None, False])
@pytest.mark.parametrize("as_files", [True, False])
def test_score_gives_the_lines_and_counts_of_the_command(tmp_path: Path, as_files: bool, rescore: bool | None) -> None:
    source = [*GERMAN, "", "x" * 1001, GERMAN[0], GERMAN[2].upper()]
    target = [*kit.PARALLEL["en"], "Nothing.", "Too long.", "A copy of a source.", ""]
    paths = lines(tmp_path / "a.de", source), lines(tmp_path / "b.en", target)
    command = kit.emsmine("score", *paths, *FLAGS, *(["--no-rescore"] if rescore is False else []))
    assert command.code == 0, command.err
    how: dict[str, Any] = {"rescore": rescore} if as_files else {"rescore": rescore, **LANGS}
    scores = emsmine.score(*paths, **how) if as_files else emsmine.score(source, target, **how)
    found = scores.to_arrow()["score"].to_numpy(zero_copy_only=False)
    assert np.array_equal(found, scores.margins, equal_nan=True) == (rescore is False)
    written = [f"{score:.6f}\t{a}\t{b}" for score, a, b in zip(found, source, target, strict=True)]
    assert written == command.out.split("\n")[:-1]
    counted = dict(line.split() for line in command.err.splitlines() if len(line.split()) == 2)
    assert {name: f"{number:,}" for name, number in scores.counts.items()} == {
        name: number for name, number in counted.items() if name != "written"
    }
    rows = scores.to_list()
    assert [row["id"] for row in rows] == list(range(28))
    assert [row["source"] for row in rows] == source
    assert [n for n, row in enumerate(rows) if row["score"] is None] == [24, 25, 27]
    assert [n for n, row in enumerate(rows) if row["cosine"] is None] == [24, 25, 27]


def test_a_file_of_columns_is_scored(tmp_path: Path) -> None:
    expected = emsmine.score(GERMAN, kit.PARALLEL["en"], **LANGS).to_list()
    rows = [f"0.5\t{a}\t{b}" for a, b in zip(GERMAN, kit.PARALLEL["en"], strict=True)]
    path = lines(tmp_path / "de-en.tsv", rows)
    assert emsmine.score(path).to_list() == expected
    assert emsmine.score(str(path), columns=(2, 3)).to_list() == expected
    with pytest.raises(ConfigError, match="score: columns is '2,2'"):
        emsmine.score(path, columns=(2, 2))
    with pytest.raises(InputError, match="column 1 holds no sentences"):
        emsmine.score(path, columns=(1, 2))


def test_vectors_are_scored_as_their_sentences_are(encoder: emsmine.Encoder) -> None:
    expected = emsmine.score(GERMAN, kit.PARALLEL["en"], **LANGS, encoder=encoder)
    left, right = encoder.encode(GERMAN, lang="de"), encoder.encode(kit.PARALLEL["en"], lang="en")
    np.testing.assert_array_equal(emsmine.score(left, right).margins, expected.margins)
    left[3] = 0
    broken = emsmine.score(left, right)
    assert np.flatnonzero(np.isnan(broken.margins)).tolist() == [3]
    assert broken.counts["source.no_vector"] == 1


def test_search_is_the_exact_search_of_both_directions() -> None:
    random = np.random.default_rng(0)
    left, right = random.normal(size=(50, 8)), random.normal(size=(70, 8)).astype(np.float16)
    found = emsmine.search(left, right, k=3)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right.astype(np.float64))]
    cosines = unit[0] @ unit[1].T
    np.testing.assert_array_equal(found.forward.ids, np.argsort(-cosines, axis=1)[:, :3])
    np.testing.assert_array_equal(found.backward.ids, np.argsort(-cosines.T, axis=1)[:, :3])
    np.testing.assert_allclose(found.forward.cosine, -np.sort(-cosines, axis=1)[:, :3], atol=1e-5)
    rows = found.to_list()
    assert len(rows) == 3 * (50 + 70)
    assert rows[4] == {
        "direction": "forward",
        "id": 1,
        "rank": 2,
        "neighbour_id": found.forward.ids[1, 1],
        "cosine": found.forward.cosine[1, 1],
    }
    assert [row["id"] for row in rows if row["direction"] == "backward"] == [n for n in range(70) for _ in range(3)]


def test_a_search_leaves_out_rows_without_a_direction_and_changes_no_input() -> None:
    left, right = np.eye(3, dtype=np.float32) * 2, np.eye(3, dtype=np.float32)
    right[1], right[2, 0] = 0, np.inf
    before = left.copy(), right.copy()
    found = emsmine.search(left, right, k=2)
    assert found.forward.ids.tolist() == [[0, -1]] * 3
    assert found.backward.ids.tolist() == [[0, 1], [-1, -1], [-1, -1]]
    np.testing.assert_array_equal([left, right], before)
    nothing = emsmine.search(left, np.zeros((0, 3)), k=2)
    assert nothing.forward.ids.tolist() == [[-1, -1]] * 3
    assert nothing.to_list() == []
    single = emsmine.search(np.array([1.0, 0.1, 0.0]), np.eye(3))
    assert single.forward.ids.tolist() == [[0, 1, 2, -1]]


def test_results_turn_into_arrow_pandas_and_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = emsmine.mine(GERMAN, ENGLISH, **LANGS)
    table = pairs.to_arrow()
    assert table.column_names == list(emsmine.Pair.__dataclass_fields__)
    assert table.to_pylist() == pairs.to_list() == [vars(pair) for pair in pairs]
    assert repr(pairs).startswith(f"Pairs({len(pairs)} rows: score, margin, cosine")
    with pytest.raises(AttributeError):
        pairs.table = None
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="run: pip install pandas"):
        pairs.to_pandas()


def test_results_turn_into_pandas() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    results: list[Any] = [
        emsmine.mine(GERMAN, ENGLISH, **LANGS),
        emsmine.score(GERMAN, kit.PARALLEL["en"], **LANGS),
        emsmine.search(np.eye(3), np.eye(3)),
    ]
    for result in results:
        frame = result.to_pandas()
        assert frame.to_dict("records") == result.to_list()


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "level"), [(False, logging.INFO), (False, logging.WARNING), (True, logging.WARNING)]
)
def test_bars_are_shown_if_they_are_asked_for(
    progress: bool, level: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    logging.getLogger().setLevel(level)
    try:
        with monkeypatch.context() as patch:
            screen = Terminal()
            patch.setattr(sys, "stderr", screen)
            emsmine.mine(GERMAN, ENGLISH, **LANGS, progress=progress)
            emsmine.search(np.eye(3), np.eye(3), progress=progress)
    finally:
        logging.getLogger().setLevel(logging.WARNING)
    assert bool(screen.getvalue()) == progress
    assert ("encode de" in screen.getvalue()) == progress
    assert capsys.readouterr() == ("", "")
