"""Margins of an existing bitext."""

from pathlib import Path

import numpy as np
import pytest
from pipeline_kit import AngleEncoder

from emsmine.errors import InputError
from emsmine.pipelines.direct.score import Bitext, read_bitext, score, scored_lines

LANGS = ("deu_Latn", "eng_Latn")


def bitext(tmp_path: Path, content: str) -> Bitext:
    path = tmp_path / "a.tsv"
    path.write_text(content, encoding="utf-8")
    return read_bitext([str(path)], LANGS, 10)


def test_margins_by_hand(tmp_path: Path) -> None:
    # Artetxe & Schwenk 2019, section 3.1, with k = 2 on angles: source 0° sees 0° and 60°: mean (1 + 0.5) / 2; source
    # 90° sees 60° and 0°: mean (cos 30° + 0) / 2. The targets: 0° sees 0° and 90°, mean 0.5; 60° sees 90° and 0°:
    # mean (cos 30° + 0.5) / 2.
    scored = score(AngleEncoder(), bitext(tmp_path, "0 a\t0 a\n90 a\t60 a\n"), k=2, margin="ratio")
    root = np.cos(np.radians(30))
    first = 1 / ((0.75 + 0.5) / 2)
    second = root / ((root / 2 + (root + 0.5) / 2) / 2)
    assert scored.margins.tolist() == pytest.approx([first, second], abs=1e-6)
    assert scored.scores.tolist() == scored.margins.tolist()
    assert scored.counts == {"lines": 2, "scored": 2}


def test_every_line_has_a_place_and_a_reason(tmp_path: Path) -> None:
    content = "0 a\t0 a\n\none column\n0 a\t\n \t90 a\nx\t90 a\n90 a\t01234567890\n90 a\t60 a\tmore\n0 a\t0 a\n"
    found = bitext(tmp_path, content)
    scored = score(AngleEncoder(), found, k=2, margin="ratio")
    assert np.isnan(scored.margins).tolist() == [False, True, True, True, True, True, True, False, False]
    assert scored.margins[0] == scored.margins[8]
    assert scored.counts == {
        "lines": 9,
        "too_few_columns": 2,
        "source.empty": 1,
        "source.no_vector": 1,
        "target.empty": 1,
        "target.too_long": 1,
        "scored": 3,
    }
    lines = list(scored_lines(found.lines, scored.margins, None))
    assert b"".join(line.split(b"\t", 1)[1] for line in lines) == content.encode()
    assert lines[1:3] == [b"nan\t\n", b"nan\tone column\n"]
    assert [line.split(b"\t", 1)[1] for line in scored_lines(found.lines, scored.margins, 1.2)] == [
        line.split(b"\t", 1)[1]
        for line, margin in zip(lines, scored.margins.tolist(), strict=True)
        if not np.isnan(margin) and margin >= 1.2
    ]


def test_copies_are_one_neighbour(tmp_path: Path) -> None:
    once = score(AngleEncoder(), bitext(tmp_path, "0 a\t0 a\n90 a\t60 a\n"), k=2, margin="distance").margins
    often = score(
        AngleEncoder(), bitext(tmp_path, "0 a\t0 a\n90 a\t60 a\n" + "0 a.\t0 A!\n" * 5), k=2, margin="distance"
    ).margins
    assert often[:2].tolist() == once.tolist()
    assert set(often[2:].tolist()) == {once[0]}


def test_an_undefined_margin_is_counted(tmp_path: Path) -> None:
    scored = score(AngleEncoder(), bitext(tmp_path, "0 a\t180 a\n"), k=1, margin="ratio")
    assert np.isnan(scored.margins).all()
    assert scored.counts == {"lines": 1, "undefined_margin": 1, "scored": 0}


def test_two_files_correspond_line_by_line(tmp_path: Path) -> None:
    left, right = tmp_path / "a.de", tmp_path / "a.en"
    left.write_text("0 a\n9\ta\n", encoding="utf-8")
    right.write_text("0 a\n60 a\n", encoding="utf-8")
    found = read_bitext([str(left), str(right)], LANGS, 10)
    assert found.lines == [b"0 a\t0 a", b"9 a\t60 a"]
    right.write_text("0 a\n60 a\n1 a\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.de ends before line 3, .*a\.en does not"):
        read_bitext([str(left), str(right)], LANGS, 10)


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable source sentence among the 3 lines"):
        bitext(tmp_path, "one\n\ta\n\tb\n")


def test_one_file_is_no_two_sides(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_text("0 a\n", encoding="utf-8")
    (tmp_path / "link").symlink_to("a.de")
    with pytest.raises(InputError, match="are the same file"):
        read_bitext([str(tmp_path / "a.de"), str(tmp_path / "link")], LANGS, 10)


def test_a_score_in_front_is_no_sentence(tmp_path: Path) -> None:
    plain = score(AngleEncoder(), bitext(tmp_path, "0 a\t0 a\n90 a\t60 a\n"), k=2, margin="ratio").margins
    scored = bitext(tmp_path, "1.3\t0 a\t0 a\n1.2\t90 a\t60 a\n")
    assert score(AngleEncoder(), scored, k=2, margin="ratio").margins.tolist() == plain.tolist()
    assert scored.lines == [b"1.3\t0 a\t0 a", b"1.2\t90 a\t60 a"]
