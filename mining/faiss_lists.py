"""Steps of an inverted-list search that must not depend on how queries are batched.

A matrix product rounds differently with the shape of the batch, so FAISS's own choice of lists can change when the same
query stands in another batch. Here the product only proposes, as in `knn`, and near-ties are decided in float64.

Shape suffixes: N queries, L lists, D dimensions, P probes.
"""

import numpy as np

from emsmine.mining.knn import Float32Array, Int64Array, exact_cosine

_BLOCK_SCORES = 1 << 22  # float32 scores held at a time: 16 MiB


def rounding_slack(dim: int) -> float:
    """Bound by how much two ways of summing `dim` products of unit rows can differ, and a float32 rounding.

    Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    return float(2 * 1.01 * (dim + 2) * 2.0**-24 + 2.0**-23)


def nearest_lists(query_ND: Float32Array, centroid_LD: Float32Array, probes: int) -> Int64Array:
    """Find the lists whose centroids are nearest to each query: a function of the query and the centroids only.

    Equal centroids: the lower list number is the nearer one.

    Args:
        query_ND: unit rows.
        centroid_LD: unit rows.
        probes: lists per query, at most L.

    Shapes: query_ND float32 [N, D]; centroid_LD float32 [L, D].
    Returns: int64 [N, P], list numbers in ascending order (not by nearness).
    """
    num_lists = len(centroid_LD)
    probes = min(probes, num_lists)
    if probes == num_lists:
        return np.tile(np.arange(num_lists, dtype=np.int64), (len(query_ND), 1))
    chosen = np.empty((len(query_ND), probes), dtype=np.int64)
    step = max(1, _BLOCK_SCORES // num_lists)
    for start in range(0, len(query_ND), step):
        chosen[start : start + step] = _nearest_in_block(query_ND[start : start + step], centroid_LD, probes)
    return chosen


def _nearest_in_block(query_ND: Float32Array, centroid_LD: Float32Array, probes: int) -> Int64Array:
    scores_NL = query_ND @ centroid_LD.T
    num_lists = len(centroid_LD)
    last_N = np.partition(scores_NL, num_lists - probes, axis=1)[:, num_lists - probes, None]
    slack = np.float32(2 * rounding_slack(query_ND.shape[1]))
    taken_NL = scores_NL > last_N + slack
    near_NL = ~taken_NL & (scores_NL >= last_N - slack)
    wanted_N = probes - taken_NL.sum(axis=1)
    settled_N = near_NL.sum(axis=1) == wanted_N
    taken_NL |= near_NL & settled_N[:, None]
    # The few rows with more near-ties than places: order these by the exact score, then by number.
    rows, lists = np.nonzero(near_NL & ~settled_N[:, None])
    if rows.size:
        order = np.lexsort((lists, -exact_cosine(query_ND[rows], centroid_LD[lists]), rows))
        rows, lists = rows[order], lists[order]
        rank = np.arange(rows.size) - np.searchsorted(rows, rows)
        first = rank < wanted_N[rows]
        taken_NL[rows[first], lists[first]] = True
    return np.nonzero(taken_NL)[1].astype(np.int64).reshape(len(query_ND), probes)


def list_scores(query_ND: Float32Array, centroid_LD: Float32Array, lists_NP: Int64Array) -> Float32Array:
    """Compute the exact cosine of each query to its lists; IVF-PQ adds it to the score of every row of the list.

    Shapes: lists_NP int64 [N, P]. Returns: float32 [N, P].
    """
    scores = np.empty(lists_NP.shape, dtype=np.float32)
    for rank in range(lists_NP.shape[1]):
        scores[:, rank] = exact_cosine(query_ND, centroid_LD[lists_NP[:, rank]])
    return scores


def rotate(rows_ND: Float32Array, matrix_ED: Float32Array) -> Float32Array:
    """Multiply each row by a matrix, one row at a time: the result of a row does not depend on the others.

    Shapes: rows_ND float32 [N, D]; matrix_ED float32 [E, D]. Returns: float32 [N, E].
    """
    rotated: Float32Array = np.matmul(rows_ND[:, None, :], matrix_ED.T[None])[:, 0, :]
    return np.ascontiguousarray(rotated)
