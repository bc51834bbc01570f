"""Bounds on rounding errors: what makes the exact searches exact, read together.

A product in few bits proposes; only what its error could hide is scored again. Every such error is bounded here, and
nowhere else.

Shapes legend: D dimensions.
"""

import math
from collections.abc import Iterator

import numpy as np

NORM_TOLERANCE = 1e-3
"""How far the length of a unit row may be from 1."""


LENGTH = 1.0 + NORM_TOLERANCE
"""Bound on the length of a vector."""


def float32_error(dim: int) -> float:
    """Bound how far a float32 product, and the rounding of a score, misplace a score; in halves, one for each factor.

    Any order of summing `dim` products errs by at most dim * 2^-24 for unit rows; 2^-24 covers the rounding of the
    score that it is compared with, and 1.01 the tolerance of the norms and higher orders.

    Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    return 0.5 * 1.01 * (dim + 3) * 2.0**-24


ROUNDING = np.float32(2e-6)
"""What computing limits and approximate scores in float32 may add to an error, in cosine."""


def slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Cut a range into consecutive slices."""
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def float64_error(dim: int) -> float:
    """Bound how far two ways of summing `dim` products of unit rows in float64 differ.

    Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    return 2 * 1.01 * LENGTH**2 * (dim + 2) * 2.0**-53


def rounding_slack(dim: int) -> float:
    """Bound by how much two ways of summing `dim` products of unit rows can differ, and a float32 rounding.

    Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    return float(2 * 1.01 * (dim + 2) * 2.0**-24 + 2.0**-23)


def stored_error(dim: int) -> float:
    """Bound how far the float32 product of a unit row and a row in float16 is from the exact score, in float32.

    Half a unit in the last place of float16 is 2^-11 of a value, and 2^-25 for the smallest; the rest is as in
    `float32_error`.
    """
    rounded = 2.0**-11 * LENGTH + math.sqrt(dim) * 2.0**-25
    summed = 1.01 * (dim + 3) * 2.0**-24 * LENGTH
    return LENGTH * (rounded + summed * (1 + 2.0**-10))


def half_error(dim: int) -> float:
    """Bound how far a product of float16 rows misplaces a score beside the rounding of the rows; half for each factor.

    The units add in float32, perhaps cutting off instead of rounding, and in any order: at most `dim` 2^-22. Rounding
    the sum to float16 adds 2^-11 of it, or 2^-25 where it is tiny. Scores are at most `LENGTH` squared.
    """
    return 0.5 * (LENGTH**2 * 1.01 * ((dim + 3) * 2.0**-22 + 2.0**-11) + 2.0**-25)
