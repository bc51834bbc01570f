"""The two objectives of EMS, what may be added to them, and the heads that only training needs.

Shapes legend: N pairs of a batch (of this process), M pairs of all processes, D model width, P projected width, V
vocabulary.

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
    """Width of the target-language vector of the reconstruction head."""
    num_languages: int = 62
    """Languages that the reconstruction head tells apart; raise it for more than those of EMS."""
    projection_dim: int = 128
    """Width of the space of the contrastive objective."""
    projection: bool = True
    """False: the contrastive objective sees the sentence vectors themselves."""
    xtr: bool = True
    """False: no reconstruction head is built (its weight must then be 0)."""
    language_embedding: bool = True
    """False: the reconstruction head is not told the wanted language."""
    shared_embedding: bool = False
    """True: the reconstruction head predicts tokens with the token table itself."""


class ReconstructionHead(nn.Module):
    """Predict the bag of tokens of the other side from a sentence vector and the wanted language."""

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        config: HeadConfig,
        layer_norm_eps: float,
        *,
        language_dropout: float = 0.0,
        shared_table: Tensor | None = None,
    ) -> None:
        """Build with random weights.

        Args:
            dim: width of the sentence vector.
            vocab_size: of the other side.
            config: sizes and switches.
            layer_norm_eps: as in the network.
            language_dropout: on the language vector, in training.
            shared_table: parameter [V, D] to predict with, instead of weights of our own.
        """
        super().__init__()
        self.language: nn.Embedding | None = None
        width = dim
        if config.language_embedding:
            width += config.language_dim
            self.language = nn.Embedding(config.num_languages, config.language_dim)
            self.language_norm = nn.LayerNorm(config.language_dim, eps=layer_norm_eps)
        self.language_dropout = nn.Dropout(language_dropout)
        # With a shared table the transform must come down to its width, as in the released code.
        transformed = width if shared_table is None else dim
        self.dense = nn.Linear(width, transformed)
        self.norm = nn.LayerNorm(transformed, eps=layer_norm_eps)
        if shared_table is None:
            self.decoder = nn.Linear(transformed, vocab_size, bias=False)
        else:
            self.decoder = nn.Linear(transformed, vocab_size, bias=False, device="meta")
            self.decoder.weight = shared_table

    def forward(self, vectors_ND: Tensor, language_N: Tensor) -> Tensor:
        """Return log-probabilities [N, V]."""
        joined = vectors_ND
        if self.language is not None:
            language = self.language_dropout(self.language_norm(self.language(language_N)))
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


@dataclass(frozen=True)
class Candidates:
    """The pairs of all processes, among which each pair of this process must be found.

    Shapes:
        source_MD, target_MD: vectors; rows `first` to `first` + N are those of this process.
    """

    source_MD: Tensor
    target_MD: Tensor
    first: int

    def narrow(self, width: int) -> "Candidates":
        """Keep the first components of every vector."""
        return Candidates(self.source_MD[:, :width], self.target_MD[:, :width], self.first)


def contrastive_loss(
    source_ND: Tensor,
    target_ND: Tensor,
    temperature: Tensor | float,
    *,
    duplicates: Tensor | None = None,
    margin: float = 0.0,
    candidates: Candidates | None = None,
) -> Tensor:
    """Symmetric in-batch cross-entropy over cosines: pair n must find each other among all pairs.

    Args:
        source_ND: vectors of one side.
        target_ND: vectors of the other side, row n translates row n.
        temperature: cosines are divided by it.
        duplicates: bool [N, M], True where target m equals target n or source m equals source n (m ≠ n): such cells
            are no negatives and are left out.
        margin: taken off the cosine of every true pair.
        candidates: the pairs of all processes; None: those of this one (M = N).

    Returns:
        Scalar: the mean of both directions, over the N pairs.

    Reference: margin: Yang et al. 2019, Improving Multilingual Sentence Embedding using Bi-directional Dual Encoder
    with Additive Margin Softmax.
    """
    source = functional.normalize(source_ND, dim=-1)
    target = functional.normalize(target_ND, dim=-1)
    rows = torch.arange(len(source), device=source.device)
    if candidates is None:
        labels = rows
        cosines = [source @ target.T]
    else:
        labels = rows + candidates.first
        cosines = [
            source @ functional.normalize(candidates.target_MD, dim=-1).T,
            target @ functional.normalize(candidates.source_MD, dim=-1).T,
        ]
    logits = []
    for cosine in cosines:
        # Out of place: the product may be needed as it is for a gradient.
        lowered = cosine.index_put((rows, labels), cosine[rows, labels] - margin) if margin else cosine
        scaled = lowered / temperature
        logits.append(scaled if duplicates is None else scaled.masked_fill(duplicates, float("-inf")))
    forward, backward = logits if candidates is not None else (logits[0], logits[0].T)
    return (functional.cross_entropy(forward, labels) + functional.cross_entropy(backward, labels)) / 2


def nested_contrastive_loss(
    source_ND: Tensor,
    target_ND: Tensor,
    temperature: Tensor | float,
    widths: tuple[int, ...],
    *,
    duplicates: Tensor | None = None,
    margin: float = 0.0,
    candidates: Candidates | None = None,
) -> Tensor:
    """Return the mean of `contrastive_loss` over the first `widths` components of the vectors and over all of them.

    Args:
        source_ND, target_ND, temperature, duplicates, margin, candidates: see `contrastive_loss`.
        widths: numbers of leading components that must do on their own; none: the plain loss.

    Reference: Kusupati et al. 2022, Matryoshka Representation Learning; here all weights are equal.
    """
    losses = [
        contrastive_loss(
            source_ND[:, :width],
            target_ND[:, :width],
            temperature,
            duplicates=duplicates,
            margin=margin,
            candidates=candidates and candidates.narrow(width),
        )
        for width in sorted({*widths, source_ND.shape[1]})
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def distillation_loss(source_ND: Tensor, target_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Squared distance of both sides of a pair, at unit length, from the teacher's vector of the pair.

    Args:
        source_ND, target_ND: vectors of the student, of any length.
        teacher_ND: unit vectors.

    Returns:
        Scalar: summed over components and both sides, averaged over the pairs; 2·(2 − cos − cos′).

    Reference: Reimers & Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual: the mean squared error
    there, times D, as all vectors have unit length here.
    """
    both = (functional.normalize(side, dim=-1) - teacher_ND for side in (source_ND, target_ND))
    source, target = (difference.square().sum(-1).mean() for difference in both)
    return source + target


def duplicate_mask(source_hash_M: Tensor, target_hash_M: Tensor, first: int = 0, num_rows: int | None = None) -> Tensor:
    """Mark cells off the diagonal whose source or target sentence is the same: false negatives.

    Args:
        source_hash_M, target_hash_M: int64 [M].
        first: the first pair that wants a row.
        num_rows: how many do; None: all.

    Returns:
        bool [num_rows, M].
    """
    stop = len(source_hash_M) if num_rows is None else first + num_rows
    source, target = source_hash_M[first:stop, None], target_hash_M[first:stop, None]
    same = (source == source_hash_M[None, :]) | (target == target_hash_M[None, :])
    rows = torch.arange(stop - first, device=same.device)
    same[rows, rows + first] = False
    return same
