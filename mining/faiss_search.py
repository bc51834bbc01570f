"""The same search through FAISS: an independent engine to check ours against, and the base of approximate indexes.

FAISS proposes, we decide: it returns a few more neighbours than wanted, whose cosines are then computed exactly and put
into our total order (FAISS leaves the order of equal scores undefined).
"""

import numpy as np

from emsmine.mining.knn import Float32Array, Int64Array, Neighbours, check_ids, check_vectors, exact_cosine, top_k

_BLOCK_ROWS = 4096
_SPARE = 8
"""Neighbours asked for beyond k, so that rounding and ties at the edge are settled by exact scores."""


def search_both_flat(
    source_ND: Float32Array,
    target_MD: Float32Array,
    k: int,
    *,
    source_ids: Int64Array | None = None,
    target_ids: Int64Array | None = None,
    validate: bool = True,
) -> tuple[Neighbours, Neighbours]:
    """Find the k nearest of every row on the other side with `IndexFlatIP`, both directions.

    Arguments and result as in `emsmine.mining.knn.search_both`; the two agree except where more than `_SPARE` sentences
    tie at the edge of the k nearest.
    """
    check_vectors(source_ND, "source", rows=validate)
    check_vectors(target_MD, "target", rows=validate)
    source_ids = check_ids(source_ids, len(source_ND), "source")
    target_ids = check_ids(target_ids, len(target_MD), "target")
    forward = _search(source_ND, target_MD, target_ids, k)
    return forward, _search(target_MD, source_ND, source_ids, k)


def _search(query_ND: Float32Array, base_MD: Float32Array, base_ids: Int64Array, k: int) -> Neighbours:
    if not len(query_ND) or not len(base_MD):
        return Neighbours.empty(len(query_ND), k)
    import faiss

    index = faiss.IndexFlatIP(base_MD.shape[1])
    index.add(base_MD)
    blocks = []
    for start in range(0, len(query_ND), _BLOCK_ROWS):
        query_BD = query_ND[start : start + _BLOCK_ROWS]
        _, found_BK = index.search(query_BD, min(k + _SPARE, len(base_MD)))
        rows_H, columns_H = np.nonzero(found_BK >= 0)
        base_H = found_BK[rows_H, columns_H]
        cosine_H = exact_cosine(query_BD[rows_H], base_MD[base_H])
        blocks.append(top_k(rows_H, base_ids[base_H], cosine_H, len(query_BD), k))
    return Neighbours(np.concatenate([b.ids for b in blocks]), np.concatenate([b.cosine for b in blocks]))
