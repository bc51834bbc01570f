"""`emsmine train`: from a configuration to a model directory."""

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from emsmine.encoder.data.negatives import NegativeSearch
from emsmine.encoder.data.pairs import Corpus, PairFile, TokenCache, find_pair_files, read_pairs
from emsmine.encoder.model.config import read_json
from emsmine.encoder.model.directory import save_model
from emsmine.encoder.model.preprocessing import preprocess
from emsmine.encoder.model.tokenizer import Tokenizer, TokenizerTraining, is_whole, sample_size, train_tokenizer
from emsmine.encoder.protocol import Encoder
from emsmine.encoder.registry import load_encoder
from emsmine.encoder.training.checkpoints import BEST, load_checkpoint
from emsmine.encoder.training.initialise import initial_tokenizer
from emsmine.encoder.training.log import LOG
from emsmine.encoder.training.memory_bound import check_memory
from emsmine.encoder.training.parallel import process_group
from emsmine.encoder.training.settings import TrainingConfig
from emsmine.encoder.training.trainer import Progress, Trainer
from emsmine.errors import ConfigError, CorruptOutputError, ModelError, StaleOutputError

logger = logging.getLogger(__name__)

_MAX_TOKENIZER_CHARS = 400
_DATA = "data.json"
_CHECKSUM = "xxh3_128"
_DIGEST_ROWS = 1024 * 1024
WRITTEN = ("model", "checkpoint-*", BEST, LOG, _DATA, "emsmine.lock", "tensorboard")
"""What a training writes at the top of `run.output`, beside the cache; a tokeniser that is there is never replaced."""


def balanced_sample(files: list[PairFile], per_language: int, seed: int, preprocessing: str = "none") -> Iterator[str]:
    """Yield sentences of every language, drawn without replacement and shuffled per file, up to its `sample_size`.

    A language that stands in several files (usually English) gets its share from each of them. Memory is that of the
    sentences drawn, whatever the size of the files.
    """
    share = Counter(lang for file in files for lang in (file.source_lang, file.target_lang))
    for number, file in enumerate(files):
        langs = (file.source_lang, file.target_lang)
        # The shared language gets four shares in all: it is one side of every pair.
        sizes = [sample_size(lang, per_language) for lang in langs]
        wanted = [
            size if share[lang] == 1 else 4 * size // share[lang] for lang, size in zip(langs, sizes, strict=True)
        ]
        drawn = [_Reservoir(size, f"{seed}-{number}-{side}") for side, size in enumerate(wanted)]
        for pair in read_pairs(file, Counter()):
            for reservoir, text in zip(drawn, pair, strict=True):
                if len(text) < _MAX_TOKENIZER_CHARS:
                    reservoir.offer(text)
        for lang, reservoir in zip(langs, drawn, strict=True):
            yield from preprocess(reservoir.shuffled(), lang, preprocessing)


class _Reservoir:
    """A random sample of a stream of unknown length, every item with the same chance.

    Reference: Vitter 1985, Random Sampling with a Reservoir, algorithm R.
    """

    def __init__(self, size: int, seed: str) -> None:
        self.size = size
        self._random = random.Random(seed)
        self._kept: list[str] = []
        self._seen = 0

    def offer(self, text: str) -> None:
        """Take part in the draw."""
        self._seen += 1
        if len(self._kept) < self.size:
            self._kept.append(text)
        elif (place := self._random.randrange(self._seen)) < self.size:
            self._kept[place] = text

    def shuffled(self) -> list[str]:
        """Return the sample: its first items have hardly moved from where the stream had them."""
        return self._random.sample(self._kept, len(self._kept))


