"""The training loop: batches → losses → steps, with checkpoints that resume exactly.

Train 20 steps ≡ train 10, kill, resume 10: a checkpoint holds weights, optimisers, the sampler's position, the state of
the random generators and the settings. Learning rates are functions of the step.
"""

import json
import logging
import math
import os
import pickle
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emsmine import languages
from emsmine.encoder.data import Batch, Corpus, PairSampler
from emsmine.encoder.losses import (
    ProjectionHead,
    ReconstructionHead,
    contrastive_loss,
    duplicate_mask,
    reconstruction_loss,
)
from emsmine.encoder.network import Network
from emsmine.encoder.released import RELEASED_LANGUAGES
from emsmine.encoder.tokenizer import Packed
from emsmine.encoder.training_config import OptimiserConfig, TrainingConfig
from emsmine.errors import ConfigError, ModelError, StaleOutputError

logger = logging.getLogger(__name__)

Progress = Callable[[dict[str, float]], None]

# What reading a damaged archive raises.
_DAMAGE = (zipfile.BadZipFile, pickle.UnpicklingError, zlib.error, OSError, EOFError, KeyError, ValueError)


class TrainingModel(nn.Module):
    """The network with the heads that only training needs; maps a batch to named losses."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        sparse = config.optimiser.sparse_learning_rate > 0
        self.network = Network(config.network, sparse=sparse)
        dim, eps = config.network.dim, config.network.layer_norm_eps
        self.reconstruction = (
            ReconstructionHead(dim, config.network.vocab_size, config.heads, eps) if config.loss.xtr_weight else None
        )
        self.projection = ProjectionHead(dim, config.heads) if config.heads.projection else None
        std = config.optimiser.embedding_std
        table = self.network.embedding.tokens.weight
        nn.init.normal_(table, std=std)
        with torch.no_grad():
            table[0] = 0

    def losses(self, batch: "TorchBatch") -> dict[str, Tensor]:
        """Return `xtr` (both directions summed), `contrastive` and their weighted sum `total`."""
        settings = self.config.loss
        source = self.network(batch.source_ids, batch.source_offsets)
        target = self.network(batch.target_ids, batch.target_offsets)
        named: dict[str, Tensor] = {}
        total = source.new_zeros(())
        if self.reconstruction is not None:
            forward = self.reconstruction(source, batch.target_language)
            backward = self.reconstruction(target, batch.source_language)
            named["xtr"] = reconstruction_loss(
                forward, batch.target_ids, batch.target_offsets, settings.xtr_targets
            ) + reconstruction_loss(backward, batch.source_ids, batch.source_offsets, settings.xtr_targets)
            total = total + settings.xtr_weight * named["xtr"]
        if settings.contrastive_weight:
            if self.projection is not None:
                source, target = self.projection(source), self.projection(target)
            # bfloat16 would round cosine / temperature to steps of 1/16 near 10: as coarse as the margins it learns.
            with torch.autocast(source.device.type, enabled=False):
                named["contrastive"] = contrastive_loss(
                    source.float(), target.float(), settings.temperature, duplicates=batch.duplicates
                )
            total = total + settings.contrastive_weight * named["contrastive"]
        named["total"] = total
        return named


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


def to_torch(batch: Batch, corpora: list[Corpus], device: torch.device, *, mask_duplicates: bool) -> TorchBatch:
    """Move a batch to the device and look up its languages.

    Args:
        batch: drawn by a sampler.
        corpora: that sampler's `corpora`, which `batch.corpus` counts.
        device: where to.
        mask_duplicates: also say which cells of the contrastive matrix are false negatives.
    """
    numbers = language_numbers(corpora)
    pairs = np.array([(numbers[c.source_lang], numbers[c.target_lang]) for c in corpora], dtype=np.int64)[batch.corpus]

    def tensors(packed: Packed) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(np.ascontiguousarray(packed.ids)).to(device)
        return ids, torch.from_numpy(packed.offsets).to(device)

    duplicates = None
    if mask_duplicates:
        hashes = (torch.from_numpy(h).to(device) for h in (batch.source_hash, batch.target_hash))
        duplicates = duplicate_mask(*hashes)
    return TorchBatch(
        *tensors(batch.source),
        *tensors(batch.target),
        torch.from_numpy(pairs[:, 0]).to(device),
        torch.from_numpy(pairs[:, 1]).to(device),
        duplicates,
    )


def language_numbers(corpora: list[Corpus]) -> dict[str, int]:
    """Number the languages: the 62 of EMS as the released weights number them, then others by name."""
    known = [languages.resolve(code) for code in RELEASED_LANGUAGES]
    others = sorted({lang for c in corpora for lang in (c.source_lang, c.target_lang)} - set(known))
    return {lang: number for number, lang in enumerate([*known, *others])}


def learning_rate_factor(step: int, settings: OptimiserConfig) -> float:
    """Return the learning rate of a step as a fraction of its peak: linear warm-up times cosine or linear decay."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    progress = min(1.0, step / settings.steps)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    return warm * (settings.final_fraction + (1 - settings.final_fraction) * fall)


