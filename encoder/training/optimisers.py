"""The optimisers of a training, and their learning rates as functions of the step."""

import math
from typing import Any

import torch

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
