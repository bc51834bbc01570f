"""What selection keeps of the neighbours: three numbers a sentence, and the lists of one direction.

Shape suffixes: N rows, K neighbours, H entries (row, neighbour) of any number.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import BoolArray, Float32Array, Int64Array, Neighbours
from emsmine.mining.selection.margin import mean_similarity
from emsmine.mining.selection.numbering import Numbering
from emsmine.mining.selection.suspicion import few_neighbours, last_similarity, typical_similarity

_FOUND = np.uint32(1 << 31)
_MISSING = np.uint32(0xFFFFFFFF)


class Neighbourhoods:
    """Facts on the neighbourhood of each sentence of a side, taken from lists that come piece by piece.

    `mean` and `few` tell of each sentence its mean similarity and whether neighbours are missing; `typical` is known
    after `close`.
    """

    def __init__(self, numbering: Numbering) -> None:
        self.numbering = numbering
        self.mean = np.full(len(numbering), np.nan, dtype=np.float32)
        self.few = np.zeros(len(numbering), dtype=bool)
        self.typical = np.nan
        self._last = np.empty(len(numbering), dtype=np.float32)
        self._num_last = 0

    def add(self, numbers: Int64Array, neighbours: Neighbours) -> None:
        """Take the lists of the sentences with these numbers."""
        self.mean[numbers] = mean_similarity(neighbours)
        self.few[numbers] = few_neighbours(neighbours)
        last = last_similarity(neighbours)
        self._last[self._num_last : self._num_last + len(last)] = last
        self._num_last += len(last)

    def close(self) -> None:
        """Take the median after the last list; gives back what it needed."""
        self.typical = typical_similarity(self._last[: self._num_last])
        self._last = self._last[:0].copy()

    def forget_means(self) -> None:
        """Free the means, when all pairs are scored."""
        self.mean = self.mean[:0].copy()


class HeldLists:
    """The lists of one direction, which the entries of the other are compared with.

    Each entry is the number of the neighbour, marked once the other direction has it too, and the cosine.
    """

    def __init__(self, num_rows: int, k: int) -> None:
        self._base = np.full((num_rows, k), _MISSING, dtype=np.uint32)
        self._cosine = np.full((num_rows, k), -np.inf, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._base)

    def hold(self, rows_N: Int64Array, base_NK: Int64Array, cosine_NK: Float32Array) -> None:
        """Take lists; a neighbour below 0 is missing."""
        self._base[rows_N] = np.where(base_NK < 0, _MISSING, base_NK)
        self._cosine[rows_N] = cosine_NK

    def match(self, rows_H: Int64Array, base_H: Int64Array, cosine_H: Float32Array) -> BoolArray:
        """Compare entries of the other direction with the lists; of two cosines of a pair the higher counts.

        Args:
            rows_H: number of the sentence that has a list here.
            base_H: number of the sentence on the side that the lists name.
            cosine_H: cosine of the two.

        Returns: which of the pairs are in a list.
        """
        is_same = self._base[rows_H] == base_H.astype(np.uint32)[:, None]
        entry, place = np.nonzero(is_same)
        rows = rows_H[entry]
        self._base[rows, place] |= _FOUND
        self._cosine[rows, place] = np.maximum(self._cosine[rows, place], cosine_H[entry])
        found = np.zeros(len(rows_H), dtype=bool)
        found[entry] = True
        return found

    def entries(self, num_rows: int) -> Iterator[tuple[Int64Array, Int64Array, Float32Array, BoolArray]]:
        """List all entries, those of so many rows at a time.

        Returns: row, neighbour, cosine, and whether both directions have the pair.
        """
        for start in range(0, len(self._base), num_rows):
            base_NK = self._base[start : start + num_rows]
            rows, place = np.nonzero(base_NK != _MISSING)
            base = base_NK[rows, place]
            cosine: Float32Array = self._cosine[start : start + num_rows][rows, place]
            yield rows + start, (base & ~_FOUND).astype(np.int64), cosine, base >= _FOUND


def flat_entries(
    numbers_N: Int64Array, base_NK: Int64Array, cosine_NK: Float32Array
) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Turn lists into entries (row, neighbour, cosine), without those that are missing."""
    exists_NK = base_NK >= 0
    rows: NDArray[np.int64] = np.broadcast_to(numbers_N[:, None], base_NK.shape)[exists_NK]
    return rows, base_NK[exists_NK], cosine_NK[exists_NK]
