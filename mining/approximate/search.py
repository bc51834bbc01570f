"""The same search through FAISS: an independent engine to check ours against, and the approximate one.

FAISS proposes, we decide: it returns a few more neighbours than wanted, whose cosines are then computed exactly and put
into our total order (FAISS leaves the order of equal scores undefined). Lists of whole vectors are its own format only:
they are searched by `scan`, unless they lie on a GPU, and what is found is exact among the lists looked at.

Shape suffixes: N queries, M base rows, D dimensions, P proposals, H hits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emsmine.mining.approximate.build import read_index
from emsmine.mining.approximate.candidates import Fetch
from emsmine.mining.approximate.loader import load_faiss, on_device
from emsmine.mining.approximate.probes import list_scores, nearest_lists, rotate
from emsmine.mining.approximate.scan import StoredLists, block_rows, search_lists
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import (
    LARGE_SEARCH,
    Float32Array,
    Int64Array,
    Neighbours,
    check_ids,
    check_vectors,
    exact_cosine,
    top_k,
)
from emsmine.progress import report

FLAT_BLOCK_ROWS = 4096
"""Queries that a flat search gives to FAISS at a time."""
SPARE = 8
"""Neighbours asked for beyond k, so that rounding and ties at the edge are settled by exact scores."""
_FETCHED_VALUES = 1 << 23  # float32 values of proposals held at a time: 32 MiB
_RESCORED_VALUES = 1 << 18  # float64 values per side while rescoring: within a processor's cache
_MOST_PROPOSALS = 1024
_MOST_CANDIDATES = 4096  # HNSW


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

    Arguments and result as in `emsmine.mining.exact.search.search_both`; the two agree except where more than `SPARE`
    sentences tie at the edge of the k nearest.
    """
    check_vectors(source_ND, "source", rows=validate)
    check_vectors(target_MD, "target", rows=validate)
    source_ids = check_ids(source_ids, len(source_ND), "source")
    target_ids = check_ids(target_ids, len(target_MD), "target")
    forward = _search_flat(source_ND, target_MD, target_ids, k)
    return forward, _search_flat(target_MD, source_ND, source_ids, k)


def _search_flat(query_ND: Float32Array, base_MD: Float32Array, base_ids: Int64Array, k: int) -> Neighbours:
    if not len(query_ND) or not len(base_MD):
        return Neighbours.empty(len(query_ND), k)
    faiss = load_faiss()
    index = faiss.IndexFlatIP(base_MD.shape[1])
    index.add(base_MD)
    blocks = []
    for start in range(0, len(query_ND), FLAT_BLOCK_ROWS):
        query_BD = query_ND[start : start + FLAT_BLOCK_ROWS]
        _, found_BP = index.search(query_BD, min(k + SPARE, len(base_MD)))
        blocks.append(rescore(query_BD, found_BP, base_MD.__getitem__, base_ids, k))
        report(len(query_BD) / len(query_ND))
    return _concatenate(blocks)


def _concatenate(blocks: list[Neighbours]) -> Neighbours:
    return Neighbours(np.concatenate([b.ids for b in blocks]), np.concatenate([b.cosine for b in blocks]))


