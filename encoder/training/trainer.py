"""The training loop: batches → losses → steps, with checkpoints that resume exactly.

Train 20 steps ≡ train 10, kill, resume 10: a checkpoint holds weights, optimisers, the sampler's position, the state of
the random generators and the settings. Learning rates are functions of the step. With several processes each computes
its share of every batch and takes the same step; rank 0 alone validates, logs and writes.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emsmine.encoder.data.pairs import Corpus
from emsmine.encoder.data.sampler import PairSampler, split_validation
from emsmine.encoder.model.network import Network
from emsmine.encoder.training.checkpoints import BEST, load_best, save_best, save_checkpoint
from emsmine.encoder.training.gradients import Chunks, backward, backward_in_chunks, clip_gradients
from emsmine.encoder.training.log import TrainingLog
from emsmine.encoder.training.objective import TrainingModel, language_numbers, to_torch
from emsmine.encoder.training.optimisers import Average, build_optimisers, learning_rate_factor
from emsmine.encoder.training.parallel import Processes
from emsmine.encoder.training.settings import TrainingConfig
from emsmine.errors import ConfigError, ModelError, StaleOutputError

logger = logging.getLogger(__name__)

Progress = Callable[[dict[str, float]], None]


class Trainer:
    """Runs a `TrainingModel` over a sampler."""

    def __init__(
        self,
        config: TrainingConfig,
        corpora: list[Corpus],
        device: torch.device,
        *,
        processes: Processes | None = None,
        teacher_dim: int | None = None,
    ) -> None:
        """Build model, sampler and optimisers from the seed; the same on every process.

        Args:
            config: all settings.
            corpora: the data, of which the last pairs are held out.
            device: of this process.
            processes: who trains with us.
            teacher_dim: width of the teacher's vectors in `corpora`.

        Raises:
            ConfigError: settings that do not fit the data, the device or the number of processes.
        """
        torch.manual_seed(config.run.seed)
        self.config, self.device = config, device
        self.processes = processes or Processes()
        self.train_corpora, self.validation_corpora = split_validation(corpora, config.data.validation_pairs)
        self._check(corpora)
        self.model = TrainingModel(config, processes=self.processes, teacher_dim=teacher_dim).to(device)
        if self.processes.size > 1:
            # The weights are drawn alike everywhere; from here on every process drops out other units. Mixed, as
            # torch looks at the lower 32 bits of a seed only.
            seeds = np.random.SeedSequence([config.run.seed, self.processes.rank]).generate_state(1)
            torch.manual_seed(int(seeds[0]))
        self.sampler = PairSampler(
            self.train_corpora,
            batch_size=config.data.batch_size,
            exponent=config.data.exponent,
            seed=config.run.seed,
            groups=config.data.groups,
            shuffle_buffer=config.data.shuffle_buffer,
            hard_negatives=config.data.hard_negatives,
        )
        self.step = 0
        self.optimisers = build_optimisers(self.model, config.optimiser)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.run.precision == "fp16")
        decay = config.optimiser.ema_decay
        self.average = Average(self.model.network, decay) if decay else None
        self.best: dict[str, float] | None = None
        """Accuracy and step of the weights in `best.pt`; known to rank 0."""
        self.num_tokens = 0
        """Trained on by all processes since this object was made, both sides."""

    def _check(self, corpora: list[Corpus]) -> None:
        config = self.config
        num_languages = len(language_numbers(corpora))
        if num_languages > config.heads.num_languages and config.loss.xtr_weight and config.heads.language_embedding:
            raise ConfigError(
                f"train: the data have more languages than heads.num_languages "
                f"{config.heads.num_languages}; raise it to {num_languages}"
            )
        if config.run.precision == "fp16" and self.device.type != "cuda":
            raise ConfigError(
                f"train: run.precision is fp16, which needs a GPU, but the device is {self.device.type}; "
                "choose fp32 or bf16"
            )
        if config.data.batch_size % self.processes.size:
            raise ConfigError(
                f"train: data.batch_size is {config.data.batch_size}, which {self.processes.size} processes cannot "
                "share equally; choose a multiple"
            )
        local_negatives = config.loss.contrastive_weight and not config.loss.gather_negatives
        if local_negatives and config.data.batch_size == self.processes.size > 1:
            raise ConfigError("train: one pair per process has no negatives; set loss.gather_negatives to true")
        if config.data.hard_negatives and not config.loss.gather_negatives and self.processes.size > 1:
            raise ConfigError(
                f"train: loss.gather_negatives is false, but the {self.processes.size} processes share a pair and its "
                "data.hard_negatives; set it to true"
            )
        if config.run.export == "best" and not self._can_validate():
            raise ConfigError(
                "train: run.export is best, but no corpus has the 10 pairs that validation needs at least; "
                "set run.export to last"
            )

    def _can_validate(self) -> bool:
        return any(len(corpus) for corpus in self.validation_corpora)

    def train_step(self) -> dict[str, float]:
        """Take one optimiser step; returns the losses of the whole batch by name.

        Raises:
            ModelError: the loss is not finite.
        """
        config = self.config
        drawn = self.sampler.draw(self.processes.rank, self.processes.size)
        batch = to_torch(
            drawn,
            self.sampler.corpora,
            self.device,
            mask_duplicates=config.loss.mask_duplicates,
            among_all=config.loss.gather_negatives,
        )
        factor = learning_rate_factor(self.step, config.optimiser)
        for optimiser, rate in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        self.model.train()
        if config.data.chunk_size:
            chunks = Chunks.of_pairs(batch, config.data.chunk_size)
            parts = backward_in_chunks(self.model, batch, chunks, self.scaler.scale)
        elif config.data.chunk_tokens:
            chunks = Chunks.of_tokens(batch, config.data.chunk_tokens)
            parts = backward_in_chunks(self.model, batch, chunks, self.scaler.scale)
        else:
            parts = backward(self.model, batch, self.scaler.scale)
        summed = self.processes.sum_values(torch.stack([part.float() for part in parts.values()])).tolist()
        losses: dict[str, float] = dict(zip(parts, summed, strict=True))
        if not math.isfinite(losses["total"]):
            raise ModelError(
                f"train: the loss is {losses['total']} at step {self.step}; lower optimiser.learning_rate "
                "or optimiser.sparse_learning_rate, or set optimiser.gradient_clip, and choose another run.output"
            )
        self._update()
        self.step += 1
        self.num_tokens += drawn.num_tokens
        if self.average is not None:
            self.average.update(self.model.network, self.step)
        if self.model.log_scale is not None:
            with torch.no_grad():
                losses["temperature"] = float(self.model.temperature())
        return losses

    def _update(self) -> None:
        """Move the weights along the gradients of all processes."""
        self.processes.sum_gradients(self.model.parameters())
        for optimiser, _ in self.optimisers:
            if self.scaler.is_enabled():
                self.scaler.unscale_(optimiser)
        if self.config.optimiser.gradient_clip:
            clip_gradients(self.model.parameters(), self.config.optimiser.gradient_clip)
        for optimiser, _ in self.optimisers:
            self.scaler.step(optimiser)
        self.scaler.update()

    @torch.inference_mode()
    def validate(self, network: Network | None = None) -> float:
        """Return the retrieval accuracy on the held-out pairs: mean over corpora and both directions.

        Args:
            network: the one to look at; None: that in training.
        """
        network = (network or self.model.network).eval()
        accuracies = []
        for corpus in self.validation_corpora:
            if not len(corpus):
                continue
            rows = np.arange(len(corpus), dtype=np.int64)
            sides = []
            for packed in (corpus.sentences.take(2 * rows), corpus.sentences.take(2 * rows + 1)):
                ids = torch.from_numpy(np.ascontiguousarray(packed.ids)).to(self.device)
                vectors = network(ids, torch.from_numpy(packed.offsets).to(self.device))
                sides.append(nn.functional.normalize(vectors.float(), dim=-1))
            cosine = sides[0] @ sides[1].T
            labels = torch.arange(len(cosine), device=self.device)
            accuracies += [float((cosine.argmax(d) == labels).float().mean()) for d in (0, 1)]
        return float(np.mean(accuracies)) if accuracies else float("nan")

    def _validate(self) -> tuple[dict[str, float], Network]:
        """Return the accuracies by their names in the log, and the better one of network and average."""
        found = {"validation_accuracy": self.validate()}
        better = self.model.network
        if self.average is not None:
            found["validation_accuracy_ema"] = self.validate(self.average.network)
            if found["validation_accuracy_ema"] > found["validation_accuracy"]:
                better = self.average.network
        return found, better

    def _keep_if_best(self, accuracy: float, network: Network, output: Path) -> None:
        if self.best is None or accuracy > self.best["accuracy"]:
            self.best = {"accuracy": accuracy, "step": float(self.step)}
            save_best({**self.best, "network": network.state_dict()}, output)

    def network_to_export(self, output: Path) -> Network:
        """Return the network that `run.export` asks for, in evaluation mode.

        Args:
            output: folder of the run, with `best.pt`.

        Raises:
            ModelError: `best.pt` is missing or damaged.
        """
        if self.config.run.export == "ema" and self.average is not None:
            return self.average.network
        if self.config.run.export == "best":
            found = load_best(output, self.device)
            self._check_best(found, output)
            logger.info("exporting step %d, validation accuracy %.4f", found["step"], found["accuracy"])
            network = Network(self.config.network, blank_table=True).to(self.device)
            network.load_state_dict(found["network"])
            return network.eval()
        return self.model.network.eval()

    def _check_best(self, found: dict[str, Any], output: Path) -> None:
        """Refuse a `best.pt` of another training, or of a later step than this one stands at."""
        shapes = {name: value.shape for name, value in self.model.network.state_dict().items()}
        weights = found.get("network")
        fits = isinstance(weights, dict) and {n: getattr(v, "shape", None) for n, v in weights.items()} == shapes
        known = {"accuracy": found.get("accuracy"), "step": found.get("step")}
        if not fits or (self.best is not None and known != self.best):
            raise ModelError(
                f"train: {output / BEST} (step {known['step']}) is not what this training found best "
                f"({self.best or 'nothing yet'}); train on, or set run.export to last"
            )

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs. Every process must call this; the state of rank 0 is that of all."""
        return {
            "step": self.step,
            "processes": self.processes.size,
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "best": self.best,
            "sampler": self.sampler.state(),
            **self._random_states(),
            "config": json.dumps(self.config.semantic(), sort_keys=True),
        }

    def _random_states(self) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        if self.processes.size == 1:
            return {
                "torch_rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if on_gpu else [],
            }
        return {
            "torch_rng": torch.stack(self.processes.collect(torch.get_rng_state())),
            "cuda_rng": self.processes.collect(torch.cuda.get_rng_state(self.device)) if on_gpu else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from an earlier `state`.

        Raises:
            StaleOutputError: the settings that decide the result, or the number of processes, have changed; the
                message names them.
        """
        self._check_unchanged(state)
        self.model.load_state_dict(state["model"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        # Checkpoints of earlier versions lack what is asked for by `get`.
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.restore(state["average"])
        self.best = state.get("best")
        self.sampler.restore(state["sampler"])
        self.step = int(state["step"])
        rank, alone = self.processes.rank, self.processes.size == 1
        # A copy: torch 2.13 crashed on a row of a larger tensor.
        torch.set_rng_state(state["torch_rng"].cpu() if alone else state["torch_rng"][rank].cpu().clone())
        if state["cuda_rng"] and self.device.type == "cuda":
            if alone:
                torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
            else:
                torch.cuda.set_rng_state(state["cuda_rng"][rank].cpu(), self.device)

    def _check_unchanged(self, state: dict[str, Any]) -> None:
        before = json.loads(state["config"])
        now, defaults = (json.loads(json.dumps(c.semantic())) for c in (self.config, TrainingConfig()))
        # A setting that the checkpoint does not know yet had the effect of its default.
        changed = [
            f"{table}.{key}: {was!r} → {value!r}"
            for table, values in now.items()
            for key, value in values.items()
            if (was := before.get(table, {}).get(key, defaults[table][key])) != value
        ]
        if changed:
            raise StaleOutputError(
                f"train: the checkpoint was made with other settings ({'; '.join(changed)}); "
                "restore them, or choose another run.output"
            )
        size = state.get("processes", 1)
        if size != self.processes.size:
            raise StaleOutputError(
                f"train: the checkpoint was made by {size} processes, now there are {self.processes.size}; start "
                f"{size} (torchrun --nproc-per-node), as sums and dropout depend on it, or choose another run.output"
            )

    def fit(self, output: Path, *, stop_after: int | None = None, on_log: Progress | None = None) -> None:
        """Train to the last step, with checkpoints in `output`; continues where an earlier call stopped.

        Args:
            output: folder of the checkpoints, `best.pt` and `log.jsonl`.
            stop_after: stop (with a checkpoint) when this step is reached.
            on_log: called on rank 0 with the losses and rates every `run.log_every` steps.
        """
        settings = self.config.run
        last = min(stop_after or self.config.optimiser.steps, self.config.optimiser.steps)
        first = self.processes.rank == 0
        log = TrainingLog(output, self.step) if first else None
        sums: dict[str, float] = {}
        started, started_step, started_tokens = time.monotonic(), self.step, self.num_tokens
        while self.step < last:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            validating = self.step % settings.validate_every == 0 or self.step == last
            if validating or self.step % settings.log_every == 0:
                done = self.step - started_step
                seconds = max(1e-9, time.monotonic() - started)
                row = {name: value / done for name, value in sums.items()}
                row |= {"step": float(self.step), "pairs_per_second": done * self.config.data.batch_size / seconds}
                row["tokens_per_second"] = (self.num_tokens - started_tokens) / seconds
                if log is not None:
                    self._report(row, log, output, on_log, validating=validating)
                sums = {}
                started, started_step, started_tokens = time.monotonic(), self.step, self.num_tokens
            if self.step % settings.checkpoint_every == 0 or self.step == last:
                state = self.state()
                if first:
                    save_checkpoint(state, output)
        if log is not None:
            log.close()
            if self.best is None and settings.export == "best":
                # Stopped before the first validation that counts. Not remembered, so that the stop decides nothing.
                found, better = self._validate()
                self._keep_if_best(max(found.values()), better, output)
                self.best = None

    def _report(
        self, row: dict[str, float], log: TrainingLog, output: Path, on_log: Progress | None, *, validating: bool
    ) -> None:
        """Log a row, with the validation accuracy if it is time for it."""
        if validating and self._can_validate():
            found, better = self._validate()
            row |= found
            # A stop by `stop_after` must not decide which weights are the best.
            if self.step % self.config.run.validate_every == 0 or self.step == self.config.optimiser.steps:
                self._keep_if_best(max(found.values()), better, output)
        log.write(row)
        if on_log:
            on_log(row)
