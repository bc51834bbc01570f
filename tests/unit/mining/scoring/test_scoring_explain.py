"""Which words found what partner: grouping of pieces, and matches worked out by hand."""

import numpy as np
import pytest
from scoring_kit import ids_of, word_vectors

from emsmine.mining.scoring.explain import Explanation, WordMatch, explain, words_of


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ("▁un break able ▁things .", ["un break able", "things ."]),
        ("▁ un do", ["_ un do"]),
        ("un do ▁it", ["un do", "it"]),
        # Without spaces every piece is a word, and so is what stands behind one.
        ("▁我们的 会 议 在 3 点 。", ["我们的", "会", "议", "在", "3", "点", "。"]),
        ("▁ 你好 世界", ["_ 你好", "世界"]),
        ("▁ สวัสดี ชาว โลก", ["_ สวัสดี", "ชาว", "โลก"]),
        ("▁运行 ▁ku be ▁中", ["运行", "ku be", "中"]),
        ("▁ひらがな カ", ["ひらがな", "カ"]),
        # Korean and Arabic put spaces between words.
        ("▁한국 어 ▁문장", ["한국 어", "문장"]),
        ("▁ال كلب ▁ين ام", ["ال كلب", "ين ام"]),
        ("", []),
    ],
)
def test_pieces_are_grouped_into_words(pieces: str, words: list[str]) -> None:
    given = pieces.split()
    groups = words_of(given)
    assert [place for group in groups for place in group] == list(range(len(given)))
    shown = [" ".join(given[place] for place in group) for group in groups]
    assert [
        text.replace("▁", "_", 1).removeprefix("_") if text[:2] != "▁ " else f"_ {text[2:]}" for text in shown
    ] == words


def explained(source: str, target: str) -> Explanation:
    sides = [np.array(ids_of(text), dtype=np.int32) for text in (source, target)]
    pieces = [[f"▁{word}" for word in text.split()] for text in (source, target)]
    return explain(word_vectors(), *sides, *pieces)


@pytest.mark.parametrize(
    ("source", "target", "lonely"),
    [
        ("الكلب لا ينام", "dog sleeps", "لا"),
        ("dog sleeps", "собака не спит", "не"),
        ("狗 不 睡觉", "dog sleeps", "不"),
        ("dog red sleeps", "狗 睡觉", "red"),
    ],
)
def test_the_word_without_partner_is_the_one_uncovered(source: str, target: str, lonely: str) -> None:
    found = explained(source, target)
    matches = [*found.source, *found.target]
    assert [match.word for match in matches if match.uncovered > 1e-9] == [lonely]
    for side, text in ((found.source, source), (found.target, target)):
        assert [match.word for match in side] == text.split()
        assert sum(match.weight for match in side) == pytest.approx(1)


def test_by_hand() -> None:
    found = explained("कुत्ता पानी", "ice dog")
    assert [(match.word, match.partner) for match in found.source] == [("कुत्ता", "dog"), ("पानी", "ice")]
    assert [(match.word, match.partner) for match in found.target] == [("ice", "पानी"), ("dog", "कुत्ता")]
    water, ice = found.source[1], found.target[0]
    assert (water.weight, water.cosine) == pytest.approx((3 / 4, 64 / 127))
    assert water.uncovered == pytest.approx(3 / 4 * 63 / 127)
    assert (ice.weight, ice.cosine) == pytest.approx((2 / 3, 64 / 127))


def test_the_partner_of_most_weight_wins() -> None:
    # One word of three pieces: the dog weighs 1, the sleep 2, the negation 0.5.
    vectors = word_vectors()
    source = np.array(ids_of("dog sleeps not"), dtype=np.int32)
    target = np.array(ids_of("собака не спит"), dtype=np.int32)
    found = explain(vectors, source, target, ["▁do", "gs", "n"], ["▁со", "▁не", "▁спит"])
    (word,) = found.source
    assert (word.word, word.weight, word.partner) == ("dogsn", 1.0, "спит")
    assert word.cosine == pytest.approx(1)
    assert [match.partner for match in found.target] == ["dogsn"] * 3


def test_opposite_vectors_do_not_count_more_than_nothing() -> None:
    assert WordMatch("a", 0.5, "b", -0.4).uncovered == 0.5
    assert WordMatch("a", 0.5, "b", 0.75).uncovered == 0.125


def test_nothing_on_the_other_side() -> None:
    found = explained("dog", "")
    assert found == Explanation((WordMatch("dog", 1.0, "", 0.0),), ())
    assert found.source[0].uncovered == 1
    assert explained("", "") == Explanation((), ())
