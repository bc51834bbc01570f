"""`emsmine bootstrap`: train on seed and mined pairs, mine with the new encoder, again and again.

OUTPUT/bootstrap.json       settings and input files that decide the rounds
OUTPUT/text/                run directory of the stages before encoding, which no round changes
OUTPUT/sentencepiece.model  tokeniser of all rounds
OUTPUT/round-N/data/        training files: seed, and pairs of round N-1
OUTPUT/round-N/train/       folder of the training, with model/
OUTPUT/round-N/run/         run directory that mines with that model
OUTPUT/round-N/pairs/       mined pairs that are neither in the seed nor in the development pairs
OUTPUT/round-N/round.json   written last: the round is finished
OUTPUT/model/, report.json  of the best round; over all rounds

Training resumes from its checkpoints and mining from its manifests; all else is made anew from these to the very same
bytes, so that an interrupted bootstrap continues with the same command.
"""

import dataclasses
import json
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emsmine import languages
from emsmine.encoder.data.pairs import find_pair_files
from emsmine.encoder.ems import resolve_device
from emsmine.encoder.folders import CONFIG
from emsmine.encoder.model.directory import TOKENIZER, WEIGHTS
from emsmine.encoder.registry import load_encoder
from emsmine.encoder.training.parallel import launched
from emsmine.encoder.training.run import train
from emsmine.errors import ConfigError, InputError
from emsmine.pipelines.bootstrap.pairs import (
    Known,
    PairSet,
    held_out,
    measure,
    read_pair_sets,
    write_mined,
    write_training,
)
from emsmine.pipelines.bootstrap.report import Round, best_round, build_report, load_round, record_hash
from emsmine.pipelines.bootstrap.settings import STATE_NAME, BootstrapConfig, compare_state
from emsmine.pipelines.bootstrap.tokenizer import publish_tokenizer, train_shared_tokenizer
from emsmine.pipelines.runner.run import RunOptions, check_settings, run_stages
from emsmine.pipelines.settings import STAGE_NAMES
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.stages.ingest import expand_inputs
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.adopt import adopt_steps
from emsmine.pipelines.store.files import hash_file, is_temporary, new_attempt, write_atomically
from emsmine.pipelines.store.lock import run_lock
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import JSON, Runtime

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
LOG_NAME = "logs/rounds.jsonl"
WRITTEN = ("text", "model", ".model.new", "round-*", "logs", REPORT_NAME, STATE_NAME, TOKENIZER, "emsmine.lock")
"""All that a call writes at the top of `bootstrap.output`."""
_MODEL_FILES = (WEIGHTS, TOKENIZER, CONFIG)
_HALF = re.compile(r"(round-[^/]*(/(data|pairs|train))?)?")
"""Folders that this module writes to, itself; "" is the output."""
_ENCODE = STAGE_NAMES.index("encode")
_TEXT_STAGES, _ROUND_STAGES = STAGE_NAMES[:_ENCODE], STAGE_NAMES[_ENCODE:]


@dataclass(frozen=True)
class BootstrapOptions:
    """How to run; nothing here changes a result on one kind of device."""

    workers: int = 1
    device: str = "auto"
    on_log: Callable[[dict[str, float]], None] | None = None
    """Receives losses and rates of the trainings."""

    @property
    def run(self) -> RunOptions:
        """The options of the stages."""
        return RunOptions(workers=self.workers, runtime=Runtime(device=self.device, workers=self.workers))


@dataclass(frozen=True)
class _Bootstrap:
    """What all rounds share."""

    config: BootstrapConfig
    options: BootstrapOptions
    output: Path
    seeds: dict[str, PairSet]
    dev: dict[str, PairSet]
    known: Known

    def folder(self, number: int) -> Path:
        return self.output / f"round-{number}"


def run_bootstrap(config: BootstrapConfig, options: BootstrapOptions) -> dict[str, Any]:
    """Run all rounds that are not finished yet.

    Args:
        config: all settings.
        options: workers, device and the like.

    Returns:
        The report, as in `report.json`: that of `build_report`, `model` (folder, empty if none was trained),
        `model_round`, `dev`, `rejected` (lines of seed and development files by reason) and `seed_in_dev`.

    Raises:
        ConfigError: settings that do not fit each other, the device or the number of processes.
        InputError: a seed, development or text file cannot be used.
        StaleOutputError: the output holds rounds of other settings or files.
        DirectoryInUseError: another call holds the output.
        TaskFailedError: a stage failed; what is done is kept.
    """
    shared, notes = _prepare(config, options)
    with run_lock(shared.output, "bootstrap"):
        compare_state(shared.output, {**config.semantic(), **_contents(config)})
        _clean(shared.output)
        with _timed(shared.output, 0, "text"):
            run_stages(shared.output / "text", config.mine, _TEXT_STAGES, options.run)
        rounds: list[Round] = []
        report: dict[str, Any] = {}
        for number in range(1, config.bootstrap.rounds + 1):
            previous = record_hash(shared.folder(number - 1)) if rounds else ""
            record = load_round(shared.folder(number), previous)
            if record is None:
                record = _run_round(shared, number, previous)
            else:
                logger.info("round %d of %d is finished", number, config.bootstrap.rounds)
            rounds.append(record)
            report = _publish(shared.output, rounds, notes)
        for number in report["worse"]:
            before, now = rounds[number - 2].mean, rounds[number - 1].mean
            logger.warning("round %d is worse than round %d: %.2f -> %.2f %%", number, number - 1, before, now)
        return report


