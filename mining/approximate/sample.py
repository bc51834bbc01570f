"""A sample of rows that is the same however the rows are cut into shards."""

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import Float32Array, Int64Array

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def sample_keys(hash_NB: NDArray[np.uint8], salt: int) -> NDArray[np.uint64]:
    """Give each row a pseudo-random key from its text hash: the rows of smallest key are a random sample.

    The same texts are chosen however they are cut into shards; another salt chooses others.

    Shapes: hash_NB uint8 [N, 16]. Returns: uint64 [N].
    """
    halves = np.ascontiguousarray(hash_NB).view(np.uint64).reshape(len(hash_NB), 2)
    keys = halves[:, 0] ^ (halves[:, 1] * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(salt * 0x9E3779B9 + 1)
    # The finaliser of splitmix64: every bit of the hash moves every bit of the key.
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        keys = (keys ^ (keys >> np.uint64(shift))) * multiplier
    mixed: NDArray[np.uint64] = keys ^ (keys >> np.uint64(31))
    return mixed


class RowSample:
    """The `size` rows of smallest key among all that were added; equal keys by id. Holds at most about twice as many.

    Args:
        size: rows wanted.
        salt: see `sample_keys`.
    """

    def __init__(self, size: int, salt: int) -> None:
        self.size = size
        self._salt = salt
        self._parts: list[tuple[NDArray[np.uint64], Int64Array, Float32Array]] = []
        self._held = 0
        self._limit: np.uint64 | None = None

    def add(self, hash_NB: NDArray[np.uint8], ids_N: Int64Array, vectors_ND: Float32Array) -> None:
        """Offer rows with their text hashes and ids."""
        keys = sample_keys(hash_NB, self._salt)
        kept = np.flatnonzero(keys <= self._limit) if self._limit is not None else np.arange(len(keys))
        self._parts.append((keys[kept], ids_N[kept], vectors_ND[kept]))
        self._held += kept.size
        if self._held > 2 * self.size:
            self._prune()

    def _prune(self) -> None:
        if not self._parts:
            return
        keys, ids, vectors = (np.concatenate([part[n] for part in self._parts]) for n in range(3))
        first = np.lexsort((ids, keys))[: self.size]
        self._parts = [(keys[first], ids[first], vectors[first])]
        self._held = first.size
        if first.size == self.size and self.size:
            self._limit = keys[first[-1]]

    def rows(self) -> tuple[Int64Array, Float32Array]:
        """Return the ids [S] and vectors [S, D] of the sample, by key.

        Raises: ValueError if nothing was added, not even an empty block.
        """
        if not self._parts:
            raise ValueError("sample: no block of rows was added; add an empty one to give the dimension")
        self._prune()
        _, ids, vectors = self._parts[0]
        return ids, vectors
