"""Near-duplicates of test sentences: the index finds exactly what comparing every pair finds."""

import random

import pytest

from emsmine.mining.text.overlap import OverlapIndex, pieces

WORDS = ["the", "ferry", "lamp", "reads", "green", "quietly", "a", "door", "under", "seven", "river", "opened"]


def invented(rng: random.Random, number: int) -> list[str]:
    """Return short sentences of few words, so that many are near each other."""
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(number)]


def compare(left: frozenset[str], tests: list[frozenset[str]], threshold: float) -> dict[int, float]:
    """Compare the pieces of a text with those of every test sentence."""
    found = {}
    for row, right in enumerate(tests):
        similarity = len(left & right) / len(left | right) if left | right else 0.0
        if similarity >= threshold - 1e-9:
            found[row] = similarity
    return found


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.8, 1.0])
def test_index_finds_what_comparing_all_pairs_finds(threshold: float) -> None:
    rng = random.Random(3)
    tests, texts = invented(rng, 80), invented(rng, 80)
    texts += [test[:-1] for test in tests] + [f"{test} lamp" for test in tests] + tests
    index = OverlapIndex(tests, "eng_Latn", threshold=threshold)
    sets = [pieces(test, "eng_Latn") for test in tests]
    num_near = 0
    for text in texts:
        expected = compare(pieces(text, "eng_Latn"), sets, threshold)
        assert index.near(text) == pytest.approx(expected)
        num_near += len(expected)
    assert num_near > 80


def test_similarity_by_hand() -> None:
    # "blue lamp" has the pieces "blue ", "lue l", "ue la", "e lam", " lamp"; "blue lamps" has those and "lamps".
    index = OverlapIndex(["blue lamp", "red door"], "eng_Latn", threshold=0.8)
    assert index.near("Blue lamps!") == pytest.approx({0: 5 / 6})
    assert OverlapIndex(["blue lamp"], "eng_Latn", threshold=5 / 6).near("blue lamps") == pytest.approx({0: 5 / 6})
    assert OverlapIndex(["blue lamp"], "eng_Latn", threshold=0.84).near("blue lamps") == {}


def test_case_and_punctuation_do_not_count() -> None:
    assert OverlapIndex(["The ferry leaves at seven."], "eng_Latn").near("the FERRY leaves, at seven") == {0: 1.0}


@pytest.mark.parametrize("lang", ["zho_Hans", "zho_Hant", "jpan_Jpan", "kor_Kore"])
def test_two_characters_where_a_character_is_a_syllable(lang: str) -> None:
    assert pieces("甲乙丙丁", lang) == {"甲乙", "乙丙", "丙丁"}


def test_five_characters_elsewhere() -> None:
    assert pieces("лампада", "rus_Cyrl") == {"лампа", "ампад", "мпада"}
    assert pieces("лам", "rus_Cyrl") == {"лам"}


@pytest.mark.parametrize("text", ["", "…", " ! "])
def test_text_without_letters_is_near_to_nothing(text: str) -> None:
    assert pieces(text, "eng_Latn") == frozenset()
    index = OverlapIndex([text, "seven lamps"], "eng_Latn")
    assert index.near(text) == {}
    assert index.near("seven lamps") == {1: 1.0}


def test_no_test_sentences() -> None:
    assert OverlapIndex([], "eng_Latn").near("a lamp") == {}


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        OverlapIndex([], "eng_Latn", threshold=threshold)
