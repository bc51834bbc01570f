"""The two objectives, on cases worked out by hand."""

import math

import pytest
import torch
from encoder_tiny import tensors

from emsmine.encoder.training.losses import (
    Candidates,
    HeadConfig,
    ProjectionHead,
    ReconstructionHead,
    contrastive_loss,
    distillation_loss,
    duplicate_mask,
    nested_contrastive_loss,
    reconstruction_loss,
)

# Predictions over five tokens for two sentences.
PROBABILITIES = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1], [0.5, 0.125, 0.125, 0.125, 0.125]], dtype=torch.float64)
# Target bags: 2 twice, 3 and 4 once; then 1 alone.
TARGETS = [[2, 3, 2, 4], [1]]


def test_reconstruction_as_published_by_hand() -> None:
    # Each distinct id weighs 1/4, although 2 stands there twice: Σ w (ln w − ln p), then the mean over two sentences.
    first = 0.25 * (
        (math.log(0.25) - math.log(0.4)) + (math.log(0.25) - math.log(0.2)) + (math.log(0.25) - math.log(0.1))
    )
    second = 1.0 * (0.0 - math.log(0.125))
    assert first == pytest.approx(0.167358, abs=1e-6)
    assert second == pytest.approx(2.079442, abs=1e-6)
    loss = reconstruction_loss(PROBABILITIES.log(), *tensors(TARGETS), "paper")
    assert float(loss) == pytest.approx((first + second) / 2, abs=1e-9)
    assert float(loss) == pytest.approx(1.123400, abs=1e-6)


def test_reconstruction_with_counts_by_hand() -> None:
    # Now 2 weighs 1/2, 3 and 4 weigh 1/4.
    first = 0.5 * (math.log(0.5) - math.log(0.4)) + 0.25 * (
        (math.log(0.25) - math.log(0.2)) + (math.log(0.25) - math.log(0.1))
    )
    assert first == pytest.approx(0.396430, abs=1e-6)
    loss = reconstruction_loss(PROBABILITIES.log(), *tensors(TARGETS), "counts")
    assert float(loss) == pytest.approx((first + math.log(8)) / 2, abs=1e-9)


def test_a_perfect_prediction_has_no_loss() -> None:
    exact = torch.tensor([[1e-30, 1e-30, 0.5, 0.25, 0.25]])
    assert float(reconstruction_loss(exact.log(), *tensors([[2, 3, 2, 4]]), "counts")) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("targets", ["paper", "counts"])
def test_reconstruction_equals_the_divergence_of_torch(targets: str) -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn((4, 30), generator=generator).log_softmax(-1)
    batch = [torch.randint(0, 30, (n,), generator=generator).tolist() for n in (12, 1, 7, 40)]
    bags = torch.zeros((4, 30))
    for row, ids in enumerate(batch):
        for token in ids:
            bags[row, token] = 1 / len(ids) if targets == "paper" else bags[row, token] + 1 / len(ids)
    expected = torch.nn.functional.kl_div(log_probs, bags, reduction="batchmean")
    assert float(reconstruction_loss(log_probs, *tensors(batch), targets)) == pytest.approx(float(expected), rel=1e-5)


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="'bag'; choose from paper, counts"):
        reconstruction_loss(PROBABILITIES.log(), *tensors(TARGETS), "bag")


SOURCE = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
TARGET = torch.tensor([[4.0, 3.0], [0.0, 0.5]], dtype=torch.float64)


def test_contrastive_by_hand() -> None:
    # Unit vectors: sources (1, 0), (0, 1); targets (0.8, 0.6), (0, 1).
    # Cosines, source by row: [[0.8, 0.0], [0.6, 1.0]]; divided by 0.5: [[1.6, 0], [1.2, 2]].
    source_to_target = (
        -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(0.0)))
        - math.log(math.exp(2.0) / (math.exp(1.2) + math.exp(2.0)))
    ) / 2
    target_to_source = (
        -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(1.2)))
        - math.log(math.exp(2.0) / (math.exp(0.0) + math.exp(2.0)))
    ) / 2
    assert source_to_target == pytest.approx(0.277501, abs=1e-6)
    assert target_to_source == pytest.approx(0.319972, abs=1e-6)
    loss = contrastive_loss(SOURCE, TARGET, 0.5)
    assert float(loss) == pytest.approx((source_to_target + target_to_source) / 2, abs=1e-9)


