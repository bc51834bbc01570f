"""Gradients of a batch in chunks, scaled and clipped, are those of the whole."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_tiny import assert_same, corpus, dense_training, mixed_training, sparse_training
from torch import Tensor

from emsmine.encoder.training.gradients import Chunks, backward, backward_in_chunks, clip_gradients
from emsmine.encoder.training.objective import TorchBatch, to_torch
from emsmine.encoder.training.trainer import Trainer

CPU = torch.device("cpu")
STILL = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
# Lengths differ, and two sources are the same.
PAIRS = [([2 + n % 10, 3, *range(20, 20 + n)], [40 + n, 41 + n]) for n in range(11)] + [([2, 3], [60, 61])]


def trainer(make: Any, **changes: dict[str, Any]) -> Trainer:
    data = {"batch_size": 12, "validation_pairs": 0} | changes.pop("data", {})
    config = make(Path("pairs"), Path("run"), Path("x.model"), data=data, **changes)
    return Trainer(config, [corpus(PAIRS)], CPU)


def gradients(made: Trainer) -> dict[str, Tensor]:
    return {
        name: parameter.grad.to_dense().clone() if parameter.grad.is_sparse else parameter.grad.clone()
        for name, parameter in made.model.named_parameters()
        if parameter.grad is not None
    }


def drawn(made: Trainer) -> TorchBatch:
    return to_torch(made.sampler.draw(), made.sampler.corpora, CPU, mask_duplicates=made.config.loss.mask_duplicates)


def same(loss: Tensor) -> Tensor:
    return loss


def cut(batch: TorchBatch, chunks: tuple[str, int]) -> Chunks:
    kind, size = chunks
    return Chunks.of_pairs(batch, size) if kind == "pairs" else Chunks.of_tokens(batch, size)


@pytest.mark.parametrize(
    "chunks",
    [("pairs", 1), ("pairs", 5), ("pairs", 12), ("pairs", 100), ("tokens", 1), ("tokens", 16), ("tokens", 999)],
)
@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (dense_training, {}),
        (mixed_training, {}),
        (sparse_training, {}),
        (sparse_training, {"loss": {"matryoshka": (4, 8), "xtr_weight": 0.0}}),
        (dense_training, {"loss": {"contrastive_weight": 0.0}}),
        (dense_training, {"heads": {"shared_embedding": True, "language_embedding": False}}),
    ],
    ids=["dense", "mixed", "sparse", "matryoshka", "xtr-only", "shared"],
)
def test_chunks_give_the_step_of_the_whole(make: Any, changes: dict[str, Any], chunks: tuple[str, int]) -> None:
    still = {} if make is sparse_training else {"network": STILL}
    whole, chunked = (trainer(make, **still, **changes) for _ in "ab")
    losses = backward(whole.model, drawn(whole), same)
    batch = drawn(chunked)
    found = backward_in_chunks(chunked.model, batch, cut(batch, chunks), same)
    assert found.keys() == losses.keys()
    for name, value in losses.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    expected, ours = gradients(whole), gradients(chunked)
    assert expected.keys() == ours.keys()
    for name, gradient in expected.items():
        assert bool((gradient != 0).any()), name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_steps_in_chunks_follow_steps_of_the_whole() -> None:
    rows = {}
    for name, size in (("chunk_size", 0), ("chunk_size", 4), ("chunk_tokens", 30)):
        made = trainer(mixed_training, network=STILL, data={name: size})
        passes: list[int] = []
        made.model.network.register_forward_hook(lambda *_, seen=passes: seen.append(1))
        rows[size] = [made.train_step() for _ in range(5)]
        # Both sides, twice if there are chunks: 3 of 4 pairs, or 4 of up to 30 tokens.
        assert len(passes) == {0: 5 * 2, 4: 5 * 2 * 2 * 3, 30: 5 * 2 * 2 * 4}[size]
    for size in (4, 30):
        for whole, chunked in zip(rows[0], rows[size], strict=True):
            assert chunked == pytest.approx(whole, rel=1e-4)


def test_sentences_of_a_pass_by_tokens_are_of_like_length() -> None:
    made = trainer(sparse_training)
    batch = drawn(made)
    chunks = Chunks.of_tokens(batch, 24)
    assert chunks.order is not None
    lengths = (batch.source_offsets.diff() + batch.target_offsets.diff())[chunks.order]
    assert lengths.tolist() == [4, 4, *range(5, 15)]
    assert chunks.bounds == [(0, 4), (4, 7), (7, 9), (9, 10), (10, 11), (11, 12)]
    assert [int(lengths[start:stop].sum()) for start, stop in chunks.bounds] == [19, 24, 21, 12, 13, 14]


def test_a_pair_longer_than_the_budget_is_a_pass_of_its_own() -> None:
    batch = drawn(trainer(sparse_training))
    assert Chunks.of_tokens(batch, 1).bounds == [(n, n + 1) for n in range(12)]
    assert Chunks.of_tokens(batch, 13).bounds[-2:] == [(10, 11), (11, 12)]


def test_both_passes_of_a_chunk_drop_out_the_same_units() -> None:
    heavy = {"embedding_dropout": 0.3, "attention_dropout": 0.3, "hidden_dropout": 0.3}
    made = trainer(dense_training, network=heavy, heads={"xtr": False}, loss={"xtr_weight": 0.0})
    batch = drawn(made)
    seen: list[Tensor] = []
    made.model.network.register_forward_hook(lambda _, inputs, output: seen.append(output.detach()))
    torch.manual_seed(7)
    backward_in_chunks(made.model, batch, Chunks.of_pairs(batch, 5), same)
    first, second = seen[:6], seen[6:]
    assert_same(second, first)
    found = gradients(made)
    # The same chunks with the same dropout, all activations kept.
    made.model.zero_grad()
    torch.manual_seed(7)
    sides = [made.model.encode(batch.chunk(start, start + 5)) for start in (0, 5, 10)]
    source, target = (torch.cat([side[n] for side in sides]) for n in (0, 1))
    torch.autograd.backward(made.model.total(made.model.sentence_losses(source, target, batch)))
    for name, gradient in gradients(made).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("chunks", [{}, {"chunk_size": 5}, {"chunk_tokens": 30}])
def test_a_loss_scale_changes_nothing_but_the_range(chunks: dict[str, int]) -> None:
    states = []
    for scaled in (False, True):
        made = trainer(mixed_training, data=dict(chunks), network=STILL)
        if scaled:
            # The scaler of fp16 training, on the CPU; a power of two rounds nothing.
            made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        for _ in range(3):
            made.train_step()
        states.append(made)
    plain, scaled_state = (made.model.state_dict() for made in states)
    for name, value in plain.items():
        torch.testing.assert_close(scaled_state[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_an_overflow_skips_the_step_and_lowers_the_scale() -> None:
    made = trainer(dense_training)
    made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.train_step()
    assert_same(dict(made.model.state_dict()), before)
    assert made.scaler.get_scale() == 2.0**126
    assert made.step == 1


def test_clipping_by_hand() -> None:
    dense, sparse, still = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2,), (3, 1), (4,)))
    dense.grad = torch.tensor([2.0, 0.0])
    # Row 1 stands there twice: 1 + 3. The joint norm is √(4 + 16 + 16) = 6.
    sparse.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 2, 1]]), torch.tensor([[1.0], [4.0], [3.0]]), (3, 1), check_invariants=True
    )
    norm = clip_gradients([dense, sparse, still], 3.0)
    assert float(norm) == pytest.approx(6)
    torch.testing.assert_close(dense.grad, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(sparse.grad.to_dense(), torch.tensor([[0.0], [2.0], [2.0]]))
    assert still.grad is None
    clip_gradients([dense, sparse], 30.0)
    torch.testing.assert_close(sparse.grad.to_dense(), torch.tensor([[0.0], [2.0], [2.0]]))


def test_a_sparse_table_is_clipped_in_training() -> None:
    made = trainer(sparse_training, optimiser={"gradient_clip": 1e-3, "sparse_learning_rate": 0.01})
    made.train_step()
    gradient = made.model.network.embedding.tokens.weight.grad
    assert gradient is not None
    assert math.isclose(float(gradient.coalesce().values().norm()), 1e-3, rel_tol=1e-2)
