"""`emsmine train`: from a configuration to a model directory."""

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xxhash

from emsmine.encoder.config import read_json
from emsmine.encoder.data import Corpus, PairFile, TokenCache, find_pair_files, read_pairs
from emsmine.encoder.ems import resolve_device
from emsmine.encoder.model_directory import save_model
from emsmine.encoder.tokenizer import Tokenizer, TokenizerTraining, train_tokenizer
from emsmine.encoder.trainer import Progress, Trainer, load_checkpoint
from emsmine.encoder.training_config import TrainingConfig
from emsmine.errors import ConfigError, StaleOutputError

logger = logging.getLogger(__name__)

_MAX_TOKENIZER_CHARS = 400
_DATA = "data.json"


def balanced_sample(files: list[PairFile], per_language: int, seed: int) -> Iterator[str]:
    """Yield up to `per_language` sentences of every language, drawn without replacement and shuffled per file.

    A language that stands in several files (usually English) gets its share from each of them.
    """
    share = Counter(lang for file in files for lang in (file.source_lang, file.target_lang))
    for number, file in enumerate(files):
        sides: tuple[list[str], list[str]] = ([], [])
        for pair in read_pairs(file, Counter()):
            for side, text in zip(sides, pair, strict=True):
                if len(text) < _MAX_TOKENIZER_CHARS:
                    side.append(text)
        rng = random.Random(f"{seed}-{number}")
        for lang, side in zip((file.source_lang, file.target_lang), sides, strict=True):
            # The shared language gets four shares in all: it is one side of every pair.
            wanted = per_language if share[lang] == 1 else 4 * per_language // share[lang]
            yield from rng.sample(side, min(len(side), wanted))


def prepare_tokenizer(config: TrainingConfig, files: list[PairFile], output: Path) -> Tokenizer:
    """Return the tokeniser of the configuration, training one at `output` if none is named."""
    if config.data.tokenizer:
        tokenizer = Tokenizer(Path(config.data.tokenizer))
    else:
        path = output / "sentencepiece.model"
        if not path.exists():
            logger.info("training a tokeniser of %d pieces", config.network.vocab_size)
            settings = TokenizerTraining(vocab_size=config.network.vocab_size)
            train_tokenizer(balanced_sample(files, config.data.tokenizer_sample, config.run.seed), path, settings)
        tokenizer = Tokenizer(path)
    if tokenizer.vocab_size != config.network.vocab_size:
        raise ConfigError(
            f"train: {tokenizer.path} has {tokenizer.vocab_size} pieces but network.vocab_size is "
            f"{config.network.vocab_size}; set it to {tokenizer.vocab_size}"
        )
    return tokenizer


def train(
    config: TrainingConfig, *, device: str = "auto", stop_after: int | None = None, on_log: Progress | None = None
) -> Path:
    """Train to the last step, resuming from the newest checkpoint of `run.output`.

    Args:
        config: all settings.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        stop_after: stop with a checkpoint at this step.
        on_log: receives losses and rates.

    Returns:
        The model directory `run.output/model`, written from the state at the end of this call.

    Raises:
        ConfigError: no training files, or a tokeniser that does not fit the network.
        InputError: the training files cannot be used.
        ModelError: the loss is not finite, or no checkpoint can be read.
        StaleOutputError: `run.output` holds checkpoints of other settings or data.
    """
    if not config.data.train:
        raise ConfigError("train: data.train is empty; name pair files or folders of them")
    where = resolve_device(device)
    output = Path(config.run.output)
    output.mkdir(parents=True, exist_ok=True)
    files = find_pair_files([Path(path) for path in config.data.train])
    tokenizer = prepare_tokenizer(config, files, output)
    cache = TokenCache(output / config.data.cache, tokenizer, config.network.max_tokens)
    corpora = [cache.corpus(file) for file in files]
    trainer = Trainer(config, corpora, where)
    state = load_checkpoint(output, where)
    check_data(corpora, output, resuming=state is not None)
    if state is not None:
        trainer.restore(state)
        logger.info("resuming at step %d", trainer.step)
    trainer.fit(output, stop_after=stop_after, on_log=on_log)
    return export(trainer, tokenizer, output / "model", config.run.name, config.run.table)


def check_data(corpora: list[Corpus], output: Path, *, resuming: bool) -> None:
    """Compare the training data with those that the run began with, which `data.json` remembers.

    A sampler's position in other data would mean other pairs.

    Raises:
        StaleOutputError: they differ and there is a checkpoint; the message names the corpora.
    """
    now = {
        f"{number} {corpus.name}": [
            corpus.source_lang,
            corpus.target_lang,
            len(corpus),
            xxhash.xxh3_128_hexdigest(np.ascontiguousarray(corpus.hashes).tobytes()),
        ]
        for number, corpus in enumerate(corpora)
    }
    path = output / _DATA
    if resuming and path.exists():
        before = read_json(path)
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if changed:
            raise StaleOutputError(
                f"train: the training data are not those of the checkpoint in {output} (changed: "
                f"{', '.join(changed)}); restore them, or choose another run.output"
            )
        return
    temporary = output / f".{_DATA}.{os.getpid()}"
    temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def export(trainer: Trainer, tokenizer: Tokenizer, folder: Path, name: str, table: str) -> Path:
    """Write the network of a trainer as a model directory."""
    network = trainer.model.network.eval()
    with torch.no_grad():
        return save_model(network, tokenizer.path, folder, name=name, table=table)