def test_masked_negatives_do_not_count_by_hand() -> None:
    # Without the cell (1, 0) source 1 has no negative (loss 0), and target 0 has none either.
    only = -math.log(math.exp(1.6) / (math.exp(1.6) + 1)), -math.log(math.exp(2.0) / (1 + math.exp(2.0)))
    mask = torch.tensor([[False, False], [True, False]])
    loss = contrastive_loss(SOURCE, TARGET, 0.5, duplicates=mask)
    assert float(loss) == pytest.approx((only[0] / 2 + only[1] / 2) / 2, abs=1e-9)


def test_the_margin_makes_true_pairs_harder_by_hand() -> None:
    # The cosines of true pairs fall from 0.8 and 1 to 0.7 and 0.9; divided by 0.5: [[1.4, 0], [1.2, 1.8]].
    source_to_target = -math.log(math.exp(1.4) / (math.exp(1.4) + 1)) - math.log(
        math.exp(1.8) / (math.exp(1.2) + math.exp(1.8))
    )
    target_to_source = -math.log(math.exp(1.4) / (math.exp(1.4) + math.exp(1.2))) - math.log(
        math.exp(1.8) / (1 + math.exp(1.8))
    )
    loss = contrastive_loss(SOURCE, TARGET, 0.5, margin=0.1)
    assert float(loss) == pytest.approx((source_to_target + target_to_source) / 4, abs=1e-9)


def test_widths_count_alike_by_hand() -> None:
    # The first components of the sources are 1 and 0, of the targets 1 and 0 (a zero stays a zero): cosines
    # [[1, 0], [0, 0]], divided by 0.5: [[2, 0], [0, 0]], the same in both directions.
    narrow = (-math.log(math.exp(2) / (math.exp(2) + 1)) + math.log(2)) / 2
    whole = float(contrastive_loss(SOURCE, TARGET, 0.5))
    assert float(nested_contrastive_loss(SOURCE, TARGET, 0.5, (1,))) == pytest.approx((narrow + whole) / 2, abs=1e-9)
    # The full width is there once, whether it is listed or not.
    assert float(nested_contrastive_loss(SOURCE, TARGET, 0.5, (2, 1))) == pytest.approx((narrow + whole) / 2, abs=1e-9)
    assert float(nested_contrastive_loss(SOURCE, TARGET, 0.5, ())) == whole


