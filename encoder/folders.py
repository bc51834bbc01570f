"""Where models lie, found without loading one."""

from pathlib import Path

from emsmine.errors import ConfigError

CONFIG = "config.json"
"""The file that makes a folder a model directory."""
PRECISIONS = ("fp32", "int8", "bf16")
"""Endings of an encoder's name, behind an `@`."""


def pretrained_folder(name: str) -> Path:
    """Return the folder of a model that ships with emsmine.

    Raises:
        ConfigError: no such model; the message lists those there are.
    """
    root = Path(__file__).parent / "pretrained"
    folder = root / name
    if not (folder / CONFIG).exists():
        found = sorted(p.parent.name for p in root.glob(f"*/{CONFIG}"))
        raise ConfigError(
            f"encoder: no model directory and no shipped model is called {name!r}; shipped: "
            f"{', '.join(found) or 'none'}"
        )
    return folder


def split_precision(rest: str) -> tuple[str, str]:
    """Cut `NAME@int8` in two; only known endings count, another `@` belongs to the path."""
    name, _, precision = rest.rpartition("@")
    return (name, precision) if precision in PRECISIONS and name else (rest, PRECISIONS[0])


def ems_folder(spec: str) -> Path | None:
    """Return the model directory that an encoder's name means; None if it is none of ours.

    Args:
        spec: as `load_encoder` takes it.
    """
    kind, colon, rest = spec.partition(":")
    name, _ = split_precision(rest if colon and kind == "ems" else spec)
    folder = Path(name)
    if name and (folder / CONFIG).exists() and not (folder / "modules.json").exists():
        return folder
    if kind != "ems" or not name:
        return None
    try:
        return pretrained_folder(name)
    except ConfigError:
        return None
