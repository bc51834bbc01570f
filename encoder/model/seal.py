"""Seal a model directory again: `python -m emsmine.encoder.model.seal FOLDER`.

For a `config.json` that was edited on purpose, and for models of an earlier version, which have no seal.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from emsmine.encoder.model.directory import load_model, read_config, write_config
from emsmine.errors import EmsmineError


def seal(folder: Path) -> Path:
    """Write the seal of a model directory, and check that the directory loads with it.

    Raises:
        ModelError: the directory is no sound model: a file is missing or damaged, or a setting is impossible. Its
            `config.json` is then what it was.
    """
    path = folder / "config.json"
    config = read_config(folder, sealed=False)
    before = path.read_bytes()
    write_config(folder, config)
    try:
        load_model(folder)
    except BaseException:
        path.write_bytes(before)
        raise
    return path


def main(arguments: Sequence[str]) -> int:
    """Seal the folders named; returns the exit code."""
    if not arguments:
        print("usage: python -m emsmine.encoder.model.seal FOLDER…", file=sys.stderr)
        return 2
    try:
        for name in arguments:
            print(seal(Path(name)))
    except EmsmineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
