"""Training pairs: reading them, and the tokenised cache on disk."""

import hashlib
import itertools
import json
import logging
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

from emsmine import languages
from emsmine.columns import with_columns
from emsmine.encoder.data.cache import ArrayFile, new_entry, open_entry
from emsmine.encoder.data.negatives import NegativeSearch, neighbour_table
from emsmine.encoder.data.teacher import teacher_vectors
from emsmine.encoder.model.preprocessing import preprocess
from emsmine.encoder.model.tokenizer import Packed, Tokenizer
from emsmine.encoder.protocol import Encoder
from emsmine.errors import InputError
from emsmine.lines import unpacked_lines

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

    TSV columns: source, target, anything; no header. Scores, labels and URLs may stand in front, as in what `mine`
    writes. Parquet columns: `source`, `target`.

    Raises:
        InputError: the file as a whole cannot be read: damaged compression, no Parquet, other columns, no bitext.
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
    except (OSError, pa.ArrowException) as error:
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
    def tell(chosen: tuple[int, int]) -> None:
        logger.info("train: %s: source and target are columns %d and %d", path, chosen[0] + 1, chosen[1] + 1)

    with path.open("rb") as stream:
        for line, (source, target) in with_columns(unpacked_lines(stream, str(path)), f"train: {path}", tell=tell):
            try:
                columns = line.decode("utf-8").split("\t")
            except UnicodeDecodeError:
                rejected["invalid_utf8"] += 1
                continue
            if len(columns) <= max(source, target):
                rejected["too_few_columns"] += 1
            else:
                yield columns[source], columns[target]


@dataclass(frozen=True)
class Corpus:
    """The tokenised pairs of one file; sentence 2n is the source of pair n, 2n + 1 its target."""

    name: str
    source_lang: str
    target_lang: str
    sentences: Packed
    hashes: npt.NDArray[np.int64]
    """int64 [2 × pairs]: hash of the tokens of each sentence, to find duplicates in a batch."""
    teacher: npt.NDArray[np.float16] | None = None
    """float16 [pairs, width]: a teacher's vector of each pair."""
    neighbours: npt.NDArray[np.int64] | None = None
    """int64 [pairs without those held out, K]: similar pairs that are no translations; -1 where there are fewer."""

    def __len__(self) -> int:
        return len(self.hashes) // 2


