"""Training pairs: reading, the tokenised cache on disk, and the resumable sampler."""

import gzip
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard

from emsmine import languages
from emsmine.encoder.tokenizer import Packed, Tokenizer
from emsmine.errors import InputError, StaleOutputError

logger = logging.getLogger(__name__)

_CHUNK_PAIRS = 20_000
_MAX_CHARS = 2_000
_ENDINGS = (".tsv", ".tsv.gz", ".tsv.zst", ".parquet")


@dataclass(frozen=True)
class PairFile:
    """A file of translations and the canonical languages of its two columns."""

    path: Path
    source_lang: str
    target_lang: str


def find_pair_files(paths: Sequence[Path]) -> list[PairFile]:
    """List pair files; a folder stands for every `<xx>-<yy>.tsv[.gz|.zst]` or `.parquet` in it, sorted by name.

    Raises:
        InputError: a path does not exist or has another ending, or a folder holds no pair file.
        LanguageError: a name does not start with a language pair.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.name.endswith(_ENDINGS) and not p.name.startswith("."))
            if not found:
                raise InputError(f"train: {path} holds no file that ends in {', '.join(_ENDINGS)}")
            files += found
        elif not path.exists():
            raise InputError(f"train: {path} does not exist; give a pair file or a folder of pair files")
        elif not path.name.endswith(_ENDINGS):
            raise InputError(f"train: {path} is no pair file; its name must end in {', '.join(_ENDINGS)}")
        else:
            files.append(path)
    return [PairFile(path, *languages.pair(path.name.split(".")[0])) for path in files]


def read_pairs(file: PairFile, rejected: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the two sides of each line of a pair file; unusable lines are counted in `rejected` by reason.

    TSV columns: source, target, anything; no header. Parquet columns: `source`, `target`.

    Raises:
        InputError: the file as a whole cannot be read: damaged compression, no Parquet, other columns.
    """
    for source, target in _readable(file.path, rejected):
        source, target = source.strip(), target.strip()
        if not source or not target:
            rejected["empty_side"] += 1
        elif max(len(source), len(target)) > _MAX_CHARS:
            rejected["too_long"] += 1
        else:
            yield source, target


def _readable(path: Path, rejected: Counter[str]) -> Iterator[tuple[str, str]]:
    try:
        yield from _parquet_rows(path, rejected) if path.suffix == ".parquet" else _tsv_rows(path, rejected)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        raise InputError(f"train: {path} cannot be read ({error}); fetch or write the file again") from error


def _parquet_rows(path: Path, rejected: Counter[str]) -> Iterator[tuple[str, str]]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        for column in ("source", "target"):
            if column not in schema.names or schema.field(column).type not in (pa.string(), pa.large_string()):
                raise InputError(
                    f"train: {path} has no text column {column!r} (columns: {', '.join(schema.names) or 'none'}); "
                    "a Parquet pair file needs the text columns source and target"
                )
        for batch in file.iter_batches(columns=["source", "target"]):
            # As bytes: one row of bad UTF-8 must not lose the others.
            columns = [batch[side].cast(pa.large_binary()).to_pylist() for side in ("source", "target")]
            for source, target in zip(*columns, strict=True):
                if source is None or target is None:
                    rejected["null"] += 1
                    continue
                try:
                    decoded = source.decode("utf-8"), target.decode("utf-8")
                except UnicodeDecodeError:
                    rejected["invalid_utf8"] += 1
                    continue
                yield decoded


def _tsv_rows(path: Path, rejected: Counter[str]) -> Iterator[tuple[str, str]]:
    with _open_binary(path) as stream:
        for line in stream:
            try:
                columns = line.decode("utf-8").rstrip("\n").split("\t")
            except UnicodeDecodeError:
                rejected["invalid_utf8"] += 1
                continue
            if len(columns) < 2:
                rejected["too_few_columns"] += 1
            else:
                yield columns[0], columns[1]


