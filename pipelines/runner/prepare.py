"""From what a user gives to what a run is told, the same for the command line and for Python."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emsmine import languages
from emsmine.errors import ConfigError
from emsmine.outputs import check_output_folder
from emsmine.pipelines.configuration import build_settings, parse_pairs, read_config, read_saved_config, to_toml
from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store.layout import CONFIG_NAME, WRITTEN

if TYPE_CHECKING:
    from emsmine.pipelines.runner.run import RunOptions

logger = logging.getLogger(__name__)


def output_path(value: str) -> Path:
    """Return the path of the run directory.

    Raises:
        ConfigError: it is empty, a file stands there, or it is a URL.
    """
    if not value:
        raise ConfigError("--output is empty; name a folder for the results, as in --output out")
    if "://" in value:
        raise ConfigError(
            f"--output: {value} is a URL; results must be local (inputs may be remote). Copy them afterwards"
        )
    path = Path(value)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--output: {path} is a file; name a folder for the results")
    return path


def run_settings(
    output: Path | None,
    config: str | None,
    inputs: tuple[str, ...],
    pairs: Sequence[str],
    overrides: Mapping[str, Mapping[str, Any]],
    reuse: str | None = None,
) -> Settings:
    """Combine the given configuration (or the one saved in the run directory), inputs, pairs and single settings.

    Args:
        output: run directory, if it is known yet.
        config: TOML file.
        inputs: win over those of the configuration.
        pairs: words such as `de-en,en-zh`; win over those of the configuration.
        overrides: stage → name → value; win over the configuration.
        reuse: an earlier run; "" for none; None: as configured.

    Raises:
        ConfigError: a setting is wrong, or results would lie among the inputs.
    """
    base = read_config(Path(config)) if config else read_saved_config(output) if output else {}
    settings = build_settings(base, overrides, inputs=inputs, pairs=parse_pairs(list(pairs)), reuse=reuse)
    if output:
        _check_paths(output, config, settings, pairs)
    # Absolute, so that the saved settings mean the same files from wherever the run is continued.
    absolute = tuple(map(_absolute, settings.inputs))
    return dataclasses.replace(settings, inputs=absolute, reuse=settings.reuse and _absolute(settings.reuse))


def _check_paths(output: Path, config: str | None, settings: Settings, pairs: Sequence[str]) -> None:
    """Refuse results that would lie among the inputs, or replace a configuration that a person wrote."""
    check_output_folder("run", "--output", output, settings.inputs, WRITTEN)
    saved = output / CONFIG_NAME
    if config and saved.exists() and saved.samefile(config):
        text = saved.read_text(encoding="utf-8")
        if text != to_toml(build_settings(read_config(saved), {})):
            raise ConfigError(
                f"run: --config {config} is where the settings of the run are saved, so it would be replaced; keep it "
                "outside the run directory"
            )
    for word in (part.strip() for words in pairs for part in words.split(",")):
        left, right = languages.pair(word) if word else ("", "")
        if left > right:
            logger.info("%s is written as %s: pairs are named alphabetically", word, languages.pair_name(left, right))


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def run_options(
    workers: int,
    device: str,
    redo: Sequence[str] = (),
    max_memory_gb: float | None = None,
    max_gpu_memory_gb: float | None = None,
) -> "RunOptions":
    """Return how to run: nothing of it changes a result.

    Args:
        workers: processes.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        redo: stages, several in one word separated by commas.
        max_memory_gb: GiB that a search may take.
        max_gpu_memory_gb: the same on the GPU.

    Raises:
        ConfigError: fewer than one worker.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    from emsmine.pipelines.planning.machine import SearchLimits
    from emsmine.pipelines.runner.run import RunOptions
    from emsmine.pipelines.store.tasks import Runtime

    limits = SearchLimits(max_memory_gb, device, max_gpu_memory_gb)
    return RunOptions(
        workers=workers,
        runtime=Runtime(device=device, workers=workers, gpu_memory_bytes=limits.gpu_memory_bytes),
        redo=tuple(name for word in redo for name in word.split(",")),
        limits=limits,
    )
