"""Backward passes over a batch, whole or in chunks of pairs or of tokens, and the clipping of what they leave.

Reference: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (GradCache).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emsmine.encoder.training.objective import TorchBatch, TrainingModel

Scale = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RandomState:
    """The state of the random generators that dropout draws from."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        """Return the present state."""
        on_gpu = device.type == "cuda"
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None)

    def replay(self, device: torch.device) -> None:
        """Make the generators draw again what they drew after `capture`."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


def backward(model: TrainingModel, batch: TorchBatch, scale: Scale) -> dict[str, Tensor]:
    """Add the gradients of a batch to the parameters.

    Args:
        model: in training mode.
        batch: of this process.
        scale: applied to every loss before its gradient is taken.

    Returns:
        The losses by name, detached.
    """
    with model.autocast(batch.source_ids.device):
        losses = model.losses(batch)
    torch.autograd.backward(scale(losses["total"]))
    return {name: loss.detach() for name, loss in losses.items()}


@dataclass(frozen=True)
class Chunks:
    """How a batch is cut into forward passes."""

    bounds: list[tuple[int, int]]
    """First pair and end of each pass, counted in `order`."""
    order: Tensor | None = None
    """int64 [N]: the pairs in the order in which they are passed; None: as they come."""

    @classmethod
    def of_pairs(cls, batch: TorchBatch, chunk_size: int) -> "Chunks":
        """Cut every `chunk_size` pairs."""
        size = len(batch)
        return cls([(start, min(start + chunk_size, size)) for start in range(0, size, chunk_size)])

    @classmethod
    def of_tokens(cls, batch: TorchBatch, chunk_tokens: int) -> "Chunks":
        """Sort by length and fill each pass with up to `chunk_tokens` tokens of both sides.

        A longer pair is a pass of its own.
        """
        source, target = batch.source_offsets.cpu().diff(), batch.target_offsets.cpu().diff()
        lengths = source + target
        # By the source among pairs of equal length, so that more sentences of a pass share an attention call.
        order = torch.argsort(source, stable=True)
        order = order[torch.argsort(lengths[order], stable=True)]
        bounds, start, filled = [], 0, 0
        for number, length in enumerate(lengths[order].tolist()):
            if number > start and filled + length > chunk_tokens:
                bounds.append((start, number))
                start, filled = number, 0
            filled += length
        bounds.append((start, len(order)))
        return cls(bounds, order.to(batch.source_ids.device))


def backward_in_chunks(model: TrainingModel, batch: TorchBatch, chunks: Chunks, scale: Scale) -> dict[str, Tensor]:
    """Do what `backward` does with the activations of one chunk at a time.

    The vectors of all chunks are computed first, without activations; the losses over the whole batch give the
    gradient of every vector; then each chunk is computed again, with the same dropout, and carries it on.
    """
    device = batch.source_ids.device
    settings = model.config.loss
    passed = batch if chunks.order is None else batch.take(chunks.order)
    named: dict[str, Tensor] = {}
    states: list[RandomState] = []
    leaves: tuple[Tensor, ...] = ()
    if settings.contrastive_weight or settings.distill_weight:
        leaves = _cache_vectors(model, passed, chunks.bounds, states)
        # The losses see the pairs as they came: that is the order of the duplicates and of the other processes.
        inverse = None if chunks.order is None else torch.argsort(chunks.order)
        source, target = leaves if inverse is None else (leaf[inverse] for leaf in leaves)
        with model.autocast(device):
            named = model.sentence_losses(source, target, batch)
            total = model.total(named)
        torch.autograd.backward(scale(total))
    for number, (start, stop) in enumerate(chunks.bounds):
        if leaves:
            states[number].replay(device)
        chunk = passed.chunk(start, stop)
        carried = torch.zeros((), device=device)
        with model.autocast(device):
            sides = model.encode(chunk)
            # The mean over the batch, from means over chunks.
            own = {n: v * (len(chunk) / len(batch)) for n, v in model.token_losses(*sides, chunk).items()}
            if own:
                carried = carried + scale(model.total(own))
        for vectors, leaf in zip(sides, leaves, strict=False):
            assert leaf.grad is not None
            carried = carried + (vectors.float() * leaf.grad[start:stop]).sum()
        torch.autograd.backward(carried)
        for name, value in own.items():
            named[name] = named.get(name, torch.zeros((), device=device)) + value.detach()
    named = {name: value.detach() for name, value in named.items()}
    return named | {"total": model.total(named)}


def _cache_vectors(
    model: TrainingModel, batch: TorchBatch, bounds: list[tuple[int, int]], states: list[RandomState]
) -> tuple[Tensor, Tensor]:
    """Return the vectors of both sides as leaves that take a gradient; `states` gets the generators before each chunk.

    Shapes: float32 [N, D] twice.
    """
    device = batch.source_ids.device
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for start, stop in bounds:
        states.append(RandomState.capture(device))
        with torch.no_grad(), model.autocast(device):
            for side, vectors in zip(sides, model.encode(batch.chunk(start, stop)), strict=True):
                side.append(vectors.float())
    source, target = (torch.cat(side).requires_grad_() for side in sides)
    return source, target


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients, dense and sparse, so that their joint norm is at most `max_norm`.

    Returns:
        The norm before.
    """
    parts = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # Rows that stand there twice add up; their norms do not.
            parameter.grad = parameter.grad.coalesce()
            parts.append(parameter.grad.values())
        else:
            parts.append(parameter.grad)
    norm = nn.utils.get_total_norm(parts)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for part in parts:
        part.mul_(factor)
    return norm
