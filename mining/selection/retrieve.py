"""Turn the neighbours of both directions into scored candidate pairs, and choose pairs among them.

Choosing looks at the score, never at the cosine alone: the target that a source gets is the best-scored one of its k
neighbours, which need not be the nearest.
"""

from dataclasses import dataclass, field

import numpy as np

from emsmine.mining.neighbours import (
    NOT_GIVEN,
    BoolArray,
    Float32Array,
    Int64Array,
    Neighbours,
    check_ids,
    descending_bits,
    rows_among,
)
from emsmine.mining.selection.choose import IndexArray, PairSelector
from emsmine.mining.selection.margin import margin_scores, mean_similarity

__all__ = [
    "Candidates",
    "IndexArray",
    "candidates",
    "check_distinct",
    "check_limits",
    "rows_of",
    "select",
]

_FEW = 8
"""Neighbours of a row that are compared two by two."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Scored pairs in the total order: score descending (NaN last), then source id, then target id ascending.

    The score is what pairs are chosen by: the margin, or the probability of rescored pairs.

    `in_forward` tells that the target is among the source's k neighbours, `in_backward` that the source is among the
    target's. Build one with `candidates`, or with `ordered` from columns in any order.

    Shapes: each array [P]; ids int64, cosine, margin and score float32, flags bool.
    """

    source_ids: Int64Array
    target_ids: Int64Array
    cosine: Float32Array
    margin: Float32Array
    in_forward: BoolArray
    in_backward: BoolArray
    score: Float32Array = field(default_factory=lambda: NOT_GIVEN)
    """The margin unless it is given."""

    def __post_init__(self) -> None:
        if self.score is NOT_GIVEN:
            object.__setattr__(self, "score", self.margin)
        dtypes = tuple(array.dtype.name for array in self._columns())
        if dtypes != ("int64", "int64", "float32", "float32", "bool", "bool", "float32"):
            raise ValueError(f"candidates: columns have types {dtypes}; see the class for those needed")
        shapes = {array.shape for array in self._columns()}
        if len(shapes) > 1 or self.score.ndim != 1:
            raise ValueError(f"candidates: columns have shapes {sorted(shapes)}; all must be [P]")
        rank = np.where(np.isnan(self.score), np.float32(np.inf), -self.score)
        higher_id = (self.source_ids[1:] > self.source_ids[:-1]) | (
            (self.source_ids[1:] == self.source_ids[:-1]) & (self.target_ids[1:] > self.target_ids[:-1])
        )
        wrong = np.flatnonzero(~((rank[1:] > rank[:-1]) | ((rank[1:] == rank[:-1]) & higher_id)))
        if wrong.size:
            raise ValueError(
                f"candidates: pairs {wrong[0]} and {wrong[0] + 1} are out of order or equal; use Candidates.ordered"
            )

    def __len__(self) -> int:
        return len(self.score)

    @property
    def num_undefined(self) -> int:
        """Number of pairs whose score is NaN; `select` never chooses them."""
        return int(np.isnan(self.score).sum())

    @classmethod
    def ordered(
        cls,
        source_ids: Int64Array,
        target_ids: Int64Array,
        cosine: Float32Array,
        margin: Float32Array,
        in_forward: BoolArray,
        in_backward: BoolArray,
        score: Float32Array | None = None,
    ) -> "Candidates":
        """Build from columns in any order; the score is the margin unless it is given.

        Raises: ValueError when types or shapes are wrong, or when a pair occurs twice with the same score.
        """
        score = margin if score is None else score
        order = _best_first(source_ids, target_ids, score)
        columns = (source_ids, target_ids, cosine, margin, in_forward, in_backward, score)
        return cls(*(column[order] for column in columns))  # type: ignore[arg-type]

    def take(self, positions: IndexArray) -> "Candidates":
        """Keep the pairs at these positions, which must ascend."""
        return Candidates(*(column[positions] for column in self._columns()))  # type: ignore[arg-type]

    def rescored(self, score: Float32Array) -> "Candidates":
        """Give every pair another score, and put them into its order."""
        return Candidates.ordered(*self._columns()[:-1], score)

    def pairs(self) -> list[tuple[int, int]]:
        """List (source id, target id) as Python integers, best first."""
        return list(zip(self.source_ids.tolist(), self.target_ids.tolist(), strict=True))

    def _columns(
        self,
    ) -> tuple[Int64Array, Int64Array, Float32Array, Float32Array, BoolArray, BoolArray, Float32Array]:
        return (
            self.source_ids,
            self.target_ids,
            self.cosine,
            self.margin,
            self.in_forward,
            self.in_backward,
            self.score,
        )


