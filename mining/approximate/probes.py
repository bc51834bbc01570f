"""Steps of an inverted-list search that must not depend on how queries are batched.

A matrix product rounds differently with the shape of the batch, so FAISS's own choice of lists can change when the same
query stands in another batch. Here the product only proposes, as in exact search, and near-ties are decided in float64.

Shape suffixes: N queries, L lists, D dimensions, P probes.
"""

import numpy as np

from emsmine.mining.neighbours import Float32Array, Int64Array, exact_cosine
from emsmine.mining.rounding import rounding_slack

_BLOCK_SCORES = 1 << 20  # float32 scores held at a time: 4 MiB
_GROUPS_PER_PROBE = 4
_LARGEST_GROUP = 32


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
    # Columns are filled up so that they fall into groups of equal size; a filled one is nobody's nearest.
    group = max(1, min(_LARGEST_GROUP, num_lists // (_GROUPS_PER_PROBE * probes)))
    num_columns = -(-num_lists // group) * group
    step = max(1, _BLOCK_SCORES // num_columns)
    scores = np.empty((min(step, len(query_ND)), num_columns), dtype=np.float32)
    scores[:, num_lists:] = -np.inf
    for start in range(0, len(query_ND), step):
        query_BD = query_ND[start : start + step]
        scores_BL = scores[: len(query_BD)]
        np.matmul(query_BD, centroid_LD.T, out=scores_BL[:, :num_lists])
        chosen[start : start + step] = _nearest_in_block(query_BD, centroid_LD, scores_BL, probes, group)
    return chosen


def _nearest_in_block(
    query_BD: Float32Array, centroid_LD: Float32Array, scores_BL: Float32Array, probes: int, group: int
) -> Int64Array:
    """Choose the lists of some queries from scores of which each may be off by `rounding_slack`."""
    slack = np.float32(2 * rounding_slack(query_BD.shape[1]))
    # Where the maxima of P groups reach a value, so do P lists: the P-th maximum is no more than the P-th score.
    maxima = scores_BL.reshape(len(scores_BL), group, -1).max(axis=1)
    least_B = _largest(maxima, probes) - slack
    row_H, list_H = np.divmod(np.flatnonzero(scores_BL >= least_B[:, None]), scores_BL.shape[1])
    # The candidates of each row, of which there are a few more than places, side by side; lists stay in order.
    count_B = np.bincount(row_H, minlength=len(query_BD))
    rank_H = np.arange(row_H.size) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    shape = len(query_BD), int(count_B.max())
    scores_BC, lists_BC = np.full(shape, -np.inf, dtype=np.float32), np.zeros(shape, dtype=np.int64)
    scores_BC[row_H, rank_H], lists_BC[row_H, rank_H] = scores_BL[row_H, list_H], list_H
    last_B = _largest(scores_BC, probes)[:, None]
    taken_BC = scores_BC > last_B + slack
    near_BC = ~taken_BC & (scores_BC >= last_B - slack)
    wanted_B = probes - taken_BC.sum(axis=1)
    settled_B = near_BC.sum(axis=1) == wanted_B
    taken_BC |= near_BC & settled_B[:, None]
    # The few rows with more near-ties than places: order these by the exact score, then by number.
    rows, places = np.nonzero(near_BC & ~settled_B[:, None])
    if rows.size:
        lists = lists_BC[rows, places]
        order = np.lexsort((lists, -exact_cosine(query_BD[rows], centroid_LD[lists]), rows))
        rows, places = rows[order], places[order]
        rank = np.arange(rows.size) - np.searchsorted(rows, rows)
        first = rank < wanted_B[rows]
        taken_BC[rows[first], places[first]] = True
    return lists_BC[taken_BC].reshape(len(query_BD), probes)


def _largest(values_BC: Float32Array, rank: int) -> Float32Array:
    """Return the value of each row that stands at a rank, 1 for the largest."""
    if rank == 1:
        largest: Float32Array = values_BC.max(axis=1)
    else:
        place = values_BC.shape[1] - rank
        largest = np.partition(values_BC, place, axis=1)[:, place]
    return largest


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
