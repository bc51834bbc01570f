"""`emsmine score`, as a user calls it."""

from pathlib import Path

import pipeline_kit as kit
import pytest

LANGS = ("--source-lang", "de", "--target-lang", "en")
GERMAN, ENGLISH = kit.PARALLEL["de"], kit.PARALLEL["en"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Return a bitext whose last line is no translation."""
    rows = [*zip(GERMAN[:-1], ENGLISH[:-1], strict=True), (GERMAN[-1], ENGLISH[0])]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in rows), encoding="utf-8")
    return path


def scores(text: str) -> list[float]:
    return [float(line.split("\t")[0]) for line in text.splitlines()]


def test_translations_score_higher_than_what_is_none(pairs: Path) -> None:
    result = kit.emsmine("score", pairs, *LANGS)
    assert result.code == 0, result.err
    found = scores(result.out)
    assert len(found) == len(GERMAN)
    assert sorted(found)[len(found) // 2] > 1.2
    assert found[-1] < 1.0
    assert [line.split("\t", 1)[1] for line in result.out.splitlines()] == pairs.read_text("utf-8").splitlines()
    assert f"{'scored':<24} {len(GERMAN):>10}" in result.err


def test_mining_gives_a_pair_the_same_score(tmp_path: Path) -> None:
    paths = tmp_path / "a.de", tmp_path / "a.en"
    for path, sentences in zip(paths, (GERMAN, ENGLISH), strict=True):
        path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    scored = kit.emsmine("score", *paths, *LANGS).out
    mined = kit.emsmine("mine", *paths, *LANGS, "--threshold", "1.0").out
    assert mined
    assert set(mined.splitlines()) <= set(scored.splitlines())


def test_a_threshold_leaves_lines_out_and_says_so(pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "good.tsv"
    result = kit.emsmine("score", pairs, *LANGS, "--threshold", "1.2", "-o", output)
    assert result.code == 0, result.err
    assert result.out == ""
    kept = output.read_text("utf-8")
    assert 0 < len(scores(kept)) < len(GERMAN)
    assert min(scores(kept)) >= 1.2
    assert f"{'written':<24} {len(scores(kept)):>10}" in result.err


def test_other_margins_need_no_threshold(pairs: Path) -> None:
    result = kit.emsmine("score", pairs, *LANGS, "--margin", "absolute")
    assert result.code == 0, result.err
    assert all(-1.0001 <= cosine <= 1.0001 for cosine in scores(result.out))


def test_three_files_are_refused(pairs: Path) -> None:
    result = kit.emsmine("score", pairs, pairs, pairs, *LANGS)
    assert result.code == 2
    assert "3 files given" in result.err


def test_a_folder_that_is_not_there(pairs: Path, tmp_path: Path) -> None:
    result = kit.emsmine("score", pairs, *LANGS, "-o", tmp_path / "no" / "x.tsv")
    assert result.code == 2
    assert "score: folder" in result.err
