"""Search inverted lists one after the other: a matrix product of a list and all queries that look at it.

FAISS goes through the lists of one query after the other, and reads each list from memory as often as queries look at
it. The result here is exact among the rows of a query's lists: the product only proposes, see `candidates`. So it
does not depend on how queries are cut into batches, or on threads.

Memory beside the queries, in bytes, for N queries that are searched together: 24 for each of at most 2^21 pairs of a
query and a list, 16 K N for what is found, 24 for each entry that is kept, at most 2^18 + 4 K N of them, and less than
2^26 for what is multiplied and scored.

Nothing of an index is copied but the part of a list that is asked for: the lists of an index file stay mapped.

Shape suffixes: N queries, P probes, K neighbours, D dimensions; Q queries of a list, M rows of it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emsmine.mining.approximate.candidates import EntryCollector, Fetch
from emsmine.mining.approximate.loader import load_faiss
from emsmine.mining.neighbours import Float32Array, Int64Array, Neighbours
from emsmine.mining.rounding import slices, stored_error

BLOCK_PAIRS = 1 << 21
"""Pairs of a query and a list that are searched together."""
# Queries and rows of one product, and its scores: within a processor's cache.
_QUERIES, _ROWS, _SCORES = 2048, 2048, 1 << 18


class StoredLists:
    """Lists of vectors in float16.

    Args:
        index: a FAISS index of inverted lists, which is kept alive.
        dim: dimension of the vectors.

    Raises: ValueError for an index that stores its vectors in another way.
    """

    def __init__(self, index: Any, dim: int) -> None:
        faiss = load_faiss()
        self._lists = faiss.downcast_InvertedLists(index.invlists)
        self._index, self._view, self._dim = index, faiss.rev_swig_ptr, dim
        if not isinstance(index, faiss.IndexIVFScalarQuantizer) or index.by_residual or index.code_size != 2 * dim:
            raise ValueError(
                f"search: an index of {type(index).__name__} with {index.code_size} bytes a row cannot be searched "
                f"list by list, which needs {dim} float16 values a row; build it again"
            )

    def __len__(self) -> int:
        """Return the number of lists."""
        return int(self._lists.nlist)

    def rows(self, number: int) -> Int64Array:
        """Return the rows of a list, int64 [M]; valid as long as the index is open."""
        size = self._lists.list_size(number)
        if not size:
            return np.zeros(0, dtype=np.int64)
        rows: Int64Array = self._view(self._lists.get_ids(number), size)
        return rows

    def vectors(self, number: int, part: slice, *, use_torch: bool) -> Float32Array:
        """Return a part of the vectors of a list, float32 [M, D]; the list must not be empty.

        Args:
            use_torch: by torch, which turns float16 into float32 about 15 times as fast as numpy, to the same values.
        """
        size = self._lists.list_size(number)
        codes: NDArray[np.uint8] = self._view(self._lists.get_codes(number), size * 2 * self._dim)
        half = codes.view(np.float16).reshape(size, self._dim)[part]
        if not use_torch:
            return half.astype(np.float32)
        import torch

        vectors: Float32Array = torch.from_numpy(half).float().numpy()
        return vectors


def block_rows(num_queries: int, probes: int) -> int:
    """Return how many queries are searched together: as many as may be, in blocks of about equal size."""
    most = max(1, BLOCK_PAIRS // probes)
    num_blocks = max(1, -(-num_queries // most))
    return max(1, -(-num_queries // num_blocks))


def search_lists(
    query_ND: Float32Array,
    lists_NP: Int64Array,
    stored: StoredLists,
    fetch: Fetch,
    base_ids: Int64Array,
    k: int,
    *,
    use_torch: bool = False,
) -> Neighbours:
    """Find the k nearest of each query among the rows of its lists.

    Args:
        query_ND: unit rows.
        lists_NP: lists of each query, distinct.
        stored: the lists; a row stands in one of them only.
        fetch: reads base vectors by row.
        base_ids: id of each base row, distinct.
        k: neighbours per query; where the lists hold fewer rows, the rest are missing (-1).
        use_torch: where torch is faster; loading it costs about as much as a search of 2^36 multiplications.

    Shapes: query_ND float32 [N, D]; lists_NP int64 [N, P]; base_ids int64.
    """
    candidates = EntryCollector(query_ND, fetch, base_ids, k, stored_error(query_ND.shape[1]))
    query_S, first = _by_list(lists_NP, len(stored))
    scores = np.empty(_SCORES, dtype=np.float32)
    for number in np.flatnonzero(np.diff(first)).tolist():
        query_Q, rows = query_S[first[number] : first[number + 1]].astype(np.intp), stored.rows(number)
        for part in slices(0, len(rows), _ROWS):
            vectors_MD = stored.vectors(number, part, use_torch=use_torch)
            for some in slices(0, len(query_Q), min(_QUERIES, max(1, _SCORES // len(vectors_MD)))):
                gathered_QD = query_ND.take(query_Q[some], axis=0)
                shape = len(gathered_QD), len(vectors_MD)
                scores_QM = scores[: shape[0] * shape[1]].reshape(shape)
                np.matmul(gathered_QD, vectors_MD.T, out=scores_QM)
                candidates.add(query_Q[some], rows[part], scores_QM)
    return candidates.nearest()


def _by_list(lists_NP: Int64Array, num_lists: int) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Order pairs of query and list by list; returns their queries, and where those of each list begin."""
    lists = lists_NP.ravel()
    # A sort of 16 bits is the fastest one.
    order = np.argsort(lists.astype(np.uint16) if num_lists <= 1 << 16 else lists, kind="stable")
    order //= lists_NP.shape[1]
    first = np.zeros(num_lists + 1, dtype=np.intp)
    np.cumsum(np.bincount(lists, minlength=num_lists), out=first[1:])
    return order.astype(np.int32), first
