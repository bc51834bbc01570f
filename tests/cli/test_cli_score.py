"""`emsmine score`, as a user calls it."""

import gzip
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
    result = kit.emsmine("score", pairs, *LANGS, "--no-rescore")
    assert result.code == 0, result.err
    found = scores(result.out)
    assert len(found) == len(GERMAN)
    assert sorted(found)[len(found) // 2] > 1.2
    assert found[-1] < 1.0
    assert [line.split("\t", 1)[1] for line in result.out.splitlines()] == pairs.read_text("utf-8").splitlines()
    assert f"{'scored':<24} {len(GERMAN):>10}" in result.err


@pytest.mark.parametrize(("of_both", "of_mine"), [(["--no-rescore"], "1.0"), ([], "0")])
def test_mining_gives_a_pair_the_same_score(tmp_path: Path, of_both: list[str], of_mine: str) -> None:
    paths = tmp_path / "a.de", tmp_path / "a.en"
    for path, sentences in zip(paths, (GERMAN, ENGLISH), strict=True):
        path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    scored = kit.emsmine("score", *paths, *LANGS, *of_both).out
    mined = kit.emsmine("mine", *paths, *LANGS, *of_both, "--threshold", of_mine).out
    assert mined
    assert set(mined.splitlines()) <= set(scored.splitlines())


def test_a_threshold_leaves_lines_out_and_says_so(pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "good.tsv"
    result = kit.emsmine("score", pairs, *LANGS, "--no-rescore", "--threshold", "1.2", "-o", output)
    assert result.code == 0, result.err
    assert result.out == ""
    kept = output.read_text("utf-8")
    assert 0 < len(scores(kept)) < len(GERMAN)
    assert min(scores(kept)) >= 1.2
    assert f"{'written':<24} {len(scores(kept)):>10}" in result.err


def test_other_margins_need_no_threshold(pairs: Path) -> None:
    result = kit.emsmine("score", pairs, *LANGS, "--no-rescore", "--margin", "absolute")
    assert result.code == 0, result.err
    assert all(-1.0001 <= cosine <= 1.0001 for cosine in scores(result.out))


def test_three_files_are_refused(pairs: Path) -> None:
    result = kit.emsmine("score", pairs, pairs, pairs, *LANGS)
    assert result.code == 2
    assert "3 files given" in result.err


def test_a_folder_that_is_not_there(pairs: Path, tmp_path: Path) -> None:
    result = kit.emsmine("score", pairs, *LANGS, "-o", tmp_path / "no" / "x.tsv")
    assert result.code == 2
    assert "score: --output" in result.err
    assert "create it first" in result.err


def test_what_mine_wrote_is_scored_by_its_sentences(tmp_path: Path) -> None:
    paths = tmp_path / "a.de", tmp_path / "a.en"
    for path, sentences in zip(paths, (GERMAN, ENGLISH), strict=True):
        path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    mined, plain = tmp_path / "mined.tsv.gz", tmp_path / "plain.tsv"
    assert kit.emsmine("mine", *paths, *kit.MARGIN_OF_ONE, "-o", mined).code == 0
    rows = gzip.decompress(mined.read_bytes()).decode("utf-8").splitlines()
    plain.write_text("".join(f"{row.split(chr(9), 1)[1]}\n" for row in rows), encoding="utf-8")
    result = kit.emsmine("score", mined, *LANGS)
    assert result.code == 0, result.err
    assert "source and target are columns 2 and 3" in result.err
    assert scores(result.out) == scores(kit.emsmine("score", plain, *LANGS).out)
    # What `score` wrote of that has two scores in front.
    twice = tmp_path / "twice.tsv"
    twice.write_text(result.out, encoding="utf-8")
    assert scores(kit.emsmine("score", twice, *LANGS).out) == scores(result.out)
    assert scores(kit.emsmine("score", mined, *LANGS, "--columns", "2,3").out) == scores(result.out)
    swapped = kit.emsmine("score", mined, "-s", "en", "-t", "de", "--columns", "3,2")
    assert swapped.code == 0, swapped.err
    assert scores(swapped.out) == pytest.approx(scores(result.out), abs=1e-6)


@pytest.mark.parametrize(
    ("content", "args", "code", "words"),
    [
        ("1.2\t0.5\n1.3\t0.6\n", LANGS, 1, "column 1 holds no sentences"),
        ("Hallo.\tHallo.\nDanke.\tDanke.\n", LANGS, 1, "are the same on all of the first 2 lines"),
        ("Hallo.\nDanke.\n", LANGS, 1, "fewer than 2 columns"),
        ("Hallo.\tHello.\n", (*LANGS, "--columns", "2,3"), 1, "fewer than 3 columns"),
        ("Hallo.\tHello.\n", (*LANGS, "--columns", "2"), 2, "--columns is '2'"),
        ("Hallo.\tHello.\n", (), 2, "--source-lang (-s) and --target-lang (-t)"),
    ],
)
def test_what_cannot_be_a_bitext_is_refused(
    tmp_path: Path, content: str, args: tuple[str, ...], code: int, words: str
) -> None:
    path = tmp_path / "bitext.tsv"
    path.write_text(content, encoding="utf-8")
    result = kit.emsmine("score", path, *args)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert "Traceback" not in result.err


def test_two_files_have_no_columns_and_are_two(pairs: Path) -> None:
    assert "--columns is for one file" in kit.emsmine("score", pairs, pairs, *LANGS, "--columns", "1,2").err
    assert "are the same file" in kit.emsmine("score", pairs, pairs, *LANGS).err