def test_distillation_by_hand() -> None:
    # Unit sources (1, 0), (0, 1); unit targets (0.8, 0.6), (0, 1); teacher (0, 1), (0.6, 0.8).
    teacher = torch.tensor([[0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
    source = ((1 + 1) + (0.36 + 0.04)) / 2
    target = ((0.64 + 0.16) + (0.36 + 0.04)) / 2
    assert float(distillation_loss(SOURCE, TARGET, teacher)) == pytest.approx(source + target, abs=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("widths", [(), (2, 3)])
def test_shares_of_a_batch_add_up_to_its_loss_and_gradient(margin: float, widths: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    source, target = (torch.randn((6, 4), generator=generator, dtype=torch.float64).requires_grad_() for _ in "ab")
    hashes = torch.tensor([1, 2, 1, 4, 5, 6]), torch.tensor([1, 2, 3, 4, 5, 4])
    whole = nested_contrastive_loss(source, target, 0.3, widths, duplicates=duplicate_mask(*hashes), margin=margin)
    expected = torch.autograd.grad(whole, (source, target))
    shares = [
        nested_contrastive_loss(
            source[first : first + 2],
            target[first : first + 2],
            0.3,
            widths,
            duplicates=duplicate_mask(*hashes, first, 2),
            margin=margin,
            candidates=Candidates(source, target, first),
        )
        for first in (0, 2, 4)
    ]
    assert len({float(share.detach()) for share in shares}) == 3
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
    torch.testing.assert_close(torch.autograd.grad(torch.stack(shares).mean(), (source, target)), expected)


def test_the_loss_is_symmetric_and_ignores_length() -> None:
    swapped = contrastive_loss(TARGET * 7, SOURCE, 0.5)
    assert float(swapped) == pytest.approx(float(contrastive_loss(SOURCE, TARGET, 0.5)), abs=1e-12)


def test_duplicate_mask_marks_equal_sources_and_equal_targets() -> None:
    mask = duplicate_mask(torch.tensor([7, 8, 7]), torch.tensor([1, 2, 2]))
    assert mask.tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    rows = duplicate_mask(torch.tensor([7, 8, 7]), torch.tensor([1, 2, 2]), 1, 2)
    assert rows.tolist() == mask.tolist()[1:]


def test_gradients_of_both_losses_are_right() -> None:
    generator = torch.Generator().manual_seed(1)
    source, target = (torch.randn((3, 4), generator=generator, dtype=torch.float64).requires_grad_() for _ in "ab")
    mask = duplicate_mask(torch.tensor([1, 1, 2]), torch.tensor([1, 2, 3]))
    assert torch.autograd.gradcheck(lambda a, b: contrastive_loss(a, b, 0.3, duplicates=mask), (source, target))
    logits = torch.randn((2, 5), generator=generator, dtype=torch.float64).requires_grad_()
    for targets in ("paper", "counts"):
        assert torch.autograd.gradcheck(
            lambda x, targets=targets: reconstruction_loss(x.log_softmax(-1), *tensors(TARGETS), targets), (logits,)
        )


def test_the_reconstruction_head_depends_on_the_language() -> None:
    torch.manual_seed(0)
    head = ReconstructionHead(6, 11, HeadConfig(language_dim=4, num_languages=3), 1e-12)
    vectors = torch.randn((2, 6))
    first, second = (head(vectors, torch.tensor([lang, 0])) for lang in (1, 2))
    torch.testing.assert_close(first.exp().sum(-1), torch.ones(2))
    assert not torch.allclose(first[0], second[0], atol=1e-3)
    torch.testing.assert_close(first[1], second[1])


def test_a_reconstruction_head_without_languages_and_with_a_shared_table_by_hand() -> None:
    table = torch.nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    config = HeadConfig(language_embedding=False, shared_embedding=True)
    head = ReconstructionHead(2, 3, config, 1e-12, shared_table=table)
    assert head.language is None
    with torch.no_grad():
        head.dense.weight.copy_(torch.eye(2))
        head.dense.bias.zero_()
    # silu is monotonous above 0: LayerNorm makes (1, −1) of (3, 1), and the logits are 0, 1, −2.
    total = 1 + math.exp(1) + math.exp(-2)
    found = head(torch.tensor([[3.0, 1.0]]), torch.tensor([61])).exp()
    torch.testing.assert_close(found, torch.tensor([[1.0, math.exp(1), math.exp(-2)]]) / total)
    head(torch.tensor([[3.0, 1.0]]), torch.tensor([0])).sum().backward()
    assert table.grad is not None
    assert bool((table.grad != 0).any())


def test_a_shared_table_with_languages_narrows_the_transform() -> None:
    table = torch.nn.Parameter(torch.randn((11, 6)))
    head = ReconstructionHead(6, 11, HeadConfig(language_dim=4, num_languages=3), 1e-12, shared_table=table)
    assert head.dense.weight.shape == (6, 10)
    assert head.decoder.weight is table
    assert head(torch.randn((2, 6)), torch.tensor([0, 2])).shape == (2, 11)


def test_language_vectors_drop_out_in_training_only() -> None:
    torch.manual_seed(0)
    head = ReconstructionHead(6, 11, HeadConfig(language_dim=64, num_languages=3), 1e-12, language_dropout=0.5)
    seen: list[torch.Tensor] = []
    head.dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    vectors, language = torch.randn((50, 6)), torch.zeros(50, dtype=torch.long)
    head(vectors, language)
    head.eval()(vectors, language)
    trained, evaluated = seen
    kept = trained[:, :64] != 0
    assert 0.4 < float(kept.float().mean()) < 0.6
    # What stays is twice as large; the sentence vector is left alone.
    torch.testing.assert_close(trained[:, :64][kept], 2 * evaluated[:, :64][kept])
    assert torch.equal(trained[:, 64:], vectors)
    assert bool((evaluated != 0).all())


def test_the_projection_head_by_hand() -> None:
    head = ProjectionHead(2, HeadConfig(projection_dim=1))
    with torch.no_grad():
        head.input.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        head.input.bias.copy_(torch.tensor([0.0, 1.0]))
        head.output.weight.copy_(torch.tensor([[2.0, 3.0]]))
        head.output.bias.copy_(torch.tensor([0.5]))
    # (1, 4): hidden (1, −3) → ReLU (1, 0) → 2.5; (−1, −1): hidden (−1, 2) → (0, 2) → 6.5.
    assert head(torch.tensor([[1.0, 4.0], [-1.0, -1.0]])).tolist() == [[2.5], [6.5]]
