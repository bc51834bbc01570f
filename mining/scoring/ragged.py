"""Lists of different lengths, one per sentence, stored one behind the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


class TokenLists(Protocol):
    """Token ids of several sentences: sentence n is `ids[offsets[n]:offsets[n + 1]]`.

    Shapes: ids int32 [T]; offsets int64 [N + 1].
    """

    @property
    def ids(self) -> NDArray[np.int32]:
        """Token ids of all sentences."""
        ...

    @property
    def offsets(self) -> Int64Array:
        """Where the sentences begin, and where the last one ends."""
        ...


@dataclass(frozen=True, eq=False)
class HashSets:
    """A set of 32-bit hashes per sentence.

    Shapes: values uint32 [T]; offsets int64 [N + 1].
    """

    values: NDArray[np.uint32]
    offsets: Int64Array

    @classmethod
    def of(cls, sets: Sequence[Sequence[int]]) -> "HashSets":
        """Store sets, each number once."""
        lists = [sorted(set(item)) if item else item for item in sets]
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(item) for item in lists], out=offsets[1:])
        values = np.fromiter((value for item in lists for value in item), dtype=np.uint32, count=int(offsets[-1]))
        return cls(values, offsets)

    def sizes(self, rows: Int64Array) -> Int64Array:
        """Return the size of each set, int64 [P]."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def shared(self, rows: Int64Array, other: "HashSets", other_rows: Int64Array) -> Int64Array:
        """Count what the sets of each pair have in common.

        Args:
            rows: sets of this side.
            other: the other side.
            other_rows: its set for each of the rows.

        Shapes: rows, other_rows [P].
        Returns: int64 [P].
        """
        counts = np.zeros(len(rows), dtype=np.int64)
        both = np.flatnonzero((self.sizes(rows) > 0) & (other.sizes(other_rows) > 0))
        if both.size:
            pair, keys = self._keyed(rows[both])
            _, other_keys = other._keyed(other_rows[both])
            counts[both] = np.bincount(pair[np.isin(keys, other_keys)], minlength=both.size)
        return counts

    def _keyed(self, rows: Int64Array) -> tuple[Int64Array, NDArray[np.uint64]]:
        """Return the members of the sets: the number of the pair, and a key that holds pair and member."""
        sizes = self.sizes(rows)
        pair = np.repeat(np.arange(len(rows)), sizes)
        inside = np.arange(len(pair)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        values = self.values[np.repeat(self.offsets[rows], sizes) + inside]
        return pair, (pair.astype(np.uint64) << np.uint64(32)) | values
