"""Numbers 0 to N - 1 for the ids of one side, without a table of all ids.

Ids are sparse (shard << 40 | row), but those of a shard follow each other. So the ids of a side are a few runs of
consecutive ones, and a table of runs leads from ids to numbers and back. Ids without any order are runs of one: that is
correct, and takes 16 bytes an id.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import Int64Array

LARGEST_SIDE = (1 << 31) - 1
"""Sentences of a side; a bit of 32 is left for a flag."""


@dataclass(frozen=True, eq=False)
class Numbering:
    """The ids of a side, numbered in ascending order.

    Args:
        side: "source" or "target", for messages.
        starts: first id of each run.
        numbers: its number; at the end, the number of all ids.

    Shapes: starts int64 [R]; numbers int64 [R + 1].
    """

    side: str
    starts: Int64Array
    numbers: Int64Array

    def __len__(self) -> int:
        return int(self.numbers[-1])

    @classmethod
    def of(cls, parts: Iterable[Int64Array], side: str) -> "Numbering":
        """Number the ids that come in several parts, in any order.

        Raises: ValueError unless ids are int64, not negative (-1 means missing) and distinct; or for 2^31 or more.
        """
        starts, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for ids in parts:
            if ids.dtype != np.int64 or ids.ndim != 1:
                raise ValueError(f"select: {side} ids must be int64 [N], got {ids.dtype} {list(ids.shape)}")
            breaks = np.flatnonzero(np.diff(ids) != 1) + 1
            cuts = np.concatenate([np.zeros(min(1, ids.size), np.int64), breaks])
            starts.append(ids[cuts])
            lengths.append(np.diff(cuts, append=ids.size))
        first, length = np.concatenate(starts), np.concatenate(lengths)
        order = np.argsort(first)
        first, length = first[order], length[order]
        if first.size and first[0] < 0:
            raise ValueError(f"select: {side} id {first[0]} is negative, which stands for a missing neighbour")
        again = np.flatnonzero(first[1:] < first[:-1] + length[:-1])
        if again.size:
            raise ValueError(f"select: {side} id {first[again[0] + 1]} occurs twice; merge the lists of a sentence")
        if length.sum() > LARGEST_SIDE:
            raise ValueError(f"select: {length.sum():,} {side} sentences; at most {LARGEST_SIDE:,} can be numbered")
        new = np.ones(first.size, dtype=bool)  # a run may go on in the next part
        new[1:] = first[1:] != first[:-1] + length[:-1]
        numbers = np.cumsum(length) - length
        return cls(side, first[new], np.append(numbers[new], length.sum()))

    def numbers_of(self, ids: Int64Array) -> Int64Array:
        """Return the number of each id.

        Raises: ValueError for an id that is not known.
        """
        if not len(self):
            found, known = ids, np.zeros(ids.shape, dtype=bool)
        else:
            run = self._run(self.starts, ids)
            found = ids + (self.numbers[:-1] - self.starts)[run]
            known = (found < self.numbers[1:][run]) & (ids >= self.starts[0])
        if not known.all():
            raise ValueError(
                f"candidates: neighbour {ids[~known][0]} is not among the {len(self)} {self.side} ids; "
                "pass the ids that the search was given"
            )
        return found

    def ids_of(self, numbers: Int64Array) -> Int64Array:
        """Return the id that has each number."""
        return numbers + (self.starts - self.numbers[:-1])[self._run(self.numbers[:-1], numbers)]

    @staticmethod
    def _run(firsts: Int64Array, values: Int64Array) -> NDArray[np.intp]:
        if firsts.size <= 1:
            return np.zeros(values.shape, dtype=np.intp)
        return np.maximum(np.searchsorted(firsts, values, side="right") - 1, 0)
