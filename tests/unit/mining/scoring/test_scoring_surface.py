"""What is compared without knowing a language: tables of cases."""

import math

import numpy as np
import pytest

from emsmine.mining.scoring.surface import PAIR_FEATURES, SIDE_FEATURES, Surface, names_among, surface_features

ENGLISH, GERMAN, RUSSIAN, CHINESE, ARABIC, HINDI = (
    "eng_Latn",
    "deu_Latn",
    "rus_Cyrl",
    "zho_Hans",
    "ara_Arab",
    "hin_Deva",
)


def compared(source: str, source_lang: str, target: str, target_lang: str) -> list[dict[str, float]]:
    """Return the features of both sides and of the pair; counts instead of their logarithms."""
    zero = np.zeros(1, dtype=np.int64)
    found = surface_features(Surface.of([source], source_lang), Surface.of([target], target_lang), zero, zero)
    assert [part.shape for part in found] == [(1, len(SIDE_FEATURES))] * 2 + [(1, len(PAIR_FEATURES))]
    assert {part.dtype for part in found} == {np.dtype(np.float32)}
    sides = [dict(zip(SIDE_FEATURES, np.expm1(part[0]).tolist(), strict=True)) for part in found[:2]]
    return [*sides, dict(zip(PAIR_FEATURES, found[2][0].tolist(), strict=True))]


@pytest.mark.parametrize(
    ("source", "source_lang", "target", "shared", "missing"),
    [
        ("Es sind 1.234.567 Bücher.", GERMAN, "There are 1,234,567 books.", 1, (0, 0)),
        ("Es kostet 1,5 Euro.", GERMAN, "It costs 1.50 euros.", 1, (0, 0)),
        ("Es sind 12 000 Menschen.", GERMAN, "There are 12,000 people.", 1, (0, 0)),
        ("Всего 1 234,5 метра.", RUSSIAN, "1,234.5 metres in all.", 1, (0, 0)),
        ("عاش ١٢٣ سنة", ARABIC, "He lived 123 years", 1, (0, 0)),
        ("उसके पास ४५ किताबें हैं।", HINDI, "She has 45 books.", 1, (0, 0)),
        ("他有１２本书，２个苹果。", CHINESE, "He has 12 books and 2 apples.", 2, (0, 0)),
        ("Am 3. Mai 2019", GERMAN, "On 3 May 2018", 1, (1, 1)),
        ("Sieben Hunde", GERMAN, "7 dogs", 0, (0, 1)),
        ("7 und 7 und 8", GERMAN, "7 and 9", 1, (1, 1)),
        ("Kein Wort", GERMAN, "No word", 0, (0, 0)),
    ],
)
def test_numbers(source: str, source_lang: str, target: str, shared: int, missing: tuple[int, int]) -> None:
    one, other, _ = compared(source, source_lang, target, ENGLISH)
    assert one["numbers_shared"] == other["numbers_shared"] == pytest.approx(shared)
    assert (one["numbers_missing"], other["numbers_missing"]) == pytest.approx(missing)


@pytest.mark.parametrize(
    ("source", "source_lang", "target", "source_names", "target_names"),
    [
        # Every Latin word of a Chinese or Russian sentence is looked for among all words of the other side.
        (
            "这个程序在集群的 kube-system 命名空间里运行。",
            CHINESE,
            "It runs in the kube-system namespace.",
            (1, 0),
            (0, 0),
        ),
        ("这个程序在集群的 kube-system 命名空间里运行。", CHINESE, "It runs in the other namespace.", (0, 1), (0, 0)),
        ("Откройте файл file.txt через HTTP.", RUSSIAN, "Open file.txt over HTTP.", (2, 0), (2, 0)),
        ("Откройте файл через протокол.", RUSSIAN, "Open file.txt over HTTP.", (0, 0), (0, 2)),
        ("我们用 Docker 运行这个容器", CHINESE, "Run a container with docker", (1, 0), (0, 0)),
        # Of a Latin sentence only what looks like code or has a capital inside.
        ("Das iPhone von user@host", GERMAN, "The iPhone of user@host", (2, 0), (2, 0)),
        ("Die Datei main_test liegt da.", GERMAN, "The file main_text is there.", (0, 1), (0, 1)),
        ("Ein gut bekannter Hund", GERMAN, "A well-known Dog", (0, 0), (0, 0)),
        # A name with a digit is a name; case does not matter.
        ("Der Typ INT64 ist alt.", GERMAN, "The type int64 is old.", (1, 0), (1, 0)),
        # One letter between others says nothing.
        ("图 A 很大", CHINESE, "The picture is large", (0, 0), (0, 0)),
    ],
)
def test_names_and_code(
    source: str, source_lang: str, target: str, source_names: tuple[int, int], target_names: tuple[int, int]
) -> None:
    one, other, _ = compared(source, source_lang, target, ENGLISH)
    assert (one["names_shared"], one["names_missing"]) == pytest.approx(source_names)
    assert (other["names_shared"], other["names_missing"]) == pytest.approx(target_names)