def _open_binary(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".zst":
        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
        return io.BufferedReader(reader)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return path.open("rb")


@dataclass(frozen=True)
class Corpus:
    """The tokenised pairs of one file; sentence 2n is the source of pair n, 2n + 1 its target."""

    name: str
    source_lang: str
    target_lang: str
    sentences: Packed
    hashes: npt.NDArray[np.int64]
    """int64 [2 × pairs]: hash of the tokens of each sentence, to find duplicates in a batch."""

    def __len__(self) -> int:
        return len(self.hashes) // 2


class TokenCache:
    """Tokenised corpora on disk, memory-mapped; one entry per (file content, tokeniser, limits)."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def corpus(self, file: PairFile) -> Corpus:
        """Return the corpus of a file, tokenising it at the first call or when the entry is damaged."""
        with file.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        key_text = json.dumps([digest, self.tokenizer.sha256, self.max_tokens, _MAX_CHARS, 1])
        key = hashlib.sha256(key_text.encode()).hexdigest()[:16]
        entry = self.folder / f"{file.path.name.split('.')[0]}-{key}"
        loaded = _load_entry(entry)
        if loaded is None:
            self._build(file, entry)
            loaded = _load_entry(entry)
        if loaded is None:
            raise InputError(f"train: {entry} cannot be read back after writing it; check the disk")
        return Corpus(file.path.name.split(".")[0], file.source_lang, file.target_lang, *loaded)

    def _build(self, file: PairFile, entry: Path) -> None:
        rejected: Counter[str] = Counter()
        parts: list[Packed] = []
        num_cut = 0
        for chunk in _chunks(read_pairs(file, rejected), _CHUNK_PAIRS):
            packed, cut = self.tokenizer.encode([side for pair in chunk for side in pair], self.max_tokens)
            parts.append(packed)
            num_cut += cut
        ids = np.concatenate([part.ids for part in parts] or [np.zeros(0, np.int32)])
        lengths = np.concatenate([part.lengths for part in parts] or [np.zeros(0, np.int64)])
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        # A pair with a side of no tokens teaches nothing; its text was only control characters.
        keep = np.flatnonzero((lengths[0::2] > 0) & (lengths[1::2] > 0))
        rejected["no_tokens"] += len(lengths) // 2 - len(keep)
        kept = Packed(ids, offsets).take(np.stack((2 * keep, 2 * keep + 1), axis=1).ravel())
        hashes = _hash_sentences(kept)
        report: dict[str, Any] = {"pairs": len(keep), "tokens": len(kept.ids), "cut": num_cut, "rejected": rejected}
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}")
        temporary.mkdir(parents=True, exist_ok=True)
        np.save(temporary / "ids.npy", kept.ids)
        np.save(temporary / "offsets.npy", kept.offsets)
        np.save(temporary / "hashes.npy", hashes)
        (temporary / "done.json").write_text(json.dumps(report, sort_keys=True), encoding="utf-8")
        if entry.exists():
            shutil.rmtree(entry)
        temporary.rename(entry)
        logger.info("tokenised %s: %s", file.path.name, json.dumps(report, sort_keys=True))


def _load_entry(entry: Path) -> tuple[Packed, npt.NDArray[np.int64]] | None:
    """Return sentences and hashes of a cache entry; None if there is no whole one."""
    if not (entry / "done.json").exists():
        return None
    try:
        ids = np.load(entry / "ids.npy", mmap_mode="r")
        offsets, hashes = np.load(entry / "offsets.npy"), np.load(entry / "hashes.npy")
    except (OSError, ValueError, EOFError) as error:
        logger.warning("train: cache entry %s is damaged (%s); tokenising again", entry, error)
        return None
    if len(offsets) != len(hashes) + 1 or offsets[-1] != len(ids):
        logger.warning("train: cache entry %s is damaged (its files disagree); tokenising again", entry)
        return None
    return Packed(ids, offsets), hashes


def _hash_sentences(packed: Packed) -> npt.NDArray[np.int64]:
    data, offsets = packed.ids.tobytes(), (packed.offsets * packed.ids.itemsize).tolist()
    digests = [xxhash.xxh3_64_intdigest(data[a:b]) for a, b in itertools.pairwise(offsets)]
    return np.array(digests, dtype=np.uint64).view(np.int64)


def _chunks(pairs: Iterator[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    chunk: list[tuple[str, str]] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@dataclass(frozen=True)
class Batch:
    """Token ids of N pairs.

    Shapes:
        source_hash, target_hash: int64 [N].
    """

    source: Packed
    target: Packed
    source_hash: npt.NDArray[np.int64]
    target_hash: npt.NDArray[np.int64]
    corpus: npt.NDArray[np.int64]
    """int64 [N]: which corpus each pair comes from, as a number into `PairSampler.corpora`."""


class PairSampler:
    """Draw batches over corpora by temperature, without replacement inside a corpus; resumable to the batch.

    The chance of a corpus is proportional to size ** exponent (1: natural, 0: uniform). Batch t depends on the seed
    and the state only, never on the clock or on threads.
    """

    def __init__(
        self, corpora: Sequence[Corpus], *, batch_size: int, exponent: float, seed: int, groups: int = 0
    ) -> None:
        """Build a sampler.

        Args:
            corpora: the data; empty ones are left out of `self.corpora`.
            batch_size: pairs per batch.
            exponent: of the corpus sizes.
            seed: of everything random.
            groups: a batch is made of this many equal parts, each from one corpus, so that negatives share a language;
                0 draws the corpus of each pair independently.
        """
        if not any(len(corpus) for corpus in corpora):
            raise InputError("train: no usable pair in the training files; their lines need two texts in UTF-8")
        self.corpora = [corpus for corpus in corpora if len(corpus)]
        self.batch_size, self.seed, self.groups = batch_size, seed, groups
        weights = np.array([len(corpus) for corpus in self.corpora], dtype=np.float64) ** exponent
        self.chances = weights / weights.sum()
        self.step = 0
        self._drawn = np.zeros(len(self.corpora), dtype=np.int64)
        self._permutations: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"step": self.step, "drawn": self._drawn.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to the position of an earlier `state`.

        Raises:
            StaleOutputError: the state is of another number of corpora.
        """
        if len(state["drawn"]) != len(self.corpora):
            raise StaleOutputError(
                f"train: the checkpoint was made with {len(state['drawn'])} corpora, now there are "
                f"{len(self.corpora)}; restore the training files, or choose another run.output"
            )
        self.step = int(state["step"])
        self._drawn = np.array(state["drawn"], dtype=np.int64)

    def draw(self) -> Batch:
        """Return the next batch."""
        rng = np.random.default_rng([self.seed, self.step])
        if self.groups:
            chosen = rng.choice(len(self.corpora), size=self.groups, p=self.chances)
            sizes = np.full(self.groups, self.batch_size // self.groups)
            sizes[: self.batch_size % self.groups] += 1
            counts = np.bincount(chosen, weights=sizes, minlength=len(self.corpora)).astype(np.int64)
        else:
            counts = rng.multinomial(self.batch_size, self.chances)
        self.step += 1
        parts = [self._take(number, int(count)) for number, count in enumerate(counts) if count]
        return Batch(
            source=_concatenate([part[0] for part in parts]),
            target=_concatenate([part[1] for part in parts]),
            source_hash=np.concatenate([part[2] for part in parts]),
            target_hash=np.concatenate([part[3] for part in parts]),
            corpus=np.repeat(np.arange(len(self.corpora)), counts),
        )

    def _take(self, number: int, count: int) -> tuple[Packed, Packed, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        corpus = self.corpora[number]
        rows = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            epoch, position = divmod(int(self._drawn[number]), len(corpus))
            piece = self._permutation(number, epoch)[position : position + count - filled]
            rows[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._drawn[number] += len(piece)
        source, target = 2 * rows, 2 * rows + 1
        return (
            corpus.sentences.take(source),
            corpus.sentences.take(target),
            corpus.hashes[source],
            corpus.hashes[target],
        )

    def _permutation(self, number: int, epoch: int) -> npt.NDArray[np.int64]:
        cached = self._permutations.get(number)
        if cached is None or cached[0] != epoch:
            rng = np.random.default_rng([self.seed, number, epoch, 1])
            cached = (epoch, rng.permutation(len(self.corpora[number])))
            self._permutations[number] = cached
        return cached[1]


def _concatenate(parts: Sequence[Packed]) -> Packed:
    lengths = np.concatenate([part.lengths for part in parts])
    return Packed(np.concatenate([part.ids for part in parts]), np.concatenate(([0], np.cumsum(lengths))))
