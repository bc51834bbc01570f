"""The parts of a scorer that learn, in torch: token weights and projection, and the small networks on top.

The features are those of `emsmine.mining.scoring.interaction`, here of real numbers that have gradients.

Shapes legend: P pairs, L tokens of a side, V pieces, D width of the table, W width of the projection, F features.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from emsmine.mining.scoring.head import LIMIT, Head
from emsmine.mining.scoring.interaction import KERNEL_WIDTH, KERNELS, NUM_UNCOVERED
from emsmine.mining.scoring.tokens import NUM_SPECIAL

FloatArray = NDArray[np.float32]

_ROWS_FOR_AXES = 20_000


class LearnedTokens(nn.Module):
    """A projection of the table, and a weight per piece: a power of its vector's length, times a learned factor."""

    def __init__(self, table_VD: FloatArray, width: int) -> None:
        """Begin with the main axes of the table, and with the lengths of its vectors as weights."""
        super().__init__()
        table = torch.from_numpy(table_VD)
        length = table.norm(dim=1).clamp_min(1e-6).log()
        used = length[NUM_SPECIAL:][length[NUM_SPECIAL:] > -10]
        self.table: Tensor
        self.log_length: Tensor
        self.register_buffer("table", table)
        self.register_buffer("log_length", (length - used.mean()).clamp(-4, 4))
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(table), generator=generator)[:_ROWS_FOR_AXES]
        axes = torch.linalg.svd(table[rows], full_matrices=False).Vh[:width]
        self.projection = nn.Parameter(axes.T.contiguous())
        self.factor = nn.Parameter(torch.zeros(len(table)))
        self.power = nn.Parameter(torch.tensor(1.0))

    def log_weights(self, ids: Tensor) -> Tensor:
        """Return the logarithm of the weight of each token."""
        return self.power * self.log_length[ids] + self.factor[ids]

    def vectors(self, ids: Tensor) -> Tensor:
        """Return projected unit vectors, zeros for special pieces: [..., W]."""
        distinct, places = torch.unique(ids, return_inverse=True)
        unit = functional.normalize(self.table[distinct] @ self.projection, dim=-1)
        return functional.embedding(places, unit * (distinct >= NUM_SPECIAL)[:, None])

    def features(
        self, source_ids: Tensor, source_lengths: Tensor, target_ids: Tensor, target_lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `SIDE_FEATURES` of both sides, [P, F] each, and the cosine of the sentences, [P, 1]."""
        is_source = torch.arange(source_ids.shape[1]) < source_lengths[:, None]
        is_target = torch.arange(target_ids.shape[1]) < target_lengths[:, None]
        both = self.vectors(torch.cat([source_ids.flatten(), target_ids.flatten()]))
        source = both[: source_ids.numel()].view(*source_ids.shape, -1)
        target = both[source_ids.numel() :].view(*target_ids.shape, -1)
        weights = [torch.exp(self.log_weights(ids)) for ids in (source_ids, target_ids)]
        one, other = weights[0] * is_source, weights[1] * is_target
        cosine = torch.bmm(source, target.transpose(1, 2))
        cosine = cosine.masked_fill(~is_target[:, None, :], -2.0).masked_fill(~is_source[:, :, None], -2.0)
        best_source, partner_source = cosine.max(dim=2)
        best_target, partner_target = cosine.max(dim=1)
        sums = [functional.normalize((w[:, :, None] * v).sum(1), dim=1) for w, v in ((one, source), (other, target))]
        return (
            _side(best_source, partner_source, partner_target, one, is_source, target_lengths),
            _side(best_target, partner_target, partner_source, other, is_target, source_lengths),
            (sums[0] * sums[1]).sum(dim=1, keepdim=True),
        )


def _side(
    best_PL: Tensor, partner_PL: Tensor, back_PM: Tensor, weight_PL: Tensor, is_token_PL: Tensor, others_P: Tensor
) -> Tensor:
    """Return the features of one side, see `emsmine.mining.scoring.interaction`."""
    total_P = weight_PL.sum(dim=1).clamp_min(1e-3)
    best = best_PL.clamp(-1, 1)
    centres = torch.tensor(KERNELS)
    kernels = torch.exp(-((best[:, :, None] - centres) ** 2) / (2 * KERNEL_WIDTH**2))
    top = torch.topk(weight_PL * (1 - best), min(NUM_UNCOVERED, best.shape[1]), dim=1).values
    top = functional.pad(top, (0, NUM_UNCOVERED - top.shape[1]))
    place = torch.arange(partner_PL.shape[1])
    is_mutual = (back_PM.gather(1, partner_PL) == place) & is_token_PL
    length_P = is_token_PL.sum(dim=1)
    distance = (place * others_P[:, None] - partner_PL * length_P[:, None]).abs().float()
    area_P = (length_P * others_P).clamp_min(1).float()
    ascends = (partner_PL[:, 1:] >= partner_PL[:, :-1]) & is_token_PL[:, 1:]
    features = [
        ((weight_PL * best).sum(dim=1) / total_P)[:, None],
        (weight_PL[:, :, None] * kernels).sum(dim=1) / total_P[:, None],
        top,
        top / total_P[:, None],
        torch.stack(
            [
                (weight_PL * is_mutual).sum(dim=1) / total_P,
                (weight_PL * is_mutual * distance).sum(dim=1) / (total_P * area_P),
                ascends.sum(dim=1) / (length_P - 1).clamp_min(1).float(),
                torch.log(total_P),
                torch.log(length_P.clamp_min(1).float()),
            ],
            dim=1,
        ),
    ]
    return torch.cat(features, dim=1)


class LearnedHead(nn.Module):
    """What becomes a `Head`: standardised features, two hidden layers, both orders of the sides averaged."""

    def __init__(self, num_side: int, num_pair: int, hidden: int) -> None:
        super().__init__()
        width = 2 * num_side + num_pair
        self.standardise = nn.BatchNorm1d(width, affine=False, momentum=0.02)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )

    def forward(self, source_PF: Tensor, target_PF: Tensor, pair_PG: Tensor) -> Tensor:
        """Return logits [P]."""
        orders = (torch.cat([source_PF, target_PF, pair_PG], 1), torch.cat([target_PF, source_PF, pair_PG], 1))
        standard = self.standardise(torch.cat(orders)).clamp(-LIMIT, LIMIT)
        logits: Tensor = self.layers(standard)[:, 0].view(2, -1).mean(dim=0)
        return logits

    def head(self) -> Head:
        """Return the trained network for numpy."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        variance, mean = self.standardise.running_var, self.standardise.running_mean
        assert variance is not None
        assert mean is not None
        return Head(
            mean.numpy().copy(),
            torch.sqrt(variance + self.standardise.eps).numpy().copy(),
            tuple(layer.weight.detach().T.contiguous().numpy().copy() for layer in linear),
            tuple(layer.bias.detach().numpy().copy() for layer in linear),
        )
