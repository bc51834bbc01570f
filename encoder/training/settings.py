"""The settings of a training run, read from TOML."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emsmine.encoder.model.config import NetworkConfig
from emsmine.encoder.model.directory import TABLES
from emsmine.encoder.model.preprocessing import PREPROCESSINGS
from emsmine.encoder.training.losses import XTR_TARGETS, HeadConfig
from emsmine.errors import ConfigError, ModelError
from emsmine.fields import check_table
from emsmine.toml import read_toml

PRECISIONS = ("fp32", "bf16", "fp16")
EXPORTS = ("last", "best", "ema")
_MAX_INTEGER = 2**63 - 1
_MAX_EXPONENT = 10
"""Beyond, the power of a corpus's size overflows, and the largest corpus alone is drawn long before."""


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    train: tuple[str, ...] = ()
    """Pair files, or folders of them, named `<xx>-<yy>.tsv[.gz|.zst]` or `.parquet`."""
    tokenizer: str = ""
    """SentencePiece model; empty: one is trained on the training files."""
    cache: str = "cache"
    """Folder for tokenised data, inside `run.output`."""
    batch_size: int = 2048
    """Pairs per step, of all processes together; also the negatives of a sentence."""
    exponent: float = 0.7
    """A corpus is drawn in proportion to its size to this power."""
    groups: int = 0
    """Parts of a batch that come from one corpus each; 0: mixed freely."""
    validation_pairs: int = 100
    """Pairs per corpus (at most a tenth of it) held out for validation by retrieval accuracy."""
    tokenizer_sample: int = 28_000
    """Sentences per language that a tokeniser is trained on; three times as many of Chinese, twice as many of Japanese
    and Korean."""
    preprocessing: str = "none"
    """`none`, or `ems`: lower-case and split words as the released EMS does, in training and in the model."""
    chunk_size: int = 0
    """Pairs per forward pass of a process; the step is that of the whole batch. 0: all at once."""
    chunk_tokens: int = 0
    """Tokens of both sides per forward pass of a process, the pairs sorted by length. 0: all at once."""
    shuffle_buffer: int = 0
    """Pairs of a corpus that are mixed at a time; 0: the whole corpus."""
    hard_negatives: int = 0
    """Similar pairs that follow each drawn pair into its batch, which keeps its size."""
    negatives: str = ""
    """Encoder, as in `ems:default`, that says which pairs are similar; set it together with `hard_negatives`."""
    negatives_limit: float = 0.95
    """Pairs with a larger cosine are taken for translations and are no negatives."""
    negatives_among: int = 50_000
    """Similar pairs are looked for among this many neighbouring lines of a corpus; the cost grows with it."""
    teacher: str = ""
    """Encoder to learn from, as in `ems:default`; set it together with `loss.distill_weight`."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        _at_least("data", self, {"batch_size": 1, "groups": 0, "validation_pairs": 0, "tokenizer_sample": 1})
        _at_least("data", self, {"chunk_size": 0, "chunk_tokens": 0, "shuffle_buffer": 0, "hard_negatives": 0})
        _at_least("data", self, {"negatives_among": 2})
        _one_of("data", self, "preprocessing", PREPROCESSINGS)
        if not 0 <= self.exponent <= _MAX_EXPONENT:
            raise ConfigError(f"train: data.exponent is {self.exponent}; it must be from 0 to {_MAX_EXPONENT}")
        if self.groups > self.batch_size:
            raise ConfigError(f"train: data.groups is {self.groups}; it must not exceed batch_size {self.batch_size}")
        if self.chunk_size and self.chunk_tokens:
            raise ConfigError(
                f"train: data.chunk_size is {self.chunk_size} and data.chunk_tokens is {self.chunk_tokens}; set one"
            )
        if bool(self.hard_negatives) != bool(self.negatives):
            raise ConfigError(
                f"train: data.hard_negatives is {self.hard_negatives} and data.negatives is {self.negatives!r}; "
                "set both, or neither"
            )
        if self.hard_negatives >= self.batch_size:
            raise ConfigError(
                f"train: data.hard_negatives is {self.hard_negatives}; it must be below batch_size {self.batch_size}"
            )
        if not 0 < self.negatives_limit <= 1:
            raise ConfigError(
                f"train: data.negatives_limit is {self.negatives_limit}; it must be above 0 and at most 1"
            )


@dataclass(frozen=True)
class LossConfig:
    """Objectives and their weights."""

    xtr_weight: float = 1.0
    """Of cross-lingual token-level reconstruction, in both directions."""
    contrastive_weight: float = 2.0
    """Of the sentence-level contrastive objective."""
    temperature: float = 0.1
    """Of the contrastive objective."""
    xtr_targets: str = "paper"
    """`paper`, or `counts`: repeated tokens add up."""
    mask_duplicates: bool = False
    """Leave equal sentences of a batch out of the negatives (the paper does not)."""
    gather_negatives: bool = True
    """With several processes: the pairs of all of them are negatives (in the paper those of the same GPU)."""
    learn_temperature: bool = False
    """Start from `temperature` and learn it; it never falls below 0.01."""
    margin: float = 0.0
    """Taken off the cosine of true pairs in the contrastive objective."""
    matryoshka: tuple[int, ...] = ()
    """Widths whose first components must do on their own, as in `[64, 128]`, beside the full width."""
    distill_weight: float = 0.0
    """Of the squared distance of both sides from the vectors of `data.teacher`."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        _one_of("loss", self, "xtr_targets", XTR_TARGETS)
        _at_least("loss", self, {"xtr_weight": 0, "contrastive_weight": 0, "distill_weight": 0, "margin": 0})
        if not all(width >= 1 for width in self.matryoshka):
            raise ConfigError(f"train: loss.matryoshka is {list(self.matryoshka)}; widths must be at least 1")
        if not self.temperature > 0:
            raise ConfigError(f"train: loss.temperature is {self.temperature}; it must be positive")


