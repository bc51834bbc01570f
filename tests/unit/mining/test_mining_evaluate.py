"""Evaluation scores worked out by hand, and proof that evaluation mines with the mining code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine import __version__
from emsmine.mining.evaluate import (
    RetrievalHits,
    bootstrap_interval,
    bucc_scores,
    precision_recall_curve,
    signature,
    tatoeba_accuracy,
    xsim_error,
)
from emsmine.mining.exact.search import search_both
from emsmine.mining.selection import MARGINS
from emsmine.mining.selection.retrieve import Candidates, candidates, select

Array = NDArray[np.float32]
EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
SHALLOW, STEEP = [0.8, 0.6], [0.6, 0.8]


def vectors(*rows: list[float]) -> Array:
    return np.array(rows, dtype=np.float32)


def unit(rows: NDArray[np.float64]) -> Array:
    normalised: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return normalised


def mined(*margins: float) -> Candidates:
    """One-to-one pairs (0, 0), (1, 1), … with these margins."""
    ids, flags = np.arange(len(margins)), np.ones(len(margins), dtype=bool)
    margin = np.array(margins, dtype=np.float32)
    return Candidates.ordered(ids, ids, margin, margin, flags, flags)


def noisy_sides(num_rows: int = 60, dim: int = 16, noise: float = 0.9) -> tuple[Array, Array]:
    generator = np.random.default_rng(11)
    source = generator.standard_normal((num_rows, dim))
    target = source + noise * generator.standard_normal((num_rows, dim))
    return unit(source), unit(target)


def test_tatoeba_by_hand() -> None:
    # Nearest targets of EAST, NORTH, WEST: 0, 1, 2. Target 1 = STEEP is nearest to NORTH; target 2 = NORTH as well.
    hits = tatoeba_accuracy(vectors(EAST, NORTH, WEST), vectors(SHALLOW, STEEP, NORTH))
    assert hits.forward_hits.tolist() == [True, False, True]
    assert hits.backward_hits.tolist() == [True, True, False]
    assert (hits.forward, hits.backward) == (2 / 3, 2 / 3)
    assert hits.forward_error == pytest.approx(1 / 3)
    assert hits.backward_error == pytest.approx(1 / 3)


def test_tatoeba_counts_an_identical_text_as_a_hit() -> None:
    source, target = vectors(EAST, NORTH), vectors(EAST, EAST)
    assert tatoeba_accuracy(source, target).forward == 0.5
    # NORTH is as far from both targets and takes the lower line, whose text is the one of its own line.
    assert tatoeba_accuracy(source, target, target_texts=["right", "right"]).forward == 1.0
    assert tatoeba_accuracy(source, target, target_texts=["right", "left"]).forward == 0.5
    assert tatoeba_accuracy(source, target, source_texts=["same", "same"]).backward == 1.0


@pytest.mark.parametrize("margin", MARGINS)
def test_xsim_is_what_select_chooses(margin: str) -> None:
    source, target = noisy_sides()
    pairs = candidates(*search_both(source, target, 4), margin=margin)
    forward, backward = dict(select(pairs, "forward").pairs()), select(pairs, "backward").pairs()
    result = xsim_error(source, target, margin=margin)
    assert result.forward_hits.tolist() == [forward[row] == row for row in range(60)]
    assert result.backward_hits.tolist() == [(row, row) in backward for row in range(60)]
    assert 0 < result.forward_error < 1


def test_xsim_with_the_absolute_margin_is_the_tatoeba_error() -> None:
    source, target = noisy_sides()
    cosine, absolute = tatoeba_accuracy(source, target), xsim_error(source, target, margin="absolute")
    assert (cosine.forward_hits == absolute.forward_hits).all()
    assert (cosine.backward_hits == absolute.backward_hits).all()


def test_xsim_distractors_can_be_found_but_are_not_looked_up() -> None:
    result = xsim_error(vectors(EAST, NORTH), vectors(SHALLOW, NORTH, EAST), margin="absolute")
    assert result.forward_hits.tolist() == [False, True]
    assert result.backward_hits.tolist() == [True, True]


def test_xsim_counts_an_undefined_margin_as_an_error() -> None:
    result = xsim_error(vectors(EAST), vectors(WEST), source_texts=["one"], target_texts=["one"])
    assert (result.forward_error, result.backward_error) == (1.0, 1.0)


@pytest.mark.parametrize("task", [tatoeba_accuracy, xsim_error])
def test_sides_that_do_not_correspond_are_refused(task: Callable[..., RetrievalHits]) -> None:
    with pytest.raises(ValueError, match="no rows"):
        task(vectors(EAST)[:0], vectors(EAST)[:0])
    with pytest.raises(ValueError, match="2 source"):
        task(vectors(EAST, NORTH), vectors(EAST))
    with pytest.raises(ValueError, match="2 target texts for 1 target rows"):
        task(vectors(EAST), vectors(EAST), target_texts=["one", "two"])


def test_precision_and_recall_by_hand() -> None:
    # Gold has four pairs; ranks 1 and 3 are right. F1 = 2 * correct / (mined + gold).
    curve = precision_recall_curve(mined(1.5, 1.25, 1.125, 1.0), {(0, 0), (2, 2), (7, 7), (8, 8)})
    assert curve.score.tolist() == [1.5, 1.25, 1.125, 1.0]
    assert curve.num_pairs.tolist() == [1, 2, 3, 4]
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4]
    assert curve.recall.tolist() == [1 / 4, 1 / 4, 2 / 4, 2 / 4]
    assert curve.f1.tolist() == [2 / 5, 2 / 6, 4 / 7, 4 / 8]


def test_bucc_threshold_is_midway_to_the_next_rank() -> None:
    scores = bucc_scores(mined(1.5, 1.25, 1.125, 1.0), {(0, 0), (2, 2), (7, 7), (8, 8)})
    assert scores.best_threshold == scores.threshold == (1.125 + 1.0) / 2
    assert scores.best_f1 == scores.f1 == 4 / 7
    assert (scores.precision, scores.recall) == (2 / 3, 2 / 4)
    assert (scores.num_mined, scores.num_gold) == (3, 4)


def test_bucc_best_at_the_last_candidate() -> None:
    """LASER's bucc.py indexes past the end here."""
    scores = bucc_scores(mined(1.5, 1.25), {(0, 0), (1, 1)})
    assert (scores.best_threshold, scores.best_f1, scores.num_mined) == (1.25, 1.0, 2)


