"""Training data far larger than the memory that building and drawing may take.

Measured is what a process has written to and cannot give back (RssAnon): mapped files do not count.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emsmine.encoder.data.cache import ArrayFile

HELPERS = Path(__file__).parent
MEBIBYTE = 1024 * 1024

MEASURE = """
import sys, threading, time
from pathlib import Path
import numpy as np
from emsmine.encoder.data import pairs as data
from emsmine.encoder.data.pairs import Corpus, PairFile, TokenCache
from emsmine.encoder.data.sampler import PairSampler, split_validation
from emsmine.encoder.model.tokenizer import Packed, Tokenizer
from emsmine.encoder.training.run import balanced_sample, check_data

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

class Peak:
    def __enter__(self):
        self.before = self.most = anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
    def watch(self):
        while not self.done.wait(0.002):
            self.most = max(self.most, anonymous())
    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        print(max(self.most, anonymous()) - self.before)
"""

BUILD = (
    MEASURE
    + """
path, spm, cache = map(Path, sys.argv[1:])
data._CHUNK_PAIRS = 500
tokenizer = Tokenizer(spm)
tokenizer.encode(["the baker"] * 1000, 120)
with Peak():
    corpus = TokenCache(cache, tokenizer, 120).corpus(PairFile(path, "deu_Latn", "eng_Latn"))
print(corpus.sentences.ids.nbytes + corpus.sentences.offsets.nbytes + corpus.hashes.nbytes)
file = PairFile(path, "deu_Latn", "eng_Latn")
with Peak():
    print(sum(len(text) for text in balanced_sample([file], 100, 1)))
"""
)

DRAW = (
    MEASURE
    + """
folder, output, buffer = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
with Peak():
    ids, offsets, hashes = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("ids", "offsets", "hashes"))
    corpus = Corpus("de-en", "deu_Latn", "eng_Latn", Packed(ids, offsets), hashes)
    check_data([corpus], output, resuming=False)
    [kept], [held_out] = split_validation([corpus], 100)
    sampler = PairSampler([kept], batch_size=512, exponent=1.0, seed=1, shuffle_buffer=buffer)
    tokens = sum(sampler.draw().num_tokens for _ in range(100))
assert len(held_out) == 100 and tokens == 100 * 512 * 4
print(ids.nbytes + offsets.nbytes + hashes.nbytes)
"""
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def measured(script: str, *arguments: object) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_tokenising_a_large_file_needs_little_memory(tmp_path: Path, spm_path: Path) -> None:
    side = " ".join(["the old farmer repairs seven lamps"] * 8)
    with (tmp_path / "de-en.tsv").open("w", encoding="utf-8") as stream:
        for number in range(40_000):
            stream.write(f"{number} {side}\t{side} {number}\n")
    growth, stored, drawn, sampling = measured(BUILD, tmp_path / "de-en.tsv", spm_path, tmp_path / "cache")
    assert stored > 30 * MEBIBYTE
    assert growth < stored / 3
    assert drawn > 2 * 100 * len(side)
    assert sampling < 4 * MEBIBYTE


def test_drawing_from_a_large_corpus_needs_the_memory_of_the_buffer(tmp_path: Path) -> None:
    num_pairs, piece = 4_000_000, 500_000
    with (
        ArrayFile(tmp_path / "ids.npy", np.int32) as ids,
        ArrayFile(tmp_path / "offsets.npy", np.int64) as offsets,
        ArrayFile(tmp_path / "hashes.npy", np.int64) as hashes,
    ):
        offsets.append(np.zeros(1, np.int64))
        for start in range(0, 2 * num_pairs, 2 * piece):
            numbers = np.arange(start, start + 2 * piece)
            ids.append(np.repeat(numbers, 2).astype(np.int32))
            offsets.append(2 * (numbers + 1))
            hashes.append(numbers)
    growth = {}
    for buffer in (10_000, 0):
        growth[buffer], stored = measured(DRAW, tmp_path, tmp_path, buffer)
    assert stored > 180 * MEBIBYTE
    # The permutation of the whole corpus alone has 30 MiB.
    assert growth[0] > 28 * MEBIBYTE
    assert growth[10_000] < 16 * MEBIBYTE
