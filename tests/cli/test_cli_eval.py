"""`emsmine eval`, as a user calls it."""

import json
from pathlib import Path

import pipeline_kit as kit
import pytest

GERMAN, ENGLISH = kit.PARALLEL["de"], kit.PARALLEL["en"]


def lines(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_pairs(finished: Path, tmp_path: Path) -> None:
    exported = finished / "export" / "de-en.tsv"
    gold = lines(tmp_path / "gold.tsv", [line.split("\t", 1)[1] for line in exported.read_text("utf-8").splitlines()])
    result = kit.emsmine("eval", "pairs", exported, gold)
    assert result.code == 0, result.err
    assert (result.json["precision"], result.json["recall"], result.json["f1"]) == (100, 100, 100)
    lines(gold, ["Nichts\tNothing"])
    assert kit.emsmine("eval", "pairs", exported, gold).json["f1"] == 0


def test_pairs_of_mined_files_are_recognised(finished: Path, tmp_path: Path) -> None:
    exported = finished / "export" / "de-en.tsv"
    result = kit.emsmine("eval", "pairs", exported, exported)
    assert (result.code, result.json["f1"], result.err) == (0, 100, "")
    swapped = kit.emsmine("eval", "pairs", exported, exported, "--gold-columns", "3,2")
    assert (swapped.code, swapped.json["f1"]) == (0, 0)
    assert "with the sides swapped are" in swapped.err
    wrong = kit.emsmine("eval", "pairs", exported, exported, "--mined-columns", "1,2")
    assert (wrong.code, wrong.out) == (1, "")
    assert "--mined-columns 2,3" in wrong.err


def test_tatoeba(tmp_path: Path) -> None:
    lines(tmp_path / "tatoeba.deu-eng.deu", GERMAN)
    lines(tmp_path / "tatoeba.deu-eng.eng", ENGLISH)
    result = kit.emsmine("eval", "tatoeba", tmp_path)
    assert result.code == 0, result.err
    assert result.json["languages"] == 1
    assert result.json["mean"] > 50
    assert result.json["per_language"]["deu_Latn"]["sentences"] == len(GERMAN)
    assert "enc:ems:default" in result.json["signature"]
    assert kit.emsmine("eval", "tatoeba", tmp_path, "--langs", "de").json == result.json
    missing = kit.emsmine("eval", "tatoeba", tmp_path, "--langs", "de,fr")
    assert (missing.code, missing.out) == (1, "")
    assert "fra_Latn" in missing.err


def test_bucc(tmp_path: Path) -> None:
    lines(tmp_path / "de-en.sample.de", [f"de-{n}\t{text}" for n, text in enumerate(GERMAN)])
    lines(tmp_path / "de-en.sample.en", [f"en-{n}\t{text}" for n, text in enumerate(ENGLISH)])
    gold = lines(tmp_path / "de-en.sample.gold", [f"de-{n}\ten-{n}" for n in range(len(GERMAN))])
    args = ("eval", "bucc", tmp_path, "--langs", "de-en", "--split", "sample", *kit.MARGIN_OF_ONE)
    result = kit.emsmine(*args)
    assert result.code == 0, result.err
    found = result.json
    assert (found["gold"], found["sentences"]) == (24, [24, 24])
    assert (found["score"], found["threshold"]) == ("margin", 1.0)
    assert 50 < found["f1"] <= found["best_f1"] <= 100
    assert "k:4|ret:max|th:1.0" in found["signature"]
    lines(gold, ["de-0\ten-0", "de-1"])
    wrong = kit.emsmine(*args)
    assert (wrong.code, wrong.out) == (1, "")
    assert f"{gold} line 2" in wrong.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["pairs", "no.tsv", "no.tsv"], 1, ["no.tsv"]),
        (["tatoeba", "."], 1, ["tatoeba.<xxx>-eng.<xxx>"]),
        (["tatoeba", ".", "--langs", "xx"], 2, ["'xx'"]),
        (["bucc", ".", "--langs", "de-en"], 1, ["de-en.de", "--split"]),
        (["bucc", ".", "--langs", "de"], 2, ["'de'"]),
        (["bucc", "."], 2, ["--langs"]),
        (["flores", "."], 2, ["flores"]),
    ],
)
def test_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = kit.emsmine("eval", *args)
    assert (result.code, result.out) == (code, "")
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err


def test_json_is_strict(tmp_path: Path) -> None:
    for side, rows in (("de", ["a\tHallo."]), ("en", ["b\tQuantum."]), ("gold", ["a\tb"])):
        lines(tmp_path / f"de-en.{side}", rows)
    result = kit.emsmine("eval", "bucc", tmp_path, "--langs", "de-en", "--cosine-floor", "1")
    json.loads(result.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (result.json["mined"], result.json["best_threshold"]) == (0, None)
