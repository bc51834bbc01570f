"""Margins worked out by hand. Reference: Artetxe and Schwenk 2019 (ACL), section 3.1."""

import numpy as np
import pytest
from numpy.typing import ArrayLike

from emsmine.mining.neighbours import Neighbours
from emsmine.mining.selection import MARGINS
from emsmine.mining.selection.margin import margin_scores, mean_similarity


def neighbours(ids: ArrayLike, cosine: ArrayLike) -> Neighbours:
    return Neighbours(np.array(ids, dtype=np.int64), np.array(cosine, dtype=np.float32))


# k = 2. x has neighbours at 0.8 and 0.4, y at 0.8 and 0.2; cos(x, y) = 0.8.
# sum_z cos(x, z) / 2k + sum_z cos(y, z) / 2k = 1.2 / 4 + 1.0 / 4 = 0.55
@pytest.mark.parametrize(("kind", "expected"), [("ratio", 0.8 / 0.55), ("distance", 0.25), ("absolute", 0.8)])
def test_margins_by_hand(kind: str, expected: float) -> None:
    mean_x = mean_similarity(neighbours([[0, 1]], [[0.8, 0.4]]))
    mean_y = mean_similarity(neighbours([[0, 1]], [[0.8, 0.2]]))
    np.testing.assert_allclose(margin_scores(0.8, mean_x, mean_y, kind), [expected], rtol=1e-6)


def test_mean_similarity_counts_the_existing_neighbours_only() -> None:
    means = mean_similarity(neighbours([[4, 2, -1], [7, -1, -1]], [[0.9, 0.5, -np.inf], [0.3, -np.inf, -np.inf]]))
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, [0.7, 0.3], rtol=1e-6)


def test_mean_similarity_without_neighbours_is_undefined() -> None:
    assert np.isnan(mean_similarity(Neighbours.empty(3, 2))).tolist() == [True, True, True]
    assert mean_similarity(Neighbours.empty(0, 2)).shape == (0,)


def test_ratio_to_a_mean_of_zero_or_less_is_undefined() -> None:
    scores = margin_scores([0.5, -0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 1e-8, 0.5, 0.5], [0.5, -0.5, 0.0, 0.25, 0.5])
    # Two negatives are no good pair: -0.5 / -0.5 must not come out as 1.
    assert np.isnan(scores).tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(scores[3:], [-0.5 / 0.375, 1.0])


@pytest.mark.parametrize(("kind", "defined"), [("ratio", False), ("distance", False), ("absolute", True)])
def test_a_missing_mean_leaves_only_the_absolute_margin(kind: str, defined: bool) -> None:
    assert np.isfinite(margin_scores(0.5, np.nan, 0.5, kind)).all() == defined


@pytest.mark.parametrize("kind", MARGINS)
def test_margins_are_symmetric_and_vectorised(kind: str) -> None:
    cosine, mean_x, mean_y = np.array([0.9, 0.1, -0.2]), np.array([0.5, 0.4, 0.1]), np.array([0.3, 0.8, 0.2])
    together = margin_scores(cosine, mean_x, mean_y, kind)
    assert (together == margin_scores(cosine, mean_y, mean_x, kind)).all()
    singly = [float(margin_scores(*values, kind)) for values in zip(cosine, mean_x, mean_y, strict=True)]
    assert together.tolist() == singly


def test_unknown_margin_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cosine'; choose one of ratio, distance, absolute"):
        margin_scores(0.5, 0.5, 0.5, "cosine")