def _prepare(config: BootstrapConfig, options: BootstrapOptions) -> tuple[_Bootstrap, dict[str, Any]]:
    """Read the pairs and refuse what would fail later, perhaps after hours, before anything is written."""
    if launched() != (0, 1):
        raise ConfigError(
            "bootstrap: it runs as one process; to train on several GPUs, call the rounds by hand: emsmine train with "
            "torchrun, then emsmine run"
        )
    settings, output = config.bootstrap, Path(config.bootstrap.output).absolute()
    if output.exists() and not output.is_dir():
        raise ConfigError(f"bootstrap: bootstrap.output {output} is a file; name a folder for the rounds")
    resolve_device(options.device)
    first = dataclasses.replace(config.mine, encode=dataclasses.replace(config.mine.encode, encoder=settings.encoder))
    stages = [name for name in STAGE_NAMES if name != "encode" or settings.encoder]
    check_settings(first, stages, options.run)
    rejected: Counter[str] = Counter()
    seeds = read_pair_sets(settings.seed, rejected)
    if settings.dev:
        dev = {name: item for name, item in read_pair_sets(settings.dev, rejected).items() if item.pairs}
    else:
        dev = held_out(seeds, config.train.data.validation_pairs)
    if not dev:
        where = f"bootstrap.dev ({', '.join(settings.dev)})" if settings.dev else "a seed of fewer than 10 pairs"
        raise InputError(f"bootstrap: {where} gives no pair to measure retrieval on; name other files as bootstrap.dev")
    known = Known(dev, seeds)
    overlap = known.num_in_dev(seeds) if settings.dev else 0
    notes: dict[str, Any] = {"dev": "files" if settings.dev else "held out of the seed", "seed_in_dev": overlap}
    notes["rejected"] = dict(sorted(rejected.items()))
    if overlap:
        logger.warning("%d seed pairs have a sentence of the development pairs, which flatters accuracies", overlap)
    return _Bootstrap(config, options, output, seeds, dev, known), notes


def _contents(config: BootstrapConfig) -> dict[str, JSON]:
    """Return what identifies the input files: pair files by name and content, text by path too, as ingest does."""
    found: dict[str, JSON] = {}
    for key, paths in (("seed", config.bootstrap.seed), ("dev", config.bootstrap.dev)):
        files = [file.path for file in find_pair_files([Path(path) for path in paths])]
        found[f"bootstrap.{key}"] = [f"{path.name} {hash_file(path)[0]}" for path in files]
    # A remote file is hashed by ingest; once more would be to fetch it once more.
    texts = [path if "://" in path else os.path.abspath(path) for path in expand_inputs(config.mine.inputs)]
    found["mine.inputs"] = [path if "://" in path else f"{path} {hash_file(path)[0]}" for path in texts]
    return found


def _clean(output: Path) -> None:
    """Remove what killed calls left half; training and run directories clean up after themselves.

    Raises:
        ForeignPathError: there is a link anywhere, which some part might follow.
    """
    for path in list(inside.walk(output)):
        inside.exists(output, path)
        folder, _, name = path.rpartition("/")
        if is_temporary(name) and _HALF.fullmatch(folder):
            inside.unlink(output, path)


def _run_round(shared: _Bootstrap, number: int, previous: str) -> Round:
    folder = shared.folder(number)
    given = shared.config.bootstrap.encoder if number == 1 else ""
    training: dict[str, dict[str, int]] = {}
    if given:
        logger.info("round 1: mining with %s", given)
    else:
        with _timed(shared.output, number, "train"):
            training = _train(shared, number)
    spec = given or f"ems:{folder / 'train/model'}"
    with _timed(shared.output, number, "measure"):
        retrieval = measure(load_encoder(spec, device=shared.options.device), shared.dev)
    mean = round(sum(item["mean"] for item in retrieval.values()) / len(retrieval), 2)
    logger.info("round %d: accuracy on the development pairs %.2f %%", number, mean)
    with _timed(shared.output, number, "mine"):
        mined = _mine(shared, folder, spec)
    names = [f"pairs/{name}.tsv" for name in mined] + [f"train/model/{name}" for name in _MODEL_FILES if not given]
    files = {name: hash_file(folder / name)[0] for name in names}
    record = Round(number, given, training, retrieval, mean, mined, files, previous)
    record.save(folder)
    return record


