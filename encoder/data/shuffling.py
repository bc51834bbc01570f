"""The order in which the rows of a corpus are drawn: a function of seed and position, another one in every epoch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

# Pieces of a corpus that a window mixes, if the corpus has as many.
_BLOCKS_PER_WINDOW = 256


class Order:
    """Rows 0 … size - 1 in random order, again and again; every epoch holds each row once.

    A corpus of more rows than `buffer` is cut into contiguous blocks. Each epoch puts the blocks into a random order,
    cuts what results into windows of `buffer` rows, and shuffles every window. Memory is O(buffer), and the rows of a
    window lie in a few hundred places of the file, not in as many as there are rows.
    """

    def __init__(self, size: int, seed: Sequence[int], buffer: int = 0) -> None:
        """Build an order.

        Args:
            size: number of rows, at least 1.
            seed: numbers that tell this order from others.
            buffer: rows of a window; 0, or at least `size`: the whole corpus is one.
        """
        self.size, self.seed = size, tuple(seed)
        self.window = buffer if 0 < buffer < size else size
        # Never more blocks than a window has rows, so that their order is no larger than a window.
        self.block = max(1, self.window // _BLOCKS_PER_WINDOW, -(-size // self.window))
        self._blocks: tuple[int, IntArray, int] | None = None
        self._shuffled: tuple[tuple[int, int], npt.NDArray[np.integer]] | None = None

    def rows(self, start: int, count: int) -> IntArray:
        """Return `count` rows from position `start` of the endless sequence of epochs."""
        rows = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            epoch, position = divmod(start + filled, self.size)
            window, inside = divmod(position, self.window)
            piece = self._in_window(epoch, window)[inside : inside + count - filled]
            rows[filled : filled + len(piece)] = self._locate(epoch, window * self.window + piece.astype(np.int64))
            filled += len(piece)
        return rows

    def _in_window(self, epoch: int, window: int) -> npt.NDArray[np.integer]:
        """Return the shuffled places of a window, counted from its start."""
        if self._shuffled is None or self._shuffled[0] != (epoch, window):
            self._shuffled = None
            if self.window == self.size:
                shuffled: npt.NDArray[np.integer] = np.random.default_rng([*self.seed, epoch, 1]).permutation(self.size)
            else:
                length = min(self.window, self.size - window * self.window)
                kind = np.uint32 if length < 2**32 else np.uint64
                shuffled = np.arange(length, dtype=kind)
                np.random.default_rng([*self.seed, epoch, 3, window]).shuffle(shuffled)
            self._shuffled = (epoch, window), shuffled
        return self._shuffled[1]

    def _locate(self, epoch: int, positions: IntArray) -> IntArray:
        """Turn positions in the blocks of an epoch, one after the other, into rows."""
        if self.window == self.size:
            return positions
        if self._blocks is None or self._blocks[0] != epoch:
            order = np.random.default_rng([*self.seed, epoch, 2]).permutation(-(-self.size // self.block))
            last = int(np.flatnonzero(order == len(order) - 1)[0])
            self._blocks = epoch, order, last
        _, order, last = self._blocks
        # The last block of the corpus may be short: what stands behind it is found as if it were whole.
        missing = len(order) * self.block - self.size
        places = np.where(positions >= (last + 1) * self.block - missing, positions + missing, positions)
        found: IntArray = order[places // self.block] * self.block + places % self.block
        return found
