"""The small network in numpy: symmetric, the same in any company, read back from tensors."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scoring_kit import random_head

from emsmine.mining.scoring.head import LIMIT, Head

Tensors = dict[str, NDArray[np.float32]]
GRID = 2.0**-18


def features(seed: int, number: int, scale: float = 1.0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=(number, width))).astype(np.float32) for width in (5, 5, 3)]


HEAD = random_head(np.random.default_rng(0), 5, 3)


def plain(head: Head, one: NDArray[np.float32], other: NDArray[np.float32], pair: NDArray[np.float32]) -> float:
    """Run one pair in float64."""
    found = []
    for sides in ((one, other), (other, one)):
        value = np.concatenate([*sides, pair]).astype(np.float64)
        value = np.clip((value - head.mean) / head.scale, -LIMIT, LIMIT)
        for layer, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
            value = value @ weight.astype(np.float64) + bias
            if layer < len(head.weights) - 1:
                value = value / (1 + np.exp(-value))
        found.append(float(value[0]))
    return sum(found) / 2


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_logits_are_those_of_a_plain_network(scale: float) -> None:
    given = features(1, 50, scale)
    found = HEAD(*given)
    assert (found.dtype, found.shape) == (np.float32, (50,))
    assert found.tolist() == pytest.approx([plain(HEAD, *row) for row in zip(*given, strict=True)], abs=1e-4, rel=1e-5)
    assert (found / GRID == np.rint(found / GRID)).all()
    assert len(set(found.tolist())) > 40


def test_both_orders_of_the_sides_give_the_same_bits() -> None:
    one, other, pair = features(2, 40)
    assert HEAD(one, other, pair).tobytes() == HEAD(other, one, pair).tobytes()
    # The sides are told apart from the pair and from each other all the same.
    assert not np.array_equal(HEAD(one, other, pair), HEAD(one, one, pair))


def test_a_pair_has_the_same_logit_in_any_company() -> None:
    given = features(3, 2100)
    whole = HEAD(*given)
    order = np.random.default_rng(4).permutation(2100)
    assert np.array_equal(HEAD(*(part[order] for part in given)), whole[order])
    for row in range(0, 2100, 150):
        assert HEAD(*(part[row : row + 1] for part in given)).tolist() == whole[row : row + 1].tolist()
    assert len(HEAD(*(part[:0] for part in given))) == 0


def test_what_training_never_saw_moves_a_logit_no_further() -> None:
    one, other, pair = features(5, 4, 1e4)
    assert np.array_equal(HEAD(one, other, pair), HEAD(10 * one, 10 * other, 10 * pair))


def test_large_weights_raise_no_warning() -> None:
    strong = Head(HEAD.mean, HEAD.scale, tuple(100 * weight for weight in HEAD.weights), HEAD.biases)
    assert np.isfinite(strong(*features(6, 30))).all()


def test_round_trip_through_tensors() -> None:
    other = random_head(np.random.default_rng(9), 2, 1, hidden=3)
    tensors = HEAD.tensors("one") | other.tensors("two")
    for head, name, sides in ((HEAD, "one", features(7, 9)), (other, "two", None)):
        found = Head.of_tensors(name, tensors)
        assert {key: value.tobytes() for key, value in found.tensors(name).items()} == {
            key: value.tobytes() for key, value in head.tensors(name).items()
        }
        if sides is not None:
            assert np.array_equal(found(*sides), head(*sides))


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def cut(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name][:-1]})


def no_layers(tensors: Tensors) -> None:
    for name in [name for name in tensors if "weight" in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        *((without(f"h.{name}"), KeyError) for name in ("mean", "scale", "1.bias", "0.weight", "1.weight")),
        *((cut(f"h.{name}"), ValueError) for name in ("mean", "scale", "0.weight", "1.weight", "2.weight", "0.bias")),
        (without("h.2.weight"), ValueError),
        (no_layers, ValueError),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[Tensors], object], error: type[Exception]) -> None:
    tensors = HEAD.tensors("h")
    change(tensors)
    with pytest.raises(error):
        Head.of_tensors("h", tensors)
    with pytest.raises(KeyError):
        Head.of_tensors("other", tensors)
