"""`emsmine mine`, as a user calls it."""

import gzip
from pathlib import Path

import pipeline_kit as kit
import pytest
import zstandard

from emsmine.pipelines.direct.sentences import read_lines

LANGS = ("--source-lang", "de", "--target-lang", "en")
GERMAN, ENGLISH = kit.PARALLEL["de"], kit.PARALLEL["en"]


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Return two files of sentences in other orders."""
    paths = tmp_path / "a.de", tmp_path / "b.en"
    for path, sentences in zip(paths, (GERMAN, ENGLISH[::-1]), strict=True):
        path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    return paths


def table(text: str) -> list[tuple[float, str, str]]:
    lines = text.split("\n")
    assert lines.pop() == ""
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 3 for row in rows)
    return [(float(score), source, target) for score, source, target in rows]


def mine(*args: object, stdin: bytes = b"") -> list[tuple[float, str, str]]:
    result = kit.emsmine("mine", *args, *LANGS, *kit.MARGIN_OF_ONE, stdin=stdin)
    assert result.code == 0, result.err
    assert "\r" not in result.out
    return table(result.out)


def test_pairs_go_to_stdout_best_first(sides: tuple[Path, Path]) -> None:
    rows = mine(*sides)
    scores = [score for score, _, _ in rows]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 1.0
    right = sum(GERMAN.index(source) == ENGLISH.index(target) for _, source, target in rows)
    assert right > kit.NUM_PARALLEL / 2
    assert len({source for _, source, _ in rows}) == len({target for _, _, target in rows}) == len(rows)


def test_the_pipeline_finds_the_same_pairs(sides: tuple[Path, Path], finished: Path) -> None:
    exported = table((finished / "export" / "de-en.tsv").read_text(encoding="utf-8"))
    rows = mine(*sides)
    assert {row[1:] for row in rows} == {row[1:] for row in exported}
    # The run keeps vectors as float16.
    by_pair = {row[1:]: row[0] for row in exported}
    assert all(score == pytest.approx(by_pair[source, target], abs=5e-3) for score, source, target in rows)


def test_swapped_sides_find_the_same_pairs(sides: tuple[Path, Path]) -> None:
    swapped = kit.emsmine("mine", sides[1], sides[0], "--source-lang", "en", "--target-lang", "de", *kit.MARGIN_OF_ONE)
    assert {(target, source) for _, source, target in table(swapped.out)} == {row[1:] for row in mine(*sides)}


def test_compressed_files_stdin_and_a_file_as_output(sides: tuple[Path, Path], tmp_path: Path) -> None:
    expected = mine(*sides)
    content = [path.read_bytes() for path in sides]
    packed, zst, out = tmp_path / "a.gz", tmp_path / "b.zst", tmp_path / "out.tsv"
    packed.write_bytes(gzip.compress(content[0]))
    zst.write_bytes(zstandard.compress(content[1]))
    assert mine(packed, zst) == expected
    assert mine("-", sides[1], stdin=content[0]) == expected
    assert mine(sides[0], "-", stdin=content[1]) == expected
    result = kit.emsmine("mine", *sides, *LANGS, *kit.MARGIN_OF_ONE, "-o", out)
    assert (result.code, result.out) == (0, "")
    assert table(out.read_text(encoding="utf-8")) == expected


def test_noise_changes_nothing_and_is_counted(sides: tuple[Path, Path], tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.de"
    lines = [*sides[0].read_bytes().split(b"\n")[:-1]]
    lines += [b"", b"   ", b"caf\xe9", lines[3], lines[4].upper() + b" !", b"x" * 1001, b"\xe2\x80\x8b"]
    noisy.write_bytes(b"\r\n".join(lines))
    result = kit.emsmine("mine", noisy, sides[1], *LANGS, *kit.MARGIN_OF_ONE)
    assert result.code == 0
    assert table(result.out) == mine(*sides)
    counts = dict(line.rsplit(maxsplit=1) for line in result.err.splitlines() if line.startswith(("source", "target")))
    assert {name.strip(): number for name, number in counts.items()} == {
        "source.sentences": "24",
        "source.empty": "3",
        "source.invalid_utf8": "1",
        "source.duplicate": "2",
        "source.too_long": "1",
        "target.sentences": "24",
    }


def test_threshold_cuts_the_tail(sides: tuple[Path, Path]) -> None:
    rows = mine(*sides)
    cut = kit.emsmine("mine", *sides, *LANGS, "--no-rescore", "--threshold", str(rows[5][0]))
    assert [row[1:] for row in table(cut.out)] == [row[1:] for row in rows if row[0] > rows[5][0]] or [
        row[1:] for row in table(cut.out)
    ] == [row[1:] for row in rows if row[0] >= rows[5][0]]
    assert kit.emsmine("mine", *sides, *LANGS, "--no-rescore", "--threshold", "99").out == ""


@pytest.mark.parametrize("k", [1, 1000])
def test_k_may_exceed_the_corpus(sides: tuple[Path, Path], k: int) -> None:
    assert mine(*sides, "--k", k)


def test_suspicious_pairs_are_counted_and_listed_on_demand(sides: tuple[Path, Path], tmp_path: Path) -> None:
    listing = tmp_path / "suspicious.tsv"
    result = kit.emsmine("mine", *sides, *LANGS, *kit.MARGIN_OF_ONE, "--k", "1000", "--suspicious", listing)
    assert result.code == 0, result.err
    rows = [line.split("\t") for line in listing.read_text(encoding="utf-8").splitlines()]
    # Every sentence has fewer than 1,000 neighbours.
    assert [(float(row[0]), row[3], row[4]) for row in rows] == table(result.out)
    assert all("few_neighbours" in row[2].split(",") for row in rows)
    counted = dict(line.split() for line in result.err.splitlines() if line.startswith(("suspicious", "pairs")))
    assert counted["suspicious.few_neighbours"] == counted["pairs"] == str(len(rows))
    quiet = kit.emsmine("mine", *sides, *LANGS, *kit.MARGIN_OF_ONE, "--suspicious", listing)
    assert "suspicious.few_neighbours" not in quiet.err
    assert listing.read_text(encoding="utf-8").count("few_neighbours") == 0


def test_one_sentence_a_side(tmp_path: Path) -> None:
    for name, text in (("a", GERMAN[2]), ("b", ENGLISH[2])):
        (tmp_path / name).write_text(text, encoding="utf-8")
    # With one neighbour the ratio margin is 1 whatever the cosine.
    assert mine(tmp_path / "a", tmp_path / "b") == [(1.0, GERMAN[2], ENGLISH[2])]


def test_wrong_use(sides: tuple[Path, Path], tmp_path: Path) -> None:
    empty, damaged = tmp_path / "empty", tmp_path / "damaged.gz"
    empty.write_bytes(b"\n\n")
    damaged.write_bytes(gzip.compress(sides[0].read_bytes())[:-20])
    cases: list[tuple[list[object], int, list[str]]] = [
        ([empty, sides[1], *LANGS], 1, ["source", str(empty), "'empty': 2"]),
        ([sides[0], empty, *LANGS], 1, ["target", str(empty)]),
        ([tmp_path / "no", sides[1], *LANGS], 1, [str(tmp_path / "no")]),
        ([damaged, sides[1], *LANGS], 1, [str(damaged), "damaged or cut short"]),
        ([tmp_path, sides[1], *LANGS], 1, [str(tmp_path), "directory"]),
        (["-", "-", *LANGS], 2, ["stdin"]),
        ([*sides, "--source-lang", "xx", "--target-lang", "en"], 2, ["'xx'"]),
        ([empty, damaged], 2, ["--source-lang (-s)", "--target-lang (-t)"]),
        ([], 2, ["Missing SOURCE and TARGET."]),
        ([sides[0]], 2, ["TARGET"]),
        ([*sides, "-s", "en"], 2, ["both sides are eng_Latn"]),
        ([*sides, *LANGS, "--encoder", "ems:nothing"], 2, ["'nothing'"]),
        ([*sides, *LANGS, "--k", "0"], 2, ["search.k"]),
        ([*sides, *LANGS, "-o", tmp_path / "no" / "out.tsv"], 2, [str(tmp_path / "no"), "create"]),
        ([*sides, *LANGS, "-o", tmp_path], 2, [str(tmp_path), "folder"]),
        ([*sides, *LANGS, "-o", ""], 2, ["--output", "empty"]),
        ([*sides, *LANGS, "-o", "."], 2, ["--output", "folder"]),
        ([*sides, *LANGS, "-o", sides[0]], 2, ["is the input", "lost"]),
        ([*sides, *LANGS, "--suspicious", sides[1]], 2, ["--suspicious", "is the input", "lost"]),
        ([*sides, *LANGS, "--suspicious", tmp_path / "no" / "s.tsv"], 2, ["--suspicious", "create"]),
        ([*sides, *LANGS, "--suspicious", "-"], 2, ["--suspicious", "a file of its own"]),
    ]
    for args, code, words in cases:
        result = kit.emsmine("mine", *args)
        assert (result.code, result.out) == (code, ""), result.err
        for word in words:
            assert word in result.err
        assert "Traceback" not in result.err


def test_languages_are_those_of_the_file_names(sides: tuple[Path, Path]) -> None:
    result = kit.emsmine("mine", *sides, *kit.MARGIN_OF_ONE)
    assert table(result.out) == mine(*sides)
    assert "--source-lang is de, by the file name" in result.err
    assert "looks like" not in result.err


def test_swapped_languages_are_warned_of(sides: tuple[Path, Path]) -> None:
    result = kit.emsmine("mine", *sides, "-s", "en", "-t", "de", *kit.MARGIN_OF_ONE)
    assert result.code == 0
    assert result.err.count("were the two languages swapped?") == 2


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz"])
def test_outputs_are_compressed_as_they_are_called(sides: tuple[Path, Path], tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"out.tsv{ending}"
    assert kit.emsmine("mine", *sides, *kit.MARGIN_OF_ONE, "-o", out).code == 0
    assert table("".join(f"{line.decode()}\n" for line in read_lines(str(out)))) == mine(*sides)
    # Whatever it is called, it is read as what it is.
    plain, odd = tmp_path / "plain.de.gz", tmp_path / "packed.de"
    plain.write_bytes(sides[0].read_bytes())
    odd.write_bytes(gzip.compress(sides[0].read_bytes()))
    assert mine(plain, sides[1]) == mine(odd, sides[1]) == mine(*sides)


def test_no_pair_says_why(sides: tuple[Path, Path], tmp_path: Path) -> None:
    result = kit.emsmine("-q", "mine", *sides, "--no-rescore", "--threshold", "99", "-o", tmp_path / "none.tsv")
    assert (result.code, (tmp_path / "none.tsv").read_bytes()) == (0, b"")
    assert "mine: no pair; the largest margin is" in result.err
    assert "--threshold 99" in result.err


def test_the_end_says_where_the_pairs_are(sides: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "pairs.tsv"
    result = kit.emsmine("mine", *sides, *kit.MARGIN_OF_ONE, "-o", out)
    assert f"pairs in {out} (score, source, target; best first)" in result.err
