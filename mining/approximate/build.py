"""Build the approximate index of one language, block by block, into bytes that depend on rows and order only.

IVF keeps each vector in float16, as the embeddings are stored: half the memory of float32, nothing lost, and faster to
scan. Training uses fixed seeds and one thread. Lists are assigned by `nearest_lists`, so that neither threads nor the
cut of the blocks decide where a row goes; the graph of HNSW does depend on the order of the rows.

Shape suffixes: N rows, S sampled rows, L lists, D dimensions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emsmine.mining.approximate.choice import VALUES_PER_CODE, num_lists
from emsmine.mining.approximate.loader import load_faiss, single_thread
from emsmine.mining.approximate.probes import nearest_lists, rotate
from emsmine.mining.neighbours import Float32Array

TRAINING_ROWS_PER_LIST = 64
LINKS = 32
"""HNSW: links per row and level (twice as many on the lowest)."""
BUILD_EFFORT = 80
"""HNSW: candidates looked at while a row is inserted."""
_SEED = 1234
_ITERATIONS = ((16, 4), (32, 3), (64, 3))
"""Rows per list and rounds of k-means: what is moved far at first needs few rows to know where to."""
# Bound the cost of OPQ, whose every iteration decomposes a D × D matrix and trains a product quantiser.
_ROTATION_ROWS = 10_240
_ROTATION_ITERATIONS = 4


def training_rows(engine: str, rows: int) -> int:
    """Return how many rows the index of so many rows is trained on: 0 for one that needs no training."""
    lists = TRAINING_ROWS_PER_LIST * num_lists(rows) if engine in ("faiss-ivf", "faiss-ivfpq") else 0
    return min(rows, max(lists, _ROTATION_ROWS) if engine == "faiss-ivfpq" else lists)


class IndexBuilder:
    """An index that grows row by row; rows are numbered in the order in which they are added.

    Args:
        engine: `faiss-ivf`, `faiss-ivfpq` or `faiss-hnsw`.
        rows: rows that will be added.
        sample_SD: unit rows to train on (see `training_rows`), in an order of their own, of which the first ones are a
            sample, too; unused for HNSW.

    Shapes: sample_SD float32 [S, D].
    Raises: ValueError for another engine, or a sample too small for the number of lists.
    """

    def __init__(self, engine: str, rows: int, sample_SD: Float32Array) -> None:
        self._faiss = load_faiss()
        self._rotation: Float32Array | None = None
        self._centroids: Float32Array | None = None
        self._added = 0
        dim = sample_SD.shape[1]
        with single_thread(self._faiss):
            if engine == "faiss-hnsw":
                self._index = self._graph(dim)
            elif engine in ("faiss-ivf", "faiss-ivfpq"):
                self._index = self._lists(engine, rows, sample_SD)
            else:
                raise ValueError(f"index: {engine!r} is no kind of index that FAISS builds")

    def _graph(self, dim: int) -> Any:
        faiss = self._faiss
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_EFFORT
        index.is_trained = True  # float16 has nothing to learn
        return index

    def _lists(self, engine: str, rows: int, sample_SD: Float32Array) -> Any:
        faiss, dim = self._faiss, sample_SD.shape[1]
        lists = num_lists(rows)
        if len(sample_SD) < lists:
            raise ValueError(f"index: {len(sample_SD)} rows to train {lists} lists on; give training_rows() of them")
        if engine == "faiss-ivfpq":
            self._rotation = self._learn_rotation(sample_SD)
            sample_SD = rotate(sample_SD, self._rotation)
        self._centroids = self._learn_centroids(sample_SD, lists)
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(self._centroids)
        metric = faiss.METRIC_INNER_PRODUCT
        if engine == "faiss-ivf":
            half = faiss.ScalarQuantizer.QT_fp16
            index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, half, metric, False)
        else:
            index = faiss.IndexIVFPQ(quantizer, dim, lists, dim // VALUES_PER_CODE, 8, metric)
            index.pq.cp.seed = _SEED
        index.train(sample_SD)
        index.own_fields = False
        self._quantizer = quantizer  # the index only borrows it
        return index

    def _learn_centroids(self, sample_SD: Float32Array, lists: int) -> Float32Array:
        """Cluster on the unit sphere: for inner products the nearest list is the one of the closest direction."""
        centroids: Float32Array = sample_SD[:0]
        for rows_per_list, iterations in _ITERATIONS:
            clustering = self._faiss.Kmeans(
                sample_SD.shape[1],
                lists,
                niter=iterations,
                spherical=True,
                seed=_SEED,
                min_points_per_centroid=1,
                max_points_per_centroid=rows_per_list,
            )
            clustering.train(sample_SD[: rows_per_list * lists], init_centroids=centroids if len(centroids) else None)
            centroids = clustering.centroids
        norms = np.linalg.norm(centroids, axis=1, keepdims=True)
        return np.ascontiguousarray(centroids / np.maximum(norms, np.float32(1e-12)))

    def _learn_rotation(self, sample_SD: Float32Array) -> Float32Array:
        dim = sample_SD.shape[1]
        learner = self._faiss.OPQMatrix(dim, dim // VALUES_PER_CODE)
        learner.niter, learner.niter_pq_0, learner.niter_pq = _ROTATION_ITERATIONS, _ROTATION_ITERATIONS, 2
        learner.train(np.ascontiguousarray(sample_SD[:_ROTATION_ROWS]))
        matrix: Float32Array = self._faiss.vector_to_array(learner.A).reshape(dim, dim).copy()
        return matrix

    def add(self, vectors_ND: Float32Array) -> None:
        """Append unit rows."""
        if not len(vectors_ND):
            return
        with single_thread(self._faiss):
            if self._centroids is None:
                self._index.add(vectors_ND)
            else:
                rows_ND = vectors_ND if self._rotation is None else rotate(vectors_ND, self._rotation)
                numbers = np.arange(self._added, self._added + len(rows_ND), dtype=np.int64)
                lists = np.ascontiguousarray(nearest_lists(rows_ND, self._centroids, 1)[:, 0])
                pointer = self._faiss.swig_ptr
                self._index.add_core(len(rows_ND), pointer(rows_ND), pointer(numbers), pointer(lists))
        self._added += len(vectors_ND)

    def write(self, write: Callable[[bytes], Any]) -> None:
        """Serialise piece by piece, in FAISS's own format: an `IndexPreTransform` where there is a rotation."""
        faiss, index = self._faiss, self._index
        if self._rotation is not None:
            dim = self._rotation.shape[0]
            transform = faiss.LinearTransform(dim, dim, False)
            faiss.copy_array_to_vector(self._rotation.ravel(), transform.A)
            transform.is_trained = True
            index = faiss.IndexPreTransform(transform, index)
            index.own_fields = False
        faiss.write_index(index, faiss.PyCallbackIOWriter(write))


def read_index(path: Path, engine: str) -> Any:
    """Open an index file without reading it whole: lists and vectors stay on the disk, in pages that workers share."""
    faiss = load_faiss()
    # Two mechanisms that exclude each other: one maps inverted lists, the other all that is stored in a row.
    flag = getattr(faiss, "IO_FLAG_MMAP_IFC", 0) if engine == "faiss-hnsw" else faiss.IO_FLAG_MMAP
    return faiss.read_index(str(path), flag)