@dataclass(frozen=True)
class OptimiserConfig:
    """Adam, linear warm-up and decay."""

    steps: int = 10_000
    """Of the whole training: it shapes the schedule."""
    learning_rate: float = 3e-4
    """Highest learning rate of Adam."""
    sparse_learning_rate: float = 0.0
    """Of the token table when its gradients are sparse; 0: the table is trained like the rest."""
    warmup_steps: int = 1_000
    """The learning rate rises linearly over them."""
    schedule: str = "cosine"
    """How the learning rate falls afterwards: `cosine` or `linear`."""
    final_fraction: float = 0.0
    """The learning rate ends at this fraction of its peak."""
    weight_decay: float = 1e-5
    """Of all weights with dense gradients."""
    amsgrad: bool = False
    """Use the AMSGrad variant of Adam."""
    embedding_std: float = 0.02
    """Of the normal distribution that the token table starts from."""
    init: str = ""
    """Model to start from, as in `ems:default`, with its tokeniser; layers that it lacks start without effect
    (`network.layer_norm` must then be `pre`)."""
    gradient_clip: float = 0.0
    """Largest joint norm of all gradients, dense and sparse; 0: no clipping."""
    ema_decay: float = 0.0
    """Of an exponential moving average of the network's weights, as in 0.999, and at most (1 + step) / (10 + step); 0:
    no average."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.schedule not in ("cosine", "linear"):
            raise ConfigError(f"train: optimiser.schedule is {self.schedule!r}; choose cosine or linear")
        _at_least("optimiser", self, {"steps": 1, "warmup_steps": 0})
        for key in (
            "learning_rate",
            "sparse_learning_rate",
            "final_fraction",
            "weight_decay",
            "gradient_clip",
            "embedding_std",
        ):
            _at_least("optimiser", self, {key: 0})
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"train: optimiser.ema_decay is {self.ema_decay}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class RunConfig:
    """Where and how; none of these changes what a step computes, except `seed` and `precision`."""

    output: str = "run"
    """Folder that everything is written to."""
    name: str = "model"
    """Name of the model, shown in signatures."""
    table: str = "float16"
    """How the model directory stores the token table: `float32`, `float16` or `int8`."""
    seed: int = 1
    """Of all that is drawn: weights, batches, dropout."""
    precision: str = "fp32"
    """`fp32`, `bf16` (autocast) or `fp16` (autocast and a loss scale; GPU only)."""
    export: str = "last"
    """Which weights the model directory gets: `last`, `best` (by validation accuracy) or `ema` (the moving average)."""
    checkpoint_every: int = 1_000
    """Steps from one checkpoint to the next: what an interrupt may lose."""
    validate_every: int = 1_000
    """Steps from one validation to the next."""
    log_every: int = 50
    """Steps from one line of the log to the next."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        _one_of("run", self, "precision", PRECISIONS)
        _one_of("run", self, "export", EXPORTS)
        # Known here, not after hours, when the model is saved.
        _one_of("run", self, "table", TABLES)
        _at_least("run", self, {"seed": 0, "checkpoint_every": 1, "validate_every": 1, "log_every": 1})


