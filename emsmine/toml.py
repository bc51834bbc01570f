"""TOML files of people: read with limits, so that whatever is in them ends in settings or in one clear message."""

import math
import re
import tomllib
from pathlib import Path
from typing import Any

from emsmine.errors import ConfigError

_MAX_BYTES = 16 * 1024 * 1024
"""A thousand times a long configuration: more is another file, given by mistake."""
_MAX_DEPTH = 16
"""Tables and lists inside one another; settings need three."""
_MAX_INTEGER = 2**63
"""TOML asks for 64 bits; larger numbers overflow in libraries, far from the setting that held them."""

_BYTE = re.compile("\0([89a-f][0-9a-f])")


def read_toml(path: Path, command: str) -> dict[str, Any]:
    """Parse a TOML file whose values are of a size that settings have.

    Args:
        path: the file.
        command: who reads it; messages begin with it.

    Raises:
        ConfigError: the file cannot be read, is too large, not UTF-8 or not TOML, or holds a value that no setting
            can have: nested too deeply, an integer of more than 64 bits, a number that is not finite, or a text with
            a NUL character that stands for no byte of a file name (see `parse_toml`).
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{command}: cannot read {path} ({error.strerror})") from error
    except ValueError:
        raise ConfigError(f"{command}: {str(path)!r} cannot be the name of a file") from None
    return parse_toml(content, path, command)


def parse_toml(content: bytes, path: Path, command: str) -> dict[str, Any]:
    """Parse the content of a TOML file like `read_toml`.

    TOML has no way to write a file name that is no UTF-8, and no file name has a NUL: `\\u0000e9` in a text stands for
    the byte E9, and is read as Python has it in file names.

    Args:
        content: of the file.
        path: its name, for messages.
        command: who reads it; messages begin with it.

    Raises:
        ConfigError: as `read_toml`.
    """
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{command}: {path} has more than {_MAX_BYTES >> 20} MiB; it is no configuration")
    try:
        parsed = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{command}: {path} is not TOML (line {line} is not UTF-8; save it as UTF-8)") from None
    except RecursionError:
        raise ConfigError(f"{command}: {path} is not TOML that can be read: it is nested too deeply") from None
    except ValueError as error:
        # More than TOMLDecodeError: Python refuses integers of thousands of digits on its own.
        raise ConfigError(f"{command}: {path} is not TOML ({error})") from None
    _check_values(parsed, f"{command}: {path}")
    return {key: _with_bytes(value) for key, value in parsed.items()}


def _with_bytes(value: Any) -> Any:
    """Put bytes of file names in their places; the depth was checked."""
    if isinstance(value, dict):
        return {key: _with_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    return _BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), value) if isinstance(value, str) else value


def _check_values(parsed: dict[str, Any], where: str) -> None:
    """Refuse what no setting can be. With a stack of its own: dotted keys nest without recursion of the parser."""
    waiting: list[tuple[str, int, Any]] = [("", 0, parsed)]
    while waiting:
        name, depth, value = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{where}: {name[:60]}… is nested more than {_MAX_DEPTH} deep; settings are in tables")
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}" if name else key, depth + 1, item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(name, depth + 1, item) for item in value]
        elif isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
            raise ConfigError(f"{where}: {name} is an integer of {value.bit_length()} bits; at most 64 are possible")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: {name} is {value}; it must be a finite number")
        elif isinstance(value, str) and "\0" in _BYTE.sub("", value):
            raise ConfigError(f"{where}: {name} holds a NUL character: {value[:60]!r}; leave it out")
