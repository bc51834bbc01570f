"""Rounded token vectors: whole numbers that are summed exactly, near what float64 gives."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scoring_kit import Lists, all_pairs, ids_of, random_lists, random_vectors, word_vectors

from emsmine.mining.scoring import tokens
from emsmine.mining.scoring.interaction import MAX_TOKENS
from emsmine.mining.scoring.tokens import (
    LARGEST_WEIGHT,
    NUM_SPECIAL,
    SENTENCE_UNIT,
    UNIT,
    WEIGHT_UNIT,
    TokenVectors,
    cosines,
    token_vectors,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_vectors_have_unit_length_and_special_pieces_none() -> None:
    table = rng().normal(size=(50, 24)).astype(np.float32)
    found = token_vectors(table, rng(1).normal(size=(24, 16)).astype(np.float32), np.zeros(50, np.float32))
    assert (found.vectors.dtype, found.weights.dtype) == (np.int8, np.int32)
    assert not found.vectors[:NUM_SPECIAL].any()
    lengths = np.linalg.norm(found.vectors[NUM_SPECIAL:].astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, UNIT, atol=np.sqrt(16) / 2)
    assert found.weights.tolist() == [WEIGHT_UNIT] * 50


def test_a_piece_without_a_vector_stays_without() -> None:
    table = np.zeros((4, 3), dtype=np.float32)
    table[3] = (0, 2, 0)
    found = token_vectors(table, np.eye(3, dtype=np.float32), np.zeros(4, np.float32))
    assert found.vectors.tolist() == [[0, 0, 0]] * 3 + [[0, UNIT, 0]]


@pytest.mark.parametrize(
    ("log_weight", "weight"),
    [(0.0, 256), (np.log(2), 512), (-np.log(4), 64), (50.0, LARGEST_WEIGHT), (-50.0, 1), (np.log(1 / 200), 1)],
)
def test_weights_are_whole_and_bounded(log_weight: float, weight: int) -> None:
    logs = np.full(3, log_weight, dtype=np.float32)
    assert (
        token_vectors(np.ones((3, 2), np.float32), np.eye(2, dtype=np.float32), logs).weights.tolist() == [weight] * 3
    )


def test_sentence_vectors_are_whole_numbers_that_float32_sums_exactly() -> None:
    vectors = random_vectors(rng())
    found = vectors.sentence_vectors(random_lists(rng(1), 80, 30))
    assert found.dtype == np.float32
    assert (found == np.rint(found)).all()
    filled = found[found.any(axis=1)].astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(filled, axis=1), SENTENCE_UNIT, atol=np.sqrt(found.shape[1]) / 2)
    assert (np.abs(filled[:, None] * filled[None]).sum(axis=2) <= 2**24).all()


def test_padding_unknown_and_nothing_give_no_vector() -> None:
    vectors = word_vectors()
    lists = Lists.of([[], [0, 0], [1], ids_of("dog"), [0, *ids_of("dog"), 1], []])
    found = vectors.sentence_vectors(lists)
    assert found.any(axis=1).tolist() == [False, False, False, True, True, False]
    assert found[3].tolist() == found[4].tolist() == [SENTENCE_UNIT, 0, 0, 0, 0]
    rows = np.arange(6)
    assert cosines(found, found, rows, rows).tolist() == [0, 0, 0, 1, 1, 0]


def test_weights_decide_the_direction_by_hand() -> None:
    # The Russian dog weighs twice as much as the sleep, the English one half as much.
    found = word_vectors().sentence_vectors(Lists.of([ids_of("собака спит"), ids_of("dog sleeps"), ids_of("red")]))
    zero, one = np.array([0, 0], dtype=np.int64), np.array([1, 2], dtype=np.int64)
    assert cosines(found, found, zero, one).tolist() == pytest.approx([4 / 5, 0], abs=1e-3)


def coarse(weights: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the steps of 1/16 that sentence vectors take for weights."""
    return np.clip(np.rint(weights / 16), 1, 1023).astype(np.int64)


@pytest.mark.parametrize("longest", [20, MAX_TOKENS])
def test_sums_are_exact_however_heavy_and_long(longest: int) -> None:
    vectors = random_vectors(rng(10))
    if longest == MAX_TOKENS:
        vectors = TokenVectors(vectors.vectors, np.full_like(vectors.weights, LARGEST_WEIGHT))
    lists = random_lists(rng(11), 60, longest)
    weights, table = coarse(vectors.weights), vectors.vectors.astype(np.int64)
    expected = []
    for ids in map(lists.sentence, range(60)):
        sums = (weights[ids, None] * table[ids]).sum(axis=0).astype(np.float64)
        expected.append(np.rint(sums / max(1.0, float(np.sqrt((sums * sums).sum()))) * SENTENCE_UNIT))
    assert np.array_equal(vectors.sentence_vectors(lists), np.array(expected, dtype=np.float32))


def test_cosines_are_those_of_float64_but_for_rounding() -> None:
    table, projection = rng(2).normal(size=(60, 24)), rng(3).normal(size=(24, 16))
    logs = rng(4).normal(0, 0.7, size=60)
    found = token_vectors(*(part.astype(np.float32) for part in (table, projection, logs)))
    source, target = random_lists(rng(5), 25, 20, 60), random_lists(rng(6), 25, 20, 60)
    rows = all_pairs(source, target)
    ours = cosines(found.sentence_vectors(source), found.sentence_vectors(target), *rows)
    unit = table @ projection
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit[:NUM_SPECIAL] = 0
    # First what is stored, then what it was made of.
    parts = ((found.vectors.astype(np.float64), coarse(found.weights), 1e-3), (unit, np.exp(logs), 5e-2))
    for vectors, weights, tolerance in parts:
        sides = []
        for lists in (source, target):
            sums = np.array([(weights[ids, None] * vectors[ids]).sum(axis=0) for ids in map(lists.sentence, range(25))])
            norms = np.linalg.norm(sums, axis=1, keepdims=True)
            sides.append(sums / np.where(norms > 0, norms, 1))
        np.testing.assert_allclose(ours, (sides[0][rows[0]] * sides[1][rows[1]]).sum(axis=1), atol=tolerance)


def test_how_many_rows_are_done_at_once_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, lists = random_vectors(rng(7)), random_lists(rng(8), 33, 9)
    whole = vectors.sentence_vectors(lists)
    rows = all_pairs(lists, lists)
    expected = cosines(whole, whole, *rows)
    monkeypatch.setattr(tokens, "_ROWS", 5)
    assert np.array_equal(vectors.sentence_vectors(lists), whole)
    assert np.array_equal(cosines(whole, whole, *rows), expected)
    shuffled = rng(9).permutation(len(rows[0]))
    assert np.array_equal(cosines(whole, whole, rows[0][shuffled], rows[1][shuffled]), expected[shuffled])
