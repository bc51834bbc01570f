"""SentencePiece tokenisation: text → packed token ids.

Shapes: T tokens of all sentences one after the other, N sentences.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from emsmine.errors import InputError, ModelError

IntArray = npt.NDArray[np.int32]
OffsetArray = npt.NDArray[np.int64]

PAD_ID = 0
UNK_ID = 1


@dataclass(frozen=True)
class Packed:
    """Token ids of several sentences without padding.

    Shapes:
        ids: int32 [T]; offsets: int64 [N + 1], sentence n is ids[offsets[n]:offsets[n + 1]].
    """

    ids: IntArray
    offsets: OffsetArray

    @property
    def lengths(self) -> OffsetArray:
        """Tokens per sentence, int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: npt.NDArray[np.int64]) -> "Packed":
        """Return the given sentences in the given order."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        # Token position = start of its sentence + its place inside it, for all tokens at once.
        starts = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Packed(self.ids[starts + np.arange(offsets[-1])], offsets)


def pack(sentences: Sequence[Sequence[int]], max_tokens: int) -> Packed:
    """Pack lists of ids; each is cut at `max_tokens`."""
    cut = [ids[:max_tokens] for ids in sentences]
    offsets = np.zeros(len(cut) + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in cut], out=offsets[1:])
    flat = np.fromiter((token for ids in cut for token in ids), dtype=np.int32, count=int(offsets[-1]))
    return Packed(flat, offsets)


def replace_surrogates(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD, so that the text can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class Tokenizer:
    """A SentencePiece model and the fingerprint of its file."""

    def __init__(self, path: Path) -> None:
        """Load `path`.

        Raises:
            ModelError: the file is missing or not a SentencePiece model.
        """
        self.path = Path(path)
        try:
            serialized = self.path.read_bytes()
        except OSError as error:
            raise ModelError(f"tokeniser: cannot read {path} ({error.strerror})") from error
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(serialized)
        except RuntimeError as error:
            raise ModelError(f"tokeniser: {path} is not a SentencePiece model ({error})") from error
        self.sha256 = hashlib.sha256(serialized).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return int(self._processor.GetPieceSize())

    def encode(self, sentences: Sequence[str], max_tokens: int) -> tuple[Packed, int]:
        """Tokenise sentences.

        Lone surrogates, which SentencePiece refuses, are replaced by U+FFFD. An empty sentence has no tokens.

        Returns:
            The packed ids and the number of sentences that were cut at `max_tokens`.
        """
        clean = [replace_surrogates(text) for text in sentences]
        encoded: list[list[int]] = self._processor.EncodeAsIds(clean) if clean else []
        return pack(encoded, max_tokens), sum(len(ids) > max_tokens for ids in encoded)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of tokens; U+2581 stands where a word begins."""
        return [str(self._processor.IdToPiece(int(token))) for token in ids]


@dataclass(frozen=True)
class TokenizerTraining:
    """Settings of `train_tokenizer`."""

    vocab_size: int = 100_000
    model_type: str = "unigram"
    character_coverage: float = 0.9999
    num_threads: int = 2
    normalization: str = "nmt_nfkc_cf"
    """SentencePiece's own rule; `nmt_nfkc_cf` also folds case, so no separate lower-casing is needed."""


# How many letters of English a character says as much as (median over translations: 1 / 0.31 for Chinese, 2 for both
# others). A piece is worth its frequency times its characters to SentencePiece, so that words of two characters lose
# against parts of longer words unless there is more text of their language.
_SENTENCES_BY_SCRIPT = {"Hans": 3, "Hant": 3, "Jpan": 2, "Kore": 2}


def sample_size(lang: str, per_language: int) -> int:
    """Return how many sentences of a language a balanced sample for `train_tokenizer` should have.

    Args:
        lang: canonical code, whose script decides.
        per_language: of a language written in letters.
    """
    return per_language * _SENTENCES_BY_SCRIPT.get(lang.partition("_")[2], 1)


def train_tokenizer(sentences: Iterable[str], output: Path, settings: TokenizerTraining) -> Path:
    """Train a SentencePiece model over the given sentences and write it to `output` (`….model`).

    Ids: 0 padding, 1 unknown; there is no sentence start or end, as in EMS. Balance the languages before calling:
    every language should give as many sentences as `sample_size` says.

    The file appears only when it is complete, so that an interrupted training leaves no half of one.

    Raises:
        InputError: too few sentences for the wanted vocabulary.
    """
    write_tokenizer(trained_tokenizer(sentences, settings), output)
    return output


def write_tokenizer(model: bytes, output: Path) -> None:
    """Write a tokeniser that a later call takes up again, with its hash beside it."""
    for path, content in tokenizer_files(model, output):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)


def tokenizer_files(model: bytes, output: Path) -> tuple[tuple[Path, bytes], tuple[Path, bytes]]:
    """Return the files to write, in this order: the hash (`sha256sum -c` reads it, too), and the tokeniser.

    A kill between the two leaves a hash without its file or beside another, and no file without its hash.
    """
    line = f"{hashlib.sha256(model).hexdigest()}  {output.name}\n".encode()
    return (_hash_path(output), line), (output, model)


def is_whole(path: Path) -> bool:
    """Tell whether a tokeniser that a training wrote is there.

    One without a hash beside it (of an earlier version, or put there by hand) passes.

    Raises:
        ModelError: it does not match its hash. Whether it is damaged or another was put there is not for us to decide.
    """
    if not path.exists():
        return False
    try:
        recorded = _hash_path(path).read_bytes().split()
        found = hashlib.sha256(path.read_bytes()).hexdigest().encode()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise ModelError(f"tokeniser: cannot read {path} or {_hash_path(path).name} ({error.strerror})") from error
    if recorded[:1] != [found]:
        raise ModelError(
            f"tokeniser: {path} does not match {_hash_path(path).name}: it is damaged, or another file; delete it, and "
            f"it is trained again to the same, or delete {_hash_path(path).name} if the file is meant"
        )
    return True


def _hash_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def trained_tokenizer(sentences: Iterable[str], settings: TokenizerTraining) -> bytes:
    """Train as `train_tokenizer` does, and return the content of the file: the same for the same sentences.

    Raises:
        InputError: too few sentences for the wanted vocabulary.
    """
    # Into memory: SentencePiece writes the name of the file that it makes into the file, and ours is temporary.
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=settings.vocab_size,
            model_type=settings.model_type,
            character_coverage=settings.character_coverage,
            normalization_rule_name=settings.normalization,
            num_threads=settings.num_threads,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            eos_id=-1,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise InputError(
            f"tokeniser: training failed ({error}); lower vocab_size {settings.vocab_size} or give more text"
        ) from error
    return model.getvalue()
