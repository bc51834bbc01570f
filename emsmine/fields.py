"""Settings as fields of frozen dataclasses: declared once, checked by one function, whoever reads the file.

A field's default tells its type. `setting` adds what a help text and a range need; a plain field has neither.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from emsmine.errors import ConfigError


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    low: float = -math.inf,
    high: float = math.inf,
    kind: type | None = None,
) -> Any:
    """Declare a setting with its help text, allowed words, lowest and highest value.

    Args:
        default: None where the value follows from other settings unless it is given; `kind` tells its type then.
        text: the help text.
        choices: allowed words.
        low: lowest value.
        high: highest value.
        kind: type of the value, where the default does not tell it.
    """
    limits = {"choices": choices, "low": low, "high": high}
    return dataclasses.field(default=default, metadata={"help": text, **limits, "kind": kind or type(default)})


def kind_of(field: "dataclasses.Field[Any]") -> type:
    """Return the type of a setting's value."""
    kind: type = field.metadata.get("kind", type(field.default))
    return kind


def check_table(kind: type[Any], values: Any, where: str, joint: str = " ") -> dict[str, Any]:
    """Return the values of a table by key, each checked against the field of that name.

    Args:
        kind: dataclass whose fields all have defaults.
        values: as parsed from TOML.
        where: what messages begin with, such as `config: select`.
        joint: between that and the key: `.` where the two together are the name of the setting.

    Raises:
        ConfigError: it is no table, or has an unknown key, or a value that `check_value` refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table, got {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{where} has unknown keys {', '.join(unknown)}; known: {', '.join(fields)}")
    return {name: check_value(fields[name], value, f"{where}{joint}{name}") for name, value in values.items()}


def check_value(field: "dataclasses.Field[Any]", value: Any, where: str) -> Any:
    """Return a value with its type, words and range checked; an integer passes for a float, a list for a tuple.

    Args:
        field: what it is for.
        value: as parsed from TOML or a command line.
        where: what messages begin with.

    Raises:
        ConfigError: wrong type, unknown word, or out of range.
    """
    wanted = kind_of(field)
    if value is None and field.default is None:
        return None
    if wanted is tuple:
        value = _check_list(field, value, where)
    elif wanted is float and type(value) is int:
        value = float(value)
    # By type, as true and false would pass for integers.
    if type(value) is not wanted:
        raise ConfigError(f"{where} is {value!r}; it must be of type {wanted.__name__}")
    choices = field.metadata.get("choices", ())
    for word in value if isinstance(value, tuple) else (value,):
        if choices and word not in choices:
            raise ConfigError(f"{where} is {word!r}; choose from {', '.join(choices)}")
    if isinstance(value, int | float) and wanted is not bool:
        _check_range(field, value, where)
    return value


def _check_list(field: "dataclasses.Field[Any]", value: Any, where: str) -> tuple[Any, ...]:
    item: type = next(iter(typing.get_args(field.type)), str)
    if not isinstance(value, (list, tuple)) or not all(type(one) is item for one in value):
        what = {str: "strings", int: "integers"}[item]
        raise ConfigError(f"{where} is {value!r}; it must be a list of {what}")
    return tuple(value)


def _check_range(field: "dataclasses.Field[Any]", value: float, where: str) -> None:
    low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
    if not math.isfinite(value) or not low <= value <= high:
        bounds = [f"at least {low}"] * math.isfinite(low) + [f"at most {high}"] * math.isfinite(high)
        raise ConfigError(f"{where} is {value}; it must be {' and '.join(bounds) or 'finite'}")
