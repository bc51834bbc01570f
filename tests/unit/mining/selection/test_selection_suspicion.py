"""What is marked as suspicious, worked out by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from emsmine.mining.neighbours import Neighbours
from emsmine.mining.selection.retrieve import candidates, select
from emsmine.mining.selection.suspicion import FEW_NEIGHBOURS, LOW_COSINE, REASONS, Suspicion, suspicion

NOTHING = -np.inf


def neighbours(ids: ArrayLike, cosine: ArrayLike) -> Neighbours:
    return Neighbours(np.array(ids, dtype=np.int64), np.array(cosine, dtype=np.float32))


# Pairs 0-0 and 1-1 stand in ordinary neighbourhoods, 2-2 in empty ones. Last neighbours: 0.5, 0.5, 0.05 on either side,
# so 0.5 is typical. Ratio margins: 0.9 / 0.7 = 1.2857 twice, and 0.4 / 0.225 = 1.7778 for the pair of low cosine.
FORWARD = neighbours([[0, 1], [1, 0], [2, 0]], [[0.9, 0.5], [0.9, 0.5], [0.4, 0.05]])
BACKWARD = neighbours([[0, 1], [1, 0], [2, 1]], [[0.9, 0.5], [0.9, 0.5], [0.4, 0.05]])


def marked(forward: Neighbours, backward: Neighbours, threshold: float, **more: Any) -> dict[tuple[int, int], str]:
    chosen = select(candidates(forward, backward, **more), "max", threshold=threshold)
    labels = suspicion(chosen, forward, backward, threshold=threshold, **more).labels()
    return dict(zip(chosen.pairs(), labels, strict=True))


def test_the_pair_at_the_top_owes_its_place_to_empty_neighbourhoods() -> None:
    found = marked(FORWARD, BACKWARD, 1.2)
    assert found == {(2, 2): LOW_COSINE, (0, 0): "", (1, 1): ""}
    assert next(iter(found)) == (2, 2)


# In a typical neighbourhood the margin of 2-2 is 0.4 / 0.5 = 0.8, or 0.4 - 0.5 = -0.1.
@pytest.mark.parametrize(
    ("margin", "threshold", "label"),
    [
        ("ratio", 0.81, LOW_COSINE),
        ("ratio", 0.79, ""),
        ("ratio", -np.inf, ""),
        ("distance", -0.09, LOW_COSINE),
        ("distance", -0.11, ""),
        ("absolute", 0.39, ""),
    ],
)
def test_limit_per_margin(margin: str, threshold: float, label: str) -> None:
    found = marked(FORWARD, BACKWARD, threshold, margin=margin)
    assert found == {(2, 2): label, (0, 0): "", (1, 1): ""}


def test_a_translation_among_the_neighbours_does_not_raise_what_is_typical() -> None:
    """In a parallel collection almost every sentence has one; means would call half of the pairs suspicious."""
    forward = neighbours([[0, 1, 2], [1, 0, 2], [2, 0, 1]], [[0.9, 0.4, 0.3], [0.7, 0.4, 0.3], [0.5, 0.3, 0.3]])
    found = marked(forward, forward, 1.2)
    # 0.5 is no more than the mean of the first sentence (0.53), but 1.67 times what is typical.
    assert found == {(0, 0): "", (1, 1): "", (2, 2): ""}


def test_few_neighbours_on_either_side() -> None:
    forward = neighbours([[5, 6], [6, -1]], [[0.9, 0.3], [0.8, NOTHING]])
    backward = neighbours([[3, 4], [4, 3]], [[0.9, 0.3], [0.8, 0.3]])
    ids = {"source_ids": np.array([3, 4]), "target_ids": np.array([5, 6])}
    assert marked(forward, backward, -1.0, **ids) == {(3, 5): "", (4, 6): FEW_NEIGHBOURS}
    swapped = {"source_ids": ids["target_ids"], "target_ids": ids["source_ids"]}
    assert marked(backward, forward, -1.0, **swapped) == {(5, 3): "", (6, 4): FEW_NEIGHBOURS}


def test_both_reasons_in_order() -> None:
    flags = Suspicion(np.array([True, True, False, False]), np.array([True, False, True, False]))
    assert flags.labels() == ["low_cosine,few_neighbours", "low_cosine", "few_neighbours", ""]
    assert REASONS == ("low_cosine", "few_neighbours")


def test_the_last_neighbour_of_a_short_row_is_the_last_that_exists() -> None:
    # Typical of the sources is 0.5 (0.9 and 0.1 around it), not minus infinity; of the targets 0.5.
    forward = neighbours([[0, -1], [1, 0], [2, 0]], [[0.9, NOTHING], [0.9, 0.5], [0.4, 0.1]])
    found = marked(forward, BACKWARD, 0.79)
    assert found[2, 2] == ""
    assert marked(forward, BACKWARD, 0.81)[2, 2] == LOW_COSINE


@pytest.mark.parametrize("turned", [False, True])
def test_both_sides_make_up_what_is_typical(turned: bool) -> None:
    # 0.5 of the sources and 0.3 of the targets, or the other way round: 0.4, over which 0.4 is a margin of 1.
    backward = neighbours([[0, 1], [1, 0], [2, 1]], [[0.9, 0.3], [0.9, 0.3], [0.4, 0.05]])
    both = (backward, FORWARD) if turned else (FORWARD, backward)
    assert marked(*both, 0.99)[2, 2] == ""
    assert marked(*both, 1.01)[2, 2] == LOW_COSINE


def test_sentences_without_neighbours_do_not_count_as_typical() -> None:
    rows = [[0, 1], [1, 0], [2, 0], [-1, -1], [-1, -1], [-1, -1], [-1, -1]]
    forward = neighbours(rows, [[0.9, 0.5], [0.9, 0.5], [0.4, 0.05], *[[NOTHING, NOTHING]] * 4])
    assert marked(forward, BACKWARD, 1.2) == {(2, 2): LOW_COSINE, (0, 0): "", (1, 1): ""}
    assert marked(forward, BACKWARD, 0.79)[2, 2] == ""


def test_without_a_positive_typical_similarity_no_cosine_is_low() -> None:
    forward = neighbours([[0, 1], [1, 0]], [[0.2, -0.05], [0.3, -0.05]])
    assert marked(forward, forward, 1.2) == {(0, 0): "", (1, 1): ""}


@pytest.mark.parametrize(("num_source", "num_target"), [(0, 0), (0, 2), (2, 0)])
def test_empty_sides(num_source: int, num_target: int) -> None:
    assert marked(Neighbours.empty(num_source, 3), Neighbours.empty(num_target, 3), 1.2) == {}


def test_bad_arguments_are_refused() -> None:
    chosen = select(candidates(FORWARD, BACKWARD))
    with pytest.raises(ValueError, match="threshold nan must be a number"):
        suspicion(chosen, FORWARD, BACKWARD, threshold=np.nan)
    with pytest.raises(ValueError, match="unknown kind 'log'"):
        suspicion(chosen, FORWARD, BACKWARD, margin="log")
    with pytest.raises(ValueError, match="not among the 3 source ids"):
        suspicion(chosen, FORWARD, BACKWARD, np.array([0, 1, 7]))
