"""A tiny training: translations against near misses, and what is learned is what is scored with."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scoring_kit import Lists, random_lists

from emsmine.mining.scoring.interaction import SIDE_FEATURES, interaction_features
from emsmine.mining.scoring.learned import LearnedHead, LearnedTokens
from emsmine.mining.scoring.surface import Surface
from emsmine.mining.scoring.tokens import cosines, token_vectors
from emsmine.mining.scoring.training import Examples, TrainedScorer, TrainingPlan, train_scorer

NUM_CONCEPTS = 24
VOCABULARY = 2 + 2 * NUM_CONCEPTS
PLAN = TrainingPlan(width=12, hidden=16, token_steps=30, epochs=3, batch_size=8, seed=3)


def table(seed: int = 0, width: int = 16) -> NDArray[np.float32]:
    """Return vectors of two languages: words of one meaning lie near each other."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(NUM_CONCEPTS, width))
    words = [meaning + 0.3 * rng.normal(size=meaning.shape) for _ in range(2)]
    lengths = rng.uniform(0.5, 2, size=(VOCABULARY - 2, 1))
    return np.concatenate([np.zeros((2, width)), np.concatenate(words) * lengths]).astype(np.float32)


def examples(seed: int, number: int = 200) -> Examples:
    """Return translations, each with a near miss of one word; the numbers of the texts tell nothing."""
    rng = np.random.default_rng(seed)
    source, target = [], []
    for _ in range(number):
        words = rng.choice(NUM_CONCEPTS, rng.integers(3, 9), replace=False)
        missed = words.copy()
        missed[rng.integers(len(words))] = rng.choice(np.setdiff1d(np.arange(NUM_CONCEPTS), words))
        source.append((2 + words).tolist())
        target += [(2 + NUM_CONCEPTS + side).tolist() for side in (words, missed)]
    rows = np.arange(2 * number, dtype=np.int64)
    surfaces = [Surface.of(["Ein Satz."] * size, "deu_Latn") for size in (number, 2 * number)]
    return Examples(f"crawl {seed}", Lists.of(source), Lists.of(target), *surfaces, rows // 2, rows, rows % 2 == 0)


def trained(seed: int = 3) -> TrainedScorer:
    return train_scorer(table(), [examples(1), examples(2, 100)], dataclasses.replace(PLAN, seed=seed))


@pytest.fixture(scope="module")
def found() -> TrainedScorer:
    return trained()


def share_in_order(item: Examples, values: NDArray[np.float32]) -> float:
    """Return how often a translation is above a near miss, over all of both: 0.5 is chance."""
    right, wrong = values[item.is_translation], values[~item.is_translation]
    return float(np.mean(right[:, None] > wrong[None]) + np.mean(right[:, None] == wrong[None]) / 2)


def test_both_looks_tell_translations_from_near_misses(found: TrainedScorer) -> None:
    unseen = examples(7)
    sides = unseen.sides(found.scorer.vectors)
    rows = unseen.source_rows, unseen.target_rows
    first = share_in_order(unseen, found.scorer.first_look(*sides, *rows).logit)
    second = share_in_order(unseen, found.scorer.logits(*sides, *rows))
    assert first > 0.9
    assert second > 0.9


def test_the_same_for_a_seed(found: TrainedScorer) -> None:
    def content(scorer: TrainedScorer) -> list[bytes]:
        heads = scorer.scorer.pair_head.tensors("pair"), scorer.scorer.context_head.tensors("context")
        arrays = [scorer.projection, scorer.log_weights, *(array for head in heads for array in head.values())]
        return [array.tobytes() for array in arrays]

    torch.manual_seed(99)
    assert content(trained()) == content(found)
    assert content(trained(seed=4)) != content(found)


def test_a_crawl_without_candidates_teaches_nothing(found: TrainedScorer) -> None:
    nothing = np.zeros(0, dtype=np.int64)
    empty = dataclasses.replace(
        examples(3), source_rows=nothing, target_rows=nothing, is_translation=nothing.astype(bool)
    )
    again = train_scorer(table(), [examples(1), examples(2, 100), empty], PLAN)
    assert np.array_equal(again.projection, found.projection)


def test_the_parts_belong_together_and_survive_a_file(found: TrainedScorer) -> None:
    assert found.projection.shape == (16, 12)
    assert found.log_weights.shape == (VOCABULARY,)
    for part in (found.projection, found.log_weights):
        assert np.array_equal(part, part.astype(np.float16).astype(np.float32))
    again = token_vectors(table(), found.projection, found.log_weights)
    assert np.array_equal(again.vectors, found.scorer.vectors.vectors)
    assert np.array_equal(again.weights, found.scorer.vectors.weights)
    # Something was learned: weights are no longer the lengths of the vectors.
    begun = LearnedTokens(table(), 12)
    assert np.abs(begun.log_weights(torch.arange(VOCABULARY)).detach().numpy() - found.log_weights).max() > 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_features_that_learn_are_those_of_scoring_but_for_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = table(seed)
    # Special pieces have vectors as well, which must not count.
    words[:2] = rng.normal(size=(2, 16))
    learned = LearnedTokens(words, 12)
    with torch.no_grad():
        learned.factor += torch.from_numpy(rng.normal(0, 0.3, VOCABULARY).astype(np.float32))
        logs = learned.log_weights(torch.arange(VOCABULARY)).numpy()
    vectors = token_vectors(words, learned.projection.detach().numpy(), logs)
    size = 40
    # Every word once: between equal cosines rounding would decide. Special pieces are among them.
    sides = [
        Lists.of([rng.choice(VOCABULARY, rng.integers(1, 15), replace=False).tolist() for _ in range(size)])
        for _ in range(2)
    ]
    rows = np.arange(size, dtype=np.int64)
    expected = interaction_features(vectors, *sides, rows, rows)
    given = []
    for side in sides:
        lengths = np.diff(side.offsets)
        ids = np.zeros((size, int(lengths.max())), dtype=np.int64)
        for row in range(size):
            ids[row, : lengths[row]] = side.sentence(row)
        given += [torch.from_numpy(ids), torch.from_numpy(lengths)]
    with torch.no_grad():
        one, other, cosine = learned.features(*given)
    whole = [vectors.sentence_vectors(side) for side in sides]
    np.testing.assert_allclose(cosine[:, 0].numpy(), cosines(*whole, rows, rows), atol=0.05)
    discrete = [SIDE_FEATURES.index(name) for name in ("mutual", "displacement", "ascending")]
    smooth = np.setdiff1d(np.arange(len(SIDE_FEATURES)), discrete)
    for ours, theirs in zip((one.numpy(), other.numpy()), expected, strict=True):
        np.testing.assert_allclose(ours[:, smooth], theirs[:, smooth], atol=0.06)
        # Which of two near partners is the nearer, rounding may decide in a few pairs.
        far = np.abs(ours[:, discrete] - theirs[:, discrete]) > 0.02
        assert far.any(axis=1).mean() <= 0.1


def test_a_head_in_numpy_is_the_one_that_learned() -> None:
    torch.manual_seed(5)
    learned = LearnedHead(4, 2, 8)
    given = [torch.randn(300, width) * 2 + 1 for width in (4, 4, 2)]
    for _ in range(200):
        learned(*given)
    learned.eval()
    with torch.no_grad():
        expected = learned(*given).numpy()
    np.testing.assert_allclose(learned.head()(*(part.numpy() for part in given)), expected, atol=2e-3)
    with torch.no_grad():
        assert torch.equal(learned(*given), learned(given[1], given[0], given[2]))


def test_lists_of_random_tokens_have_finite_gradients() -> None:
    rng = np.random.default_rng(2)
    learned = LearnedTokens(table(), 12)
    given = []
    for _ in range(2):
        lists = random_lists(rng, 20, 6, VOCABULARY)
        ids = np.zeros((20, 6), dtype=np.int64)
        for row in range(20):
            ids[row, : len(lists.sentence(row))] = lists.sentence(row)
        given += [torch.from_numpy(ids), torch.from_numpy(np.diff(lists.offsets))]
    sum(part.sum() for part in learned.features(*given)).backward()  # type: ignore[union-attr]
    for name, parameter in learned.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
