"""The packed network against a padded reference, and its invariances."""

import math

import pytest
import torch
from encoder_tiny import VOCAB, build, layered_network, plain_network, tensors
from torch import Tensor
from torch.nn import functional

from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.network import Layer, Network

BATCH = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [], [7, 6, 5], [8, 8], [20]]


def reference(network: Network, batch: list[list[int]]) -> Tensor:
    """Compute sentence vectors the usual way: pad, mask the attention, mask the mean.

    Written from the equations, one step at a time; shares no code with the packed network but its weights.
    """
    config, embedding = network.config, network.embedding
    longest = max(1, max(map(len, batch)))
    ids = torch.zeros((len(batch), longest), dtype=torch.int64)
    mask = torch.zeros((len(batch), longest))
    for row, sentence in enumerate(batch):
        ids[row, : len(sentence)] = torch.tensor(sentence, dtype=torch.int64)
        mask[row, : len(sentence)] = 1
    hidden = embedding.tokens.weight[ids]
    if embedding.positions is not None:
        positions = torch.arange(1, longest + 1).expand_as(ids) * mask.long()
        hidden = hidden + embedding.positions.weight[positions]
    if embedding.norm is not None:
        hidden = norm(hidden, embedding.norm)
    for layer in network.layers:
        assert isinstance(layer, Layer)
        width = config.dim // config.num_heads
        pre = config.layer_norm == "pre"
        given = norm(hidden, layer.attention_norm) if pre else hidden
        heads = []
        for head in range(config.num_heads):
            query, key, value = (
                (given @ linear.weight.T + linear.bias)[..., head * width : (head + 1) * width]
                for linear in (layer.query, layer.key, layer.value)
            )
            scores = query @ key.transpose(1, 2) / math.sqrt(width) + (1 - mask[:, None, :]) * -1e6
            heads.append(scores.softmax(-1) @ value)
        attended = torch.cat(heads, dim=-1) @ layer.attention_output.weight.T + layer.attention_output.bias
        hidden = attended + hidden if pre else norm(attended + hidden, layer.attention_norm)
        wide = (norm(hidden, layer.ffn_norm) if pre else hidden) @ layer.ffn_input.weight.T + layer.ffn_input.bias
        wide = {"swish": wide * wide.sigmoid(), "gelu": functional.gelu(wide), "relu": wide.clamp_min(0)}[
            config.activation
        ]
        hidden = wide @ layer.ffn_output.weight.T + layer.ffn_output.bias + hidden
        hidden = hidden if pre else norm(hidden, layer.ffn_norm)
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def norm(hidden: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    mean = hidden.mean(-1, keepdim=True)
    variance = (hidden - mean).pow(2).mean(-1, keepdim=True)
    return (hidden - mean) / torch.sqrt(variance + layer.eps) * layer.weight + layer.bias


@pytest.mark.parametrize(
    "network",
    [
        build(plain_network()),
        build(layered_network()),
        build(layered_network(num_layers=1, num_heads=1, activation="gelu", positions="none")),
        build(layered_network(activation="relu", embedding_norm=False)),
        build(layered_network(num_layers=0)),
        build(layered_network(layer_norm="pre")),
    ],
    ids=["plain", "two-layers", "no-positions", "no-norm", "no-layers", "pre-norm"],
)
def test_packed_equals_padded(network: Network) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(network(*tensors(BATCH)), reference(network, BATCH), rtol=0, atol=1e-5)


def test_plain_mean_by_hand() -> None:
    network = build(plain_network(dim=2))
    with torch.no_grad():
        network.embedding.tokens.weight[5] = torch.tensor([1.0, 4.0])
        network.embedding.tokens.weight[6] = torch.tensor([3.0, 0.0])
    vectors = network(*tensors([[5, 6], [], [6, 6, 5, 5], [5]]))
    torch.testing.assert_close(vectors, torch.tensor([[2.0, 2.0], [0.0, 0.0], [2.0, 2.0], [1.0, 4.0]]))


@pytest.mark.parametrize("config", [plain_network(), layered_network()], ids=["plain", "layered"])
def test_a_vector_does_not_depend_on_the_batch(config: NetworkConfig) -> None:
    network = build(config)
    with torch.inference_mode():
        together = network(*tensors(BATCH))
        backward = network(*tensors(BATCH[::-1])).flip(0)
        alone = torch.cat([network(*tensors([sentence])) for sentence in BATCH])
    torch.testing.assert_close(together, backward, rtol=0, atol=1e-6)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together[0], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [plain_network(), layered_network()], ids=["plain", "layered"])
@pytest.mark.parametrize("batch", [[], [[]], [[], []]], ids=["no-sentence", "one-empty", "two-empty"])
def test_batches_without_tokens(config: NetworkConfig, batch: list[list[int]]) -> None:
    vectors = build(config)(*tensors(batch))
    assert vectors.shape == (len(batch), 16)
    assert not vectors.any()


def test_word_order_counts_where_there_are_positions_and_not_without() -> None:
    one, other = [[5, 6, 7]], [[7, 6, 5]]
    with_positions, without = build(layered_network()), build(layered_network(positions="none"))
    with torch.inference_mode():
        difference = (with_positions(*tensors(one)) - with_positions(*tensors(other))).abs().max()
        torch.testing.assert_close(without(*tensors(one)), without(*tensors(other)), rtol=0, atol=1e-5)
    assert difference > 0.01


@pytest.mark.parametrize("field", ["embedding_dropout", "attention_dropout", "hidden_dropout"])
def test_each_dropout_acts_in_training_and_not_in_evaluation(field: str) -> None:
    off = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
    network = build(layered_network(**(off | {field: 0.5})))
    still = build(layered_network(**off))
    batch = tensors([[5, 6, 7, 8, 9, 10]])
    with torch.inference_mode():
        torch.testing.assert_close(network(*batch), still(*batch), rtol=0, atol=0)
        network.train(), still.train()
        assert (network(*batch) - network(*batch)).abs().max() > 1e-3
        torch.testing.assert_close(still(*batch), still(*batch), rtol=0, atol=0)


def test_dropout_of_a_plain_mean_acts_on_tokens() -> None:
    network = build(plain_network(embedding_dropout=0.5)).train()
    batch = tensors([[5, 6, 7, 8, 9, 10]])
    assert (network(*batch) - network(*batch)).abs().max() > 1e-3
    torch.testing.assert_close(network.eval()(*batch), reference(network, [[5, 6, 7, 8, 9, 10]]), rtol=0, atol=1e-6)


def test_gradients_equal_those_of_the_padded_reference() -> None:
    network = build(layered_network()).double()
    weights = torch.randn((len(BATCH), 16), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad((network(*tensors(BATCH)) * weights).sum(), list(network.parameters()))
    expected = torch.autograd.grad(
        (reference(network, BATCH) * weights).sum(), list(network.parameters()), materialize_grads=True
    )
    for (name, _), ours, theirs in zip(network.named_parameters(), found, expected, strict=True):
        # The padding row gets no gradient here; in the reference the padded cells reach it with weight 0.
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_sparse_gradients_hold_the_rows_of_the_batch_only(dropout: float) -> None:
    torch.manual_seed(0)
    network = Network(plain_network(embedding_dropout=dropout), sparse=True).train()
    network(*tensors([[5, 6], [6]])).sum().backward()
    gradient = network.embedding.tokens.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices().flatten().tolist()) == {5, 6}
    assert gradient.shape == (VOCAB, 16)
