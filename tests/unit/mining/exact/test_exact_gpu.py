"""Which GPU a search takes and how much of it; and, where there is one, that it finds what a processor finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pipeline_kit as kit
import pytest
import torch
from numpy.typing import NDArray

from emsmine.errors import ConfigError
from emsmine.mining.exact import gpu as gpu_module
from emsmine.mining.exact import gpu_tiles
from emsmine.mining.exact.gpu import Gpu, check_products, exact_accumulation, find_gpu, tile_shape
from emsmine.mining.exact.search import search_both
from emsmine.mining.neighbours import LARGE_SEARCH

GIB = 1 << 30
EXAMPLES = Path(__file__).parents[4] / "examples" / "two-files"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def unit(num_rows: int, dim: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim), dtype=np.float32)
    normed: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normed


def test_a_processor_and_small_searches_take_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_gpu("cpu", LARGE_SEARCH) is None
    assert find_gpu("cuda", LARGE_SEARCH - 1) is None
    assert find_gpu("auto", LARGE_SEARCH - 1) is None


def test_a_gpu_that_is_not_there_is_missed_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_gpu("auto", LARGE_SEARCH) is None
    with pytest.raises(ConfigError, match="'cuda:1' was asked for but no GPU is usable; pass --device cpu or auto"):
        find_gpu("cuda:1", LARGE_SEARCH)


def test_workers_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    free = {"cuda": 60 * GIB, "cuda:1": 5 * GIB}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (free[name], 80 * GIB))
    assert find_gpu("auto", LARGE_SEARCH, workers=4) == Gpu("cuda", 18 * GIB)
    assert find_gpu("cuda", LARGE_SEARCH, memory_bytes=8 * GIB, workers=2) == Gpu("cuda", 4 * GIB)
    # Never more than nine tenths of what is free.
    assert find_gpu("cuda:1", LARGE_SEARCH) == Gpu("cuda:1", int(0.9 * 5 * GIB))


def test_too_little_memory_is_refused_with_what_would_do() -> None:
    with pytest.raises(
        ConfigError, match=r"100 MiB of GPU memory .* 1024 values .* which take 3\d\d\. Raise --max-gpu"
    ):
        tile_shape(10**6, 10**6, 1024, 4, 100 << 20)
    with pytest.raises(ConfigError, match="--max-gpu-memory"):
        search_both(unit(40, 32, 0), unit(50, 32, 1), 2, gpu=Gpu("cpu", 1 << 20))


def test_large_memory_keeps_a_whole_side() -> None:
    shape = tile_shape(1_000_000, 2_000_000, 1024, 5, 64 * GIB)
    assert (shape.source_rows, shape.target_rows) == (16_384, 16_384)
    assert shape.kept_rows >= 1_000_000
    assert shape.num_bytes < 10 * GIB


def test_products_that_are_too_far_off_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_products("cpu", 64)
    check_products.cache_clear()
    monkeypatch.setattr(gpu_module, "half_error", lambda dim: 1e-7)
    with pytest.raises(ConfigError, match=r"products of 64 values on cpu are off by .* pass --device cpu"):
        check_products("cpu", 64)


def test_sums_in_float16_are_off_while_a_search_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = torch.backends.cuda.matmul
    seen = []

    def check(device: str, dim: int) -> None:
        seen.append((device, dim))

    tile = gpu_tiles._search_tile
    monkeypatch.setattr(gpu_tiles, "check_products", check)
    monkeypatch.setattr(
        gpu_tiles,
        "_search_tile",
        lambda *sides: (seen.append(matmul.allow_fp16_reduced_precision_reduction), tile(*sides)),  # type: ignore[func-returns-value]
    )
    before = matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_fp16_reduced_precision_reduction = True
    try:
        search_both(unit(40, 32, 0), unit(50, 32, 1), 2, gpu=Gpu("cpu", GIB))
        assert seen == [("cpu", 32), False]
        assert matmul.allow_fp16_reduced_precision_reduction is True
        with pytest.raises(KeyError), exact_accumulation():
            raise KeyError
        assert matmul.allow_fp16_reduced_precision_reduction is True
    finally:
        matmul.allow_fp16_reduced_precision_reduction = before


def test_memory_that_others_took_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(gpu_tiles, "_search_tile", full)
    with pytest.raises(ConfigError, match=r"cpu has no room for the 1,024 MiB .* lower --max-gpu-memory.*2 GiB"):
        search_both(unit(40, 32, 0), unit(50, 32, 1), 2, gpu=Gpu("cpu", GIB))


def test_scores_next_to_a_midpoint_are_left_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error bound as large as a step of float32 every score is unsure, and the result is still the same."""
    left, right = unit(70, 48, 0), unit(90, 48, 1)
    expected = search_both(left, right, 4)
    seen = []

    def counted(*rows: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(len(rows[0]))
        exact: NDArray[np.float32] = np.vecdot(*(row.astype(np.float64) for row in rows)).astype(np.float32)
        return exact

    monkeypatch.setattr(gpu_tiles, "exact_cosine", counted)
    monkeypatch.setattr(gpu_tiles, "float64_error", lambda dim: 1e-7)
    found = search_both(left, right, 4, gpu=Gpu("cpu", GIB))
    assert sum(seen) > 4 * 160
    for here, there in zip(found, expected, strict=True):
        assert here.ids.tolist() == there.ids.tolist()
        assert here.cosine.tobytes() == there.cosine.tobytes()


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dim", [48, 256, 1024])
def test_a_gpu_finds_what_a_processor_finds(dim: int) -> None:
    left, right = unit(5000, dim, 0), unit(7000, dim, 1)
    right[:2500] = left[:2500] + 0.5 * right[:2500]
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    memory = 600 << 20
    torch.cuda.reset_peak_memory_stats()
    found = search_both(left, right, 5, gpu=Gpu("cuda", memory))
    assert torch.cuda.max_memory_allocated() <= memory
    for here, there in zip(found, search_both(left, right, 5), strict=True):
        assert here.ids.tolist() == there.ids.tolist()
        assert here.cosine.tobytes() == there.cosine.tobytes()


@needs_gpu
@pytest.mark.gpu
def test_the_examples_give_the_same_pairs_on_both_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_module, "LARGE_SEARCH", 0)
    mined = {}
    for device in ("cpu", "cuda"):
        output = tmp_path / device
        files, langs = (
            (EXAMPLES / "sentences.de", EXAMPLES / "sentences.en"),
            ("--source-lang", "de", "--target-lang", "en"),
        )
        done = kit.emsmine("mine", *files, *langs, "-o", output, "--device", device)
        assert done.code == 0, done.err
        mined[device] = {tuple(line.split("\t")[1:]) for line in output.read_text("utf-8").splitlines()}
    assert len(mined["cpu"]) > 20
    assert len(mined["cpu"] ^ mined["cuda"]) <= 0.01 * len(mined["cpu"])
