"""Rescoring, as a user calls it on the command line and in Python."""

from pathlib import Path
from typing import Any

import pipeline_kit as kit
import pytest

import emsmine
from emsmine.errors import ConfigError, ModelError
from emsmine.pipelines.direct.explain import format_explanation
from emsmine.pipelines.rescoring import SCORER_FILE

LANGS = ("-s", "de", "-t", "en")
GERMAN, ENGLISH = kit.PARALLEL["de"], kit.PARALLEL["en"]
EXTENDED = "A red car is standing in front of the hospital, bishops."


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Return two files of sentences in other orders."""
    return write(tmp_path / "a.de", GERMAN), write(tmp_path / "b.en", ENGLISH[::-1])


def table(text: str) -> list[tuple[float, str, str]]:
    rows = [line.split("\t") for line in text.splitlines()]
    return [(float(score), source, target) for score, source, target in rows]


def mined(*args: object) -> list[tuple[float, str, str]]:
    result = kit.emsmine("mine", *args, *LANGS)
    assert result.code == 0, result.err
    return table(result.out)


def is_right(source: str, target: str) -> bool:
    return GERMAN.index(source) == ENGLISH.index(target)


def test_mine_sorts_by_probability(sides: tuple[Path, Path]) -> None:
    rows = mined(*sides)
    scores = [score for score, _, _ in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(0.5 <= score <= 1 for score in scores)
    assert sum(is_right(*row[1:]) for row in rows) > kit.NUM_PARALLEL / 2
    assert len({row[1] for row in rows}) == len({row[2] for row in rows}) == len(rows)
    assert mined(*sides, "--rescore") == mined(*sides, "--scorer", "ems:default") == rows
    all_of_them = mined(*sides, "--threshold", "0")
    assert all_of_them[: len(rows)] == rows
    place = max(range(1, len(rows)), key=lambda place: scores[place - 1] - scores[place])
    cut = sum(scores[place - 1 : place + 1]) / 2
    assert mined(*sides, "--threshold", str(cut)) == rows[:place]


def test_mine_without_rescoring_is_by_margin(sides: tuple[Path, Path]) -> None:
    plain = mined(*sides, "--no-rescore")
    assert all(score >= 1.2 for score, _, _ in plain)
    counts = kit.emsmine("mine", *sides, *LANGS, "--no-rescore").err
    assert "rescored" not in counts
    by_margin = mined(*sides, "--sort-by", "margin")
    assert all(score >= 1.2 for score, _, _ in by_margin)
    # The margins of a pair are the same; only candidates that were not read again are gone.
    assert set(by_margin) <= {*plain, *mined(*sides, "--no-rescore", "--threshold", "1.0")}
    assert {row[1:] for row in by_margin} == {row[1:] for row in plain}


def test_mine_counts_what_was_read_again(sides: tuple[Path, Path]) -> None:
    result = kit.emsmine("mine", *sides, *LANGS)
    counts = {line.split()[0]: int(line.split()[1]) for line in result.err.splitlines() if len(line.split()) == 2}
    assert counts["pairs"] == len(table(result.out))
    assert counts["pairs"] <= counts["rescored"] < counts["candidates"]


def test_swapped_sides_have_the_same_scores(sides: tuple[Path, Path]) -> None:
    swapped = kit.emsmine("mine", *sides[::-1], "-s", "en", "-t", "de")
    assert {(score, target, source) for score, source, target in table(swapped.out)} == set(mined(*sides))


def test_none_found_says_why(sides: tuple[Path, Path], tmp_path: Path) -> None:
    result = kit.emsmine("mine", *sides, *LANGS, "--threshold", "1", "-o", tmp_path / "none.tsv")
    assert (result.code, (tmp_path / "none.tsv").read_bytes()) == (0, b"")
    assert "the largest probability is " in result.err
    assert "--threshold 1)" in result.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--threshold", "1.2"), ["1.2", "probability, 0 to 1", "--sort-by margin", "--no-rescore"]),
        (("--threshold", "-0.1"), ["probability, 0 to 1"]),
        (("--scorer", "ems:default", "--no-rescore"), ["ems:default", "rescoring is off"]),
        (("--scorer", "ems:nothing"), ["'ems:nothing'", "no model directory with a scorer"]),
        (("--sort-by", "cosine"), ["--sort-by", "probability"]),
        (("--no-rescore", "--margin", "distance"), ["--threshold"]),
    ],
)
def test_wrong_use(sides: tuple[Path, Path], more: tuple[str, ...], words: list[str]) -> None:
    result = kit.emsmine("mine", *sides, *LANGS, *more)
    assert (result.code, result.out) == (2, ""), result.err
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err


@pytest.fixture
def bitext(tmp_path: Path) -> Path:
    """Return translations between a line that is none and one with a word too many."""
    rows = [(GERMAN[22], ENGLISH[2]), *zip(GERMAN[:20], ENGLISH[:20], strict=True), (GERMAN[20], EXTENDED)]
    return write(tmp_path / "pairs.tsv", [f"{one}\t{other}" for one, other in rows])


def scores(*args: object) -> list[float]:
    result = kit.emsmine("score", *args, *LANGS)
    assert result.code == 0, result.err
    return [float(line.split("\t")[0]) for line in result.out.splitlines()]


def test_score_writes_probabilities(bitext: Path) -> None:
    found = scores(bitext)
    assert len(found) == 22
    assert all(0 <= score <= 1 for score in found)
    assert sum(score > 0.5 for score in found[1:21]) > 15
    assert found[0] < 0.5
    margins = scores(bitext, "--no-rescore")
    assert max(margins) > 1
    assert len(scores(bitext, "--threshold", "0.5")) == sum(score >= 0.5 for score in found)
    # A line has its score wherever it stands.
    lines = bitext.read_text("utf-8").splitlines()
    write(bitext, lines[::-1])
    assert scores(bitext) == found[::-1]
    write(bitext, [*lines, lines[3], "", lines[0]])
    again = kit.emsmine("score", bitext, *LANGS).out.splitlines()
    assert [float(line.split("\t")[0]) for line in again[:22]] == found
    assert [line.split("\t")[0] for line in again[22:]] == [f"{found[3]:.6f}", "nan", f"{found[0]:.6f}"]


def test_score_explains(bitext: Path) -> None:
    found = scores(bitext)
    result = kit.emsmine("score", bitext, *LANGS, "--explain")
    assert result.code == 0, result.err
    parts = result.out.strip("\n").split("\n\n")
    assert len(parts) == 22
    for number, (part, score) in enumerate(zip(parts, found, strict=True), start=1):
        assert part.startswith(f"line {number}: score {score:.6f}, margin ")
        assert "uncovered: " in part
    assert parts[21].splitlines()[1:3] == [f"  {GERMAN[20]}", f"  {EXTENDED}"]
    (line,) = [line for line in parts[21].splitlines() if line.startswith("  uncovered: ")]
    assert "bishops. (" in line
    few = kit.emsmine("score", bitext, *LANGS, "--explain", "--threshold", "0.5").out
    assert few.count("uncovered: ") == sum(score >= 0.5 for score in found)
    off = kit.emsmine("score", bitext, *LANGS, "--explain", "--no-rescore")
    assert (off.code, off.out) == (2, "")
    assert "--explain shows what the pair scorer sees" in off.err


def test_python_says_the_same(sides: tuple[Path, Path], bitext: Path) -> None:
    how: dict[str, Any] = {"source_lang": "de", "target_lang": "en"}
    pairs = [(pair.score, pair.source, pair.target) for pair in emsmine.mine(GERMAN, ENGLISH[::-1], **how)]
    assert pairs == [(pytest.approx(score, abs=1e-6), one, other) for score, one, other in mined(*sides)]
    by_margin = emsmine.mine(GERMAN, ENGLISH[::-1], **how, sort_by="margin")
    assert [pair.score for pair in by_margin] == [pair.margin for pair in by_margin]
    plain = emsmine.mine(GERMAN, ENGLISH[::-1], **how, rescore=False)
    assert [pair.score for pair in plain] == pytest.approx([s for s, _, _ in mined(*sides, "--no-rescore")], abs=1e-6)
    rows = [line.split("\t") for line in bitext.read_text("utf-8").splitlines()]
    scored = emsmine.score([row[0] for row in rows], [row[1] for row in rows], **how)
    assert scored.to_arrow()["score"].to_pylist() == pytest.approx(scores(bitext), abs=1e-6)
    assert emsmine.score(bitext, **how).to_arrow()["score"].to_pylist() == scored.to_arrow()["score"].to_pylist()
    found = emsmine.explain(*rows[21], source_lang="de", target_lang="en")
    shown = kit.emsmine("score", bitext, *LANGS, "--explain").out
    assert format_explanation(found) in shown
    assert [match.word for match in found.source][:2] == ["ein", "rotes"]
    assert [match.word for match in found.target if match.cosine < 0.5 and match.word == "bishops."]
    other = emsmine.explain(*rows[0], source_lang="de", target_lang="en")
    uncovered = [sum(match.uncovered for match in explained.source) for explained in (found, other)]
    assert uncovered[0] < uncovered[1]


def test_python_refuses_what_cannot_be_read(sides: tuple[Path, Path]) -> None:
    how: dict[str, Any] = {"source_lang": "de", "target_lang": "en"}
    with pytest.raises(ConfigError, match="probability"):
        emsmine.mine(GERMAN, ENGLISH, **how, threshold=1.1)
    with pytest.raises(ConfigError, match="rescoring is off"):
        emsmine.mine(GERMAN, ENGLISH, **how, rescore=False, scorer="ems:default")
    vectors = emsmine.load_encoder("ems:default").encode(GERMAN, lang="de")
    for settings in ({"rescore": True}, {"scorer": "ems:default"}):
        with pytest.raises(ConfigError, match="vectors"):
            emsmine.mine(vectors, vectors, **settings)
        with pytest.raises(ConfigError, match="vectors"):
            emsmine.score(vectors, vectors, **settings)
    # Vectors alone are mined by margin.
    assert all(pair.score == pair.margin for pair in emsmine.mine(vectors, vectors))


def bucc(folder: Path, german: list[str], english: list[str], pair: str = "de-en") -> None:
    source, target = pair.split("-")
    write(folder / f"{pair}.{source}", [f"a-{n}\t{text}" for n, text in enumerate(german)])
    write(folder / f"{pair}.{target}", [f"b-{n}\t{text}" for n, text in enumerate(english)])
    write(folder / f"{pair}.gold", [f"a-{n}\tb-{n}" for n in range(12)])


def test_eval_bucc_compares_with_and_without(tmp_path: Path) -> None:
    # Twelve gold pairs, and others that stand alone.
    bucc(tmp_path, GERMAN[:18], [*ENGLISH[:12], *ENGLISH[18:]])
    result = kit.emsmine("eval", "bucc", tmp_path, "--langs", "de-en")
    assert result.code == 0, result.err
    found = result.json
    assert (found["score"], found["threshold"], found["gold"]) == ("probability", 0.5, 12)
    assert "transferred" not in found
    plain = found["without_rescoring"]
    assert (plain["score"], plain["threshold"]) == ("margin", 1.2)
    assert min(found["f1"], plain["f1"]) > 50
    assert 0 <= found["best_threshold"] <= 1
    assert "|rescore:" in found["signature"]
    off = kit.emsmine("eval", "bucc", tmp_path, "--langs", "de-en", "--no-rescore").json
    assert "without_rescoring" not in off
    assert "rescore" not in off["signature"]
    for name in ("f1", "precision", "recall", "mined", "best_f1", "best_threshold"):
        assert off[name] == plain[name]


def test_eval_bucc_transfers_thresholds(tmp_path: Path) -> None:
    bucc(tmp_path, GERMAN[:18], [*ENGLISH[:12], *ENGLISH[18:]])
    bucc(tmp_path, kit.PARALLEL["es"][:18], [*ENGLISH[:12], *ENGLISH[18:]], "es-en")
    result = kit.emsmine("eval", "bucc", tmp_path, "--langs", "de-en,es-en")
    assert result.code == 0, result.err
    german, spanish = result.json
    assert list(german["transferred"]) == ["es-en"]
    assert list(spanish["transferred"]) == ["de-en"]
    for one, other in ((german, spanish), (spanish, german)):
        again = kit.emsmine(
            "eval", "bucc", tmp_path, "--langs", one["pair"], "--threshold", str(other["best_threshold"])
        )
        # The threshold is shown in four digits.
        assert one["transferred"][other["pair"]] == pytest.approx(again.json["f1"], abs=5)
        assert one["transferred"][other["pair"]] <= one["best_f1"]


def test_eval_tatoeba_among_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "tatoeba.deu-eng.deu", GERMAN)
    write(tmp_path / "tatoeba.deu-eng.eng", ENGLISH)
    plain = kit.emsmine("eval", "tatoeba", tmp_path).json
    result = kit.emsmine("eval", "tatoeba", tmp_path, "--rescore")
    assert result.code == 0, result.err
    assert result.json["mean"] > 70
    assert "rescore" not in plain["signature"]
    assert "|rescore:" in result.json["signature"]
    assert "|k:10|" in result.json["signature"]
    assert kit.emsmine("eval", "tatoeba", tmp_path, "--rescore", "--scorer", "ems:default").json == result.json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a folder with the shipped model, scorer included, whose scorer may be changed."""
    return kit.own_model(tmp_path / "model")


