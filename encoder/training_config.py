"""The settings of a training run, read from TOML."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from emsmine.encoder.config import NetworkConfig
from emsmine.encoder.losses import XTR_TARGETS, HeadConfig
from emsmine.encoder.model_directory import TABLES
from emsmine.errors import ConfigError, ModelError

_T = TypeVar("_T")


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    train: tuple[str, ...] = ()
    """Pair files, or folders of them, named `<xx>-<yy>.tsv[.gz|.zst]` or `.parquet`."""
    tokenizer: str = ""
    """SentencePiece model; empty: train one on the training files."""
    cache: str = "cache"
    batch_size: int = 2048
    """Pairs per step."""
    exponent: float = 0.7
    """A corpus is drawn in proportion to its size to this power."""
    groups: int = 0
    """Parts of a batch that come from one corpus each; 0 mixes freely."""
    validation_pairs: int = 100
    """Pairs per corpus held out for validation by retrieval accuracy."""
    tokenizer_sample: int = 28_000
    """Sentences per language that a tokeniser is trained on."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        _at_least("data", self, {"batch_size": 1, "groups": 0, "validation_pairs": 0, "tokenizer_sample": 1})
        if self.groups > self.batch_size:
            raise ConfigError(f"train: data.groups is {self.groups}; it must not exceed batch_size {self.batch_size}")


@dataclass(frozen=True)
class LossConfig:
    """Objectives and their weights."""

    xtr_weight: float = 1.0
    contrastive_weight: float = 2.0
    temperature: float = 0.1
    xtr_targets: str = "paper"
    mask_duplicates: bool = False
    """Leave equal sentences of a batch out of the negatives (the paper does not)."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.xtr_targets not in XTR_TARGETS:
            raise ConfigError(f"train: loss.xtr_targets is {self.xtr_targets!r}; choose from {', '.join(XTR_TARGETS)}")
        _at_least("loss", self, {"xtr_weight": 0, "contrastive_weight": 0})
        if not self.temperature > 0:
            raise ConfigError(f"train: loss.temperature is {self.temperature}; it must be positive")


@dataclass(frozen=True)
class OptimiserConfig:
    """Adam, linear warm-up and decay."""

    steps: int = 10_000
    learning_rate: float = 3e-4
    sparse_learning_rate: float = 0.0
    """Of the token table when its gradients are sparse; 0: the table is trained like the rest."""
    warmup_steps: int = 1_000
    schedule: str = "cosine"
    final_fraction: float = 0.0
    """The learning rate ends at this fraction of its peak."""
    weight_decay: float = 1e-5
    amsgrad: bool = False
    embedding_std: float = 0.02
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.schedule not in ("cosine", "linear"):
            raise ConfigError(f"train: optimiser.schedule is {self.schedule!r}; choose cosine or linear")
        _at_least("optimiser", self, {"steps": 1, "warmup_steps": 0})
        for key in ("learning_rate", "sparse_learning_rate", "final_fraction", "weight_decay", "gradient_clip"):
            _at_least("optimiser", self, {key: 0})


@dataclass(frozen=True)
class RunConfig:
    """Where and how; none of these changes what a step computes, except `seed` and `precision`."""

    output: str = "run"
    name: str = "model"
    table: str = "float16"
    """How the model directory stores the token table: float32, float16 or int8."""
    seed: int = 1
    precision: str = "fp32"
    """fp32, or bf16 (autocast; GPU)."""
    checkpoint_every: int = 1_000
    validate_every: int = 1_000
    log_every: int = 50

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"train: run.precision is {self.precision!r}; choose fp32 or bf16")
        # Known here, not after hours, when the model is saved.
        if self.table not in TABLES:
            raise ConfigError(f"train: run.table is {self.table!r}; choose from {', '.join(TABLES)}")
        _at_least("run", self, {"seed": 0, "checkpoint_every": 1, "validate_every": 1, "log_every": 1})


def _at_least(table: str, settings: Any, limits: dict[str, float]) -> None:
    for key, limit in limits.items():
        value = getattr(settings, key)
        if not limit <= value < math.inf:
            raise ConfigError(f"train: {table}.{key} is {value}; it must be a finite number of at least {limit}")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that `emsmine train` needs."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Refuse settings that contradict one another."""
        _at_least("heads", self.heads, {"language_dim": 1, "num_languages": 1, "projection_dim": 1})
        if self.loss.xtr_weight and not self.heads.xtr:
            raise ConfigError("train: loss.xtr_weight is not 0 but heads.xtr is false; set one of them")
        if not self.loss.xtr_weight and not self.loss.contrastive_weight:
            raise ConfigError("train: both loss weights are 0; nothing would be trained")
        if self.loss.contrastive_weight and self.data.batch_size < 2:
            raise ConfigError(
                "train: data.batch_size is 1, but the contrastive objective needs other pairs as negatives; "
                "raise it, or set loss.contrastive_weight to 0"
            )

    def semantic(self) -> dict[str, Any]:
        """Return the settings that decide the result, for comparison on resume."""
        everything = dataclasses.asdict(self)
        run = everything.pop("run")
        everything["data"].pop("cache")
        everything["data"].pop("train")
        return {**everything, "run": {"seed": run["seed"], "precision": run["precision"]}}


def load_training_config(path: Path) -> TrainingConfig:
    """Read a TOML training configuration.

    Relative paths in it are relative to the working directory, like those on the command line.

    Raises:
        ConfigError: the file is missing, not TOML, or has an unknown table or key (all are named) or an impossible
            value.
    """
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"train: cannot read {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"train: {path} is not TOML ({error})") from error
    tables = {f.name: f.default_factory for f in dataclasses.fields(TrainingConfig)}
    unknown = sorted(set(parsed) - set(tables))
    if unknown:
        raise ConfigError(f"train: {path} has unknown tables {', '.join(unknown)}; known: {', '.join(sorted(tables))}")
    built = {name: _build(kind, parsed.get(name, {}), f"{path}: [{name}]") for name, kind in tables.items()}
    return TrainingConfig(**built)


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"train: {where} must be a table, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"train: {where} has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(fields))}")
    for key, value in values.items():
        wanted = type(getattr(kind(), key))
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if wanted is tuple:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"train: {where} {key} is {value!r}; it must be a list of strings")
        elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ConfigError(f"train: {where} {key} is {value!r}; it must be of type {wanted.__name__}")
    converted = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**converted)
    except ModelError as error:
        # The network's own checks do not know that a training configuration is to blame.
        raise ConfigError(f"train: {where}: {error}") from error