def num_held_out(num_pairs: int, wanted: int) -> int:
    """Return how many pairs at the end of a corpus are for validation: at most a tenth."""
    return min(wanted, num_pairs // 10)


class TokenCache:
    """Tokenised corpora on disk, memory-mapped; one entry per (file content, tokeniser, preprocessing, limits)."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        preprocessing: str = "none",
        teacher: Encoder | None = None,
        search: NegativeSearch | None = None,
    ) -> None:
        """Open a cache.

        Args:
            folder: of the entries; created at need.
            tokenizer: of the student.
            max_tokens: longer sentences are cut.
            preprocessing: `none` or `ems`; see `preprocess`.
            teacher: also keep its vector of every pair.
            search: also keep the nearest neighbours of every pair.
        """
        self.folder = folder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.preprocessing = preprocessing
        self.teacher = teacher
        self.search = search

    def corpus(self, file: PairFile) -> Corpus:
        """Return the corpus of a file, tokenising it at the first call or when the entry is damaged."""
        with file.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        parts = [digest, self.tokenizer.sha256, self.max_tokens, _MAX_CHARS, 1]
        if self.preprocessing != "none":
            # Which words a splitter finds depends on the language; the languages are those of the file's name.
            parts += [self.preprocessing, file.source_lang, file.target_lang]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        name = file.path.name.split(".")[0]
        entry = self.folder / f"{name}-{key}"
        loaded = _load_entry(entry)
        if loaded is None:
            self._build(file, entry)
            loaded = _load_entry(entry)
        if loaded is None:
            raise InputError(f"train: {entry} cannot be read back after writing it; check the disk")
        sentences, hashes = loaded
        teacher = None if self.teacher is None else self._vectors(self.teacher, file, entry, len(hashes) // 2)
        neighbours = None
        if self.search is not None:
            num_pairs = len(hashes) // 2
            neighbours = neighbour_table(
                self._vectors(self.search.encoder, file, entry, num_pairs),
                hashes,
                num_pairs - num_held_out(num_pairs, self.search.validation_pairs),
                entry.with_name(f"{entry.name}-negatives"),
                self.search,
            )
        return Corpus(name, file.source_lang, file.target_lang, sentences, hashes, teacher, neighbours)

    def _vectors(self, encoder: Encoder, file: PairFile, entry: Path, num_pairs: int) -> npt.NDArray[np.float16]:
        """Return the encoder's vector of every pair; a teacher and a search may share them."""
        langs = (file.source_lang, file.target_lang)
        return teacher_vectors(encoder, self._texts(file), langs, entry.with_name(f"{entry.name}-teacher"), num_pairs)

    def _tokenised(self, file: PairFile, rejected: Counter[str]) -> Iterator[tuple[list[tuple[str, str]], Packed, int]]:
        """Yield chunks of pairs with their tokens, source and target by turns, and the number of cut sentences."""
        for chunk in _chunks(read_pairs(file, rejected), _CHUNK_PAIRS):
            source, target = zip(*chunk, strict=True)
            sides = (
                preprocess(source, file.source_lang, self.preprocessing),
                preprocess(target, file.target_lang, self.preprocessing),
            )
            packed, cut = self.tokenizer.encode(
                [side for pair in zip(*sides, strict=True) for side in pair], self.max_tokens
            )
            yield chunk, packed, cut

    def _texts(self, file: PairFile) -> Iterator[list[tuple[str, str]]]:
        """Yield the texts of the pairs that the entry holds, in its order."""
        for chunk, packed, _ in self._tokenised(file, Counter()):
            keep = _with_tokens(packed.lengths)
            yield [chunk[row] for row in keep]

    def _build(self, file: PairFile, entry: Path) -> None:
        """Tokenise a file chunk by chunk: memory does not grow with the file."""
        rejected: Counter[str] = Counter(no_tokens=0)
        num_cut = 0
        report: dict[str, Any] = {}
        with new_entry(entry, report) as folder:
            with (
                ArrayFile(folder / "ids.npy", np.int32) as ids,
                ArrayFile(folder / "offsets.npy", np.int64) as offsets,
                ArrayFile(folder / "hashes.npy", np.int64) as hashes,
            ):
                offsets.append(np.zeros(1, dtype=np.int64))
                for chunk, packed, cut in self._tokenised(file, rejected):
                    keep = _with_tokens(packed.lengths)
                    kept = packed.take(np.stack((2 * keep, 2 * keep + 1), axis=1).ravel())
                    offsets.append(kept.offsets[1:] + ids.num_rows)
                    ids.append(kept.ids)
                    hashes.append(_hash_sentences(kept))
                    rejected["no_tokens"] += len(chunk) - len(keep)
                    num_cut += cut
            report |= {"pairs": hashes.num_rows // 2, "tokens": ids.num_rows, "cut": num_cut, "rejected": rejected}
        logger.info("tokenised %s: %s", file.path.name, json.dumps(report, sort_keys=True))


def _with_tokens(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # A pair with a side of no tokens teaches nothing; its text was only control characters.
    return np.flatnonzero((lengths[0::2] > 0) & (lengths[1::2] > 0))


def _load_entry(entry: Path) -> tuple[Packed, npt.NDArray[np.int64]] | None:
    """Return sentences and hashes of a cache entry; None if there is no whole one."""
    found = open_entry(entry, {"ids": ((-1,), np.int32), "offsets": ((-1,), np.int64), "hashes": ((-1,), np.int64)})
    return None if found is None else (Packed(found["ids"], found["offsets"]), found["hashes"])


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
