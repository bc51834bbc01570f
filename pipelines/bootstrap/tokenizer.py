"""The one tokeniser of a bootstrap, trained on the seed and on the text that is mined.

The seed alone is often too small for the wanted vocabulary, and a tokeniser of every round's own pairs would make
rounds differ in more than what they learn from.
"""

import logging
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from emsmine.encoder.model.preprocessing import preprocess
from emsmine.encoder.model.tokenizer import (
    TokenizerTraining,
    is_whole,
    sample_size,
    tokenizer_files,
    trained_tokenizer,
)
from emsmine.encoder.training.settings import TrainingConfig
from emsmine.pipelines.bootstrap.pairs import PairSet
from emsmine.pipelines.store.files import new_attempt, write_atomically
from emsmine.pipelines.store.parquet import read_table
from emsmine.pipelines.store.store import Store

logger = logging.getLogger(__name__)

_MAX_CHARS = 400


def tokenizer_sample(
    text: Store, seeds: Mapping[str, PairSet], languages: tuple[str, ...], per_language: int, seed: int
) -> Iterator[tuple[str, list[str]]]:
    """Yield up to `sample_size` sentences of every language, the seed's and the text's alike, drawn at random.

    Args:
        text: run directory with the finished stage langid.
        seeds: seed pairs by name.
        languages: those of the text.
        per_language: most sentences of a language written in letters.
        seed: of the draw.

    Returns:
        Language and sentences, by language.
    """
    known: dict[str, list[str]] = {lang: [] for lang in languages}
    for item in seeds.values():
        for side, lang in enumerate(item.langs):
            known.setdefault(lang, []).extend(pair[side] for pair in item.pairs)
    for lang, texts in sorted(known.items()):
        refs = text.outputs("langid", "distinct", f"sentences/{lang}") if lang in languages else []
        total = len(texts) + sum(ref.rows for ref in refs)
        drawn = sorted(
            random.Random(f"{seed}-{lang}").sample(range(total), min(total, sample_size(lang, per_language)))
        )
        found = [texts[row] for row in drawn if row < len(texts)]
        first = len(texts)
        for ref in refs:
            rows = [row - first for row in drawn if first <= row < first + ref.rows]
            found += read_table(text.verified(ref), ["text"])["text"].take(rows).to_pylist() if rows else []
            first += ref.rows
        yield lang, [sentence for sentence in found if len(sentence) < _MAX_CHARS]


def train_shared_tokenizer(
    path: Path, text: Store, seeds: Mapping[str, PairSet], languages: tuple[str, ...], config: TrainingConfig
) -> None:
    """Train the tokeniser, unless it is there and whole; it gets the same bytes every time.

    Raises:
        InputError: there is too little text for the wanted vocabulary.
    """
    if is_whole(path):
        return
    settings = TokenizerTraining(vocab_size=config.network.vocab_size)
    logger.info("training a tokeniser of %d pieces for all rounds", settings.vocab_size)
    sample = tokenizer_sample(text, seeds, languages, config.data.tokenizer_sample, config.run.seed)
    sentences = (line for lang, texts in sample for line in preprocess(texts, lang, config.data.preprocessing))
    publish_tokenizer(trained_tokenizer(sentences, settings), path)


def publish_tokenizer(model: bytes, path: Path, root: Path | None = None) -> None:
    """Write a tokeniser and its hash as a training takes them up; below `root` no link is followed."""
    for file, content in tokenizer_files(model, path):
        write_atomically(file, content, new_attempt(), root=root)