def rescore(query_ND: Float32Array, proposed_NP: Int64Array, fetch: Fetch, base_ids: Int64Array, k: int) -> Neighbours:
    """Score proposed rows exactly and keep the k best of each query.

    Args:
        query_ND: unit rows.
        proposed_NP: base rows, distinct within a query; -1 for none.
        fetch: reads base vectors; called once, with distinct rows in ascending order.
        base_ids: id of each base row.
        k: neighbours per query.

    Shapes: query_ND float32 [N, D]; proposed_NP int64 [N, P]; base_ids int64 [M].
    """
    rows_H, columns_H = np.nonzero(proposed_NP >= 0)
    base_H = proposed_NP[rows_H, columns_H]
    distinct, places_H = np.unique(base_H, return_inverse=True)
    vectors = fetch(distinct)
    cosine_H = np.empty(base_H.size, dtype=np.float32)
    step = max(1, _RESCORED_VALUES // query_ND.shape[1])
    for start in range(0, base_H.size, step):
        part = slice(start, start + step)
        cosine_H[part] = exact_cosine(query_ND[rows_H[part]], vectors[places_H[part]])
    return top_k(rows_H, base_ids[base_H], cosine_H, len(query_ND), k)


@dataclass(frozen=True)
class Effort:
    """How hard an approximate index is searched.

    Args:
        width: IVF: lists looked at; HNSW: candidates kept (efSearch); exact: unused.
        proposals: rows per query whose exact cosine is computed. Without meaning for `faiss-ivf`, where all that may be
            among the k best of the lists are; on a GPU as for the others.
    """

    width: int
    proposals: int


class ApproximateIndex:
    """The index of one language, opened for searching.

    Args:
        engine: as the index was built; `exact` for one without a structure.
        path: index file; unused for `exact`.
        fetch: reads base vectors by row.
        ids: id of each row, distinct.
        dim: dimension of the vectors.
        device: `auto` and `cuda…` search lists on a GPU where FAISS can (see `on_device`).
        gpu_memory_bytes: of that GPU, that the index may take; a larger one is searched by the processor.
    """

    def __init__(
        self,
        engine: str,
        path: Path | None,
        fetch: Fetch,
        ids: Int64Array,
        dim: int,
        device: str = "cpu",
        gpu_memory_bytes: int | None = None,
    ) -> None:
        self.engine = engine
        self._fetch = fetch
        self._ids = ids
        self._dim = dim
        self._rotation: Float32Array | None = None
        self._centroids: Float32Array | None = None
        self._lists: StoredLists | None = None
        self._index: Any = None
        if engine == "exact" or not len(ids):
            self._all = fetch(np.arange(len(ids), dtype=np.int64)) if len(ids) else None
            return
        if path is None:
            raise ValueError(f"search: an index of kind {engine} needs its file")
        self._open(path, device, gpu_memory_bytes)

    def _open(self, path: Path, device: str, gpu_memory_bytes: int | None) -> None:
        faiss = load_faiss()
        self._file = index = read_index(path, self.engine)
        if isinstance(index, faiss.IndexPreTransform):
            matrix = faiss.downcast_VectorTransform(index.chain.at(0))
            self._rotation = faiss.vector_to_array(matrix.A).reshape(matrix.d_out, matrix.d_in).copy()
            index = faiss.downcast_index(index.index)
        if index.ntotal != len(self._ids) or index.d != self._dim:
            raise ValueError(
                f"search: index {path} holds {index.ntotal} rows of {index.d} values, its ids are {len(self._ids)} of "
                f"{self._dim} values; build it again"
            )
        if self.engine != "faiss-hnsw":
            quantizer = faiss.downcast_index(index.quantizer)
            self._centroids = quantizer.reconstruct_n(0, quantizer.ntotal)
            lists = faiss.downcast_InvertedLists(index.invlists)
            if hasattr(lists, "prefetch_nthread"):
                lists.prefetch_nthread = 0  # FAISS starts 32 threads to read ahead; the pages come by themselves
            whole, index = index, on_device(faiss, index, device, gpu_memory_bytes)
            if self.engine == "faiss-ivf" and index is whole:
                self._lists = StoredLists(index, self._dim)
        self._index = index

    def efforts(self, k: int) -> list[Effort]:
        """List what can be tried, from cheap to thorough; the last one is as thorough as the kind of index allows."""
        rows = len(self._ids)
        if self._index is None:
            return [Effort(1, min(k, rows))]
        proposals = min(k + SPARE, rows)
        if self._centroids is None:
            return [Effort(width, proposals) for width in _ladder(max(16, proposals), min(_MOST_CANDIDATES, rows))]
        lists = len(self._centroids)
        if self._rotation is None:
            return [Effort(width, proposals) for width in _ladder(1, lists)]
        # Codes rank roughly, so many more rows are looked at; where all lists do not help, still more.
        proposals = min(max(64, 16 * k), rows)
        more = [count for count in _ladder(proposals, min(_MOST_PROPOSALS, rows)) if count > proposals]
        return [Effort(width, proposals) for width in _ladder(1, lists)] + [Effort(lists, count) for count in more]

    def search(self, query_ND: Float32Array, k: int, effort: Effort) -> Neighbours:
        """Find about the k nearest of each query: a function of the query, the index and the effort only.

        Shapes: query_ND float32 [N, D], unit rows. Returns: N rows of ids.
        """
        if not len(query_ND) or not len(self._ids):
            return Neighbours.empty(len(query_ND), k)
        if self._index is None:
            assert self._all is not None
            return search_both(query_ND, self._all, k, target_ids=self._ids, validate=False)[0]
        if self._lists is not None:
            return self._search_lists(query_ND, k, effort.width)
        step = max(1, _FETCHED_VALUES // (effort.proposals * self._dim))
        blocks = []
        for start in range(0, len(query_ND), step):
            query_BD = query_ND[start : start + step]
            blocks.append(rescore(query_BD, self._propose(query_BD, effort), self._fetch, self._ids, k))
            report(len(query_BD) / len(query_ND))
        return _concatenate(blocks)

    def _search_lists(self, query_ND: Float32Array, k: int, width: int) -> Neighbours:
        assert self._lists is not None
        assert self._centroids is not None
        width = min(width, len(self._lists))
        products = len(query_ND) * width * (len(self._ids) // len(self._lists))
        use_torch = products * self._dim >= LARGE_SEARCH
        blocks = []
        step = block_rows(len(query_ND), width)
        for start in range(0, len(query_ND), step):
            query_BD = query_ND[start : start + step]
            lists_BP = nearest_lists(query_BD, self._centroids, width)
            blocks.append(search_lists(query_BD, lists_BP, self._lists, self._fetch, self._ids, k, use_torch=use_torch))
            report(len(query_BD) / len(query_ND))
        return _concatenate(blocks)

    def _propose(self, query_ND: Float32Array, effort: Effort) -> Int64Array:
        proposals: Int64Array
        if self._centroids is None:
            faiss = load_faiss()
            parameters = faiss.SearchParametersHNSW(efSearch=effort.width)
            _, proposals = self._index.search(query_ND, effort.proposals, params=parameters)
            return proposals
        rows_ND = query_ND if self._rotation is None else rotate(query_ND, self._rotation)
        lists_NP = nearest_lists(rows_ND, self._centroids, effort.width)
        # Whole vectors are scored without their centroid, codes of differences to it need its score.
        scores = (
            np.zeros(lists_NP.shape, np.float32)
            if self._rotation is None
            else list_scores(rows_ND, self._centroids, lists_NP)
        )
        self._index.nprobe = lists_NP.shape[1]
        _, proposals = self._index.search_preassigned(rows_ND, effort.proposals, lists_NP, scores)
        return proposals


def _ladder(first: int, last: int) -> list[int]:
    """List first, then about 1.4 times as much each, up to and including last."""
    first = min(first, last)
    steps = {first, last}
    power = 1
    while first * power < last:
        steps |= {first * power, min(first * power * 3 // 2, last)}
        power *= 2
    return sorted(steps)
