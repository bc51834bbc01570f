"""Which columns of a file are a bitext."""

import pytest

from emsmine.columns import find_columns, parse_columns, with_columns
from emsmine.errors import ConfigError, InputError

PAIR = "Guten Tag.\tGood day."


def found(*rows: str, given: tuple[int, int] | None = None) -> tuple[int, int]:
    return find_columns([row.encode("utf-8") for row in rows], "score: a.tsv", given)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([PAIR, "Danke.\tThanks."], (0, 1)),
        ([f"{PAIR}\tsource-tag", "Danke.\tThanks.\t0.7"], (0, 1)),
        ([f"1.234567\t{PAIR}", "1.2\tDanke.\tThanks."], (1, 2)),
        ([f"nan\t{PAIR}", "-1.2e-3\tDanke.\tThanks."], (1, 2)),
        ([f"1.3\t1.2\t{PAIR}"], (2, 3)),
        ([f"1.31\t0.52\tlow_cosine\t{PAIR}", f"1.30\t0.51\tlow_cosine,few_neighbours\t{PAIR}"], (3, 4)),
        ([f"https://a.example/x\thttp://b.example/y?z=1\t{PAIR}\t0.9"], (2, 3)),
        # A number in one line is a sentence; a column of numbers is none.
        (["1999\t1999\tyear", f"{PAIR}\tx"], (0, 1)),
        (["12 Uhr\t12 o'clock\t1", "13 Uhr\t13 o'clock\t1"], (0, 1)),
        # Words that look like labels in some lines only.
        (["read_only\tnur_lesen\tx", f"{PAIR}\tx"], (0, 1)),
        (["你好。\tこんにちは。", "谢谢。\tありがとう。"], (0, 1)),
        (["0.5\t你好。\tสวัสดี"], (1, 2)),
        (["", PAIR, "   "], (0, 1)),
        ([PAIR, "Danke.\tThanks.", "one column"], (0, 1)),
        ([PAIR, "\tThanks."], (0, 1)),
        ([], (0, 1)),
        ([""], (0, 1)),
    ],
)
def test_recognised(rows: list[str], columns: tuple[int, int]) -> None:
    assert found(*rows) == columns


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        (["one", "two"], None, "2 of the first 2 lines have fewer than 2 columns .*line 1"),
        ([PAIR, "one", "two"], None, "2 of the first 3 lines .*line 2"),
        ([PAIR, PAIR], (2, 3), "fewer than 4 columns"),
        (["1.2\t0.5", "1.3\t0.6"], None, r"column 1 holds no sentences \(such as '1.2'\).*--columns 2,3"),
        (["1.2\tGuten Tag.", "1.3\tDanke."], None, "column 1 holds no sentences"),
        (["1.2\tGuten Tag.\t0.5"], (0, 1), "column 1 holds no sentences"),
        (["Guten Tag.\thttps://a.example/", "Danke.\twww.b.example"], None, "column 2 holds no sentences"),
        (["Guten Tag.\tGuten Tag.", "Danke.\tDanke."], None, "are the same on all of the first 2 lines"),
        (["!\t?", "...\t--"], None, "column 1 holds no sentences"),
    ],
)
def test_refused(rows: list[str], given: tuple[int, int] | None, message: str) -> None:
    with pytest.raises(InputError, match=rf"score: a\.tsv: .*{message}"):
        found(*rows, given=given)


def test_what_the_user_says_wins() -> None:
    rows = [f"1.2\t{PAIR}\tBonjour.", "1.3\tDanke.\tThanks.\tMerci."]
    assert found(*rows, given=(1, 3)) == (1, 3)
    assert found(*rows, given=(3, 2)) == (3, 2)


@pytest.mark.parametrize(("text", "columns"), [("1,2", (0, 1)), (" 4 , 3 ", (3, 2)), ("10,1", (9, 0))])
def test_parse(text: str, columns: tuple[int, int]) -> None:
    assert parse_columns(text) == columns


@pytest.mark.parametrize("text", ["", "1", "1,1", "0,1", "1,2,3", "a,b", "-1,2", "1.5,2", "²,1", "1,9999999"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="--gold-columns is"):
        parse_columns(text, "--gold-columns")


def test_every_line_comes_with_the_columns_of_its_file() -> None:
    told: list[tuple[int, int]] = []
    lines = [f"1.{n}\tSatz {n} a\tsentence {n} a".encode() for n in range(2500)]
    assert list(with_columns(lines, "train: a.tsv", tell=told.append)) == [(line, (1, 2)) for line in lines]
    assert told == [(1, 2)]
    told.clear()
    assert [columns for _, columns in with_columns([PAIR.encode()], "train: a.tsv", tell=told.append)] == [(0, 1)]
    assert told == []