def test_which_words_are_names() -> None:
    words = ["Open", "HTTP", "kube-system", "file.txt", "a_b", "v2", "iPhone", "x"]
    text = " ".join(words)
    assert names_among(words, text) == ["HTTP", "file.txt", "a_b", "v2", "iPhone"]
    assert names_among(words, text + "слово" * 20) == words[:-1]
    assert names_among([], "") == []


@pytest.mark.parametrize(
    ("source", "source_lang", "target", "differs", "question", "exclamation"),
    [
        ("Er geht.", GERMAN, "He goes.", 0, 0, 0),
        ("Er geht.", GERMAN, "He goes?", 1, 1, 0),
        ("Er geht!", GERMAN, "He goes.", 1, 0, 1),
        ("Geht er?", GERMAN, "He goes!", 1, 1, 1),
        ("他走了。", CHINESE, "He left.", 0, 0, 0),
        ("他走了吗？", CHINESE, "Did he leave?", 0, 0, 0),
        ("快走！", CHINESE, "Go!", 0, 0, 0),
        ("هل ذهب؟", ARABIC, "Did he go?", 0, 0, 0),
        ("वह गया।", HINDI, "He went.", 0, 0, 0),
        ("वह गया।", HINDI, "He went", 1, 0, 0),
        ('Er sagte: "Nein."', GERMAN, "He said: ‘No.’", 0, 0, 0),
        ("Il a dit « non. »", "fra_Latn", "He said “no.”", 0, 0, 0),
        ("Он ушёл…", RUSSIAN, "He left...", 0, 0, 0),
        ("(Ist er da?)", GERMAN, "Is he there?", 0, 0, 0),
        ("Das Folgende:", GERMAN, "The following.", 1, 0, 0),
        ("Titel", GERMAN, "Title", 0, 0, 0),
    ],
)
def test_ends(source: str, source_lang: str, target: str, differs: int, question: int, exclamation: int) -> None:
    pair = compared(source, source_lang, target, ENGLISH)[2]
    found = (pair["ends_differ"], pair["question_differs"], pair["exclamation_differs"])
    assert found == (differs, question, exclamation)


@pytest.mark.parametrize(
    ("source", "source_lang", "target", "shared", "differ"),
    [
        ("a (b)", GERMAN, "c (d)", 2, 0),
        ("a (b)", GERMAN, "c [d]", 0, 4),
        ("a（b）：", CHINESE, "c (d):", 3, 0),
        ("50 % + 3", GERMAN, "50% or 3", 1, 1),
        ("-" * 50, GERMAN, "-" * 21, 20, 0),
        ("kein Zeichen, nur Punkte.", GERMAN, "no mark. only full stops.", 0, 0),
    ],
)
def test_marks(source: str, source_lang: str, target: str, shared: int, differ: int) -> None:
    pair = compared(source, source_lang, target, ENGLISH)[2]
    assert np.expm1([pair["marks_shared"], pair["marks_differ"]]).tolist() == pytest.approx([shared, differ])


def test_length_is_by_language() -> None:
    text = "a" * 58
    # A German text of 58 letters says what 50 English ones say; Chinese needs 31 characters for 100.
    assert compared(text, GERMAN, "b" * 50, ENGLISH)[2]["length"] == pytest.approx(0, abs=1e-6)
    assert compared("字" * 31, CHINESE, "b" * 100, ENGLISH)[2]["length"] == pytest.approx(0, abs=1e-6)
    assert compared("字" * 31, CHINESE, "b" * 31, ENGLISH)[2]["length"] == pytest.approx(math.log(115 / 46), abs=1e-6)
    assert compared(text, ENGLISH, "b" * 50, ENGLISH)[2]["length"] == pytest.approx(math.log(73 / 65), abs=1e-6)


def test_both_orders_and_any_company_give_the_same() -> None:
    source = ["在 HTTP 上运行 3 次。", "", "你好！", "\ud800 broken 5", "(a) [b] 1,000"]
    target = ["It runs 3 times over HTTP.", "Hello?", "", "nothing", "1.000 (a) [b]"]
    one, other = Surface.of(source, CHINESE), Surface.of(target, ENGLISH)
    rows = np.indices((5, 5)).reshape(2, -1).astype(np.int64)
    whole = surface_features(one, other, *rows)
    swapped = surface_features(other, one, *rows[::-1])
    for part, expected in zip((swapped[1], swapped[0], swapped[2]), whole, strict=True):
        assert part.tobytes() == expected.tobytes()
    for pair, (row, column) in enumerate(rows.T.tolist()):
        zero = np.zeros(1, dtype=np.int64)
        alone = surface_features(Surface.of([source[row]], CHINESE), Surface.of([target[column]], ENGLISH), zero, zero)
        assert [part[0].tobytes() for part in alone] == [part[pair].tobytes() for part in whole]


def test_nothing_to_compare() -> None:
    empty, nothing = Surface.of([], GERMAN), np.zeros(0, dtype=np.int64)
    assert [len(part) for part in surface_features(empty, empty, nothing, nothing)] == [0, 0, 0]
