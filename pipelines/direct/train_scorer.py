"""Train a pair scorer for a model and put it into the model's directory: what `emsmine train-scorer` calls."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.folders import ems_folder
from emsmine.errors import ConfigError
from emsmine.fields import check_table, setting
from emsmine.mining.scoring.files import encoded_scorer
from emsmine.mining.scoring.training import TrainingPlan, train_scorer
from emsmine.outputs import write_output
from emsmine.pipelines.direct.scorer_data import ScorerData, scorer_examples
from emsmine.pipelines.rescoring import SCORER_FILE
from emsmine.toml import read_toml

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScorerRun:
    """Which model the scorer is for, and where it goes."""

    encoder: str = setting("", "model directory whose candidates and token vectors it learns with (ems:FOLDER)")
    output: str = setting("", "file to write; empty: scorer.safetensors in the model directory")


@dataclass(frozen=True)
class ScorerTraining:
    """How the scorer is trained; see `emsmine.mining.scoring.training.TrainingPlan`."""

    width: int = setting(TrainingPlan.width, "width of the projected token vectors", low=1)
    hidden: int = setting(TrainingPlan.hidden, "units of a hidden layer", low=2)
    token_steps: int = setting(TrainingPlan.token_steps, "steps that learn token weights and projection", low=1)
    epochs: int = setting(TrainingPlan.epochs, "passes of each network over the candidates", low=1)
    batch_size: int = setting(TrainingPlan.batch_size, "candidates of a step", low=1)
    offset: float = setting(TrainingPlan.offset, "added to the logit of every pair in the end: where 0.5 stands")
    seed: int = setting(TrainingPlan.seed, "of everything that is drawn", low=0)


@dataclass(frozen=True)
class ScorerConfig:
    """A configuration of `emsmine train-scorer`: its tables."""

    run: ScorerRun = field(default_factory=ScorerRun)
    data: ScorerData = field(default_factory=ScorerData)
    training: ScorerTraining = field(default_factory=ScorerTraining)

    @property
    def output(self) -> Path:
        """The file to write."""
        return Path(self.run.output) if self.run.output else self.model / SCORER_FILE

    @property
    def model(self) -> Path:
        """The model directory.

        Raises:
            ConfigError: there is none of that name.
        """
        folder = ems_folder(self.run.encoder)
        if folder is None:
            raise ConfigError(
                f"train-scorer: run.encoder is {self.run.encoder!r}; it must be ems:NAME, ems:FOLDER or a "
                "model directory"
            )
        return folder


def load_scorer_config(path: Path) -> ScorerConfig:
    """Read a TOML configuration; relative paths in it are relative to the working directory.

    Raises:
        ConfigError: the file is missing, not TOML, or has an unknown table or key or an impossible value.
    """
    parsed = read_toml(path, "train-scorer")
    kinds: dict[str, type[Any]] = {"run": ScorerRun, "data": ScorerData, "training": ScorerTraining}
    unknown = sorted(set(parsed) - set(kinds))
    if unknown:
        raise ConfigError(
            f"train-scorer: {path} has unknown tables {', '.join(unknown)}; known: {', '.join(sorted(kinds))}"
        )
    tables = {
        name: kind(**check_table(kind, parsed.get(name, {}), f"train-scorer: {path}: [{name}]"))
        for name, kind in kinds.items()
    }
    config = ScorerConfig(**tables)
    if not config.data.train:
        raise ConfigError(f"train-scorer: {path}: [data] train names no pair file")
    return config


def train_scorer_of(config: ScorerConfig) -> Path:
    """Make the crawls, train, write the scorer; returns its file.

    Raises:
        ConfigError: there is no such model, or the file cannot be written.
        InputError: the pair files cannot be read, or are too few.
    """
    encoder = EMSEncoder(config.model, device="cpu")
    examples = scorer_examples(encoder, config.data, config.training.seed)
    plan = TrainingPlan(**vars(config.training))
    trained = train_scorer(encoder.token_table(), examples, plan)
    write_output(encoded_scorer(trained, encoder.fingerprint()), str(config.output))
    return config.output
