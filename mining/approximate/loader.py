"""Load FAISS: one package only, one thread where bytes must not depend on threads, a GPU where one can be used."""

import functools
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emsmine.errors import ConfigError, MissingDependencyError

# All of them supply the module `faiss`; with two, the files of one overwrite those of the other.
PACKAGES = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu-cuvs")


@functools.lru_cache(maxsize=1)
def faiss_package() -> tuple[str, str]:
    """Return name and version of the installed FAISS package.

    Raises:
        ConfigError: two packages that supply it are installed.
        MissingDependencyError: none is.
    """
    found = []
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    if not found:
        raise MissingDependencyError(
            "faiss: not installed; run: python -m pip install faiss-cpu (or faiss-gpu), or use --engine exact"
        )
    if len(found) > 1:
        names = " ".join(name for name, _ in found)
        raise ConfigError(
            f"faiss: {' and '.join(name for name, _ in found)} are both installed and overwrite each other's files; "
            f"run: python -m pip uninstall -y {names}, then install one of them"
        )
    return found[0]


def load_faiss() -> Any:
    """Import FAISS after checking that it is installed once.

    Raises:
        ConfigError: two packages that supply it are installed.
        MissingDependencyError: none is.
    """
    faiss_package()
    import faiss

    return faiss


@contextmanager
def single_thread(faiss: Any) -> Iterator[None]:
    """Let FAISS use one thread: what k-means and the graph of HNSW become depends on the order of additions."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def on_device(faiss: Any, index: Any, device: str, memory_bytes: int | None = None) -> Any:
    """Copy an index of lists to the first GPU if the device allows one and FAISS sees one; else return it unchanged.

    An index that is larger than `memory_bytes` stays where it is. No copy was ever made: it needs faiss-gpu and a GPU.
    """
    wants_gpu = device == "auto" or device.startswith("cuda")
    if not wants_gpu or not hasattr(faiss, "index_cpu_to_gpu") or not faiss.get_num_gpus():
        return index
    if memory_bytes is not None and index.ntotal * (index.code_size + 8) > memory_bytes:
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