def split_validation(corpora: list[Corpus], pairs: int) -> tuple[list[Corpus], list[Corpus]]:
    """Hold out the last `pairs` pairs (at most a tenth) of each corpus; returns (train, validation)."""
    train: list[Corpus] = []
    held_out: list[Corpus] = []
    for corpus in corpora:
        size = len(corpus)
        keep = size - min(pairs, size // 10)
        for target, start, stop in ((train, 0, keep), (held_out, keep, size)):
            offsets = corpus.sentences.offsets[2 * start : 2 * stop + 1]
            ids = corpus.sentences.ids[offsets[0] : offsets[-1]]
            target.append(
                Corpus(
                    corpus.name,
                    corpus.source_lang,
                    corpus.target_lang,
                    Packed(ids, offsets - offsets[0]),
                    corpus.hashes[2 * start : 2 * stop],
                )
            )
    return train, held_out


class Trainer:
    """Runs a `TrainingModel` over a sampler."""

    def __init__(self, config: TrainingConfig, corpora: list[Corpus], device: torch.device) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.device = config, device
        self.train_corpora, self.validation_corpora = split_validation(corpora, config.data.validation_pairs)
        if len(language_numbers(corpora)) > config.heads.num_languages and config.loss.xtr_weight:
            raise ConfigError(
                f"train: the data have more languages than heads.num_languages "
                f"{config.heads.num_languages}; raise it to {len(language_numbers(corpora))}"
            )
        self.model = TrainingModel(config).to(device)
        self.sampler = PairSampler(
            self.train_corpora,
            batch_size=config.data.batch_size,
            exponent=config.data.exponent,
            seed=config.run.seed,
            groups=config.data.groups,
        )
        self.step = 0
        self.optimisers = self._optimisers()

    def _optimisers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        settings = self.config.optimiser
        table = self.model.network.embedding.tokens.weight
        sparse = settings.sparse_learning_rate > 0
        dense = [p for p in self.model.parameters() if p.requires_grad and not (sparse and p is table)]
        optimisers: list[tuple[torch.optim.Optimizer, float]] = []
        if dense:
            adam = torch.optim.Adam(
                dense, lr=settings.learning_rate, weight_decay=settings.weight_decay, amsgrad=settings.amsgrad
            )
            optimisers.append((adam, settings.learning_rate))
        if sparse:
            rate = settings.sparse_learning_rate
            optimisers.append((torch.optim.SparseAdam([table], lr=rate), rate))
        return optimisers

    def train_step(self) -> dict[str, float]:
        """Take one optimiser step; returns the losses by name.

        Raises:
            ModelError: the loss is not finite.
        """
        settings = self.config
        batch = to_torch(
            self.sampler.draw(), self.sampler.corpora, self.device, mask_duplicates=settings.loss.mask_duplicates
        )
        factor = learning_rate_factor(self.step, settings.optimiser)
        for optimiser, rate in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        self.model.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=settings.run.precision == "bf16"):
            losses = self.model.losses(batch)
        if not torch.isfinite(losses["total"]):
            raise ModelError(
                f"train: the loss is {losses['total'].item()} at step {self.step}; lower optimiser.learning_rate "
                "or optimiser.sparse_learning_rate, or set optimiser.gradient_clip, and choose another run.output"
            )
        torch.autograd.backward(losses["total"])
        if settings.optimiser.gradient_clip:
            dense = [p for p in self.model.parameters() if p.grad is not None and not p.grad.is_sparse]
            nn.utils.clip_grad_norm_(dense, settings.optimiser.gradient_clip)
        for optimiser, _ in self.optimisers:
            optimiser.step()
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.inference_mode()
    def validate(self) -> float:
        """Return the retrieval accuracy on the held-out pairs: mean over corpora and both directions."""
        self.model.eval()
        accuracies = []
        for corpus in self.validation_corpora:
            if not len(corpus):
                continue
            rows = np.arange(len(corpus), dtype=np.int64)
            sides = []
            for packed in (corpus.sentences.take(2 * rows), corpus.sentences.take(2 * rows + 1)):
                ids = torch.from_numpy(np.ascontiguousarray(packed.ids)).to(self.device)
                vectors = self.model.network(ids, torch.from_numpy(packed.offsets).to(self.device))
                sides.append(nn.functional.normalize(vectors.float(), dim=-1))
            cosine = sides[0] @ sides[1].T
            labels = torch.arange(len(cosine), device=self.device)
            accuracies += [float((cosine.argmax(d) == labels).float().mean()) for d in (0, 1)]
        return float(np.mean(accuracies)) if accuracies else float("nan")

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
            "sampler": self.sampler.state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "config": json.dumps(self.config.semantic(), sort_keys=True),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from an earlier `state`.

        Raises:
            StaleOutputError: the settings that decide the result have changed; the message names them.
        """
        before, now = json.loads(state["config"]), json.loads(json.dumps(self.config.semantic()))
        changed = [
            f"{table}.{key}: {before.get(table, {}).get(key)!r} → {value!r}"
            for table, values in now.items()
            for key, value in values.items()
            if before.get(table, {}).get(key) != value
        ]
        if changed:
            raise StaleOutputError(
                f"train: the checkpoint was made with other settings ({'; '.join(changed)}); "
                "restore them, or choose another run.output"
            )
        self.model.load_state_dict(state["model"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.sampler.restore(state["sampler"])
        self.step = int(state["step"])
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])

    def fit(self, output: Path, *, stop_after: int | None = None, on_log: Progress | None = None) -> None:
        """Train to the last step, with checkpoints in `output`; continues where an earlier call stopped.

        Args:
            output: folder of the checkpoints and `log.jsonl`.
            stop_after: stop (with a checkpoint) when this step is reached.
            on_log: called with the losses and rates every `run.log_every` steps.
        """
        settings = self.config.run
        last = min(stop_after or self.config.optimiser.steps, self.config.optimiser.steps)
        sums: dict[str, float] = {}
        started, started_step = time.monotonic(), self.step
        while self.step < last:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            validating = self.step % settings.validate_every == 0 or self.step == last
            if validating or self.step % settings.log_every == 0:
                done = self.step - started_step
                rate = done * self.config.data.batch_size / max(1e-9, time.monotonic() - started)
                row = {name: value / done for name, value in sums.items()}
                row |= {"step": float(self.step), "pairs_per_second": rate}
                if validating and any(len(corpus) for corpus in self.validation_corpora):
                    row["validation_accuracy"] = self.validate()
                _append_log(output / "log.jsonl", row)
                if on_log:
                    on_log(row)
                sums, started, started_step = {}, time.monotonic(), self.step
            if self.step % settings.checkpoint_every == 0 or self.step == last:
                save_checkpoint(self.state(), output)


def _append_log(path: Path, row: dict[str, float]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({key: round(value, 6) for key, value in row.items()}) + "\n")


def save_checkpoint(state: dict[str, Any], folder: Path, keep: int = 2) -> Path:
    """Write `checkpoint-<step>.pt` atomically; delete all but the newest `keep`, and what killed runs left half."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"checkpoint-{state['step']:09d}.pt"
    temporary = folder / f".{final.name}.{os.getpid()}"
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(final)
    for old in [*sorted(folder.glob("checkpoint-*.pt"))[:-keep], *folder.glob(".checkpoint-*.pt.*")]:
        old.unlink()
    return final


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the newest whole checkpoint of a folder, or None; a damaged one is reported and passed over.

    Raises:
        ModelError: there are checkpoints, but none is whole: to start anew is not for us to decide.
    """
    paths = sorted(folder.glob("checkpoint-*.pt"), reverse=True)
    for path in paths:
        try:
            # torch writes checksums into the archive but does not compare them when it reads.
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            return state
        except (*_DAMAGE, RuntimeError) as error:
            logger.warning("train: %s cannot be read (%s); trying the one before", path, error)
    if paths:
        raise ModelError(
            f"train: none of the {len(paths)} checkpoints in {folder} can be read; delete them to start anew, "
            "or choose another run.output"
        )
    return None