def prepare_tokenizer(config: TrainingConfig, files: list[PairFile], output: Path) -> Tokenizer:
    """Return the tokeniser of the configuration, training one at `output` if none is named."""
    if config.data.tokenizer:
        tokenizer = Tokenizer(Path(config.data.tokenizer))
    elif config.optimiser.init:
        tokenizer = Tokenizer(initial_tokenizer(config.optimiser.init))
    else:
        path = output / "sentencepiece.model"
        if not is_whole(path):
            logger.info("training a tokeniser of %d pieces", config.network.vocab_size)
            settings = TokenizerTraining(vocab_size=config.network.vocab_size)
            sample = balanced_sample(files, config.data.tokenizer_sample, config.run.seed, config.data.preprocessing)
            train_tokenizer(sample, path, settings)
        tokenizer = Tokenizer(path)
    init = config.optimiser.init
    if init and Tokenizer(initial_tokenizer(init)).sha256 != tokenizer.sha256:
        raise ConfigError(
            f"train: {tokenizer.path} is not the tokeniser of optimiser.init {init}; leave data.tokenizer out"
        )
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

    Under torchrun this is called by every process: each computes its share of every batch, on the GPU of its
    LOCAL_RANK, and rank 0 writes. `run.output` must then be on a disk that all of them see.

    Args:
        config: all settings.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        stop_after: stop with a checkpoint at this step.
        on_log: receives losses and rates, on rank 0.

    Returns:
        The model directory `run.output/model`, written from the state at the end of this call.

    Raises:
        ConfigError: no training files, a tokeniser that does not fit the network, or settings that do not fit the
            memory, the device or the number of processes.
        InputError: the training files cannot be used.
        ModelError: the loss is not finite, or no checkpoint can be read.
        StaleOutputError: `run.output` holds checkpoints of other settings, data or numbers of processes.
    """
    if not config.data.train:
        raise ConfigError("train: data.train is empty; name pair files or folders of them")
    output = Path(config.run.output)
    with process_group(device) as (processes, where):
        check_memory(config, where, processes.size)
        output.mkdir(parents=True, exist_ok=True)
        teacher = load_encoder(config.data.teacher, device=str(where)) if config.data.teacher else None
        search = negative_search(config, teacher, where)
        with processes.first_alone():
            tokenizer, corpora = prepare_data(config, output, teacher, search)
        trainer = Trainer(
            config, corpora, where, processes=processes, teacher_dim=None if teacher is None else teacher.dim
        )
        encoders = {"teacher": teacher, "negatives": search.encoder if search else None}
        _resume(trainer, corpora, output, encoders, tokenizer)
        # Their vectors are on disk; their weights need no memory any more.
        del teacher, search
        trainer.fit(output, stop_after=stop_after, on_log=on_log)
        folder = output / "model"
        if not processes.rank:
            export(trainer, tokenizer, folder)
        processes.wait()
    return folder


def negative_search(config: TrainingConfig, teacher: Encoder | None, device: torch.device) -> NegativeSearch | None:
    """Return how hard negatives are looked for; None if none are wanted. A teacher of the same name is shared.

    Raises:
        ConfigError: the encoder is unknown.
    """
    settings = config.data
    if not settings.hard_negatives:
        return None
    shared = teacher if settings.negatives == settings.teacher else None
    encoder = shared or load_encoder(settings.negatives, device=str(device))
    return NegativeSearch(
        encoder,
        settings.hard_negatives,
        settings.negatives_limit,
        settings.validation_pairs,
        str(device),
        settings.negatives_among,
    )


def prepare_data(
    config: TrainingConfig, output: Path, teacher: Encoder | None, search: NegativeSearch | None = None
) -> tuple[Tokenizer, list[Corpus]]:
    """Return the tokeniser and the tokenised training files, made at the first call.

    Raises:
        ConfigError: the tokeniser does not fit the network.
        InputError: the training files cannot be used.
    """
    files = find_pair_files([Path(path) for path in config.data.train])
    tokenizer = prepare_tokenizer(config, files, output)
    cache = TokenCache(
        output / config.data.cache,
        tokenizer,
        config.network.max_tokens,
        preprocessing=config.data.preprocessing,
        teacher=teacher,
        search=search,
    )
    return tokenizer, [cache.corpus(file) for file in files]


def _resume(
    trainer: Trainer,
    corpora: list[Corpus],
    output: Path,
    encoders: Mapping[str, Encoder | None],
    tokenizer: Tokenizer,
) -> None:
    """Load the newest checkpoint, if there is one, into every process; compare the data with those of the run."""
    processes = trainer.processes
    state = load_checkpoint(output, trainer.device)
    with processes.first_alone():
        check_data(corpora, output, resuming=state is not None, encoders=encoders, tokenizer=tokenizer)
    if state is not None:
        try:
            trainer.restore(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"train: the newest checkpoint in {output} is not one of this training ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no reason'}); choose another run.output"
            ) from error
        logger.info("resuming at step %d", trainer.step)
    steps = [int(step) for step in processes.collect(torch.tensor([trainer.step]))]
    if len(set(steps)) > 1:
        raise ModelError(
            f"train: the processes found checkpoints of different steps ({steps}) in {output}; all must see one disk"
        )


def check_data(
    corpora: list[Corpus],
    output: Path,
    *,
    resuming: bool,
    encoders: Mapping[str, Encoder | None] | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Compare the training data with those that the run began with, which `data.json` remembers.

    A sampler's position in other data would mean other pairs.

    Args:
        corpora: the data.
        output: folder of the run.
        resuming: there is a checkpoint.
        encoders: who has a say in the training, by role.
        tokenizer: goes into the model directory; another one may give these data the same tokens.

    Raises:
        StaleOutputError: they differ and there is a checkpoint; the message names the corpora.
        CorruptOutputError: `data.json` is damaged.
    """
    now: dict[str, Any] = {
        f"{number} {corpus.name}": [
            corpus.source_lang,
            corpus.target_lang,
            len(corpus),
            _digest(corpus.hashes),
            # Of what was found: another processor may round otherwise.
            *([] if corpus.neighbours is None else [_digest(corpus.neighbours)]),
        ]
        for number, corpus in enumerate(corpora)
    }
    now |= {role: [found.name, found.fingerprint()] for role, found in (encoders or {}).items() if found is not None}
    if tokenizer is not None:
        now["tokenizer"] = tokenizer.sha256
    path = output / _DATA
    if resuming and path.exists():
        before = _read_data(path)
        # Earlier versions did not note the tokeniser.
        now = {name: value for name, value in now.items() if name != "tokenizer" or name in before}
        changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if changed:
            raise StaleOutputError(
                f"train: the training data are not those of the checkpoint in {output} (changed: "
                f"{', '.join(changed)}); restore them, or choose another run.output"
            )
        return
    temporary = output / f".{_DATA}.{os.getpid()}"
    temporary.write_text(json.dumps({**now, _CHECKSUM: _checksum(now)}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read_data(path: Path) -> dict[str, Any]:
    """Return what `data.json` remembers; that of an earlier version has no checksum.

    Raises:
        CorruptOutputError: it is damaged.
    """
    again = "restore it, or delete it to go on without the comparison of the training data"
    try:
        before = read_json(path)
    except ModelError as error:
        raise CorruptOutputError(f"train: {path} is damaged ({error}); {again}") from error
    checksum = before.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(before):
        raise CorruptOutputError(f"train: {path} is damaged: its checksum is wrong; {again}")
    return before


def _checksum(remembered: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(remembered, sort_keys=True).encode())


def _digest(array: npt.NDArray[np.int64]) -> str:
    hasher = xxhash.xxh3_128()
    for start in range(0, len(array), _DIGEST_ROWS):
        hasher.update(np.ascontiguousarray(array[start : start + _DIGEST_ROWS]).tobytes())
    return hasher.hexdigest()


def export(trainer: Trainer, tokenizer: Tokenizer, folder: Path) -> Path:
    """Write the network that `run.export` asks for as a model directory, beside which its checkpoints are."""
    settings = trainer.config
    with torch.no_grad():
        return save_model(
            trainer.network_to_export(folder.parent),
            tokenizer.path,
            folder,
            name=settings.run.name,
            preprocessing=settings.data.preprocessing,
            table=settings.run.table,
        )