def _train(shared: _Bootstrap, number: int) -> dict[str, dict[str, int]]:
    """Train the encoder of a round; returns how many pairs of which kind it saw."""
    folder, config = shared.folder(number), shared.config.train
    before = shared.folder(number - 1) / "pairs" if number > 1 else None
    names = [languages.pair_name(*pair, canonical=False) for pair in shared.config.mine.pairs]
    counts = write_training(shared.seeds, before, names, folder / "data", config.data.validation_pairs)
    if not counts:
        raise InputError(
            f"bootstrap: round {number} has no pair to train on: round {number - 1} kept none, and there is no seed; "
            "lower mine.select.threshold, or add a bootstrap.seed (in another bootstrap.output)"
        )
    total = {kind: sum(count[kind] for count in counts.values()) for kind in ("seed", "mined")}
    logger.info("round %d: training on %s seed and %s mined pairs", number, *(f"{n:,}" for n in total.values()))
    paths = tuple(str(folder / "data" / f"{name}.tsv") for name in counts)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train=paths),
        run=dataclasses.replace(config.run, output=str(folder / "train"), name=f"{config.run.name}-{number}"),
    )
    if not config.data.tokenizer:
        shared_tokenizer = shared.output / TOKENIZER
        text, langs = Store(shared.output / "text"), shared.config.mine.languages
        train_shared_tokenizer(shared_tokenizer, text, shared.seeds, langs, config)
        # Where a training looks for its own before it makes one.
        publish_tokenizer(inside.read_bytes(shared.output, TOKENIZER), folder / "train" / TOKENIZER, root=shared.output)
    train(config, device=shared.options.device, on_log=shared.options.on_log)
    return counts


def _mine(shared: _Bootstrap, folder: Path, encoder: str) -> dict[str, dict[str, Any]]:
    """Run the stages from encoding on, and write the pairs that are news; returns the counts by language pair."""
    mine = shared.config.mine
    settings = dataclasses.replace(mine, encode=dataclasses.replace(mine.encode, encoder=encoder))
    steps = [(stage, step.name) for stage in _TEXT_STAGES for step in load_stage(stage).steps]
    adopt_steps(Store(shared.output / "text"), folder / "run", steps)
    run_stages(folder / "run", settings, _ROUND_STAGES, shared.options.run)
    counts = {}
    for pair in mine.pairs:
        found = write_mined(
            Store(folder / "run"), pair, folder / "pairs", shared.known, shared.config.bootstrap.max_pairs
        )
        counts[languages.pair_name(*pair, canonical=False)] = dataclasses.asdict(found)
    return counts


@contextmanager
def _timed(output: Path, number: int, phase: str) -> Iterator[None]:
    """Note the wall time of a phase, for the report; nothing else reads it. Round 0 is what comes before the rounds."""
    started = time.monotonic()
    yield
    row = {"round": number, "phase": phase, "seconds": round(time.monotonic() - started, 3)}
    inside.append_line(output, LOG_NAME, json.dumps(row))


def _seconds(output: Path) -> dict[int, dict[str, float]]:
    """Return the time of all calls together by round and phase; a phase that was killed left none."""
    found: dict[int, dict[str, float]] = {}
    for line in inside.read_bytes(output, LOG_NAME).split(b"\n"):
        try:
            row = json.loads(line)
            phases = found.setdefault(int(row["round"]), {})
            phases[str(row["phase"])] = round(phases.get(str(row["phase"]), 0.0) + float(row["seconds"]), 3)
        except (ValueError, KeyError, TypeError, RecursionError):
            # Half a line of a killed call.
            continue
    return found


def _publish(output: Path, rounds: list[Round], notes: Mapping[str, Any]) -> dict[str, Any]:
    """Write the report over the rounds so far, and the model of the best of those that trained one."""
    trained = [item for item in rounds if not item.encoder]
    report: dict[str, Any] = {**build_report(rounds, _seconds(output)), **notes, "model": "", "model_round": None}
    if trained:
        number = best_round(trained).number
        _copy_model(output, f"round-{number}/train/model", "model")
        report |= {"model": "model", "model_round": number}
    content = json.dumps(report, indent=1, ensure_ascii=False).encode("utf-8") + b"\n"
    write_atomically(output / REPORT_NAME, content, new_attempt(), root=output)
    return report


def _copy_model(output: Path, source: str, target: str) -> None:
    """Replace a model directory; for a moment there may be none, but never one of mixed files."""
    content = {name: inside.read_bytes(output, f"{source}/{name}") for name in _MODEL_FILES}
    if all(_holds(output, f"{target}/{name}", content[name]) for name in _MODEL_FILES):
        return
    fresh = output / ".model.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for name in _MODEL_FILES:
        write_atomically(fresh / name, content[name], new_attempt(), root=output)
    # Removes no link, nor through one.
    if (output / target).exists():
        shutil.rmtree(output / target)
    fresh.rename(output / target)


def _holds(root: Path, path: str, content: bytes) -> bool:
    try:
        return inside.read_bytes(root, path) == content
    except FileNotFoundError:
        return False
