"""Compare two sentences token by token: which tokens of one side find a partner on the other, and which stay alone.

From the matrix of cosines between the token vectors of both sides, per side: how well its tokens are covered by their
best partners, in the mean and as a histogram, which weight stays uncovered, whether partners choose each other, and
whether they stand in the same order.

References: Xiong et al. 2017, "End-to-End Neural Ad-hoc Ranking with Kernel Pooling" (kernels over best matches);
Khattab and Zaharia 2020, "ColBERT" (late interaction by the best match of each token); Arora et al. 2017, "A Simple but
Tough-to-Beat Baseline for Sentence Embeddings" (weighted tokens).

Shapes legend: P pairs, L tokens of a side, K kernels, F features.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emsmine.mining.scoring.ragged import Int64Array, TokenLists
from emsmine.mining.scoring.tokens import UNIT, WEIGHT_UNIT, TokenVectors

FloatArray = NDArray[np.float32]

KERNELS = (-0.1, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Centres of the histogram of best cosines; each counts softly what lies near."""
KERNEL_WIDTH = 0.1
NUM_UNCOVERED = 3
SIDE_FEATURES = (
    "coverage",
    *(f"kernel {centre:g}" for centre in KERNELS),
    *(f"uncovered weight {rank + 1}" for rank in range(NUM_UNCOVERED)),
    *(f"uncovered share {rank + 1}" for rank in range(NUM_UNCOVERED)),
    "mutual",
    "displacement",
    "ascending",
    "weight",
    "tokens",
)
"""Of one side against the other, see `_side`."""
MAX_TOKENS = 64
"""Longer sentences are compared by their first tokens."""

_ONE = UNIT * UNIT
_STEP = 64
_PAIRS = 2048
# Cells of a batch of matrices. Measured for 2^14 to 2^20: 28, 23, 22, 22, 26 (2^18), 31 microseconds a pair.
_CELLS = 1 << 16
_NOTHING = -2.0 * _ONE