def _one_of(table: str, settings: Any, key: str, choices: Sequence[str]) -> None:
    value = getattr(settings, key)
    if value not in choices:
        raise ConfigError(f"train: {table}.{key} is {value!r}; choose from {', '.join(choices)}")


def _at_least(table: str, settings: Any, limits: dict[str, float]) -> None:
    for key, limit in limits.items():
        value = getattr(settings, key)
        if not limit <= value < math.inf:
            raise ConfigError(f"train: {table}.{key} is {value}; it must be a finite number of at least {limit}")
        if isinstance(value, int) and value > _MAX_INTEGER:
            raise ConfigError(f"train: {table}.{key} has {value.bit_length()} bits; it must be at most {_MAX_INTEGER}")


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
        if not (self.loss.xtr_weight or self.loss.contrastive_weight or self.loss.distill_weight):
            raise ConfigError("train: both loss weights are 0; nothing would be trained")
        if self.loss.contrastive_weight and self.data.batch_size < 2:
            raise ConfigError(
                "train: data.batch_size is 1, but the contrastive objective needs other pairs as negatives; "
                "raise it, or set loss.contrastive_weight to 0"
            )
        if bool(self.loss.distill_weight) != bool(self.data.teacher):
            raise ConfigError(
                f"train: loss.distill_weight is {self.loss.distill_weight} and data.teacher is "
                f"{self.data.teacher!r}; set both, or neither"
            )
        self._check_contrastive()
        self._check_negatives()
        self._check_tables()

    def _check_contrastive(self) -> None:
        loss = self.loss
        if not loss.contrastive_weight and (loss.learn_temperature or loss.margin or loss.matryoshka):
            raise ConfigError(
                "train: loss.learn_temperature, margin and matryoshka belong to the contrastive objective, "
                "but loss.contrastive_weight is 0"
            )
        if loss.matryoshka and self.heads.projection:
            raise ConfigError(
                "train: loss.matryoshka cuts the vectors that the contrastive objective sees; set heads.projection to "
                "false, so that these are the sentence vectors"
            )
        if loss.matryoshka and max(loss.matryoshka) > self.network.dim:
            raise ConfigError(
                f"train: loss.matryoshka has the width {max(loss.matryoshka)}, but network.dim is {self.network.dim}"
            )

    def _check_negatives(self) -> None:
        if not self.data.hard_negatives:
            return
        if not self.loss.contrastive_weight:
            raise ConfigError(
                "train: data.hard_negatives are negatives of the contrastive objective, but loss.contrastive_weight "
                "is 0"
            )
        if not self.loss.mask_duplicates:
            raise ConfigError(
                "train: data.hard_negatives brings pairs with equal sentences together; set loss.mask_duplicates to "
                "true, so that they are no negatives of one another"
            )

    def _check_tables(self) -> None:
        if self.heads.shared_embedding and not self.loss.xtr_weight:
            raise ConfigError("train: heads.shared_embedding needs the reconstruction head, but loss.xtr_weight is 0")
        if self.heads.shared_embedding and self.optimiser.sparse_learning_rate:
            raise ConfigError(
                "train: heads.shared_embedding gives the token table dense gradients; set "
                "optimiser.sparse_learning_rate to 0"
            )
        if self.run.export == "ema" and not self.optimiser.ema_decay:
            raise ConfigError("train: run.export is ema, but optimiser.ema_decay is 0; set it, for instance to 0.999")
        if self.run.export == "best" and not self.data.validation_pairs:
            raise ConfigError(
                "train: run.export is best, but data.validation_pairs is 0; there is nothing to choose by"
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
    parsed = read_toml(path, "train")
    tables = {f.name: f.default_factory for f in dataclasses.fields(TrainingConfig)}
    unknown = sorted(set(parsed) - set(tables))
    if unknown:
        raise ConfigError(f"train: {path} has unknown tables {', '.join(unknown)}; known: {', '.join(sorted(tables))}")
    built = {name: build_table(kind, parsed.get(name, {}), f"{path}: [{name}]") for name, kind in tables.items()}
    return TrainingConfig(**built)


def build_table(kind: Any, values: Any, where: str) -> Any:
    """Build the settings of one table, such as `OptimiserConfig`, from parsed TOML.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of range; the message begins with `where`.
    """
    checked = check_table(kind, values, f"train: {where}")
    try:
        return kind(**checked)
    except ModelError as error:
        # The network's own checks do not know that a training configuration is to blame.
        raise ConfigError(f"train: {where}: {error}") from error
