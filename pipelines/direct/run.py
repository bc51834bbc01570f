"""The function `run` of `import emsmine`: the whole pipeline, as the command of that name."""

import difflib
import glob
import os
from collections.abc import Iterable, Mapping
from typing import Any

from emsmine.errors import ConfigError, InputError
from emsmine.pipelines.direct.run_directory import Run
from emsmine.pipelines.progress import bars
from emsmine.pipelines.runner.prepare import output_path, run_options, run_settings
from emsmine.pipelines.settings import STAGE_NAMES, STAGE_SETTINGS

_Path = str | os.PathLike[str]


def run(
    inputs: _Path | Iterable[_Path] = (),
    *,
    output: _Path,
    pairs: str | Iterable[str] = (),
    config: _Path | None = None,
    until: str = "export",
    reuse: _Path | None = None,
    redo: str | Iterable[str] = (),
    workers: int | None = None,
    device: str = "auto",
    max_memory_gb: float | None = None,
    max_gpu_memory_gb: float | None = None,
    progress: bool = False,
    **settings: Any,
) -> Run:
    """Run the whole pipeline, as `emsmine run` does; what is done already is kept.

    Args:
        inputs: crawl files, folders of them, patterns (`crawl/*.warc.gz`, `**` for folders in folders) or URLs.
        output: run directory.
        pairs: language pairs, as in `["de-en", "en-zh"]` or `"de-en,en-zh"`.
        config: TOML settings; all else that is given wins over them. None: those saved in `output`, if any.
        until: the last stage to run.
        reuse: an earlier run whose results are taken over; "" for none.
        redo: stages to be done again, with all later ones.
        workers: processes; None: one for each core.
        device: as in `mine`.
        max_memory_gb: GiB that a search may take.
        max_gpu_memory_gb: the same on the GPU.
        progress: show bars if stderr is a terminal.
        settings: any setting of a stage by its name: `threshold=1.1`, `encoder="ems:default"`, `formats=["tsv"]`.

    Returns:
        The run directory: `pairs("de-en")`, `funnel()`, `rejects()`, `embeddings("de")`.

    Raises:
        ConfigError: a setting is unknown or wrong.
        InputError: an input does not exist, or a pattern matches nothing.
        StaleOutputError: `output` holds results of other settings or inputs, and `redo` does not name their stage.
        TaskFailedError: tasks failed; those that ended well are kept.
        DirectoryInUseError: another run holds `output`.
    """
    from emsmine.pipelines.runner.run import run_stages

    if until not in STAGE_NAMES:
        raise ConfigError(f"run: until {until!r} is no stage; stages: {', '.join(STAGE_NAMES)}")
    folder = output_path(os.fspath(output))
    given = None if config is None else os.fspath(config), None if reuse is None else os.fspath(reuse)
    chosen = run_settings(folder, given[0], _expanded(inputs), _words(pairs), _overrides(settings), given[1])
    num_workers = os.cpu_count() or 1 if workers is None else workers
    options = run_options(num_workers, device, _words(redo), max_memory_gb, max_gpu_memory_gb)
    with bars(progress):
        run_stages(folder, chosen, STAGE_NAMES[: STAGE_NAMES.index(until) + 1], options)
    return Run(folder)


def _words(given: str | Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _expanded(inputs: _Path | Iterable[_Path]) -> tuple[str, ...]:
    """Replace patterns by what they match, sorted; each file once."""
    found: dict[str, None] = {}
    for given in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        path = os.fspath(given)
        # A file of that very name is no pattern.
        if "://" in path or not glob.has_magic(path) or os.path.lexists(path):
            found[path] = None
            continue
        # `nowhere/**` matches a folder that does not exist.
        matches = sorted(filter(os.path.lexists, glob.glob(path, recursive=True)))
        if not matches:
            raise InputError(f"run: the pattern {path!r} matches no file in {os.getcwd()}; give files that are there")
        found |= dict.fromkeys(matches)
    return tuple(found)


def _overrides(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Find the stage of each setting; a text for a list is read as on the command line."""
    homes = {name: stage for stage, kind in STAGE_SETTINGS.items() for name in kind.__dataclass_fields__}
    found: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name not in homes:
            near = difflib.get_close_matches(name, homes, n=2)
            hint = f"did you mean {' or '.join(near)}" if near else f"settings: {', '.join(homes)}"
            raise ConfigError(f"run: there is no setting {name!r}; {hint}")
        stage = homes[name]
        if isinstance(STAGE_SETTINGS[stage].__dataclass_fields__[name].default, tuple) and isinstance(value, str):
            value = tuple(word.strip() for word in value.split(",") if word.strip())
        found.setdefault(stage, {})[name] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return found
