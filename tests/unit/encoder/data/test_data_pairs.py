"""Pair files, the cache of tokenised pairs, and the sampler."""

import gzip
import json
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from encoder_tiny import corpus, train_tiny_tokenizer

from emsmine.encoder.data import pairs as module
from emsmine.encoder.data.pairs import Corpus, PairFile, TokenCache, find_pair_files, read_pairs
from emsmine.encoder.data.sampler import Batch, PairSampler
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.errors import InputError, LanguageError, StaleOutputError

GOOD = "der bäcker\tthe baker\nmeine tante\tmy aunt\textra column\r\n"


def pairs_of(path: Path) -> tuple[list[tuple[str, str]], dict[str, int]]:
    rejected: Counter[str] = Counter()
    return list(read_pairs(PairFile(path, "deu_Latn", "eng_Latn"), rejected)), dict(rejected)


@pytest.mark.parametrize("ending", ["tsv", "tsv.gz", "tsv.zst", "parquet"])
def test_every_format_gives_the_same_pairs(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"de-en.{ending}"
    raw = GOOD.encode("utf-8")
    if ending == "parquet":
        columns = {"note": ["", ""], "target": ["the baker", "my aunt "], "source": ["der bäcker", "meine tante"]}
        pq.write_table(pa.table(columns), path)
    elif ending == "tsv.zst":
        # Two frames, as appending to a file or a parallel compressor makes.
        half = raw.index(b"\n") + 1
        path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(part) for part in (raw[:half], raw[half:])))
    else:
        path.write_bytes(gzip.compress(raw) if ending == "tsv.gz" else raw)
    pairs, rejected = pairs_of(path)
    assert pairs == [("der bäcker", "the baker"), ("meine tante", "my aunt")]
    assert rejected == {}


def test_bad_lines_are_counted_by_reason(tmp_path: Path) -> None:
    lines = [
        b"only one column",
        b"",
        b"  \tempty source",
        b"empty target\t \t",
        b"caf\xe9\tlatin one",
        b"x" * 2001 + b"\ttoo long",
        b"fine\t" + b"y" * 2000,
        b"good\tgut",
    ]
    (tmp_path / "de-en.tsv").write_bytes(b"\n".join(lines))
    pairs, rejected = pairs_of(tmp_path / "de-en.tsv")
    assert pairs == [("fine", "y" * 2000), ("good", "gut")]
    assert rejected == {"too_few_columns": 2, "empty_side": 2, "invalid_utf8": 1, "too_long": 1}
    assert len(pairs) + sum(rejected.values()) == len(lines)


def test_bad_parquet_rows_are_counted_by_reason(tmp_path: Path) -> None:
    raw = pa.array([b"eins", None, b"caf\xe9", b"", b"zwei"], pa.binary()).view(pa.string())
    table = pa.table({"source": raw, "target": pa.array(["one", "null", "latin", "empty", "two"], pa.large_string())})
    pq.write_table(table, tmp_path / "de-en.parquet")
    pairs, rejected = pairs_of(tmp_path / "de-en.parquet")
    assert pairs == [("eins", "one"), ("zwei", "two")]
    assert rejected == {"null": 1, "invalid_utf8": 1, "empty_side": 1}


def test_a_parquet_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "de-en.parquet"
    pq.write_table(pa.table({"de": ["a"], "target": ["b"]}), path)
    with pytest.raises(InputError, match=r"no text column 'source' \(columns: de, target\)"):
        pairs_of(path)
    pq.write_table(pa.table({"source": [1], "target": ["b"]}), path)
    with pytest.raises(InputError, match="no text column 'source'"):
        pairs_of(path)


def test_scores_in_front_are_no_sentences_and_the_content_tells_the_compression(tmp_path: Path) -> None:
    rows = [(f"quelle {n}", f"source {n}") for n in range(50)]
    plain = "".join(f"{source}\t{target}\n" for source, target in rows).encode()
    mined = "".join(f"1.{n}\t{source}\t{target}\n" for n, (source, target) in enumerate(rows)).encode()
    for name, content in (
        ("de-en.tsv", mined),
        ("de-en.tsv.gz", plain),
        ("de-en.tsv.zst", gzip.compress(mined)),
        ("en-de.tsv", zstandard.compress(plain)),
    ):
        (tmp_path / name).write_bytes(content)
        assert pairs_of(tmp_path / name)[0] == rows
    (tmp_path / "de-en.tsv").write_bytes(b"1.2\t0.5\n1.3\t0.6\n")
    with pytest.raises(InputError, match="column 1 holds no sentences"):
        pairs_of(tmp_path / "de-en.tsv")


