"""The EMS encoder network, run without padding.

Shapes legend: T tokens of the whole batch, N sentences, D model width, H heads of width W, L length of a group of
sentences.

Reference: Mao, Chu & Kurohashi 2024, section III; released code, modeling/model_v2.py. Post-norm Transformer layers
with learned positions from index 1, mean pooling over the tokens; the language is not an input of the encoder.
Pre-norm layers are ours: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture (without its last
norm: the length of a token vector is its weight in the mean).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from emsmine.encoder.model.config import NetworkConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": functional.silu,
    "gelu": functional.gelu,
    "relu": functional.relu,
}

Groups = list[tuple[int, int]]
"""Packed sentences in order of length, as (number of sentences, their common length)."""


class Embedding(nn.Module):
    """Token vectors plus learned positions, LayerNorm, dropout."""

    def __init__(self, config: NetworkConfig, *, sparse: bool, blank_table: bool) -> None:
        super().__init__()
        self.tokens: nn.Embedding
        if blank_table:
            table = torch.empty(config.vocab_size, config.dim)
            self.tokens = nn.Embedding(config.vocab_size, config.dim, padding_idx=0, sparse=sparse, _weight=table)
        else:
            self.tokens = nn.Embedding(config.vocab_size, config.dim, padding_idx=0, sparse=sparse)
        # Index 0 is padding, so positions run from 1 to max_tokens.
        self.positions = (
            nn.Embedding(config.max_tokens + 1, config.dim, padding_idx=0) if config.positions == "learned" else None
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """Return [T, D]; positions count from 1 inside each sentence."""
        hidden: Tensor = self.tokens(ids_T)
        if self.positions is not None:
            hidden = hidden + self.positions(positions_T)
        if self.norm is not None:
            hidden = self.norm(hidden)
        out: Tensor = self.dropout(hidden)
        return out


def packed_attention(query: Tensor, key: Tensor, value: Tensor, groups: Groups, dropout: float = 0.0) -> Tensor:
    """Attend inside each sentence; sentences of equal length are one batched product.

    Shapes: query, key and value [T, H, W] → [T, D].
    """
    contexts = []
    sizes = [num_sentences * length for num_sentences, length in groups]
    # Not slices: the gradient of a slice is a whole matrix of zeros. A training step of two layers of width 384 is 1.1
    # (fp32) to 1.2 (bf16) times as fast.
    parts = zip(*(torch.split(part, sizes) for part in (query, key, value)), strict=True)
    for group, tokens in zip(groups, parts, strict=True):
        query_NHLW, key_NHLW, value_NHLW = (part.unflatten(0, group).transpose(1, 2) for part in tokens)
        context = functional.scaled_dot_product_attention(query_NHLW, key_NHLW, value_NHLW, dropout_p=dropout)
        contexts.append(context.transpose(1, 2).flatten(0, 1).flatten(1))
    return torch.cat(contexts)


class Layer(nn.Module):
    """One Transformer layer over packed tokens, post-norm as published or pre-norm."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.pre_norm = config.layer_norm == "pre"
        self.attention_dropout = config.attention_dropout
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.attention_output = nn.Linear(config.dim, config.dim)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.ffn_input = nn.Linear(config.dim, config.ffn_dim)
        self.ffn_output = nn.Linear(config.ffn_dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.activation = _ACTIVATIONS[config.activation]

    def attend(self, hidden_TD: Tensor, groups: Groups) -> Tensor:
        """Self-attention inside each sentence, [T, D]."""
        query, key, value = (
            linear(hidden_TD).unflatten(-1, (self.num_heads, -1)) for linear in (self.query, self.key, self.value)
        )
        return packed_attention(query, key, value, groups, self.attention_dropout if self.training else 0.0)

    def forward(self, hidden_TD: Tensor, groups: Groups) -> Tensor:
        """Return [T, D]; `groups` lists (number of sentences, length) in packed order."""
        if self.pre_norm:
            attended = self.attention_output(self.attend(self.attention_norm(hidden_TD), groups))
            hidden = self.dropout(attended) + hidden_TD
            added: Tensor = self.dropout(self.feed_forward(self.ffn_norm(hidden))) + hidden
            return added
        attended = self.attention_output(self.attend(hidden_TD, groups))
        hidden = self.attention_norm(self.dropout(attended) + hidden_TD)
        out: Tensor = self.ffn_norm(self.dropout(self.feed_forward(hidden)) + hidden)
        return out

    def feed_forward(self, hidden_TD: Tensor) -> Tensor:
        """Linear, activation, linear, [T, D]."""
        out: Tensor = self.ffn_output(self.activation(self.ffn_input(hidden_TD)))
        return out


class Network(nn.Module):
    """Sentences, as packed token ids, to sentence vectors."""

    def __init__(self, config: NetworkConfig, *, sparse: bool = False, blank_table: bool = False) -> None:
        """Build with random weights.

        Args:
            config: the shape.
            sparse: make gradients of the token table sparse (for tables that are far larger than a batch).
            blank_table: leave the token table without values, for weights that are about to be loaded: random numbers
                for it would double the time and memory of loading.
        """
        super().__init__()
        self.config = config
        self.embedding = Embedding(config, sparse=sparse, blank_table=blank_table)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))

    def forward(self, ids_T: Tensor, offsets: Tensor) -> Tensor:
        """Encode a batch.

        Shapes:
            ids_T: int [T]; offsets: int64 [N + 1], starting with 0 and ending with T.

        Returns:
            float [N, D]: the mean over the tokens of each sentence, not normalised; zeros for an empty sentence.
        """
        lengths = offsets.diff()
        if self._is_plain_mean():
            # The same mean without writing the [T, D] matrix.
            table = self.embedding.tokens
            pooled: Tensor = functional.embedding_bag(
                ids_T, table.weight, offsets[:-1], mode="mean", sparse=table.sparse
            )
            return pooled
        if ids_T.numel() == 0:
            return self.embedding.tokens.weight.new_zeros((len(lengths), self.config.dim))
        # Stable, so that the summation order of a sentence does not depend on its neighbours.
        order = torch.argsort(lengths, stable=True)
        token_order, positions = _reorder(lengths, offsets, order)
        hidden = self.embedding(ids_T[token_order], positions)
        sorted_lengths = lengths[order]
        values, counts = torch.unique_consecutive(sorted_lengths, return_counts=True)
        groups = [(int(n), int(length)) for length, n in zip(values.tolist(), counts.tolist(), strict=True) if length]
        for layer in self.layers:
            hidden = layer(hidden, groups)
        means = [chunk.mean(dim=1) for chunk in _by_length(hidden, groups)]
        num_empty = int((sorted_lengths == 0).sum())
        sorted_vectors = torch.cat([hidden.new_zeros((num_empty, hidden.shape[1])), *means])
        return torch.empty_like(sorted_vectors).index_copy(0, order, sorted_vectors)

    def _is_plain_mean(self) -> bool:
        embedding = self.embedding
        dropping = self.training and self.config.embedding_dropout > 0
        return not self.layers and embedding.positions is None and embedding.norm is None and not dropping


def _reorder(lengths: Tensor, offsets: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token permutation for sentences in `order`, and positions from 1 inside each sentence."""
    sorted_lengths = lengths[order]
    ends = sorted_lengths.cumsum(0)
    inside = torch.arange(int(ends[-1]), device=lengths.device) - torch.repeat_interleave(
        ends - sorted_lengths, sorted_lengths
    )
    return torch.repeat_interleave(offsets[:-1][order], sorted_lengths) + inside, inside + 1


def _by_length(hidden_TD: Tensor, groups: Groups) -> list[Tensor]:
    """Cut packed tokens into [N, L, D] blocks of sentences of equal length."""
    sizes = [n * length for n, length in groups]
    return [part.reshape(*group, -1) for part, group in zip(torch.split(hidden_TD, sizes), groups, strict=True)]