def _kernel_table() -> Tensor:
    """Return the kernels of all cosines, rounded to multiples of 2^-16 so that sums of them are exact; float64."""
    steps = torch.arange(2 * _ONE // _STEP + 2, dtype=torch.float64)
    cosine = (steps + 0.5) * _STEP / _ONE - 1
    values = [torch.exp(-((cosine - centre) ** 2) / (2 * KERNEL_WIDTH**2)) for centre in KERNELS]
    return torch.round(torch.stack(values, dim=1) * 2**16) / 2**16


_TABLE = _kernel_table()


def interaction_features(
    tokens: TokenVectors, source: TokenLists, target: TokenLists, source_rows: Int64Array, target_rows: Int64Array
) -> tuple[FloatArray, FloatArray]:
    """Compare the sentences of pairs.

    Args:
        tokens: vectors and weights of the pieces.
        source: tokens of one side.
        target: tokens of the other.
        source_rows: the source of each pair.
        target_rows: its target.

    Shapes: rows [P].
    Returns: `SIDE_FEATURES` of source and of target, float32 [P, F] each; the same whatever pairs stand beside a pair.
    """
    forward, backward = (np.zeros((len(source_rows), len(SIDE_FEATURES)), dtype=np.float32) for _ in range(2))
    for rows in _batches(source, target, source_rows, target_rows):
        found = _compare(tokens, padded(source, source_rows[rows]), padded(target, target_rows[rows]))
        forward[rows], backward[rows] = found[0].numpy(), found[1].numpy()
    return forward, backward


def _lengths(side: TokenLists, rows: Int64Array) -> Int64Array:
    lengths: Int64Array = np.minimum(side.offsets[rows + 1] - side.offsets[rows], MAX_TOKENS)
    return lengths


def _batches(
    source: TokenLists, target: TokenLists, source_rows: Int64Array, target_rows: Int64Array
) -> Iterator[Int64Array]:
    """Yield positions of pairs of similar lengths, so that little is padded."""
    lengths = _lengths(source, source_rows), _lengths(target, target_rows)
    order = np.lexsort((lengths[1], lengths[0]))
    start = 0
    while start < len(order):
        part = order[start : start + _PAIRS]
        cells = np.maximum.accumulate(lengths[0][part]) * np.maximum.accumulate(lengths[1][part])
        taken = max(1, int(np.searchsorted(cells * np.arange(1, len(part) + 1), _CELLS, side="right")))
        yield part[:taken]
        start += taken


def padded(side: TokenLists, rows: Int64Array) -> tuple[Tensor, Tensor]:
    """Return the ids of sentences, int64 [P, L], and their numbers of tokens, int64 [P]."""
    lengths = _lengths(side, rows)
    place = np.arange(max(1, int(lengths.max(initial=0))))
    is_token = place < lengths[:, None]
    ids = np.zeros(is_token.shape, dtype=np.int64)
    ids[is_token] = side.ids[(side.offsets[rows][:, None] + place)[is_token]]
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def _compare(
    tokens: TokenVectors, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    (source_ids, source_lengths), (target_ids, target_lengths) = source, target
    weights = torch.from_numpy(tokens.weights)
    is_source = torch.arange(source_ids.shape[1]) < source_lengths[:, None]
    is_target = torch.arange(target_ids.shape[1]) < target_lengths[:, None]
    # Whole numbers below 2^24: exact in float32, in any order of summing.
    cosine = torch.bmm(_gathered(tokens, source_ids), _gathered(tokens, target_ids).transpose(1, 2))
    cosine.masked_fill_(~is_target[:, None, :], _NOTHING).masked_fill_(~is_source[:, :, None], _NOTHING)
    best_source, partner_source = cosine.max(dim=2)
    best_target, partner_target = cosine.max(dim=1)
    weight_source, weight_target = weights[source_ids] * is_source, weights[target_ids] * is_target
    return (
        _side(best_source, partner_source, partner_target, weight_source, is_source, target_lengths),
        _side(best_target, partner_target, partner_source, weight_target, is_target, source_lengths),
    )


def _gathered(tokens: TokenVectors, ids: Tensor) -> Tensor:
    """Return the vectors of tokens, float32 [P, L, W]."""
    rows = torch.from_numpy(tokens.real_vectors).index_select(0, ids.flatten())
    return rows.view(*ids.shape, -1)


def _side(
    best_PL: Tensor, partner_PL: Tensor, back_PM: Tensor, weight_PL: Tensor, is_token_PL: Tensor, others_P: Tensor
) -> Tensor:
    """Return `SIDE_FEATURES`, float32 [P, F].

    Args:
        best_PL: best cosine of each token, in units of `UNIT`².
        partner_PL: the token that has it.
        back_PM: the partner of each token of the other side.
        weight_PL: whole numbers; 0 for padding.
        is_token_PL: False for padding.
        others_P: tokens of the other side.

    Coverage, kernels and shares are weighted means; `uncovered weight` is weight times (1 - cosine), the largest first;
    `mutual` is the share of weight whose partner has the token as its own partner, `displacement` how far apart such
    partners stand, in shares of the sentences, `ascending` the share of neighbouring tokens whose partners do not go
    back. `weight` and `tokens` are logarithms.
    """
    weight = weight_PL.double()
    total_P = weight.sum(dim=1).clamp_min(1)
    # Rounded vectors may be a little longer than a unit; nothing but padding lies below -1.
    best = best_PL.double().clamp(-_ONE, _ONE)
    steps = (best.long() + _ONE) // _STEP
    kernels = (weight[:, :, None] * _TABLE[steps]).sum(dim=1) / total_P[:, None]
    alone = weight * (_ONE - best)
    top = torch.topk(alone, min(NUM_UNCOVERED, alone.shape[1]), dim=1).values
    top = torch.nn.functional.pad(top, (0, NUM_UNCOVERED - top.shape[1])) / _ONE
    place = torch.arange(partner_PL.shape[1])
    is_mutual = (back_PM.gather(1, partner_PL) == place) & is_token_PL
    length_P = is_token_PL.sum(dim=1)
    distance = (place * others_P[:, None] - partner_PL * length_P[:, None]).abs().double()
    area_P = (length_P * others_P).clamp_min(1).double()
    ascends = (partner_PL[:, 1:] >= partner_PL[:, :-1]) & is_token_PL[:, 1:]
    features = [
        ((weight * best).sum(dim=1) / (total_P * _ONE))[:, None],
        kernels,
        top / WEIGHT_UNIT,
        top / total_P[:, None],
        torch.stack(
            [
                (weight * is_mutual).sum(dim=1) / total_P,
                (weight * is_mutual * distance).sum(dim=1) / (total_P * area_P),
                ascends.sum(dim=1) / (length_P - 1).clamp_min(1).double(),
                torch.log(total_P / WEIGHT_UNIT),
                torch.log(length_P.clamp_min(1).double()),
            ],
            dim=1,
        ),
    ]
    return torch.cat(features, dim=1).float()