@pytest.mark.parametrize("ending", ["tsv.gz", "tsv.zst", "parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"de-en.{ending}"
    text = "".join(f"quelle {n * 7919}\tsource {n * 104729}\n" for n in range(3000)).encode()
    if ending == "parquet":
        path.write_bytes(b"PAR1 but not really PAR1")
    elif ending == "tsv.gz":
        path.write_bytes(gzip.compress(text)[:-500])
    else:
        path.write_bytes(zstandard.compress(text)[:-500])
    with pytest.raises(InputError, match=r"de-en\..* (cannot be read|is damaged or cut short)"):
        pairs_of(path)


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_file_that_is_cut_short_is_no_shorter_file(tmp_path: Path, share: float) -> None:
    text = "".join(f"quelle {n * 7919 % 99991}\tsource {n * 104729 % 99991}\n" for n in range(30_000)).encode()
    packed = zstandard.ZstdCompressor().compress(text)
    path = tmp_path / "de-en.tsv.zst"
    path.write_bytes(packed[: int(share * len(packed))])
    with pytest.raises(InputError, match="cut short"):
        pairs_of(path)


def test_a_folder_stands_for_its_pair_files(tmp_path: Path) -> None:
    for name in ("fr-en.tsv", "de-en.part2.tsv.gz", "en-zh-Hant.parquet", "README.md", ".de-en.tsv", "de-en.tsv.bz2"):
        (tmp_path / name).touch()
    found = find_pair_files([tmp_path])
    assert [(file.path.name, file.source_lang, file.target_lang) for file in found] == [
        ("de-en.part2.tsv.gz", "deu_Latn", "eng_Latn"),
        ("en-zh-Hant.parquet", "eng_Latn", "zho_Hant"),
        ("fr-en.tsv", "fra_Latn", "eng_Latn"),
    ]
    assert find_pair_files([tmp_path / "fr-en.tsv"]) == found[2:]


def test_paths_that_are_no_pair_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tsv does not exist"):
        find_pair_files([tmp_path / "none.tsv"])
    with pytest.raises(InputError, match="holds no file that ends in"):
        find_pair_files([tmp_path])
    (tmp_path / "de-en.tsv.bz2").touch()
    with pytest.raises(InputError, match=r"bz2 is no pair file; its name must end in \.tsv"):
        find_pair_files([tmp_path / "de-en.tsv.bz2"])
    (tmp_path / "corpus.tsv").touch()
    with pytest.raises(LanguageError, match="'corpus'"):
        find_pair_files([tmp_path / "corpus.tsv"])


@pytest.fixture
def file(tmp_path: Path) -> PairFile:
    path = tmp_path / "de-en.tsv"
    # The third pair has a side of control characters only, which the tokeniser drops; the fourth is bad.
    path.write_bytes(GOOD.encode() + b"\x01\x02\tghost\n" + b"bad line\n" + b"der mann\tthe man\n")
    return PairFile(path, "deu_Latn", "eng_Latn")


def test_a_corpus_holds_the_tokens_of_its_pairs_in_order(file: PairFile, spm_path: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(spm_path)
    built = TokenCache(tmp_path / "cache", tokenizer, 6).corpus(file)
    expected, _ = tokenizer.encode(["der bäcker", "the baker", "meine tante", "my aunt", "der mann", "the man"], 6)
    assert (len(built), built.name, built.source_lang, built.target_lang) == (3, "de-en", "deu_Latn", "eng_Latn")
    assert built.sentences.ids.tolist() == expected.ids.tolist()
    assert built.sentences.offsets.tolist() == expected.offsets.tolist()
    assert len(set(built.hashes.tolist())) == 6
    [entry] = (tmp_path / "cache").iterdir()
    report = json.loads((entry / "done.json").read_text(encoding="utf-8"))
    assert report["pairs"] == 3
    assert report["rejected"] == {"no_tokens": 1, "too_few_columns": 1}
    assert report["cut"] == sum(
        len(ids) > 6
        for ids in tokenizer._processor.EncodeAsIds(
            ["der bäcker", "the baker", "meine tante", "my aunt", "ghost", "der mann", "the man"]
        )
    )


def test_equal_sentences_have_equal_hashes(spm_path: Path, tmp_path: Path) -> None:
    (tmp_path / "de-en.tsv").write_text("der mann\tTHE MAN\nein mann\tthe man\n", encoding="utf-8")
    file = PairFile(tmp_path / "de-en.tsv", "deu_Latn", "eng_Latn")
    hashes = TokenCache(tmp_path / "cache", Tokenizer(spm_path), 20).corpus(file).hashes
    assert hashes[1] == hashes[3]
    assert len(set(hashes.tolist())) == 3


def test_the_cache_is_reused(file: PairFile, spm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TokenCache(tmp_path / "cache", Tokenizer(spm_path), 6)
    first = cache.corpus(file)
    monkeypatch.setattr(Tokenizer, "encode", None)  # must not be called again
    again = cache.corpus(file)
    assert again.sentences.ids.tolist() == first.sentences.ids.tolist()
    os.utime(file.path, (0, 0))  # content decides, not the time
    assert cache.corpus(file).hashes.tolist() == first.hashes.tolist()


def test_the_cache_follows_content_tokeniser_and_limit(file: PairFile, spm_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    tokenizer = Tokenizer(spm_path)
    assert len(TokenCache(folder, tokenizer, 6).corpus(file)) == 3
    assert TokenCache(folder, tokenizer, 3).corpus(file).sentences.lengths.max() == 3
    other = Tokenizer(train_tiny_tokenizer(tmp_path / "other.model", vocab_size=90))
    assert len(TokenCache(folder, other, 6).corpus(file)) == 3
    with file.path.open("ab") as stream:
        stream.write(b"sieben lampen\tseven lamps\n")
    assert len(TokenCache(folder, tokenizer, 6).corpus(file)) == 4
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "missing", "other", "half-built"])
def test_a_damaged_cache_entry_is_built_again(
    file: PairFile, spm_path: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TokenCache(tmp_path / "cache", Tokenizer(spm_path), 6)
    expected = cache.corpus(file).sentences.ids.tolist()
    [entry] = (tmp_path / "cache").iterdir()
    if damage == "cut":
        os.truncate(entry / "offsets.npy", 100)
    elif damage == "missing":
        (entry / "hashes.npy").unlink()
    elif damage == "other":
        np.save(entry / "ids.npy", np.zeros(2, np.int32))
    else:
        (entry / "done.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert cache.corpus(file).sentences.ids.tolist() == expected
    assert "damaged" in caplog.text
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [entry.name]


def test_many_chunks_are_one_corpus(spm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f"mann {n}\tman {n}\n" for n in range(25))
    (tmp_path / "de-en.tsv").write_text(lines, encoding="utf-8")
    file = PairFile(tmp_path / "de-en.tsv", "deu_Latn", "eng_Latn")
    tokenizer = Tokenizer(spm_path)
    whole = TokenCache(tmp_path / "whole", tokenizer, 20).corpus(file)
    monkeypatch.setattr(module, "_CHUNK_PAIRS", 10)
    pieces = TokenCache(tmp_path / "pieces", tokenizer, 20).corpus(file)
    assert len(whole) == 25
    assert pieces.sentences.ids.tolist() == whole.sentences.ids.tolist()
    assert pieces.hashes.tolist() == whole.hashes.tolist()


def test_a_file_without_a_usable_pair_gives_an_empty_corpus(spm_path: Path, tmp_path: Path) -> None:
    (tmp_path / "de-en.tsv").write_bytes(b"\n \t \n")
    file = PairFile(tmp_path / "de-en.tsv", "deu_Latn", "eng_Latn")
    empty = TokenCache(tmp_path / "cache", Tokenizer(spm_path), 20).corpus(file)
    assert len(empty) == 0
    with pytest.raises(InputError, match="no usable pair"):
        PairSampler([empty], batch_size=4, exponent=1.0, seed=0)


# ---- the sampler ----


def numbered(size: int, base: int) -> Corpus:
    """Make a corpus whose pair n is ([base + n], [base + n, 1])."""
    return corpus([([base + n], [base + n, 1]) for n in range(size)])


def sampler(*sizes: int, **settings: float) -> PairSampler:
    fixed = {"batch_size": 8, "exponent": 1.0, "seed": 5, "groups": 0} | settings
    corpora = [numbered(size, 1000 * number) for number, size in enumerate(sizes)]
    return PairSampler(corpora, **fixed)  # type: ignore[arg-type]


def drawn(batch: Batch) -> list[int]:
    """Return the first source token of every pair, which names it."""
    return [int(token) for token in batch.source.ids]


def test_a_batch_keeps_pairs_and_corpora_together() -> None:
    batch = sampler(50, 30).draw()
    assert len(batch.source) == len(batch.target) == len(batch.corpus) == 8
    names = drawn(batch)
    assert batch.target.ids[batch.target.offsets[:-1]].tolist() == names
    assert batch.target.lengths.tolist() == [2] * 8
    assert [name // 1000 for name in names] == batch.corpus.tolist()
    assert batch.source_hash.tolist() == [hash((name,)) for name in names]
    assert batch.target_hash.tolist() == [hash((name, 1)) for name in names]


def test_an_epoch_draws_every_pair_once() -> None:
    source = sampler(50, batch_size=7)
    seen = [name for _ in range(15) for name in drawn(source.draw())]
    for epoch in range(2):
        assert sorted(seen[50 * epoch : 50 * epoch + 50]) == list(range(50))
    assert seen[:50] != seen[50:100]  # shuffled anew
    assert seen[:50] != sorted(seen[:50])


def test_a_corpus_smaller_than_a_batch_is_drawn_again_and_again() -> None:
    batch = sampler(3, batch_size=8).draw()
    assert Counter(drawn(batch)).most_common()[-1][1] >= 2
    assert sorted(drawn(batch)[:3]) == sorted(drawn(batch)[3:6]) == [0, 1, 2]


def test_restoring_a_state_repeats_the_batches() -> None:
    source = sampler(50, 9, 20, exponent=0.5)
    for _ in range(6):
        source.draw()
    state = json.loads(json.dumps(source.state()))
    expected = [drawn(source.draw()) for _ in range(10)]
    fresh = sampler(50, 9, 20, exponent=0.5)
    fresh.restore(state)
    assert [drawn(fresh.draw()) for _ in range(10)] == expected
    fresh.restore(state)  # also backwards, over an epoch border of the small corpus
    assert [drawn(fresh.draw()) for _ in range(10)] == expected


def test_the_seed_decides() -> None:
    assert drawn(sampler(50).draw()) == drawn(sampler(50).draw())
    assert drawn(sampler(50).draw()) != drawn(sampler(50, seed=6).draw())


def test_a_state_of_other_corpora_is_refused() -> None:
    with pytest.raises(StaleOutputError, match="made with 1 corpora, now there are 2"):
        sampler(50, 30).restore(sampler(50).state())


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("groups", [0, 4])
def test_corpora_are_drawn_in_proportion_to_a_power_of_their_size(exponent: float, groups: int) -> None:
    sizes = (1600, 400, 100)
    source = sampler(*sizes, exponent=exponent, groups=groups, batch_size=16)
    counts = np.sum([np.bincount(source.draw().corpus, minlength=3) for _ in range(400)], axis=0)
    weights = np.array(sizes, dtype=float) ** exponent
    independent = 400 * (groups or 16)  # a group is one draw of several pairs
    observed = counts / counts.sum() * independent
    expected = weights / weights.sum() * independent
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 13.8  # 2 degrees of freedom, p = 0.001; the seed is fixed


@pytest.mark.parametrize(("batch_size", "groups", "sizes"), [(8, 2, {4}), (7, 3, {2, 3}), (5, 5, {1})])
def test_groups_are_equal_parts_of_one_corpus_each(batch_size: int, groups: int, sizes: set[int]) -> None:
    source = sampler(100, 100, 100, 100, batch_size=batch_size, groups=groups)
    for _ in range(20):
        counts = np.bincount(source.draw().corpus, minlength=4)
        assert counts.sum() == batch_size
        assert (counts > 0).sum() <= groups
        smallest, largest = min(sizes), max(sizes)
        for count in counts[counts > 0]:
            assert any(n * smallest <= count <= n * largest for n in range(1, groups + 1))


def test_empty_corpora_are_left_out_and_the_numbers_count_the_others() -> None:
    source = sampler(0, 20, 0, 20)
    assert len(source.corpora) == 2
    batch = source.draw()
    assert [name // 1000 for name in drawn(batch)] == [(1, 3)[number] for number in batch.corpus]
