"""The settings of `emsmine bootstrap`, read from one TOML file, and their comparison with those of an earlier call."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsmine.encoder.training.settings import TrainingConfig, build_table
from emsmine.errors import ConfigError, CorruptOutputError, StaleOutputError
from emsmine.fields import check_table
from emsmine.pipelines.configuration import build_settings, read_config
from emsmine.pipelines.settings import STAGE_SETTINGS, Settings
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import new_attempt, write_atomically
from emsmine.pipelines.store.tasks import JSON

STATE_NAME = "bootstrap.json"
_TABLES = ("bootstrap", "train", "mine")
# Every round has its own, so a value in the file would be ignored.
_DECIDED = {
    ("data", "train"): "bootstrap.seed and the mined pairs are the training files",
    ("run", "output"): "every round trains in its own folder of bootstrap.output",
}


@dataclass(frozen=True)
class BootstrapSettings:
    """The table `[bootstrap]`."""

    output: str = ""
    """Folder of the rounds; must be given."""
    seed: tuple[str, ...] = ()
    """Pair files, or folders of them, as `data.train` of a training takes them."""
    dev: tuple[str, ...] = ()
    """Pair files to compare the rounds by; none: the pairs that every training holds out of the seed."""
    rounds: int = 2
    """Rounds in all; `--rounds` wins over it."""
    max_pairs: int = 0
    """Most mined pairs per language pair and round, best score first; 0: all."""
    encoder: str = ""
    """Mines in round 1 instead of one trained on the seed, as in `ems:default`; there may then be no seed."""


@dataclass(frozen=True)
class BootstrapConfig:
    """Everything that `emsmine bootstrap` needs."""

    bootstrap: BootstrapSettings
    train: TrainingConfig
    mine: Settings

    def semantic(self) -> dict[str, JSON]:
        """Return the settings that decide a round, by dotted name: not the number of rounds, nor any path."""
        found: dict[str, JSON] = {"bootstrap.max_pairs": self.bootstrap.max_pairs}
        found["bootstrap.encoder"] = self.bootstrap.encoder
        tables = self.train.semantic()
        kept = ["name", "table", "export", *(["validate_every"] if self.train.run.export == "best" else [])]
        tables["run"] |= {name: getattr(self.train.run, name) for name in kept}
        found |= {f"train.{table}.{key}": value for table, values in tables.items() for key, value in values.items()}
        found["mine.pairs"] = ["-".join(pair) for pair in self.mine.pairs]
        for stage in STAGE_SETTINGS:
            found |= {f"mine.{stage}.{key}": value for key, value in self.mine.params(stage).items()}
        # Of the rounds, not of the settings.
        del found["mine.encode.encoder"]
        return found


def load_bootstrap_config(path: Path, *, rounds: int | None = None) -> BootstrapConfig:
    """Read a TOML file with the tables `[bootstrap]`, `[train.…]` and `[mine.…]`.

    Relative paths in it are relative to the working directory, like those on the command line.

    Args:
        path: the file. Its `train` may also be the path of a training configuration.
        rounds: wins over `bootstrap.rounds`.

    Raises:
        ConfigError: the file cannot be read, or has an unknown table or key (all are named) or an impossible value.
    """
    parsed = read_config(path)
    unknown = sorted(set(parsed) - set(_TABLES))
    if unknown:
        raise ConfigError(
            f"bootstrap: {path} has unknown tables or keys {', '.join(unknown)}; known: {', '.join(_TABLES)}"
        )
    given = _table(parsed.get("bootstrap", {}), f"{path}: [bootstrap]")
    settings = _bootstrap_settings(given | ({} if rounds is None else {"rounds": rounds}), f"{path}: [bootstrap]")
    config = BootstrapConfig(settings, _training(parsed.get("train", {}), path), _mining(parsed.get("mine", {}), path))
    _check_together(config, path)
    return config


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"bootstrap: {where} must be a table, got {type(value).__name__}")
    return value


def _bootstrap_settings(values: Mapping[str, Any], where: str) -> BootstrapSettings:
    settings = BootstrapSettings(**check_table(BootstrapSettings, values, f"bootstrap: {where}"))
    for key, lowest in (("rounds", 1), ("max_pairs", 0)):
        if getattr(settings, key) < lowest:
            raise ConfigError(f"bootstrap: {where} {key} is {getattr(settings, key)}; it must be at least {lowest}")
    if not settings.output or "://" in settings.output:
        raise ConfigError(f"bootstrap: {where} output is {settings.output!r}; name a local folder for the rounds")
    return settings


def _training(given: Any, path: Path) -> TrainingConfig:
    """Build the training settings from the tables below `train`, or from the file that it names."""
    where = f"{path}: "
    if isinstance(given, str):
        given, where = read_config(Path(given)), f"{given}: "
    else:
        where += "train."
    tables = {field.name: field.default_factory for field in dataclasses.fields(TrainingConfig)}
    unknown = sorted(set(_table(given, where + "*")) - set(tables))
    if unknown:
        raise ConfigError(f"bootstrap: {where}{unknown[0]} is an unknown table; known: {', '.join(tables)}")
    for (table, key), reason in _DECIDED.items():
        if key in _table(given.get(table, {}), f"{where}{table}"):
            raise ConfigError(f"bootstrap: {where}{table}.{key} has no effect: {reason}; leave it out")
    return TrainingConfig(**{n: build_table(kind, given.get(n, {}), f"{where}{n}") for n, kind in tables.items()})


def _mining(given: Any, path: Path) -> Settings:
    tables = _table(given, f"{path}: [mine]")
    if "encoder" in _table(tables.get("encode", {}), f"{path}: [mine.encode]"):
        raise ConfigError(
            f"bootstrap: {path}: mine.encode.encoder has no effect: every round mines with the encoder that it "
            "trained; leave it out, or name one for round 1 as bootstrap.encoder"
        )
    # Rounds mine with encoders without a scorer; a first one that has one would read `select.threshold` otherwise.
    reading = {"rescore": False, **_table(tables.get("rescore", {}), f"{path}: [mine.rescore]")}
    settings = build_settings({**tables, "rescore": reading}, {})
    absolute = tuple(name if "://" in name else os.path.abspath(name) for name in settings.inputs)
    return dataclasses.replace(settings, inputs=absolute)


def _check_together(config: BootstrapConfig, path: Path) -> None:
    settings = config.bootstrap
    if not settings.seed and not settings.encoder:
        raise ConfigError(f"bootstrap: {path} names no pair files as bootstrap.seed; add some, or a bootstrap.encoder")
    if not settings.dev and not (settings.seed and config.train.data.validation_pairs):
        raise ConfigError(
            f"bootstrap: {path} names no pair files as bootstrap.dev, and nothing is held out of the seed "
            "(bootstrap.seed, train.data.validation_pairs); add bootstrap.dev, to compare the rounds by"
        )
    if not config.mine.pairs or not config.mine.inputs:
        raise ConfigError(f'bootstrap: {path} needs mine.inputs (text files) and mine.pairs, as in pairs = ["de-en"]')


def compare_state(output: Path, now: Mapping[str, JSON]) -> None:
    """Compare settings and input files with those that the rounds in a folder were made with; note them in a new one.

    Args:
        output: folder of the rounds.
        now: settings by dotted name, as from `BootstrapConfig.semantic`, and contents of files.

    Raises:
        StaleOutputError: they differ; the message names each.
        CorruptOutputError: the note is damaged.
        ConfigError: the folder holds something else.
        ForeignPathError: the note is a link or no plain file.
    """
    path = output / STATE_NAME
    content = json.dumps(now, indent=1, sort_keys=True, ensure_ascii=False).encode("utf-8") + b"\n"
    if not inside.exists(output, STATE_NAME):
        if (output / "model").exists():
            raise ConfigError(f"bootstrap: {output} holds the model of something else; choose another bootstrap.output")
        write_atomically(path, content, new_attempt(), root=output)
        return
    try:
        before = json.loads(inside.read_bytes(output, STATE_NAME))
        plain = json.loads(content)
        changed = [
            f"{key} {_short(before.get(key))} -> {_short(value)}"
            for key, value in plain.items()
            if before.get(key, _DEFAULTS.get(key)) != value
        ]
        changed += [f"{key} {_short(before[key])} -> none" for key in before if key not in plain]
    except (ValueError, AttributeError, RecursionError) as error:
        raise CorruptOutputError(
            f"bootstrap: {path} is damaged ({error}); restore it, or choose another bootstrap.output"
        ) from error
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise StaleOutputError(
            f"bootstrap: {output} holds rounds made otherwise: {'; '.join(changed[:5])}{more}. Restore that (only "
            "bootstrap.rounds may change), or choose another bootstrap.output"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


# A setting that an earlier version did not know yet had the effect of its default.
_DEFAULTS: dict[str, Any] = json.loads(
    json.dumps(BootstrapConfig(BootstrapSettings(), TrainingConfig(), Settings()).semantic())
)
