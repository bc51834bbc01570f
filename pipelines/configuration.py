"""The settings of a run as TOML: read, combined with flags, written beside the results."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emsmine import languages
from emsmine.errors import ConfigError
from emsmine.fields import check_table
from emsmine.pipelines.settings import STAGE_SETTINGS, Settings
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.layout import CONFIG_NAME
from emsmine.toml import parse_toml, read_toml


def parse_pairs(codes: tuple[str, ...] | list[str]) -> tuple[tuple[str, str], ...]:
    """Read `de-en,zh-en` or several such words into canonical pairs, each alphabetical, all sorted.

    Raises:
        LanguageError: a code is unknown, or a pair is not two languages.
    """
    found = set()
    for word in (part.strip() for code in codes for part in code.split(",")):
        if word:
            left, right = sorted(languages.pair(word))
            found.add((left, right))
    return tuple(sorted(found))


def build_settings(
    base: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]],
    *,
    inputs: tuple[str, ...] = (),
    pairs: tuple[tuple[str, str], ...] = (),
    reuse: str | None = None,
) -> Settings:
    """Combine a parsed TOML configuration with overrides.

    Args:
        base: tables per stage, `inputs`, `pairs` and `reuse` at the top; unknown keys are errors.
        overrides: stage → name → value; win over `base`.
        inputs: win over `base["inputs"]` if not empty.
        pairs: win over `base["pairs"]` if not empty.
        reuse: wins over `base["reuse"]` if not None; "" takes nothing over.
    """
    unknown = sorted(set(base) - {*STAGE_SETTINGS, "inputs", "pairs", "reuse"})
    if unknown:
        known = ", ".join(["inputs", "pairs", "reuse", *STAGE_SETTINGS])
        raise ConfigError(f"config: unknown table or key {', '.join(unknown)}; known: {known}")
    stages = {}
    for stage, kind in STAGE_SETTINGS.items():
        table = base.get(stage, {})
        if not isinstance(table, Mapping):
            raise ConfigError(f"config: [{stage}] must be a table, got {type(table).__name__}")
        values = check_table(kind, {**table, **overrides.get(stage, {})}, f"config: {stage}", ".")
        stages[stage] = kind(**{name: _in_order(kind, name, value) for name, value in values.items()})
    for key in ("inputs", "pairs"):
        value = base.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"config: {key} must be a list of strings, got {value!r}")
    reused = base.get("reuse", "") if reuse is None else reuse
    if not isinstance(reused, str):
        raise ConfigError(f"config: reuse must be the directory of an earlier run as a string, got {reused!r}")
    return Settings(
        inputs=inputs or tuple(base.get("inputs", ())),
        pairs=pairs or parse_pairs(base.get("pairs", [])),
        reuse=reused,
        **stages,
    )


def _in_order(kind: type[Any], name: str, value: Any) -> Any:
    """Return a list as the set that it is, in one order: another order or a repetition is no other result."""
    if not isinstance(value, tuple):
        return value
    choices = kind.__dataclass_fields__[name].metadata["choices"]
    return tuple(sorted(set(value), key=lambda word: choices.index(word) if choices else word))


def read_config(path: Path) -> dict[str, Any]:
    """Parse a TOML configuration.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds what no setting can be.
    """
    return read_toml(path, "config")


def read_saved_config(root: Path) -> dict[str, Any]:
    """Parse the settings saved in a run directory; empty if there are none.

    Raises:
        ConfigError: as `read_config`.
        ForeignPathError: the file is a link or no plain file.
    """
    try:
        content = inside.read_bytes(root, CONFIG_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"config: cannot read {root / CONFIG_NAME} ({error.strerror})") from error
    return parse_toml(content, root / CONFIG_NAME, "config")


def to_toml(settings: Settings) -> str:
    """Write settings as TOML that `read_config` and `build_settings` read back to equal settings."""
    pairs = ["-".join(pair) for pair in settings.pairs]
    lines = [f"inputs = {_toml(list(settings.inputs))}", f"pairs = {_toml(pairs)}"]
    lines += [f"reuse = {_toml(settings.reuse)}"] if settings.reuse else []
    for stage in STAGE_SETTINGS:
        lines.append(f"\n[{stage}]")
        values = dataclasses.asdict(getattr(settings, stage)).items()
        lines += [f"{key} = {_toml(value)}" for key, value in values if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{"".join(map(_toml_character, str(value)))}"'


def _toml_character(c: str) -> str:
    if 0xDC80 <= ord(c) <= 0xDCFF:
        # A byte of a file name that is no UTF-8, as Python stands it in; `parse_toml` reads it back.
        return f"\\u0000{ord(c) - 0xDC00:02x}"
    return f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}"