def candidates(
    forward: Neighbours,
    backward: Neighbours,
    source_ids: Int64Array | None = None,
    target_ids: Int64Array | None = None,
    *,
    margin: str = "ratio",
) -> Candidates:
    """Score every pair that is among the k nearest in at least one direction.

    Args:
        forward: target neighbours of each source, over the whole target side.
        backward: source neighbours of each target, over the whole source side.
        source_ids: the id of each row of `forward`; row numbers when None.
        target_ids: the id of each row of `backward`; row numbers when None.
        margin: one of `emsmine.mining.selection.MARGINS`.

    Returns: each pair once. If an approximate engine gave the two directions different cosines, the higher counts.
    Raises: ValueError for ids that do not match the neighbours, a neighbour named twice by a row, or an unknown margin.
    """
    source_ids = check_ids(source_ids, forward.num_rows, "source")
    target_ids = check_ids(target_ids, backward.num_rows, "target")
    for neighbours, ids, side in ((forward, source_ids, "source"), (backward, target_ids, "target")):
        check_distinct(neighbours, ids, side)
    exists_NK, exists_MK = forward.ids >= 0, backward.ids >= 0
    # Row numbers of both sides; ids are sparse (partition << 40 | row) and index nothing.
    source_row = np.concatenate([np.nonzero(exists_NK)[0], rows_of(backward.ids[exists_MK], source_ids, "source")])
    target_row = np.concatenate([rows_of(forward.ids[exists_NK], target_ids, "target"), np.nonzero(exists_MK)[0]])
    found = np.concatenate([forward.cosine[exists_NK], backward.cosine[exists_MK]])
    key, pair = np.unique(source_row * max(backward.num_rows, 1) + target_row, return_inverse=True)
    source_row, target_row = np.divmod(key, max(backward.num_rows, 1))
    cosine = np.full(key.size, -np.inf, dtype=np.float32)
    np.maximum.at(cosine, pair, found)
    num_forward = int(exists_NK.sum())
    in_forward, in_backward = np.zeros(key.size, dtype=bool), np.zeros(key.size, dtype=bool)
    in_forward[pair[:num_forward]] = True
    in_backward[pair[num_forward:]] = True
    mean_source, mean_target = mean_similarity(forward)[source_row], mean_similarity(backward)[target_row]
    scores = margin_scores(cosine, mean_source, mean_target, margin).astype(np.float32)
    return Candidates.ordered(source_ids[source_row], target_ids[target_row], cosine, scores, in_forward, in_backward)


def select(
    pairs: Candidates, retrieval: str = "max", *, threshold: float = -np.inf, cosine_floor: float = -np.inf
) -> Candidates:
    """Choose pairs: the eligible ones first, then the best score.

    - forward: for each source, the best of its own k neighbours (a target may serve several sources)
    - backward: for each target, the best of its own k neighbours
    - intersect: the pairs that forward and backward both choose
    - max: one-to-one; goes through all pairs, best score first, and takes each whose sentences are both free

    Both limits hold for every retrieval, and before the choice: a pair under a limit does not keep its sentences from
    others. For the score alone the order makes no difference, as the best goes first.

    Args:
        retrieval: one of `emsmine.mining.selection.RETRIEVALS`.
        threshold: lowest score, compared in float64.
        cosine_floor: lowest cosine, compared in float64.

    Returns: the chosen pairs. Pairs with an undefined (NaN) score are never among them.
    Raises: ValueError for an unknown retrieval or a limit that is NaN.
    Reference: Artetxe and Schwenk 2019, section 3.2.
    """
    check_limits(threshold, cosine_floor)
    # numpy would round a Python float to float32 first, and a midpoint of two float32 onto one of them.
    eligible = (pairs.score.astype(np.float64) >= threshold) & (pairs.cosine.astype(np.float64) >= cosine_floor)
    pool = pairs.take(np.flatnonzero(eligible))
    known_source, source = np.unique(pool.source_ids, return_inverse=True)
    known_target, target = np.unique(pool.target_ids, return_inverse=True)
    chooser = PairSelector(retrieval, known_source.size, known_target.size)
    return pool.take(chooser.choose(source, target, pool.in_forward, pool.in_backward))


