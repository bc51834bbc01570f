"""Approximate indexes: what they propose is scored exactly, batches and threads change nothing, hard cases are met."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emsmine.errors import ConfigError, MissingDependencyError
from emsmine.mining.approximate import loader
from emsmine.mining.approximate.audit import neighbour_recall
from emsmine.mining.approximate.build import IndexBuilder, training_rows
from emsmine.mining.approximate.choice import num_lists
from emsmine.mining.approximate.probes import list_scores, nearest_lists, rotate
from emsmine.mining.approximate.search import ApproximateIndex, Effort, rescore
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import Neighbours

DIM, K = 16, 4
KINDS = ("faiss-ivf", "faiss-ivfpq", "faiss-hnsw")


def unit(rng: np.random.Generator, rows: int, dim: int = DIM) -> NDArray[np.float32]:
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def written(engine: str, base: NDArray[np.float32], step: int, path: Path) -> Path:
    builder = IndexBuilder(engine, len(base), base[: training_rows(engine, len(base))])
    for start in range(0, len(base), step):
        builder.add(base[start : start + step])
    with path.open("wb") as file:
        builder.write(file.write)
    return path


@pytest.fixture(scope="module")
def base() -> NDArray[np.float32]:
    return unit(np.random.default_rng(1), 3000)


@pytest.fixture(scope="module")
def files(base: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("indexes")
    return {engine: written(engine, base, 700, folder / engine) for engine in KINDS}


def opened(engine: str, files: dict[str, Path], base: NDArray[np.float32]) -> ApproximateIndex:
    ids = np.arange(len(base), dtype=np.int64)[::-1].copy() + (5 << 40)
    return ApproximateIndex(engine, files[engine], base.__getitem__, ids, DIM)


@pytest.mark.parametrize("engine", KINDS)
def test_the_greatest_effort_finds_what_exact_search_finds(
    engine: str, files: dict[str, Path], base: NDArray[np.float32]
) -> None:
    query = unit(np.random.default_rng(2), 200)
    index = opened(engine, files, base)
    ids = np.arange(len(base), dtype=np.int64)[::-1].copy() + (5 << 40)
    exact, _ = search_both(query, base, K, target_ids=ids)
    efforts = index.efforts(K)
    found = index.search(query, K, efforts[-1])
    if engine == "faiss-ivf":
        np.testing.assert_array_equal(found.ids, exact.ids)
        np.testing.assert_array_equal(found.cosine, exact.cosine)
    assert neighbour_recall(exact, found).mean() > 0.995
    little = index.search(query, K, efforts[0])
    assert neighbour_recall(exact, little).mean() < 0.9 or engine == "faiss-hnsw"
    assert [(e.width, e.proposals) for e in efforts] == sorted({(e.width, e.proposals) for e in efforts})


@pytest.mark.parametrize("engine", KINDS)
def test_batches_of_queries_change_nothing(engine: str, files: dict[str, Path], base: NDArray[np.float32]) -> None:
    query = unit(np.random.default_rng(3), 90)
    index = opened(engine, files, base)
    effort = index.efforts(K)[1]
    whole = index.search(query, K, effort)
    for step in (1, 7, 50):
        parts = [index.search(query[start : start + step].copy(), K, effort) for start in range(0, 90, step)]
        np.testing.assert_array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
        np.testing.assert_array_equal(np.concatenate([part.cosine for part in parts]), whole.cosine)


@pytest.mark.parametrize("engine", ["faiss-ivf", "faiss-ivfpq"])
def test_the_cut_of_the_blocks_changes_no_byte(
    engine: str, files: dict[str, Path], base: NDArray[np.float32], tmp_path: Path
) -> None:
    assert written(engine, base, 3000, tmp_path / "x").read_bytes() == files[engine].read_bytes()


def test_the_same_rows_give_the_same_graph(files: dict[str, Path], base: NDArray[np.float32], tmp_path: Path) -> None:
    assert written("faiss-hnsw", base, 700, tmp_path / "x").read_bytes() == files["faiss-hnsw"].read_bytes()


@pytest.mark.parametrize("engine", KINDS)
def test_few_rows_for_many_neighbours(engine: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base = unit(rng, 300) if engine == "faiss-ivfpq" else unit(rng, 3)
    path = written(engine, base, 100, tmp_path / "x")
    index = ApproximateIndex(engine, path, base.__getitem__, np.arange(len(base)), DIM)
    k = len(base) + 2
    query = unit(rng, 5)
    found = index.search(query, k, index.efforts(k)[-1])
    np.testing.assert_array_equal((found.ids >= 0).sum(axis=1), len(base))
    np.testing.assert_array_equal(found.ids, search_both(query, base, k)[0].ids)


@pytest.mark.parametrize("engine", ["faiss-ivf", "faiss-hnsw"])
def test_copies_of_one_vector(engine: str, tmp_path: Path) -> None:
    base = np.repeat(unit(np.random.default_rng(5), 1), 400, axis=0)
    path = written(engine, base, 100, tmp_path / "x")
    index = ApproximateIndex(engine, path, base.__getitem__, np.arange(400), DIM)
    found = index.search(base[:2], K, index.efforts(K)[-1])
    assert (found.cosine > 0.999).all()
    assert all(len(set(row)) == K for row in found.ids.tolist())


def test_no_rows_and_no_queries(base: NDArray[np.float32], files: dict[str, Path]) -> None:
    nothing = ApproximateIndex("exact", None, base.__getitem__, np.zeros(0, np.int64), DIM)
    assert (nothing.search(base[:3], K, nothing.efforts(K)[0]).ids == -1).all()
    index = opened("faiss-ivf", files, base)
    assert index.search(base[:0], K, Effort(1, 12)).ids.shape == (0, K)


def test_an_index_of_other_rows_is_refused(base: NDArray[np.float32], files: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="holds 3000 rows of 16 values, its ids are 2"):
        ApproximateIndex("faiss-ivf", files["faiss-ivf"], base.__getitem__, np.arange(2), DIM)
    with pytest.raises(ValueError, match="needs its file"):
        ApproximateIndex("faiss-ivf", None, base.__getitem__, np.arange(2), DIM)
    with pytest.raises(ValueError, match="no kind of index"):
        IndexBuilder("exact", 5, base[:5])
    with pytest.raises(ValueError, match="25 lists on"):
        IndexBuilder("faiss-ivf", 1000, base[:5])


def test_nearest_lists_are_those_of_the_exact_scores() -> None:
    rng = np.random.default_rng(6)
    query, centroids = unit(rng, 200), unit(rng, 50)
    centroids[10:20] = centroids[0]  # ties: the lower numbers win
    scores = query.astype(np.float64) @ centroids.astype(np.float64).T
    for probes in (1, 3, 12, 49, 50, 99):
        order = np.argsort(-scores.astype(np.float32), axis=1, kind="stable")[:, :probes]
        np.testing.assert_array_equal(nearest_lists(query, centroids, probes), np.sort(order, axis=1))


def test_near_ties_between_lists_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(7)
    query = unit(rng, 300, 64)
    # Centroids that differ by a few units in the last place: a product alone orders them by its rounding.
    centroids = np.repeat(unit(rng, 4, 64), 25, axis=0) * (1 + 1e-7 * rng.standard_normal((100, 64))).astype(np.float32)
    whole = nearest_lists(query, centroids, 10)
    exact = np.vecdot(query.astype(np.float64)[:, None], centroids.astype(np.float64)[None]).astype(np.float32)
    expected = np.sort(np.argsort(-exact, axis=1, kind="stable")[:, :10], axis=1)
    np.testing.assert_array_equal(whole, expected)
    one_by_one = [nearest_lists(query[row : row + 1], centroids, 10) for row in range(300)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), whole)


def test_rotation_and_list_scores_of_a_row_do_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(8)
    rows, matrix = unit(rng, 65, 64), np.linalg.qr(rng.standard_normal((64, 64)))[0].astype(np.float32)
    whole = rotate(rows, matrix)
    np.testing.assert_allclose(whole, rows @ matrix.T, atol=1e-6)
    for row in range(65):
        np.testing.assert_array_equal(rotate(rows[row : row + 1], matrix)[0], whole[row])
    lists = rng.integers(0, 65, (65, 3))
    np.testing.assert_allclose(list_scores(rows, whole, lists), np.einsum("nd,npd->np", rows, whole[lists]), atol=1e-6)


def test_rescoring_reads_each_row_once() -> None:
    base = unit(np.random.default_rng(9), 10)
    asked: list[list[int]] = []

    def fetch(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append(rows.tolist())
        return base[rows]

    proposals = np.array([[3, 1, -1], [1, 9, 3]], dtype=np.int64)
    found: Neighbours = rescore(base[:2], proposals, fetch, np.arange(10) * 2, 2)
    assert asked == [[1, 3, 9]]
    assert sorted(found.ids[0].tolist()) == [2, 6]
    assert found.ids[1, 0] == 2
    assert found.cosine[1, 0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("installed", "error", "message"),
    [
        (("faiss-cpu", "faiss-gpu"), ConfigError, "faiss-cpu and faiss-gpu are both installed"),
        (("faiss-cpu", "faiss-gpu-cu12"), ConfigError, "uninstall -y faiss-cpu faiss-gpu-cu12"),
        ((), MissingDependencyError, "pip install faiss-cpu"),
    ],
)
def test_one_faiss_package_or_none(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], error: type[Exception], message: str
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    loader.faiss_package.cache_clear()
    try:
        with pytest.raises(error, match=message):
            loader.load_faiss()
    finally:
        loader.faiss_package.cache_clear()


def test_without_a_gpu_an_index_stays_where_it_is() -> None:
    faiss = loader.load_faiss()
    index = faiss.IndexFlatIP(4)
    assert all(loader.on_device(faiss, index, device) is index for device in ("cpu", "auto", "cuda:0"))


def test_growing_samples_train_as_well_as_the_whole_one_from_the_start() -> None:
    rng = np.random.default_rng(10)
    centres = unit(rng, 300, 24)
    base = centres[rng.integers(0, 300, 5000)] + 0.12 * rng.standard_normal((5000, 24)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    lists = num_lists(5000)
    builder = IndexBuilder("faiss-ivf", 5000, base)
    whole = loader.load_faiss().Kmeans(24, lists, niter=10, spherical=True, seed=1, min_points_per_centroid=1)
    whole.train(base)
    assert builder._centroids is not None
    ours, theirs = ((base @ centroids.T).max(axis=1).mean() for centroids in (builder._centroids, whole.centroids))
    assert builder._centroids.shape == (lists, 24)
    assert ours > 0.99 * theirs


def test_an_index_that_is_too_large_for_the_gpu_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = loader.load_faiss()
    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    # As faiss-gpu answers on a machine with a GPU.
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *given: given, raising=False)
    size = 4 * (4 * 4 + 8)
    assert loader.on_device(faiss, index, "cuda", size - 1) is index
    assert loader.on_device(faiss, index, "cpu", size) is index
    for memory in (size, None):
        assert loader.on_device(faiss, index, "auto", memory) == ("resources", 0, index)
