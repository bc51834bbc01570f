"""The optimisers of a training, and their learning rates as functions of the step."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from emsmine.encoder.model.network import Network
from emsmine.encoder.training.objective import TrainingModel
from emsmine.encoder.training.settings import OptimiserConfig


def learning_rate_factor(step: int, settings: OptimiserConfig) -> float:
    """Return the learning rate of a step as a fraction of its peak: linear warm-up times cosine or linear decay."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    progress = min(1.0, step / settings.steps)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    return warm * (settings.final_fraction + (1 - settings.final_fraction) * fall)


def build_optimisers(model: TrainingModel, settings: OptimiserConfig) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return the optimisers with their peak learning rates: Adam, and SparseAdam if the token table has its own."""
    table = model.network.embedding.tokens.weight
    sparse = settings.sparse_learning_rate > 0
    scale = model.log_scale
    apart = [p for p in (table if sparse else None, scale) if p is not None]
    dense = [p for p in model.parameters() if p.requires_grad and not any(p is other for other in apart)]
    groups: list[dict[str, Any]] = [{"params": dense}] if dense else []
    if scale is not None:
        # Decay would pull the temperature towards 1.
        groups.append({"params": [scale], "weight_decay": 0.0})
    optimisers: list[tuple[torch.optim.Optimizer, float]] = []
    if groups:
        adam = torch.optim.Adam(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, amsgrad=settings.amsgrad
        )
        optimisers.append((adam, settings.learning_rate))
    if sparse:
        rate = settings.sparse_learning_rate
        optimisers.append((torch.optim.SparseAdam([table], lr=rate), rate))
    return optimisers


class Average:
    """A second network that follows the trained one slowly."""

    def __init__(self, network: Network, decay: float) -> None:
        """Start from the present weights."""
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Move towards the weights after `step` steps.

        The decay is at most (1 + step) / (10 + step), so that the random weights of the start are soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs."""
        return dict(self.network.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from an earlier `state`."""
        self.network.load_state_dict(state)