def test_bucc_at_a_given_threshold() -> None:
    scores = bucc_scores(mined(1.5, 1.25, 1.0), {(0, 0), (2, 2)}, threshold=1.25)
    assert (scores.threshold, scores.num_mined) == (1.25, 2)
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 0.5, 0.5)
    assert (scores.best_threshold, scores.best_f1) == (1.0, 0.8)
    assert bucc_scores(mined(1.5), {(0, 0)}, threshold=2.0).f1 == 0.0


def test_bucc_threshold_never_splits_equal_margins() -> None:
    # Cutting after (0, 0) would give F1 = 1, but no threshold can part it from (1, 1).
    pairs = mined(1.5, 1.5, 1.0)
    scores = bucc_scores(pairs, {(0, 0)})
    assert scores.best_f1 == 2 / 3
    assert len(select(pairs, threshold=scores.best_threshold)) == scores.num_mined == 2


def test_bucc_threshold_reproduces_the_best_f1_between_adjacent_float32() -> None:
    pairs = mined(float(np.nextafter(np.float32(1), np.float32(2))), 1.0)
    scores = bucc_scores(pairs, {(0, 0)})
    assert scores.best_f1 == 1.0
    assert select(pairs, threshold=scores.best_threshold).pairs() == [(0, 0)]


@pytest.mark.parametrize("pairs", [mined(), mined(1.5), mined(np.nan)])
def test_bucc_without_a_right_pair_is_zero(pairs: Candidates) -> None:
    scores = bucc_scores(pairs, {(5, 5)})
    assert (scores.precision, scores.recall, scores.f1, scores.best_f1) == (0, 0, 0, 0)
    assert (scores.best_threshold, scores.num_mined) == (np.inf, 0)


def test_bucc_without_gold_is_refused() -> None:
    with pytest.raises(ValueError, match="no gold pairs"):
        bucc_scores(mined(1.5), set())


def test_signature_has_a_fixed_order_and_the_version() -> None:
    expected = f"enc:ems:paper|margin:ratio|k:4|ret:max|index:flat|v:{__version__}"
    assert signature(k=4, index="flat", ret="max", enc="ems:paper", margin="ratio") == expected
    assert signature() == f"v:{__version__}"


def test_signature_refuses_what_could_not_be_read_back() -> None:
    with pytest.raises(ValueError, match=r"'kk'; choose from enc, .*, k, "):
        signature(kk=4)
    for value in ("a|b", "a\nb", ""):
        with pytest.raises(ValueError, match="signature: enc is"):
            signature(enc=value)


def test_bootstrap_interval_matches_the_binomial() -> None:
    hits = np.arange(400) < 320
    low, high = bootstrap_interval(hits, num_samples=20_000)
    # 0.8 -+ 1.96 * sqrt(0.8 * 0.2 / 400) = 0.8 -+ 0.0392
    assert low == pytest.approx(0.7608, abs=0.006)
    assert high == pytest.approx(0.8392, abs=0.006)
    assert bootstrap_interval(hits, seed=5) == bootstrap_interval(hits, seed=5)
    assert bootstrap_interval(hits, confidence=0.5)[1] < high
    assert bootstrap_interval(np.ones(10, dtype=bool)) == (1.0, 1.0)


def test_bootstrap_refuses_what_it_cannot_resample() -> None:
    refused: list[NDArray[Any]] = [np.ones(0, dtype=bool), np.ones(3)]
    for hits in refused:
        with pytest.raises(ValueError, match="hits must be bool"):
            bootstrap_interval(hits)
    with pytest.raises(ValueError, match="at confidence 1"):
        bootstrap_interval(np.ones(3, dtype=bool), confidence=1)
