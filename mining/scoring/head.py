"""A small network that turns features of a pair into one number, the same for both orders of its sides.

Shapes legend: P pairs, F features of a side, G features of the pair, H hidden units.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

LIMIT = 6.0
"""Standardised features are cut here, so that what training never saw cannot move a score without bound."""
_ROWS = 1 << 14
# A matrix library may sum in another order for other rows beside a row. In float64 that moves a logit by 1e-14 or so;
# rounded to this, it is the same. (In float32 it was not: pairs in another order had another last digit.)
_GRID = 2.0**-18


@dataclass(frozen=True, eq=False)
class Head:
    """Standardise, then linear layers with SiLU between them; both orders of the sides are averaged.

    Shapes: mean, scale float32 [2F + G]; weights float32 [2F + G, H], [H, H] … [H, 1]; biases to match.
    """

    mean: FloatArray
    scale: FloatArray
    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]

    def __call__(self, source_PF: FloatArray, target_PF: FloatArray, pair_PG: FloatArray) -> FloatArray:
        """Return the logit of each pair, float32 [P], rounded to multiples of 2^-18."""
        result = np.zeros(len(source_PF), dtype=np.float32)
        for first in range(0, len(result), _ROWS):
            part = slice(first, first + _ROWS)
            one, other, pair = source_PF[part], target_PF[part], pair_PG[part]
            both = self._forward(np.concatenate([one, other, pair], axis=1))
            both += self._forward(np.concatenate([other, one, pair], axis=1))
            result[part] = np.rint(both / 2 / _GRID) * _GRID
        return result

    def _forward(self, features: FloatArray) -> NDArray[np.float64]:
        hidden = np.clip((features.astype(np.float64) - self.mean) / self.scale, -LIMIT, LIMIT)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight + bias
            # Far below zero the exponential would overflow; the result is 0 all the same.
            hidden = hidden / (1 + np.exp(np.minimum(-hidden, 700)))
        result: NDArray[np.float64] = (hidden @ self.weights[-1] + self.biases[-1])[:, 0]
        return result

    def tensors(self, name: str) -> dict[str, NDArray[np.float32]]:
        """Return what `of_tensors` builds the head from again, for a file."""
        found = {f"{name}.mean": self.mean, f"{name}.scale": self.scale}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            found |= {f"{name}.{layer}.weight": weight, f"{name}.{layer}.bias": bias}
        return found

    @classmethod
    def of_tensors(cls, name: str, tensors: Mapping[str, NDArray[np.float32]]) -> "Head":
        """Build a head from tensors.

        Raises: KeyError if one is missing; ValueError if their shapes do not fit each other.
        """
        mean, scale = tensors[f"{name}.mean"], tensors[f"{name}.scale"]
        layers = range(sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in tensors))
        weights = tuple(tensors[f"{name}.{layer}.weight"] for layer in layers)
        biases = tuple(tensors[f"{name}.{layer}.bias"] for layer in layers)
        widths = [len(mean), *(len(bias) for bias in biases)]
        expected = list(itertools.pairwise(widths))
        shapes = [weight.shape for weight in weights]
        if widths[1:][-1:] != [1] or shapes != expected or scale.shape != mean.shape:
            raise ValueError(f"scorer: the layers of {name} do not fit each other")
        return cls(mean, scale, weights, biases)
