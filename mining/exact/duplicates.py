"""Search each distinct vector once: rows with the very same vector have the same neighbours.

Copies all tie with each other. Without this step a corpus of n copies on both sides would have n² candidates, since
every one may be among the k nearest until its id is compared.

Shape suffixes: N rows, D dimensions, U distinct vectors, Q query rows, K neighbours, H entries.
"""

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from emsmine.mining.neighbours import Float32Array, Int64Array, Neighbours, top_k

_COMPARED_VALUES = 2**18  # values per side while rows are compared: 1 MiB
_EXPANDED_ENTRIES = 2**18  # neighbours written out per step


@dataclass(frozen=True)
class Distinct:
    """The distinct vectors of one side.

    Distinct vectors are numbered by their lowest id, so that ties are broken by number as they are by id.

    Shapes: rows int64 [U]: for each distinct vector the row with its lowest id; group_N intp [N]: the distinct vector
    of each row; members int64 [N]: all ids, by distinct vector, then ascending; first intp [U + 1]: where the members
    of each distinct vector begin.
    """

    rows: Int64Array
    group_N: NDArray[np.intp]
    members: Int64Array
    first: NDArray[np.intp]

    @property
    def has_copies(self) -> bool:
        """Whether any vector occurs twice."""
        return len(self.rows) < len(self.group_N)


def distinct_rows(vectors_ND: Float32Array, ids_N: Int64Array) -> Distinct:
    """Group the rows that hold the same bytes.

    Shapes: vectors_ND float32 [N, D], C-contiguous; ids_N int64 [N], distinct.
    """
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, vectors_ND), dtype=np.uint64, count=len(vectors_ND))
    order = np.lexsort((ids_N, hashes))
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = hashes[order[1:]] != hashes[order[:-1]]
    # Equal hashes are only a hint. Rows that differ are split here, at worst into more groups than necessary.
    bits = vectors_ND.view(np.uint32)
    suspects = np.flatnonzero(~starts)
    step = max(1, _COMPARED_VALUES // vectors_ND.shape[1])
    for begin in range(0, len(suspects), step):
        part = suspects[begin : begin + step]
        starts[part] = (bits[order[part]] != bits[order[part - 1]]).any(axis=1)
    group_sorted = np.cumsum(starts) - 1
    rows = order[starts]
    rank = np.argsort(ids_N[rows])
    number = np.empty_like(rank)
    number[rank] = np.arange(len(rank))
    group_N = np.empty(len(order), dtype=np.intp)
    group_N[order] = number[group_sorted]
    members = ids_N[np.lexsort((ids_N, group_N))]
    first = np.concatenate([[0], np.cumsum(np.bincount(group_N, minlength=len(rows)))]).astype(np.intp)
    return Distinct(rows[rank].astype(np.int64), group_N, members, first)


def with_copies(found: Neighbours, query: Distinct, base: Distinct) -> Neighbours:
    """Turn the neighbours among distinct vectors into those among rows.

    The k nearest rows lie within the k nearest distinct vectors, if these are ranked by their lowest id: each of them
    that comes before a row's own vector puts at least one row before it.

    Args:
        found: for each distinct query vector, its nearest distinct base vectors, named by their number.
    """
    best = Neighbours(np.empty_like(found.ids), found.cosine.copy())
    step = max(1, _EXPANDED_ENTRIES // found.k**2)
    for begin in range(0, found.num_rows, step):
        part = slice(begin, begin + step)
        expanded = _expand(found.ids[part], found.cosine[part], base)
        best.ids[part], best.cosine[part] = expanded.ids, expanded.cosine
    return Neighbours(best.ids[query.group_N], best.cosine[query.group_N])


def _expand(groups_QK: Int64Array, cosine_QK: Float32Array, base: Distinct) -> Neighbours:
    """Replace each distinct vector by its rows, at most k of them."""
    num_rows, k = groups_QK.shape
    rows, ranks = np.nonzero(groups_QK >= 0)
    groups, cosine = groups_QK[rows, ranks], cosine_QK[rows, ranks]
    if not base.has_copies:
        best = Neighbours.empty(num_rows, k)
        best.ids[rows, ranks], best.cosine[rows, ranks] = base.members[groups], cosine
        return best
    counts = np.minimum(base.first[groups + 1] - base.first[groups], k)
    entry = np.repeat(np.arange(len(groups)), counts)
    member = np.arange(len(entry)) - np.repeat(np.cumsum(counts) - counts, counts)
    return top_k(rows[entry], base.members[base.first[groups[entry]] + member], cosine[entry], num_rows, k)
