"""The two objectives of EMS, and the heads that only training needs.

Shapes legend: N pairs of a batch, D model width, P projected width, V vocabulary.

Reference: Mao, Chu & Kurohashi 2024, section III (XTR: cross-lingual token-level reconstruction; sentence-level
contrastive objective); released code, modeling/model_v2.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

XTR_TARGETS = ("paper", "counts")


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the training heads; the defaults are the released EMS."""

    language_dim: int = 128
    num_languages: int = 62
    projection_dim: int = 128
    projection: bool = True
    """False: the contrastive objective sees the sentence vectors themselves."""
    xtr: bool = True
    """False: no reconstruction head is built (its weight must then be 0)."""


class ReconstructionHead(nn.Module):
    """Predict the bag of tokens of the other side from a sentence vector and the wanted language."""

    def __init__(self, dim: int, vocab_size: int, config: HeadConfig, layer_norm_eps: float) -> None:
        super().__init__()
        width = dim + config.language_dim
        self.language = nn.Embedding(config.num_languages, config.language_dim)
        self.language_norm = nn.LayerNorm(config.language_dim, eps=layer_norm_eps)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.decoder = nn.Linear(width, vocab_size, bias=False)

    def forward(self, vectors_ND: Tensor, language_N: Tensor) -> Tensor:
        """Return log-probabilities [N, V]."""
        language = self.language_norm(self.language(language_N))
        # The language comes first, as in the released weights.
        joined = torch.cat((language, vectors_ND), dim=-1)
        return torch.log_softmax(self.decoder(self.norm(functional.silu(self.dense(joined)))), dim=-1)


class ProjectionHead(nn.Module):
    """Linear, ReLU, Linear: the space of the contrastive objective."""

    def __init__(self, dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.input = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, config.projection_dim)

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Return [N, P]."""
        out: Tensor = self.output(functional.relu(self.input(vectors_ND)))
        return out


def reconstruction_loss(log_probs_NV: Tensor, ids_T: Tensor, offsets: Tensor, targets: str = "paper") -> Tensor:
    """Kullback-Leibler divergence from the bag of target tokens, averaged over the batch.

    Args:
        log_probs_NV: predictions.
        ids_T: token ids of the target sentences, packed.
        offsets: int64 [N + 1].
        targets: `paper` gives every *distinct* id the weight 1/len, so repeated ids do not add up and the weights sum
            to at most 1, as the released code does; `counts` gives count/len, which sums to 1.

    Returns:
        Scalar.
    """
    if targets not in XTR_TARGETS:
        raise ValueError(f"xtr_targets is {targets!r}; choose from {', '.join(XTR_TARGETS)}")
    lengths = offsets.diff()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=ids_T.device), lengths)
    vocab_size = log_probs_NV.shape[1]
    cells, counts = torch.unique(rows * vocab_size + ids_T.long(), return_counts=True)
    row = cells // vocab_size
    weight = torch.reciprocal(lengths[row].to(log_probs_NV.dtype))
    if targets == "counts":
        weight = weight * counts
    picked = log_probs_NV.flatten()[cells]
    return (weight * (weight.log() - picked)).sum() / len(lengths)


def contrastive_loss(
    source_ND: Tensor, target_ND: Tensor, temperature: Tensor | float, *, duplicates: Tensor | None = None
) -> Tensor:
    """Symmetric in-batch cross-entropy over cosines: pair n must find each other among all pairs.

    Args:
        source_ND: vectors of one side.
        target_ND: vectors of the other side, row n translates row n.
        temperature: cosines are divided by it.
        duplicates: bool [N, N], True where target m equals target n or source m equals source n (m ≠ n): such cells
            are no negatives and are left out.

    Returns:
        Scalar: the mean of both directions.
    """
    source = functional.normalize(source_ND, dim=-1)
    target = functional.normalize(target_ND, dim=-1)
    logits = source @ target.T / temperature
    if duplicates is not None:
        logits = logits.masked_fill(duplicates, float("-inf"))
    labels = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


def duplicate_mask(source_hash_N: Tensor, target_hash_N: Tensor) -> Tensor:
    """Mark off-diagonal cells whose source or target sentence is the same: false negatives.

    Shapes:
        source_hash_N, target_hash_N: int64 [N]. Returns bool [N, N].
    """
    same = (source_hash_N[:, None] == source_hash_N[None, :]) | (target_hash_N[:, None] == target_hash_N[None, :])
    return same.fill_diagonal_(False)
