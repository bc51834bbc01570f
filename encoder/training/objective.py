"""From a batch to named losses: the network with the heads that only training needs.

Shapes legend: N pairs of this process, M pairs of all processes, D model width.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from emsmine import languages
from emsmine.encoder.data.pairs import Corpus
from emsmine.encoder.data.sampler import Batch
from emsmine.encoder.model.network import Network
from emsmine.encoder.model.released import RELEASED_LANGUAGES
from emsmine.encoder.model.tokenizer import Packed
from emsmine.encoder.training.initialise import initialise
from emsmine.encoder.training.losses import (
    Candidates,
    ProjectionHead,
    ReconstructionHead,
    distillation_loss,
    duplicate_mask,
    nested_contrastive_loss,
    reconstruction_loss,
)
from emsmine.encoder.training.parallel import Processes
from emsmine.encoder.training.settings import TrainingConfig

_MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A learned temperature stays above 1/100, as in CLIP: below, a few hard pairs are all that the gradient sees.
_MAX_LOG_SCALE = math.log(100)


@dataclass(frozen=True)
class TorchBatch:
    """A batch on the training device; packed ids as in `Packed`, language numbers of the reconstruction head."""

    source_ids: Tensor
    source_offsets: Tensor
    target_ids: Tensor
    target_offsets: Tensor
    source_language: Tensor
    target_language: Tensor
    duplicates: Tensor | None
    """bool [N, M]"""
    teacher: Tensor | None = None
    """float32 [N, width of the teacher]"""

    def __len__(self) -> int:
        return len(self.source_language)

    def chunk(self, start: int, stop: int) -> "TorchBatch":
        """Return pairs `start` to `stop` as the network and the reconstruction head need them, no more."""

        def cut(ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
            kept = offsets[start : stop + 1]
            return ids[int(kept[0]) : int(kept[-1])], kept - kept[0]

        return TorchBatch(
            *cut(self.source_ids, self.source_offsets),
            *cut(self.target_ids, self.target_offsets),
            self.source_language[start:stop],
            self.target_language[start:stop],
            None,
        )

    def take(self, rows: Tensor) -> "TorchBatch":
        """Return pairs in another order, as the network and the reconstruction head need them, no more."""

        def moved(ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
            lengths = offsets.diff()[rows]
            new_offsets = nn.functional.pad(lengths.cumsum(0), (1, 0))
            starts = torch.repeat_interleave(offsets[:-1][rows] - new_offsets[:-1], lengths)
            return ids[starts + torch.arange(len(starts), device=ids.device)], new_offsets

        return TorchBatch(
            *moved(self.source_ids, self.source_offsets),
            *moved(self.target_ids, self.target_offsets),
            self.source_language[rows],
            self.target_language[rows],
            None,
        )


def to_torch(
    batch: Batch, corpora: list[Corpus], device: torch.device, *, mask_duplicates: bool, among_all: bool = True
) -> TorchBatch:
    """Move a batch to the device and look up its languages.

    Args:
        batch: drawn by a sampler.
        corpora: that sampler's `corpora`, which `batch.corpus` counts.
        device: where to.
        mask_duplicates: also say which cells of the contrastive matrix are false negatives.
        among_all: that matrix has the pairs of all processes as columns, not only those of this one.
    """
    numbers = language_numbers(corpora)
    pairs = np.array([(numbers[c.source_lang], numbers[c.target_lang]) for c in corpora], dtype=np.int64)[batch.corpus]

    def tensors(packed: Packed) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(np.ascontiguousarray(packed.ids)).to(device)
        return ids, torch.from_numpy(packed.offsets).to(device)

    duplicates = None
    if mask_duplicates:
        first, size = batch.first, len(batch.source)
        hashes = [torch.from_numpy(h).to(device) for h in (batch.source_hash, batch.target_hash)]
        if among_all:
            duplicates = duplicate_mask(hashes[0], hashes[1], first, size)
        else:
            duplicates = duplicate_mask(hashes[0][first : first + size], hashes[1][first : first + size])
    return TorchBatch(
        *tensors(batch.source),
        *tensors(batch.target),
        torch.from_numpy(pairs[:, 0]).to(device),
        torch.from_numpy(pairs[:, 1]).to(device),
        duplicates,
        None if batch.teacher is None else torch.from_numpy(batch.teacher).to(device),
    )


def language_numbers(corpora: list[Corpus]) -> dict[str, int]:
    """Number the languages: the 62 of EMS as the released weights number them, then others by name."""
    known = [languages.resolve(code) for code in RELEASED_LANGUAGES]
    others = sorted({lang for c in corpora for lang in (c.source_lang, c.target_lang)} - set(known))
    return {lang: number for number, lang in enumerate([*known, *others])}


class TrainingModel(nn.Module):
    """The network with the heads that only training needs; maps a batch to named losses.

    With several processes the losses of a batch are this process's part of them: over all processes they add up to
    the losses of the whole batch, and so do their gradients.
    """

    def __init__(
        self, config: TrainingConfig, *, processes: Processes | None = None, teacher_dim: int | None = None
    ) -> None:
        """Build with random weights.

        Args:
            config: all settings.
            processes: who trains with us.
            teacher_dim: width of the teacher's vectors; another than ours is reached by a linear map.
        """
        super().__init__()
        self.config = config
        self.processes = processes or Processes()
        self.network = Network(config.network, sparse=config.optimiser.sparse_learning_rate > 0)
        dim, eps = config.network.dim, config.network.layer_norm_eps
        table = self.network.embedding.tokens.weight
        self.reconstruction: ReconstructionHead | None = None
        if config.loss.xtr_weight:
            self.reconstruction = ReconstructionHead(
                dim,
                config.network.vocab_size,
                config.heads,
                eps,
                language_dropout=config.network.embedding_dropout,
                shared_table=table if config.heads.shared_embedding else None,
            )
        self.projection = ProjectionHead(dim, config.heads) if config.heads.projection else None
        self.to_teacher: nn.Linear | None = None
        if config.loss.distill_weight and teacher_dim not in (None, dim):
            self.to_teacher = nn.Linear(dim, int(teacher_dim or dim), bias=False)
        self.log_scale: nn.Parameter | None = None
        if config.loss.learn_temperature:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.loss.temperature)))
        nn.init.normal_(table, std=config.optimiser.embedding_std)
        with torch.no_grad():
            table[0] = 0
        if config.optimiser.init:
            initialise(self.network, config.optimiser.init, config.data.preprocessing)

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Return the context for forward passes. One for each pass: it keeps converted weights until it ends."""
        dtype = _MIXED.get(self.config.run.precision)
        if dtype is None:
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(device.type, dtype=dtype)
        return context

    def temperature(self) -> Tensor | float:
        """Return the temperature of the contrastive objective."""
        if self.log_scale is None:
            return self.config.loss.temperature
        return torch.exp(-self.log_scale.clamp(max=_MAX_LOG_SCALE))

    def encode(self, batch: TorchBatch) -> tuple[Tensor, Tensor]:
        """Return the vectors [N, D] of both sides."""
        return self.network(batch.source_ids, batch.source_offsets), self.network(
            batch.target_ids, batch.target_offsets
        )

    def token_losses(self, source_ND: Tensor, target_ND: Tensor, batch: TorchBatch) -> dict[str, Tensor]:
        """Return the losses that a pair has on its own: `xtr`, both directions summed."""
        if self.reconstruction is None:
            return {}
        forward = self.reconstruction(source_ND, batch.target_language)
        backward = self.reconstruction(target_ND, batch.source_language)
        targets = self.config.loss.xtr_targets
        summed = reconstruction_loss(forward, batch.target_ids, batch.target_offsets, targets) + reconstruction_loss(
            backward, batch.source_ids, batch.source_offsets, targets
        )
        return {"xtr": self._share(summed)}

    def sentence_losses(self, source_ND: Tensor, target_ND: Tensor, batch: TorchBatch) -> dict[str, Tensor]:
        """Return the losses that need the vectors of the whole batch: `contrastive`, and `distill`."""
        settings = self.config.loss
        named: dict[str, Tensor] = {}
        if settings.contrastive_weight:
            source, target = source_ND, target_ND
            if self.projection is not None:
                source, target = self.projection(source), self.projection(target)
            # bfloat16 would round cosine / temperature to steps of 1/16 near 10: as coarse as the margins it learns.
            with torch.autocast(source.device.type, enabled=False):
                source, target = source.float(), target.float()
                contrastive = nested_contrastive_loss(
                    source,
                    target,
                    self.temperature(),
                    settings.matryoshka,
                    duplicates=batch.duplicates,
                    margin=settings.margin,
                    candidates=self._candidates(source, target),
                )
            named["contrastive"] = self._share(contrastive)
        if settings.distill_weight:
            assert batch.teacher is not None
            source, target = source_ND, target_ND
            if self.to_teacher is not None:
                source, target = self.to_teacher(source), self.to_teacher(target)
            with torch.autocast(source.device.type, enabled=False):
                named["distill"] = self._share(distillation_loss(source.float(), target.float(), batch.teacher))
        return named

    def total(self, named: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of losses."""
        settings = self.config.loss
        weights = {
            "xtr": settings.xtr_weight,
            "contrastive": settings.contrastive_weight,
            "distill": settings.distill_weight,
        }
        total = next(iter(named.values())).new_zeros(())
        for name, loss in named.items():
            total = total + weights[name] * loss
        return total

    def losses(self, batch: TorchBatch) -> dict[str, Tensor]:
        """Return `xtr`, `contrastive` and `distill`, as far as they have a weight, and their weighted sum `total`."""
        source, target = self.encode(batch)
        named = self.token_losses(source, target, batch) | self.sentence_losses(source, target, batch)
        return named | {"total": self.total(named)}

    def _share(self, mean: Tensor) -> Tensor:
        """Turn the mean over the pairs of this process into its part of the mean over all pairs."""
        return mean if self.processes.size == 1 else mean / self.processes.size

    def _candidates(self, source_ND: Tensor, target_ND: Tensor) -> Candidates | None:
        if self.processes.size == 1 or not self.config.loss.gather_negatives:
            return None
        width = source_ND.shape[1]
        both = self.processes.gather_rows(torch.cat((source_ND, target_ND), dim=1))
        return Candidates(both[:, :width], both[:, width:], self.processes.rank * len(source_ND))
