"""Evaluation on files, with results worked out by hand."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import zstandard
from pipeline_kit import AngleEncoder

from emsmine.errors import InputError, LanguageError
from emsmine.pipelines.direct.bucc import evaluate_bucc, find_bucc
from emsmine.pipelines.direct.evaluation import evaluate_pairs, evaluate_tatoeba, find_tatoeba
from emsmine.pipelines.settings import SelectSettings


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))


def tatoeba(folder: Path, code: str, source: list[str], target: list[str]) -> None:
    write(folder / f"tatoeba.{code}-eng.{code}", *source)
    write(folder / f"tatoeba.{code}-eng.eng", *target)


def test_tatoeba_by_hand(tmp_path: Path) -> None:
    # 40° is nearer to 0° than to 100°, so one of three goes wrong forward; 100° is nearer to 90°, one backward.
    tatoeba(tmp_path / "v1", "deu", ["0", "90", "40"], ["0", "90", "100"])
    tatoeba(tmp_path / "v1", "fra", ["0", "90"], ["1", "91"])
    found = evaluate_tatoeba(AngleEncoder(), find_tatoeba(tmp_path, ["deu_Latn", "fra_Latn", "ita_Latn"]))
    assert found["languages"] == 2
    german = found["per_language"]["deu_Latn"]
    assert (german["sentences"], german["to_english"], german["from_english"], german["mean"]) == (
        3,
        66.67,
        66.67,
        66.67,
    )
    assert german["interval_95"][0] <= 66.67 <= german["interval_95"][1]
    french = found["per_language"]["fra_Latn"]
    assert (french["to_english"], french["from_english"], french["mean"]) == (100, 100, 100)
    assert (found["to_english"], found["from_english"], found["mean"]) == (83.33, 83.33, 83.33)
    assert re.match(
        r"enc:angles\|model:[0-9a-f]{12}\|data:tatoeba\|langs:deu_Latn,fra_Latn\|texts:[0-9a-f]{12}\|margin:none\|k:1",
        found["signature"],
    )


def test_tatoeba_directions_are_not_the_same(tmp_path: Path) -> None:
    # All English lines find their line; 10° and 20° both find 12°.
    tatoeba(tmp_path, "deu", ["10", "20", "90"], ["12", "31", "91"])
    row = evaluate_tatoeba(AngleEncoder(), find_tatoeba(tmp_path, []))["per_language"]["deu_Latn"]
    assert (row["to_english"], row["from_english"]) == (66.67, 100)


def test_two_sets_of_one_language_are_both_reported(tmp_path: Path) -> None:
    tatoeba(tmp_path, "kzj", ["0", "90"], ["0", "90"])
    tatoeba(tmp_path, "dtp", ["0", "90"], ["90", "0"])
    found = evaluate_tatoeba(AngleEncoder(), find_tatoeba(tmp_path, []))
    assert {name: row["mean"] for name, row in found["per_language"].items()} == {
        "dtp_Latn": 0,
        "dtp_Latn (kzj)": 100,
    }
    assert (found["languages"], found["mean"]) == (2, 50)


def test_tatoeba_sets_of_no_known_language_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tatoeba(tmp_path, "deu", ["0"], ["0"])
    tatoeba(tmp_path, "xyz1", ["0"], ["0"])
    assert [item.lang for item in find_tatoeba(tmp_path, [])] == ["deu_Latn"]
    assert caplog.messages == [f"eval: left out 1 sets in {tmp_path}, no known language: xyz1"]


def test_missing_tatoeba_sets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no tatoeba"):
        find_tatoeba(tmp_path / "no", [])
    tatoeba(tmp_path, "deu", ["0"], ["0"])
    with pytest.raises(InputError, match=r"holds no Tatoeba set of fra_Latn; leave them out"):
        find_tatoeba(tmp_path, ["deu_Latn", "fra_Latn"], all_of_them=True)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (["0", "90"], ["0"], "has 2 lines but .* 1"),
        ([], [], "is empty"),
        (["0", ""], ["0", "90"], "no vector for 1 of 2 lines of .*deu .*line 2, ''"),
    ],
)
def test_wrong_tatoeba_files(tmp_path: Path, source: list[str], target: list[str], message: str) -> None:
    tatoeba(tmp_path, "deu", source, target)
    with pytest.raises(InputError, match=message):
        evaluate_tatoeba(AngleEncoder(), find_tatoeba(tmp_path, []))


SOURCE = ["s1\t0", "s2\t90", "s3\t45", "s4\t", "s5\t\u200b"]
TARGET = ["t1\t5", "t2\t60", "t3\t180"]
GOLD = ["s1\tt1", "s2\tt2", "s4\tt3", "s5\tt3"]
ABSOLUTE = SelectSettings(margin="absolute", threshold=0.9, cosine_floor=-1.0)


def bucc(folder: Path, source: list[str] = SOURCE, target: list[str] = TARGET, gold: list[str] = GOLD) -> None:
    write(folder / "de-en.de", *source)
    write(folder / "de-en.en", *target)
    write(folder / "de-en.gold", *gold)


def test_bucc_by_hand(tmp_path: Path) -> None:
    bucc(tmp_path)
    (found,) = evaluate_bucc(AngleEncoder(), [find_bucc(tmp_path, "de-en")], k=2, settings=ABSOLUTE)
    # Best first: s1-t1 cos 5°, s3-t2 cos 15° (takes t2 from s2, cos 30°), s2-t3 cos 90°. Two of the four gold pairs are
    # of sentences that were left out: they count as missed, each of them.
    assert (found["gold"], found["mined"], found["sentences"]) == (4, 2, [3, 3])
    assert (found["precision"], found["recall"], found["f1"]) == (50, 25, 33.33)
    assert (found["score"], found["threshold"]) == ("margin", 0.9)
    assert not {"without_rescoring", "transferred"} & set(found)
    assert found["best_f1"] == 40
    midway = (np.cos(np.deg2rad(5)) + np.cos(np.deg2rad(15))) / 2
    assert found["best_threshold"] == pytest.approx(midway, abs=1e-4)
    assert re.match(
        r"enc:angles\|model:[0-9a-f]{12}\|data:bucc:de-en\|texts:[0-9a-f]{12}\|"
        r"margin:absolute\|k:2\|ret:max\|th:0\.9\|floor:-1\.0\|chars:10000\|index:exact\|v:",
        found["signature"],
    )


def test_bucc_floor_is_that_of_the_miner(tmp_path: Path) -> None:
    bucc(tmp_path)
    settings = SelectSettings(margin="absolute", threshold=-1.0, cosine_floor=0.9)
    (found,) = evaluate_bucc(AngleEncoder(), [find_bucc(tmp_path, "de-en")], k=2, settings=settings)
    assert found["mined"] == 2


def test_bucc_copies_count_for_the_sentence_that_stands_for_them(tmp_path: Path) -> None:
    bucc(tmp_path, source=["s1\t0", "s2\t0"], target=["t1\t0"], gold=["s2\tt1"])
    (found,) = evaluate_bucc(AngleEncoder(), [find_bucc(tmp_path, "de-en")], k=2, settings=ABSOLUTE)
    assert (found["precision"], found["recall"]) == (100, 100)


def test_bucc_without_any_correct_pair_is_still_json(tmp_path: Path) -> None:
    bucc(tmp_path, source=["s1\t0", "s2\t180"], target=["t1\t0", "t2\t180"], gold=["s1\tt2"])
    (found,) = evaluate_bucc(AngleEncoder(), [find_bucc(tmp_path, "de-en")], k=1, settings=ABSOLUTE)
    assert (found["best_f1"], found["best_threshold"]) == (0, None)
    json.dumps(found, allow_nan=False)


def test_bucc_files_may_be_packed_split_and_in_a_folder_of_the_pair(tmp_path: Path) -> None:
    folder = tmp_path / "de-en"
    folder.mkdir()
    (folder / "de-en.training.de.gz").write_bytes(gzip.compress("\n".join(SOURCE).encode()))
    (folder / "de-en.training.en.zst").write_bytes(zstandard.compress("\n".join(TARGET).encode()))
    write(folder / "de-en.training.gold", *GOLD)
    (found,) = evaluate_bucc(AngleEncoder(), [find_bucc(tmp_path, "de-en", "training")], k=2, settings=ABSOLUTE)
    assert found["f1"] == 33.33


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ["s1 0"]}, r"de-en\.de line 1 is not id TAB sentence"),
        ({"source": ["s1\t0", "s1\t5"]}, r"de-en\.de has the id 's1' more than once"),
        ({"gold": ["s1\tt9"]}, r"de-en\.gold line 1 .*\['s1', 't9'\]"),
        ({"gold": ["s1\tt1\tx"]}, r"de-en\.gold line 1"),
        ({"gold": []}, r"de-en\.gold is empty"),
    ],
)
def test_wrong_bucc_files(tmp_path: Path, change: dict[str, list[str]], message: str) -> None:
    bucc(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        evaluate_bucc(AngleEncoder(), [find_bucc(tmp_path, "de-en")], k=2, settings=ABSOLUTE)


def test_missing_bucc_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "de-en.de", *SOURCE)
    with pytest.raises(InputError, match=r"holds no de-en\.en "):
        find_bucc(tmp_path, "de-en")
    with pytest.raises(LanguageError, match="'qq'"):
        find_bucc(tmp_path, "qq-en")


def test_pairs_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "m.tsv", "1.5\tEins.\tOne.", "1.4\tZwei!\ttwo", "1.3\tDrei\tFour", "1.2\tEins\tone")
    write(tmp_path / "g.tsv", "eins\tOne", "Zwei\tTwo", "Fünf\tFive")
    found = evaluate_pairs(tmp_path / "m.tsv", tmp_path / "g.tsv")
    # Four mined, two of the three gold pairs found; the fourth is the first again.
    assert found.pop("signature").startswith("data:pairs|texts:")
    assert found == {
        "task": "pairs",
        "mined": 4,
        "gold": 3,
        "correct": 2,
        "precision": 50.0,
        "recall": 66.67,
        "f1": 57.14,
    }


def test_pairs_of_nothing(tmp_path: Path) -> None:
    write(tmp_path / "m.tsv")
    write(tmp_path / "g.tsv", "a\tb")
    assert evaluate_pairs(tmp_path / "m.tsv", tmp_path / "g.tsv")["f1"] == 0


@pytest.mark.parametrize(
    ("mined", "gold", "message"),
    [
        (["a"], ["a\tb"], r"m\.tsv: .* fewer than 2 columns \(first: line 1\)"),
        (["1\ta\tb"], ["", "a\tb", "a", "b"], r"g\.tsv: .* fewer than 2 columns \(first: line 3\)"),
        (["1\ta\tb"], ["a\tb", "c\td", "e"], r"g\.tsv line 3 has 1 columns; 2 are needed"),
        (["1\t2"], ["a\tb"], r"m\.tsv: column 1 holds no sentences .*--mined-columns 2,3"),
        (["1\ta\tb"], ["1\t2"], r"g\.tsv: column 1 holds no sentences .*--gold-columns 2,3"),
    ],
)
def test_wrong_pair_files(tmp_path: Path, mined: list[str], gold: list[str], message: str) -> None:
    write(tmp_path / "m.tsv", *mined)
    write(tmp_path / "g.tsv", *gold)
    with pytest.raises(InputError, match=message):
        evaluate_pairs(tmp_path / "m.tsv", tmp_path / "g.tsv")


def test_scores_may_stand_in_either_file_or_in_none(tmp_path: Path) -> None:
    write(tmp_path / "plain.tsv", "Eins.\tOne.", "Zwei!\ttwo")
    write(tmp_path / "mined.tsv", "1.5\tEins.\tOne.", "1.4\tZwei!\ttwo")
    write(tmp_path / "listing.tsv", "1.5\t0.5\tlow_cosine\tEins.\tOne.", "1.4\t0.5\tlow_cosine\tZwei!\ttwo")
    for mined in tmp_path.iterdir():
        for gold in tmp_path.iterdir():
            assert evaluate_pairs(mined, gold)["f1"] == 100


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        (["One.\tEins."], "with the sides swapped are"),
        (["Eins.\tUn.", "Zwei.\tDeux."], r"2 of its sources and 0 of its targets"),
        (["Rot\tred"], r"0 of its sources and 0 of its targets"),
    ],
)
def test_no_match_at_all_is_explained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gold: list[str], words: str
) -> None:
    write(tmp_path / "m.tsv", "1.5\tEins.\tOne.", "1.4\tZwei!\ttwo")
    write(tmp_path / "g.tsv", *gold)
    assert evaluate_pairs(tmp_path / "m.tsv", tmp_path / "g.tsv")["correct"] == 0
    (message,) = caplog.messages
    assert re.search(words, message)
    caplog.clear()
    evaluate_pairs(tmp_path / "m.tsv", tmp_path / "g.tsv", gold_columns=(1, 0))
    assert len(caplog.messages) == (gold != ["One.\tEins."])


def test_bucc_pairs_may_have_a_script(tmp_path: Path) -> None:
    for ending in ("zh-Hant", "en", "gold"):
        write(tmp_path / f"zh-Hant-en.{ending}", "x\ty")
    found = find_bucc(tmp_path, "zh-Hant-en")
    assert (found.source.name, found.target.name) == ("zh-Hant-en.zh-Hant", "zh-Hant-en.en")
    assert found.langs == ("zho_Hant", "eng_Latn")
