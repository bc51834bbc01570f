"""Sentences compared token by token: worked out by hand in several scripts, and against a slow oracle."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scoring_kit import Lists, all_pairs, ids_of, named, random_lists, random_vectors, slow_side, word_vectors

from emsmine.mining.scoring import interaction
from emsmine.mining.scoring.interaction import KERNELS, MAX_TOKENS, SIDE_FEATURES, interaction_features


def compared(source: str, target: str) -> tuple[dict[str, float], dict[str, float]]:
    zero = np.zeros(1, dtype=np.int64)
    found = interaction_features(word_vectors(), Lists.of([ids_of(source)]), Lists.of([ids_of(target)]), zero, zero)
    return named(found[0][0]), named(found[1][0])


def uncovered(*weights: float, total: float) -> dict[str, float]:
    filled = [*weights, 0.0, 0.0, 0.0][:3]
    return {
        **{f"uncovered weight {rank}": weight for rank, weight in enumerate(filled, start=1)},
        **{f"uncovered share {rank}": weight / total for rank, weight in enumerate(filled, start=1)},
    }


CASES: list[tuple[str, str, dict[str, float], dict[str, float]]] = [
    # Cyrillic and Latin, word for word. Weights 2 + 1 and 1 + 2.
    (
        "собака спит",
        "dog sleeps",
        {"coverage": 1, "mutual": 1, "displacement": 0, "ascending": 1, "weight": math.log(3), "tokens": math.log(2)},
        {"coverage": 1, "mutual": 1, "displacement": 0, "ascending": 1, "weight": math.log(3), **uncovered(total=3)},
    ),
    # Han: the negation stands in front. Its weight 0.5 and that of the verb, 1.5, are a third of the sentence apart.
    (
        "狗 不 睡觉",
        "dog sleeps not",
        {"coverage": 1, "mutual": 1, "displacement": 2 / 3 / 3, "ascending": 0.5, "weight": math.log(3)},
        {"coverage": 1, "mutual": 1, "displacement": 2.5 / 3.5 / 3, "ascending": 0.5, "weight": math.log(3.5)},
    ),
    # Arabic: the negation, of weight 2 of 4, is lost. The verb is last: at 2 of 3 words, and at 1 of 2.
    (
        "الكلب لا ينام",
        "dog sleeps",
        {"coverage": 0.5, "mutual": 0.5, "displacement": 1 / 6 / 4, "ascending": 1, **uncovered(2, total=4)},
        {"coverage": 1, "mutual": 1, "displacement": 2 / 6 / 3, "ascending": 1, **uncovered(total=3)},
    ),
    # Devanagari: water is half of what ice is, and both choose each other. Weights 1 + 3 and 1 + 2.
    (
        "कुत्ता पानी",
        "dog ice",
        {"coverage": (1 + 3 * 64 / 127) / 4, "mutual": 1, **uncovered(3 * 63 / 127, total=4), "tokens": math.log(2)},
        {"coverage": (1 + 2 * 64 / 127) / 3, "mutual": 1, **uncovered(2 * 63 / 127, total=3), "displacement": 0},
    ),
    # A word that is there twice has one partner, which chooses the first.
    (
        "собака собака",
        "dog",
        {"coverage": 1, "mutual": 0.5, "displacement": 0, "ascending": 1, **uncovered(total=4)},
        {"coverage": 1, "mutual": 1, "displacement": 0, "ascending": 0, "weight": 0, "tokens": 0},
    ),
    # An unknown word weighs 1 and finds nobody; four words are left over, of which three are told.
    (
        "не красный",
        "dog sleeps water red",
        {"coverage": 0, "weight": math.log(1.25), **uncovered(1, 0.25, total=1.25)},
        {"coverage": 0, "weight": math.log(5.5), **uncovered(2, 1.5, 1, total=5.5)},
    ),
]


@pytest.mark.parametrize(("source", "target", "forward", "backward"), CASES)
def test_by_hand(source: str, target: str, forward: dict[str, float], backward: dict[str, float]) -> None:
    for texts in ((source, target), (target, source)):
        found = compared(*texts)
        for features, expected in zip(found, (forward, backward), strict=True):
            assert {name: features[name] for name in expected} == pytest.approx(expected, abs=1e-6)
        forward, backward = backward, forward


def test_kernels_count_what_is_near_their_centre() -> None:
    found = compared("पानी", "ice")[0]
    cosine = 64 / 127
    for centre in KERNELS:
        assert found[f"kernel {centre:g}"] == pytest.approx(math.exp(-((cosine - centre) ** 2) / 0.02), abs=0.013)
    assert max(KERNELS, key=lambda centre: found[f"kernel {centre:g}"]) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_all_features_are_those_of_a_slow_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = random_vectors(rng)
    source, target = (random_lists(rng, 9, longest) for longest in (12, 30))
    rows = all_pairs(source, target)
    found = interaction_features(vectors, source, target, *rows)
    assert len(SIDE_FEATURES) == len(set(SIDE_FEATURES)) == found[0].shape[1]
    for pair, (one, other) in enumerate(zip(*(side.tolist() for side in rows), strict=True)):
        texts = source.sentence(one), target.sentence(other)
        if all(texts):
            expected = slow_side(vectors, *texts), slow_side(vectors, *texts[::-1])
            np.testing.assert_allclose(found[0][pair], expected[0], rtol=2e-6, atol=1e-7)
            np.testing.assert_allclose(found[1][pair], expected[1], rtol=2e-6, atol=1e-7)


def test_long_sentences_are_cut() -> None:
    rng = np.random.default_rng(4)
    vectors, long = random_vectors(rng), rng.integers(2, 40, 3 * MAX_TOKENS).tolist()
    lists = Lists.of([long, long[:MAX_TOKENS], long[: MAX_TOKENS - 1]])
    rows = np.array([0, 1, 2], dtype=np.int64)
    found = interaction_features(vectors, lists, Lists.of([long[5:20]]), rows, np.zeros(3, np.int64))
    for side in found:
        assert np.array_equal(side[0], side[1])
        assert not np.array_equal(side[1], side[2])
    np.testing.assert_allclose(found[0][0], slow_side(vectors, long, long[5:20]), rtol=2e-6, atol=1e-7)


def test_a_side_without_tokens_has_finite_features() -> None:
    lists = Lists.of([[], ids_of("dog sleeps")])
    found = interaction_features(word_vectors(), lists, lists, *all_pairs(lists, lists))
    assert all(np.isfinite(side).all() for side in found)
    # Whoever stands before nothing is not covered at all.
    assert named(found[0][2])["coverage"] == named(found[1][1])["coverage"] == -1
    nothing = np.zeros(0, dtype=np.int64)
    assert [side.shape for side in interaction_features(word_vectors(), lists, lists, nothing, nothing)] == [
        (0, len(SIDE_FEATURES))
    ] * 2


def bits(found: tuple[NDArray[np.float32], NDArray[np.float32]]) -> list[bytes]:
    return [one.tobytes() + other.tobytes() for one, other in zip(*found, strict=True)]


def test_a_pair_has_the_same_bits_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    vectors = random_vectors(rng)
    source, target = random_lists(rng, 16, 70), random_lists(rng, 16, 70)
    rows = all_pairs(source, target)
    expected = bits(interaction_features(vectors, source, target, *rows))
    order = rng.permutation(len(rows[0]))
    assert bits(interaction_features(vectors, source, target, rows[0][order], rows[1][order])) == [
        expected[place] for place in order.tolist()
    ]
    # Alone, and in lists that hold nothing else.
    for pair in range(0, len(order), 5):
        one, other = (
            Lists.of([side.sentence(side_rows[pair])]) for side, side_rows in zip((source, target), rows, strict=True)
        )
        zero = np.zeros(1, dtype=np.int64)
        assert bits(interaction_features(vectors, one, other, zero, zero)) == [expected[pair]]
    # Beside one that needs much padding.
    padded = [Lists.of([*(lists.sentence(row) for row in range(16)), [3] * 90]) for lists in (source, target)]
    more = [np.append(side, 16) for side in rows]
    assert bits(interaction_features(vectors, *padded, *more))[:-1] == expected
    for name, value in (("_PAIRS", 7), ("_CELLS", 300), ("_CELLS", 1)):
        monkeypatch.setattr(interaction, name, value)
        assert bits(interaction_features(vectors, source, target, *rows)) == expected


def test_swapped_sides_swap_their_features() -> None:
    rng = np.random.default_rng(12)
    vectors, source, target = random_vectors(rng), random_lists(rng, 12, 25), random_lists(rng, 12, 25)
    rows = all_pairs(source, target)
    found = interaction_features(vectors, source, target, *rows)
    swapped = interaction_features(vectors, target, source, *rows[::-1])
    assert [side.tobytes() for side in swapped] == [side.tobytes() for side in found[::-1]]
