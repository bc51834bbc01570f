"""Batches of training pairs, drawn at random so that a sampler can stop and continue anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emsmine.encoder.data.pairs import Corpus, num_held_out
from emsmine.encoder.data.shuffling import Order
from emsmine.encoder.model.tokenizer import Packed
from emsmine.errors import InputError, StaleOutputError


@dataclass(frozen=True)
class Batch:
    """Token ids of the N pairs of one process, out of the M of a batch.

    Shapes:
        source_hash, target_hash: int64 [M], by process.
    """

    source: Packed
    target: Packed
    source_hash: npt.NDArray[np.int64]
    target_hash: npt.NDArray[np.int64]
    corpus: npt.NDArray[np.int64]
    """int64 [N]: which corpus each pair comes from, as a number into `PairSampler.corpora`."""
    first: int = 0
    """The hashes from here on, N of them, are those of our pairs."""
    teacher: npt.NDArray[np.float32] | None = None
    """float32 [N, width]: a teacher's vector of each pair."""
    num_tokens: int = 0
    """Of both sides of all M pairs."""


class PairSampler:
    """Draw batches over corpora by temperature, without replacement inside a corpus; resumable to the batch.

    The chance of a corpus is proportional to size ** exponent (1: natural, 0: uniform). Batch t depends on the seed
    and the state only, never on the clock or on threads.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        *,
        batch_size: int,
        exponent: float,
        seed: int,
        groups: int = 0,
        shuffle_buffer: int = 0,
        hard_negatives: int = 0,
    ) -> None:
        """Build a sampler.

        Args:
            corpora: the data; empty ones are left out of `self.corpora`.
            batch_size: pairs per batch.
            exponent: of the corpus sizes.
            seed: of everything random.
            groups: a batch is made of this many equal parts, each from one corpus, so that negatives share a language;
                0 draws the corpus of each pair independently.
            shuffle_buffer: rows that are mixed at a time; see `Order`.
            hard_negatives: this many neighbours of a pair (`Corpus.neighbours`) follow it into its batch.
        """
        if not any(len(corpus) for corpus in corpora):
            raise InputError("train: no usable pair in the training files; their lines need two texts in UTF-8")
        self.corpora = [corpus for corpus in corpora if len(corpus)]
        self.batch_size, self.seed, self.groups, self.hard_negatives = batch_size, seed, groups, hard_negatives
        weights = np.array([len(corpus) for corpus in self.corpora], dtype=np.float64) ** exponent
        self.chances = weights / weights.sum()
        self.step = 0
        self._drawn = np.zeros(len(self.corpora), dtype=np.int64)
        self._orders = [
            Order(len(corpus), (seed, number), shuffle_buffer) for number, corpus in enumerate(self.corpora)
        ]

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

    def draw(self, rank: int = 0, size: int = 1) -> Batch:
        """Return the next batch, or the share of it that process `rank` of `size` computes.

        The batch, and the position that it leaves, do not depend on `rank` and `size`. Shares are every `size`th pair,
        so that all have about the same mixture of corpora.
        """
        counts = self._counts(np.random.default_rng([self.seed, self.step]))
        self.step += 1
        rows = [self._choose(number, int(count)) for number, count in enumerate(counts)]
        hashes = np.concatenate(
            [corpus.hashes[2 * taken[:, None] + (0, 1)] for corpus, taken in zip(self.corpora, rows, strict=True)]
        )
        corpus_of = np.repeat(np.arange(len(self.corpora)), counts)
        mine, every = corpus_of[rank::size], np.concatenate(rows)[rank::size]
        shares = np.concatenate([np.arange(r, self.batch_size, size) for r in range(size)])
        parts = [self._take(int(number), every[mine == number]) for number in np.unique(mine)]
        teachers = [part[2] for part in parts if part[2] is not None]
        return Batch(
            source=_concatenate([part[0] for part in parts]),
            target=_concatenate([part[1] for part in parts]),
            source_hash=hashes[shares, 0],
            target_hash=hashes[shares, 1],
            corpus=mine,
            first=rank * (self.batch_size // size),
            teacher=np.concatenate(teachers).astype(np.float32) if teachers else None,
            num_tokens=sum(_num_tokens(corpus, taken) for corpus, taken in zip(self.corpora, rows, strict=True)),
        )

    def _counts(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw how many pairs of a batch come from each corpus; they come in families of a pair and its neighbours."""
        if self.groups:
            chosen = rng.choice(len(self.corpora), size=self.groups, p=self.chances)
            sizes = np.full(self.groups, self.batch_size // self.groups)
            sizes[: self.batch_size % self.groups] += 1
            return np.bincount(chosen, weights=sizes, minlength=len(self.corpora)).astype(np.int64)
        families, rest = divmod(self.batch_size, self.hard_negatives + 1)
        counts: npt.NDArray[np.int64] = rng.multinomial(families, self.chances) * (self.hard_negatives + 1)
        return counts + rng.multinomial(rest, self.chances)

    def _choose(self, number: int, count: int) -> npt.NDArray[np.int64]:
        """Return `count` rows of a corpus: pairs in the order of the epoch, with their neighbours behind them.

        Where neighbours are missing or there already, the next pairs of the epoch take their places.
        """
        neighbours = self.corpora[number].neighbours
        if not self.hard_negatives or neighbours is None:
            return self._advance(number, count)
        seeds = self._advance(number, -(-count // (self.hard_negatives + 1)))
        # The nearest of every pair first: what is too many falls off the end.
        found = neighbours[seeds][:, : self.hard_negatives].T.ravel()
        _, first = np.unique(found, return_index=True)
        found = found[np.sort(first)]
        found = found[(found >= 0) & ~np.isin(found, seeds)][: count - len(seeds)]
        return np.concatenate((seeds, found, self._advance(number, count - len(seeds) - len(found))))

    def _advance(self, number: int, count: int) -> npt.NDArray[np.int64]:
        """Return the next `count` rows of a corpus."""
        rows = self._orders[number].rows(int(self._drawn[number]), count)
        self._drawn[number] += count
        return rows

    def _take(self, number: int, rows: npt.NDArray[np.int64]) -> tuple[Packed, Packed, npt.NDArray[np.float16] | None]:
        corpus = self.corpora[number]
        teacher = None if corpus.teacher is None else corpus.teacher[rows]
        return corpus.sentences.take(2 * rows), corpus.sentences.take(2 * rows + 1), teacher


def _num_tokens(corpus: Corpus, rows: npt.NDArray[np.int64]) -> int:
    offsets = corpus.sentences.offsets
    return int((offsets[2 * rows + 2] - offsets[2 * rows]).sum())


def _concatenate(parts: Sequence[Packed]) -> Packed:
    lengths = np.concatenate([part.lengths for part in parts])
    return Packed(np.concatenate([part.ids for part in parts]), np.concatenate(([0], np.cumsum(lengths))))


def split_validation(corpora: list[Corpus], pairs: int) -> tuple[list[Corpus], list[Corpus]]:
    """Hold out the last `pairs` pairs (at most a tenth) of each corpus; returns (train, validation).

    The training part is a view: nothing of it is copied.
    """
    train: list[Corpus] = []
    held_out: list[Corpus] = []
    for corpus in corpora:
        size = len(corpus)
        keep = size - num_held_out(size, pairs)
        for target, start, stop in ((train, 0, keep), (held_out, keep, size)):
            offsets = corpus.sentences.offsets[2 * start : 2 * stop + 1]
            ids = corpus.sentences.ids[offsets[0] : offsets[-1]]
            target.append(
                Corpus(
                    corpus.name,
                    corpus.source_lang,
                    corpus.target_lang,
                    Packed(ids, offsets - offsets[0] if start else offsets),
                    corpus.hashes[2 * start : 2 * stop],
                    None if corpus.teacher is None else corpus.teacher[start:stop],
                    None if start or corpus.neighbours is None else corpus.neighbours[:stop],
                )
            )
    return train, held_out
