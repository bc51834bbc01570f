"""Sort any number of scored pairs, best first, in memory of a fixed size.

Pairs are gathered until a buffer is full, which is then sorted and put aside as a run. In the end all runs are merged,
a block of each at a time. The order is total, so neither the size of the buffer nor the order in which pairs come
changes anything, and pairs of equal scores need no care of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.neighbours import NOT_GIVEN, BoolArray, Float32Array, Int64Array, descending_bits

PAIR_BYTES = 24
"""A stored pair: score, source, target, cosine, margin, mark, 32 bits each; the highest bits of source and target are
flags."""
_COLUMNS = PAIR_BYTES // 4
_FLAG = np.uint32(1 << 31)
_PIECE = 1 << 17
"""Pairs given back at a time, at most."""

Records = NDArray[np.uint32]


class Scratch(Protocol):
    """Where pairs are put aside."""

    def append(self, data: NDArray[Any]) -> None:
        """Write the bytes of an array behind those that are there."""

    def read(self, start: int, size: int) -> bytes:
        """Return bytes from a place on."""

    def close(self) -> None:
        """Free the disk space."""


@dataclass(frozen=True, eq=False)
class NumberedPairs:
    """Scored pairs of sentences that are numbers; see `emsmine.mining.selection.retrieve.Candidates`.

    Shapes: each array [P].
    """

    source: Int64Array
    target: Int64Array
    cosine: Float32Array
    margin: Float32Array
    in_forward: BoolArray
    in_backward: BoolArray
    score: Float32Array = field(default_factory=lambda: NOT_GIVEN)
    """The margin unless it is given."""
    mark: NDArray[np.uint32] = field(default_factory=lambda: NOT_GIVEN)
    """A number that stays with the pair; 0 unless it is given."""

    def __post_init__(self) -> None:
        if self.score is NOT_GIVEN:
            object.__setattr__(self, "score", self.margin)
        if self.mark is NOT_GIVEN:
            object.__setattr__(self, "mark", np.zeros(len(self.score), dtype=np.uint32))

    def __len__(self) -> int:
        return len(self.score)

    def take(self, positions: "NDArray[np.intp] | BoolArray") -> "NumberedPairs":
        """Keep the pairs at these positions."""
        return NumberedPairs(
            self.source[positions],
            self.target[positions],
            self.cosine[positions],
            self.margin[positions],
            self.in_forward[positions],
            self.in_backward[positions],
            self.score[positions],
            self.mark[positions],
        )


class PairSorter:
    """Takes pairs in any order and gives them back best first: score descending, then source, then target.

    Args:
        buffer_pairs: pairs in memory; about 80 bytes each are taken while they are sorted.
        open_scratch: opens a place to put runs aside; called only if there are more pairs than that.
    """

    def __init__(self, buffer_pairs: int, open_scratch: Callable[[], Scratch]) -> None:
        if buffer_pairs < 1:
            raise ValueError(f"select: a buffer of {buffer_pairs} pairs; it must hold at least 1")
        self._buffer = np.empty((buffer_pairs, _COLUMNS), dtype=np.uint32)
        self._filled = 0
        self._open_scratch = open_scratch
        self._scratch: Scratch | None = None
        self._runs: list[tuple[int, int]] = []  # number of the first pair of each run, and of the one behind its last
        self.num_pairs = 0

    def add(self, pairs: NumberedPairs) -> None:
        """Take pairs, whose scores are no NaN; a pair may come once only."""
        records = _encode(pairs)
        while len(records):
            room = len(self._buffer) - self._filled
            part = records[:room]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self.num_pairs += len(part)
            records = records[room:]
            if len(records):
                self._put_aside()

    def best_first(self) -> Iterator[NumberedPairs]:
        """Yield all pairs, best first, in pieces; to be called once, after the last `add`."""
        if not self._scratch:
            ordered = _sorted(self._buffer[: self._filled])
            self._buffer = self._buffer[:0].copy()
            yield from _pieces(ordered)
            return
        self._put_aside()
        block = max(1, len(self._buffer) // (2 * len(self._runs)))
        self._buffer = self._buffer[:0].copy()
        runs = [_Run(self._scratch, *run, block) for run in self._runs]
        while runs := [run for run in runs if run.fill()]:
            # Behind the end of a block may come anything; the first end of all is where the others must stop.
            bound = min((run.last for run in runs if run.is_cut), default=None)
            yield from _pieces(_sorted(np.concatenate([run.take(bound) for run in runs])))

    def close(self) -> None:
        """Free memory and disk."""
        self._buffer = self._buffer[:0].copy()
        if self._scratch:
            self._scratch.close()

    def _put_aside(self) -> None:
        if not self._scratch:
            self._scratch = self._open_scratch()
        start = self._runs[-1][1] if self._runs else 0
        self._scratch.append(_sorted(self._buffer[: self._filled]))
        self._runs.append((start, start + self._filled))
        self._filled = 0


class _Run:
    """Sorted pairs of which a block is in memory."""

    def __init__(self, scratch: Scratch, start: int, stop: int, block: int) -> None:
        self._scratch = scratch
        self._next, self._stop, self._block = start, stop, block
        self._records = np.zeros((0, _COLUMNS), dtype=np.uint32)
        self._keys = np.zeros(0, dtype=np.uint64)

    def fill(self) -> bool:
        """Read until the block is full or the run ends; tells whether there are pairs."""
        wanted = min(self._block - len(self._records), self._stop - self._next)
        if wanted:
            data = self._scratch.read(self._next * PAIR_BYTES, wanted * PAIR_BYTES)
            new = np.frombuffer(data, dtype=np.uint32).reshape(wanted, _COLUMNS)
            self._next += wanted
            self._records = np.concatenate([self._records, new])
            self._keys = np.concatenate([self._keys, _keys(new)])
        return bool(len(self._records))

    @property
    def is_cut(self) -> bool:
        """Whether the run goes on behind the block."""
        return self._next < self._stop

    @property
    def last(self) -> tuple[int, int]:
        """Where the last pair of the block stands in the order."""
        return int(self._keys[-1]), int(_target(self._records[-1]))

    def take(self, bound: tuple[int, int] | None) -> Records:
        """Remove and return the pairs up to a place in the order, included; all if None."""
        if bound is None:
            stop = len(self._keys)
        else:
            key = np.uint64(bound[0])
            first, behind = (int(np.searchsorted(self._keys, key, side)) for side in ("left", "right"))
            stop = first + int(np.searchsorted(_target(self._records[first:behind]), bound[1], "right"))
        taken, self._records, self._keys = self._records[:stop], self._records[stop:], self._keys[stop:]
        return taken


def _encode(pairs: NumberedPairs) -> Records:
    records = np.empty((len(pairs), _COLUMNS), dtype=np.uint32)
    records[:, 0] = pairs.score.view(np.uint32)
    records[:, 1] = pairs.source
    records[:, 2] = pairs.target
    records[:, 3] = pairs.cosine.view(np.uint32)
    records[:, 4] = pairs.margin.view(np.uint32)
    records[:, 5] = pairs.mark
    records[pairs.in_forward, 1] |= _FLAG
    records[pairs.in_backward, 2] |= _FLAG
    return records


def _decode(records: Records) -> NumberedPairs:
    score, cosine, margin = (np.ascontiguousarray(records[:, column]).view(np.float32) for column in (0, 3, 4))
    return NumberedPairs(
        (records[:, 1] & ~_FLAG).astype(np.int64),
        _target(records).astype(np.int64),
        cosine,
        margin,
        records[:, 1] >= _FLAG,
        records[:, 2] >= _FLAG,
        score,
        records[:, 5].copy(),
    )


def _pieces(records: Records) -> Iterator[NumberedPairs]:
    for start in range(0, len(records), _PIECE):
        yield _decode(records[start : start + _PIECE])


def _target(records: Records) -> NDArray[np.uint32]:
    return records[..., 2] & ~_FLAG


def _keys(records: Records) -> NDArray[np.uint64]:
    """Numbers that ascend with score, best first, then source."""
    score = descending_bits(np.ascontiguousarray(records[:, 0]).view(np.float32))
    return (score.astype(np.uint64) << np.uint64(32)) | (records[:, 1] & ~_FLAG)


def _sorted(records: Records) -> Records:
    keys = _keys(records)
    order = np.argsort(keys)
    ordered = keys[order]
    is_tied = np.zeros(len(order), dtype=bool)
    is_tied[1:] = ordered[1:] == ordered[:-1]
    is_tied[:-1] |= is_tied[1:]
    if is_tied.any():
        # Few sentences have two pairs of one score: only these are sorted again, among the places that they have.
        tied = order[is_tied]
        order[is_tied] = tied[np.lexsort((_target(records[tied]), keys[tied]))]
    return records[order]


SELECT_BUFFER_PAIRS = 1 << 19
"""Scored pairs that `select` sorts in memory; more of them go through the disk."""