def check_limits(threshold: float, cosine_floor: float) -> None:
    """Refuse a limit that is NaN, under which nothing would be eligible.

    Raises: ValueError that names both.
    """
    if np.isnan(threshold) or np.isnan(cosine_floor):
        raise ValueError(f"select: threshold {threshold} and cosine floor {cosine_floor} must be numbers")


def _best_first(source_ids: Int64Array, target_ids: Int64Array, score: Float32Array) -> IndexArray:
    """Sort by score descending (NaN last), then source id, then target id.

    Pairs that are in the order of their ids already, as those of `candidates` mostly are, need one sort of numbers that
    hold a score and a position. It is many times faster than three stable sorts in turn.
    """
    by_source = source_ids[1:] > source_ids[:-1]
    in_order = by_source | ((source_ids[1:] == source_ids[:-1]) & (target_ids[1:] >= target_ids[:-1]))
    if score.dtype != np.float32 or len(score) >= 2**32 or not in_order.all():
        return np.lexsort((target_ids, source_ids, -score))
    keys = (descending_bits(score).astype(np.uint64) << np.uint64(32)) | np.arange(len(score), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)


def check_distinct(neighbours: Neighbours, row_ids: Int64Array, side: str) -> None:
    """Refuse a neighbour that counts twice in a mean: every margin of its row would be another one.

    Args:
        neighbours: lists of one side.
        row_ids: the id of each row.
        side: "source" or "target", for the message.

    Raises: ValueError that names the first row and neighbour.
    """
    ids_NK = neighbours.ids
    if neighbours.k <= _FEW:  # a few comparisons are faster than a sort of each row
        is_twice = np.zeros(neighbours.num_rows, dtype=bool)
        for place in range(1, neighbours.k):
            for before in range(place):
                is_twice |= (ids_NK[:, place] == ids_NK[:, before]) & (ids_NK[:, place] >= 0)
        if not is_twice.any():
            return
    ids_NK = np.sort(ids_NK, axis=1)
    twice = np.argwhere((ids_NK[:, 1:] == ids_NK[:, :-1]) & (ids_NK[:, 1:] >= 0))
    if len(twice):
        row, place = twice[0].tolist()
        raise ValueError(
            f"candidates: {side} {row_ids[row]} has neighbour {ids_NK[row, place]} twice; join parts with "
            "emsmine.mining.exact.search.merge, which keeps each id once"
        )


def rows_of(ids: Int64Array, known_ids: Int64Array, side: str) -> Int64Array:
    """Find the row of each id in `known_ids`, which need not be sorted.

    Args:
        ids: ids of neighbours or pairs.
        known_ids: the id of each row, each once.
        side: "source" or "target", for the message.

    Raises: ValueError for an id that is not known.
    """
    if known_ids.size and bool((known_ids[1:] - known_ids[:-1] == 1).all()):
        rows: Int64Array = ids - known_ids[0]
        known = (rows >= 0) & (rows < known_ids.size)
    else:
        order = np.argsort(known_ids)
        rows, known = rows_among(ids, known_ids[order])
        rows = order[rows] if known_ids.size else rows
    if not known.all():
        raise ValueError(
            f"candidates: neighbour {ids[~known][0]} is not among the {known_ids.size} {side} ids; "
            "pass the ids that the search was given"
        )
    return rows