def test_a_scorer_is_used_beside_any_encoder(sides: tuple[Path, Path], model: Path) -> None:
    encoder = ("--encoder", f"ems:{model}")
    expected = mined(*sides)
    assert mined(*sides, *encoder) == expected
    (model / SCORER_FILE).unlink()
    # Without a scorer of its own, by margin, unless another's is asked for.
    assert mined(*sides, *encoder) == mined(*sides, "--no-rescore")
    assert mined(*sides, *encoder, "--rescore") == expected
    assert mined(*sides, *encoder, "--scorer", "ems:default") == expected


@pytest.mark.parametrize("what", ["missing", "damaged", "short", "folder"])
def test_a_scorer_that_cannot_be_used_says_so(sides: tuple[Path, Path], model: Path, what: str) -> None:
    path = model / SCORER_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if what == "damaged":
        path.write_bytes(content)
    elif what == "short":
        path.write_bytes(content[:1000])
    elif what == "folder":
        path.mkdir()
    result = kit.emsmine("mine", *sides, *LANGS, "--scorer", f"ems:{model}")
    assert (result.code, result.out) == (1, ""), result.err
    assert str(path) in result.err
    assert "Traceback" not in result.err
    assert {"missing": "train-scorer", "damaged": "is damaged"}.get(what, "cannot be read") in result.err
    with pytest.raises(ModelError):
        emsmine.mine(GERMAN, ENGLISH, source_lang="de", target_lang="en", scorer=f"ems:{model}")
