"""Windows of shuffled blocks: mixed over the whole corpus, others in every epoch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_tiny import assert_same, dense_training, mixed_training

from emsmine.encoder.data.shuffling import Order
from emsmine.encoder.training.checkpoints import load_checkpoint
from emsmine.encoder.training.run import train


def test_a_window_holds_pieces_of_the_whole_corpus_in_random_order() -> None:
    order = Order(200_000, (1, 0), 20_000)
    assert order.block == 78
    first, second = (order.rows(epoch * 200_000, 20_000) for epoch in (0, 1))
    for rows in (first, second):
        # Of 2565 blocks a window holds 257; an even spread has a tenth of them in every tenth of the corpus.
        counts = np.bincount(np.unique(rows // 78) * 78 // 20_000, minlength=10)
        assert counts.sum() == pytest.approx(257, abs=2)
        assert counts.min() > 10
        # No run of neighbours as in the file.
        assert (np.diff(rows) == 1).mean() < 0.01
        assert np.abs(np.corrcoef(np.arange(20_000), rows)[0, 1]) < 0.03
    shared = len(np.intersect1d(first, second))
    assert 20_000 * 0.02 < shared < 20_000 * 0.25  # by chance a tenth


def test_orders_differ_by_seed_and_epoch() -> None:
    draws = [
        Order(500, seed, 60).rows(start, 500).tolist() for seed, start in (((1, 0), 0), ((1, 1), 0), ((1, 0), 500))
    ]
    assert len({tuple(rows) for rows in draws}) == 3
    assert Order(500, (1, 0), 60).rows(0, 500).tolist() == draws[0]
    order = Order(500, (1, 0), 60)
    inside = {tuple(order._in_window(epoch, window).tolist()) for epoch in (0, 1) for window in (0, 1)}
    assert len(inside) == 4


def test_a_tiny_buffer_still_gives_every_row() -> None:
    """With more blocks than a window has rows the order of blocks would be what needs the memory."""
    order = Order(10_000, (1, 0), 7)
    assert order.block == 1429
    assert sorted(order.rows(0, 10_000).tolist()) == list(range(10_000))


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (dense_training, {"chunk_tokens": 150}),
        (dense_training, {"shuffle_buffer": 30}),
        (mixed_training, {"chunk_tokens": 150, "shuffle_buffer": 30, "groups": 4}),
    ],
    ids=["chunk-tokens", "shuffle-buffer", "both"],
)
def test_twenty_steps_equal_ten_and_a_resumed_ten(
    make: Any, data: dict[str, Any], pairs: Path, spm_path: Path, tmp_path: Path
) -> None:
    train(make(pairs, tmp_path / "whole", spm_path, data=data), device="cpu")
    half = make(pairs, tmp_path / "half", spm_path, data=data)
    train(half, device="cpu", stop_after=10)
    torch.manual_seed(99)
    train(half, device="cpu")
    whole, resumed = (load_checkpoint(tmp_path / name, torch.device("cpu")) for name in ("whole", "half"))
    assert_same(resumed, whole)
    rows = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(row["tokens_per_second"] > row["pairs_per_second"] > 0 for row in rows)
